"""A draft that will be tested."""

import math
from dataclasses import dataclass

from hedge.common.distribution import Quantised


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft and what the cloud is told of it besides its id: the payload (None where the id is
    enough).

    `probs` is x_hat, the distribution that the draft is tested against, where the payload speaks of
    one; `entries` how many of x the payload names. `margin`: by how much the draw was decided
    (`hedge.common.coupling.decided`), inf where that is not known.
    """

    token: int
    payload: bytes | None = None
    probs: Quantised | None = None
    entries: int = 0
    margin: float = math.inf
