"""The device side: drafts with the SLM, gates, asks the cloud, reconciles.

What a program of your own needs is here by name, and loaded when it is used; examples/tour.py shows all of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.model import LanguageModel, load
    from common.sampling import Warp
    from common.tls import channel_credentials
    from edge_client.config import Settings
    from edge_client.engine.session import Emitted, Session
    from edge_client.engine.statistics import Provenance, Statistics
    from edge_client.public import choose
    from edge_client.transport.grpc_link import GrpcLink

_WHERE = {
    "LanguageModel": "common.model",
    "Emitted": "edge_client.engine.session",
    "GrpcLink": "edge_client.transport.grpc_link",
    "Provenance": "edge_client.engine.statistics",
    "Session": "edge_client.engine.session",
    "Settings": "edge_client.config",
    "Statistics": "edge_client.engine.statistics",
    "Warp": "common.sampling",
    "channel_credentials": "common.tls",
    "load": "common.model",
    "choose": "edge_client.public",
}
__all__ = [
    "Emitted",
    "GrpcLink",
    "LanguageModel",
    "Provenance",
    "Session",
    "Settings",
    "Statistics",
    "Warp",
    "channel_credentials",
    "choose",
    "load",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds: not for `hedge --help`.
    if name not in _WHERE:
        raise AttributeError(f"module 'edge_client' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
