"""How drafts are tested: what a message tells of them, which stay, and what follows."""

from collections.abc import Callable

from hedge.cloud_server.verification.base import Rule
from hedge.cloud_server.verification.coupled import CoupledRule
from hedge.cloud_server.verification.resampled import ResampledRule
from hedge.cloud_server.verification.split import SplitRule
from hedge.common.noise import Noise
from hedge.v1 import hedge_pb2 as pb

__all__ = ["RULES", "Rule", "make_rule"]

# By their numbers in the wire contract.
RULES: "dict[pb.Verification.ValueType, Callable[[pb.Open, Noise], Rule]]" = {
    pb.VERIFICATION_FULL: lambda _, noise: ResampledRule(noise),
    pb.VERIFICATION_SPARSE: lambda _, noise: ResampledRule(noise),
    pb.VERIFICATION_STREAM: lambda _, noise: CoupledRule(noise),
    pb.VERIFICATION_SPLIT: lambda request, noise: SplitRule(noise, request.bits),
    pb.VERIFICATION_COUPLED: lambda _, noise: CoupledRule(noise),
}


def make_rule(request: pb.Open, noise: Noise) -> Rule:
    """The way that an opening asks for. BadInput for bits that are none."""
    return RULES[request.verification](request, noise)
