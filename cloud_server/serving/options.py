"""The limits of a server as its command line gives them."""

import argparse

from hedge.cloud_server.serving.limits import Limits
from hedge.common.errors import BadInput

LIMITS = {
    "sessions": "sessions of all clients at once",
    "streams": "sessions of one client at once",
    "tokens_per_s": "positions through the model, per client",
    "prompt": "ids in an opening",
    "kv_bytes": "bytes of keys and values in all sessions of one client",
    "open_s": "seconds until a stream says what it wants",
    "idle_s": "seconds between two messages of a session",
    "step_s": "seconds until a verdict",
    "session_s": "seconds of a session",
}


def read_limits(args: argparse.Namespace) -> Limits:
    if not 8 <= args.batch_positions <= 1 << 20:
        raise BadInput(f"batch-positions {args.batch_positions} is not in 8..2^20")
    return Limits(**{name: getattr(args, f"max_{name}") for name in LIMITS})
