"""How likely a draft is to be accepted, learned while running: a logistic model of the margin of
its own draw.

p = sigmoid(a + b m). m is the noised log margin (`hedge.common.coupling.decided`; at temperature 0
that of the logits): the device knows the noise that the cloud will draw with, so it knows by how
much its own winner won. It holds for any pair from the first token on: the prior is a = 0, b = 0.7,
and every judged draft moves the two by one Newton step on the log posterior, whose curvature is
carried along.
"""

import math
from dataclasses import dataclass

# A margin beyond this says no more, and an infinite one has to be a number.
LARGEST = 20.0
PRIOR_A = 0.0
PRIOR_B = 0.7
# Curvature of the prior: it weighs as much as some twenty drafts.
PRECISION_A = 4.0
PRECISION_B = 20.0
# Evidence fades by this much a draft: texts differ.
FADING = 1e-3
# A larger margin is never worse.
LOWEST_B = 0.02


@dataclass(slots=True)
class Survival:
    """One for all answers of a user; never shared, since an answer's verdicts move it. Costs
    microseconds.
    """

    a: float = PRIOR_A
    b: float = PRIOR_B
    # The curvature that judged drafts have brought: of a, of both, of b.
    aa: float = 0.0
    ab: float = 0.0
    bb: float = 0.0

    def probability(self, margin: float) -> float:
        """That the draft of this margin, the one before it accepted, is accepted too."""
        return _sigmoid(self.a + self.b * min(margin, LARGEST))

    def judged(self, margin: float, *, accepted: bool) -> None:
        margin = min(margin, LARGEST)
        p = self.probability(margin)
        curvature = p * (1 - p)
        kept = 1 - FADING
        self.aa = kept * self.aa + curvature
        self.ab = kept * self.ab + curvature * margin
        self.bb = kept * self.bb + curvature * margin * margin
        aa = self.aa + PRECISION_A
        bb = self.bb + PRECISION_B
        determinant = aa * bb - self.ab * self.ab
        gradient = accepted - p
        self.a += gradient * (bb - self.ab * margin) / determinant
        self.b = max(LOWEST_B, self.b + gradient * (aa * margin - self.ab) / determinant)


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    small = math.exp(value)
    return small / (1.0 + small)
