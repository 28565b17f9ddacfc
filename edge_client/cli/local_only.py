"""--local-only: answers by the device alone, and a process that can make no connection."""

import argparse
import sys
from typing import Any

from hedge.common.errors import BadInput, HedgeError
from hedge.common.rpc import LOOPBACK

# What Python tells its auditors before it reaches out. gRPC would not ask: without a cloud it has
# no channel.
_REACHING = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "socket.sendmsg",
)


def stay_local(args: argparse.Namespace) -> None:
    """With --local-only: the system is slm, and from here on every try to reach another process by
    network is an error.
    """
    if not args.local_only:
        return
    if args.system not in ("slm", "hedge") or args.policy not in (None, "never"):
        raise BadInput(
            "--local-only is system slm, not system "
            f"{args.system}{f' with policy {args.policy}' if args.policy else ''}"
        )
    args.system = "slm"
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo" and arguments[0] in LOOPBACK:
        return
    if event in _REACHING:
        raise HedgeError(f"--local-only: something tried {event}{arguments[1:]!r}")
