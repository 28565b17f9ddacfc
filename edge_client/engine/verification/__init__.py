"""How drafts are tested: what is drawn, what is sent of it, what a verdict means."""

from common.noise import Noise
from edge_client.config import VerificationConfig
from edge_client.engine.verification.base import Verification
from edge_client.engine.verification.coupled import Coupled
from edge_client.engine.verification.resampled import Resampled
from edge_client.engine.verification.split import Split

__all__ = ["Verification", "verification_of"]


def verification_of(config: VerificationConfig, noise: Noise, vocab_size: int) -> Verification:
    """The way that `config` names, for one answer."""
    if config.kind == "coupled":
        return Coupled(noise, vocab_size)
    return (Split if config.kind == "split" else Resampled)(config, noise, vocab_size)
