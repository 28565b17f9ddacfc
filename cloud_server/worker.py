"""Where model calls run: one thread beside the event loop, so that no stream waits on another's forward in the loop."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs one call at a time, in order of arrival."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def run(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """The result of `call` and the seconds it waited for its turn."""
        asked = time.perf_counter()

        def timed() -> tuple[Result, float]:
            waited = time.perf_counter() - asked
            return call(), waited

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
