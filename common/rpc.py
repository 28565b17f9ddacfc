"""gRPC channels and servers with the limits and keepalive both sides rely on."""

import os
from collections.abc import Callable

# Read when grpc is imported: its core would put a line of its own beside the one that says what
# failed.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from hedge.common.errors import BadInput

PROTOCOL_VERSION = 3
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
MAX_MESSAGE_BYTES = 4 << 20
_LIMITS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]
_CLIENT = [
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    # A new channel is a new connection: the old one may be half open.
    ("grpc.use_local_subchannel_pool", 1),
]
# Spelled without "recv": the other name is ignored without a word.
_SERVER = [
    # A device that lost its power ends its stream, and frees its cache, within a minute and a half.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
]


def split_address(address: str, *, lowest_port: int = 1) -> tuple[str, int]:
    """HOST and PORT of HOST:PORT; BadInput when it is not that."""
    if "://" in address:
        raise BadInput(f"address {address!r} is a URL; HOST:PORT alone is asked for")
    host, _, port = address.rpartition(":")
    if (
        not host
        or not port.isascii()
        or not port.isdigit()
        or not lowest_port <= int(port) <= 65535
    ):
        raise BadInput(f"address {address!r} is not HOST:PORT with a port in {lowest_port}..65535")
    return host, int(port)


def open_channel(
    address: str, credentials: "grpc.ChannelCredentials | None" = None
) -> grpc.aio.Channel:
    """Without credentials a plaintext channel: callers ask for `--insecure` in words first."""
    split_address(address)
    options = [*_LIMITS, *_CLIENT]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def make_server(
    register: Callable[[grpc.aio.Server], None], interceptors: list[grpc.aio.ServerInterceptor]
) -> grpc.aio.Server:
    server = grpc.aio.server(options=[*_LIMITS, *_SERVER], interceptors=interceptors)
    register(server)
    return server
