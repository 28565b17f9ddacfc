"""How drafts are tested: what is drawn, what is sent of it, what a verdict means."""

from collections.abc import Callable

from hedge.common.noise import Noise
from hedge.edge_client.config import VerificationConfig
from hedge.edge_client.engine.verification.base import Verification
from hedge.edge_client.engine.verification.coupled import Coupled
from hedge.edge_client.engine.verification.resampled import Resampled
from hedge.edge_client.engine.verification.split import Split

__all__ = ["WAYS", "Verification", "verification_of"]


WAYS: dict[str, Callable[[VerificationConfig, Noise, int], Verification]] = {
    "full": Resampled,
    "sparse": Resampled,
    "split": Split,
    "coupled": Coupled,
}


def verification_of(config: VerificationConfig, noise: Noise, vocab_size: int) -> Verification:
    """The way that `config` names, for one answer."""
    return WAYS[config.kind](config, noise, vocab_size)
