"""What the device computes on: it runs SLM steps, and has a clock."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

from hedge.common.model import LanguageModel

Result = TypeVar("Result")
# All answers share one thread for their steps, so that the event loop stays free.
_STEPS = ThreadPoolExecutor(1, "slm-step")
# Seconds. To hand over a shorter step would take as long as the step.
_SHORT = 0.005
# Seconds an id, in the newest step of each model.
_per_id: WeakKeyDictionary[LanguageModel, float] = WeakKeyDictionary()


class Machine(Protocol):
    def now(self) -> float:
        """Seconds of any origin."""
        ...

    async def run(self, step: Callable[[], Result], slm: LanguageModel, ids: int) -> Result:
        """The result of a step that feeds `slm` so many ids."""
        ...


class ThisMachine:
    """Steps run in a thread of their own, short ones at once."""

    def now(self) -> float:
        return time.perf_counter()

    async def run(self, step: Callable[[], Result], slm: LanguageModel, ids: int) -> Result:
        def timed() -> Result:
            started = time.perf_counter()
            result = step()
            _per_id[slm] = (time.perf_counter() - started) / ids
            return result

        if ids * _per_id.get(slm, math.inf) < _SHORT:
            # An answer that needs no cloud can be cancelled only here, and verdicts come in.
            await asyncio.sleep(0)
            return timed()
        return await asyncio.get_running_loop().run_in_executor(_STEPS, timed)
