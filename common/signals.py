"""Signals that end a server."""

import asyncio
import signal
from collections.abc import Callable


async def wait_for_stop(hangup: Callable[[], None] | None = None) -> None:
    """Returns at SIGINT or SIGTERM. SIGHUP calls `hangup`."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    if hangup:
        loop.add_signal_handler(signal.SIGHUP, hangup)
    await stopped.wait()
