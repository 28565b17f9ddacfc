"""Where a draft comes from, and what the cloud is told about it: one class for each way of verifying."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common import codec
from common.coupling import coupled_draw
from common.distribution import Quantised
from common.noise import Noise, Purpose
from common.sampling import draw
from common.split import encode_share, share_of
from edge_client.config import Settings
from edge_client.engine.verification.truncation import truncate


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft that will be tested: its bytes (None in `coupled`), the law behind them, and how many entries it kept."""

    token: int
    payload: bytes | None = None
    law: Quantised | None = None
    entries: int = 0


class Proposer(Protocol):
    """Draws the token of a position from x [V]; `step` names the message it will travel in."""

    def skipped(self, law: np.ndarray, position: int, step: int) -> int:
        """A token that is released untested, drawn from x itself."""
        ...

    def tested(self, law: np.ndarray, position: int, step: int, early: int | None, uncertainty: float) -> Proposal:
        """A token that is tested; `early` is the token of `skipped` where the gate had to look at it."""
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """`full`, `sparse` and `split`: x is truncated and quantised (algorithms: section 2.3)."""

    settings: Settings
    noise: Noise

    def skipped(self, law: np.ndarray, position: int, step: int) -> int:
        return draw(law, self.noise.uniform(Purpose.DRAFT, position, step))

    def tested(self, law: np.ndarray, position: int, step: int, early: int | None, uncertainty: float) -> Proposal:
        settings = self.settings
        if settings.draft_from == "full":
            token = self.skipped(law, position, step) if early is None else early
            kept = settings.kept(law, float(law[token]), uncertainty)
            sent = truncate(law, kept, settings.bits)
        else:
            kept = settings.kept(law)
            sent = truncate(law, kept, settings.bits)
            bucket, within = self.noise.uniforms(Purpose.DRAFT, position, step, count=2)
            token = sent.draw(float(bucket), float(within))
        if settings.sends_law:
            return Proposal(token, codec.encode(sent), sent, kept)
        return Proposal(token, encode_share(share_of(sent, token)), sent)


@dataclass(frozen=True, slots=True)
class Coupled:
    """`coupled`: the cloud knows the noise, so that the id alone is enough (algorithms: section 3)."""

    noise: Noise

    def skipped(self, law: np.ndarray, position: int, step: int) -> int:  # noqa: ARG002
        return coupled_draw(self.noise, position, law)

    def tested(self, law: np.ndarray, position: int, step: int, early: int | None, uncertainty: float) -> Proposal:  # noqa: ARG002
        return Proposal(self.skipped(law, position, step) if early is None else early)


def proposer(settings: Settings, noise: Noise) -> Proposer:
    return Coupled(noise) if settings.coupled else Sent(settings, noise)
