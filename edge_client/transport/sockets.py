"""Bytes on the wire of this process's own TCP connections, as the kernel counts them (Linux; None
elsewhere).
"""

import os
import socket
import struct
import sys
from collections.abc import Collection

# Offsets in struct tcp_info: tcpi_bytes_received (Linux 4.1) and tcpi_bytes_sent (4.19).
_RECEIVED = 128
_SENT = 200
_SIZE = 208


def bytes_with(ports: Collection[int]) -> tuple[int, int] | None:
    """Bytes sent to and received from peers at `ports`: HTTP/2 framing and headers included, TCP/IP
    headers not.
    """
    if not sys.platform.startswith("linux"):
        return None
    sent = received = 0
    for entry in os.listdir("/proc/self/fd"):
        counts = _counts(int(entry), ports)
        if counts:
            sent = sent + counts[0]
            received = received + counts[1]
    return sent, received


def _counts(descriptor: int, ports: Collection[int]) -> tuple[int, int] | None:
    try:
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
            return None
        duplicate = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    with duplicate:
        try:
            if (
                duplicate.family not in (socket.AF_INET, socket.AF_INET6)
                or duplicate.getpeername()[1] not in ports
            ):
                return None
            info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        except OSError:
            return None
    if len(info) < _SIZE:
        return None
    return struct.unpack_from("=Q", info, _SENT)[0], struct.unpack_from("=Q", info, _RECEIVED)[0]
