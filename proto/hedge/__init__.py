"""Hedge: what a program of your own needs, by name, and loaded when it is used (examples/tour.py).

Below it: `common`, `edge_client`, `cloud_server`, `evaluation`, the wire contract `v1`, the bundled
`pair`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hedge.common.loading import load
    from hedge.common.model import LanguageModel
    from hedge.common.sampling import Warp
    from hedge.edge_client.client import Answer, AsyncHedge, Hedge
    from hedge.edge_client.config import (
        CloudConfig,
        GateConfig,
        LinkConfig,
        SamplingParams,
        ThresholdRule,
        VerificationConfig,
    )
    from hedge.edge_client.engine.sequence import Provenance
    from hedge.edge_client.engine.session import Emitted, Session
    from hedge.edge_client.engine.statistics import Statistics
    from hedge.edge_client.systems import SYSTEMS, GenerationConfig

_CONFIG = "hedge.edge_client.config"
_WHERE = {
    "Answer": "hedge.edge_client.client",
    "AsyncHedge": "hedge.edge_client.client",
    "CloudConfig": _CONFIG,
    "Emitted": "hedge.edge_client.engine.session",
    "GateConfig": _CONFIG,
    "GenerationConfig": "hedge.edge_client.systems",
    "Hedge": "hedge.edge_client.client",
    "LanguageModel": "hedge.common.model",
    "LinkConfig": _CONFIG,
    "Provenance": "hedge.edge_client.engine.sequence",
    "SYSTEMS": "hedge.edge_client.systems",
    "SamplingParams": _CONFIG,
    "Session": "hedge.edge_client.engine.session",
    "Statistics": "hedge.edge_client.engine.statistics",
    "ThresholdRule": _CONFIG,
    "VerificationConfig": _CONFIG,
    "Warp": "hedge.common.sampling",
    "load": "hedge.common.loading",
}
__all__ = [
    "SYSTEMS",
    "Answer",
    "AsyncHedge",
    "CloudConfig",
    "Emitted",
    "GateConfig",
    "GenerationConfig",
    "Hedge",
    "LanguageModel",
    "LinkConfig",
    "Provenance",
    "SamplingParams",
    "Session",
    "Statistics",
    "ThresholdRule",
    "VerificationConfig",
    "Warp",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("hedge-hlm")
    # Importing torch takes seconds: not for `hedge --help`.
    if name not in _WHERE:
        raise AttributeError(f"module 'hedge' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
