"""The device side: drafts with the SLM, gates, asks the cloud, reconciles.

What a program of your own needs is here by name, and loaded when it is used; examples/tour.py shows all of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.model import LanguageModel, load
    from edge_client.client import Answer, AsyncHedge, Hedge
    from edge_client.config import CloudConfig, GateConfig, LinkConfig, SamplingParams, ThresholdRule, VerificationConfig
    from edge_client.engine.sequence import Provenance
    from edge_client.engine.session import Emitted, Session
    from edge_client.engine.statistics import Statistics
    from edge_client.systems import SYSTEMS, GenerationConfig

_CONFIG = "edge_client.config"
_WHERE = {
    "Answer": "edge_client.client",
    "AsyncHedge": "edge_client.client",
    "CloudConfig": _CONFIG,
    "Emitted": "edge_client.engine.session",
    "GateConfig": _CONFIG,
    "GenerationConfig": "edge_client.systems",
    "Hedge": "edge_client.client",
    "LanguageModel": "common.model",
    "LinkConfig": _CONFIG,
    "Provenance": "edge_client.engine.sequence",
    "SYSTEMS": "edge_client.systems",
    "SamplingParams": _CONFIG,
    "Session": "edge_client.engine.session",
    "Statistics": "edge_client.engine.statistics",
    "ThresholdRule": _CONFIG,
    "VerificationConfig": _CONFIG,
    "load": "common.model",
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
    "load",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds: not for `hedge --help`.
    if name not in _WHERE:
        raise AttributeError(f"module 'edge_client' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
