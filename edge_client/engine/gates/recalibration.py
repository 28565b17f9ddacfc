"""`--recalibrate`: holds the asked joint risk while running, by the audit (Gibbs and Candes 2021,
on the loss itself).

After every audited token the threshold moves by RATE (epsilon - 1[skipped] beta). Summed up, with
threshold u_0 at the start and u_T after T tokens, the mean loss is epsilon + (u_0 - u_T) / (RATE
T). Below 0 every token is asked and nothing is lost, and never more than LONGEST tokens are skipped
before one is asked, so that u_T cannot fall below -RATE LONGEST. Hence, for any models and any
text:

    mean over T audited tokens of 1[skipped] beta  <=  epsilon + (u_0 + RATE LONGEST) / (RATE T)
"""

from dataclasses import dataclass

from hedge.edge_client.config import known
from hedge.edge_client.engine.gates.gate import Gate
from hedge.edge_client.systems import GenerationConfig

RATE = 0.02
# A threshold under which nothing is ever asked would never be audited.
LONGEST = 16


@dataclass(slots=True)
class Recalibrated(Gate):
    """The policy `threshold` with a threshold that follows the audit; one object for all answers of
    a run.
    """

    limit: float
    epsilon: float
    in_flight: int = 1
    # Positions in a row, before the newest one, at which nobody was asked; and whether it asks.
    _skipped: int = 0
    _newest_asks: bool = True

    def observe_draft(self, uncertainty: float) -> None:
        self._skipped = 0 if self._newest_asks else self._skipped + 1
        self._newest_asks = uncertainty > self.limit or self._skipped >= LONGEST

    def asks(self, uncertainty: float, position: int) -> bool:
        return self._newest_asks

    def observe_audit(self, loss: float) -> None:
        """`loss` is beta of a token that was released untested, 0 for a tested one."""
        self.limit += RATE * (self.epsilon - loss)


def recalibration_of(config: GenerationConfig) -> Recalibrated | None:
    """A fresh one where it is asked for."""
    gate = config.gate
    if gate.recalibrate is None:
        return None
    return Recalibrated(known(gate.threshold), gate.recalibrate, config.link.max_in_flight)
