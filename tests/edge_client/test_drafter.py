"""Steps of the SLM run beside the event loop."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np

from hedge.common.model import KVCache, LanguageModel, WrappedModel
from hedge.edge_client.engine.session import Session
from tests.configs import config_of

SECONDS = 30.0


class Waiting(WrappedModel):
    """A model that steps only when the event loop has had a turn."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm)
        self.turn = threading.Event()
        self.turns = 0

    def kv_cache(self) -> KVCache:
        return WaitingCache(self)


class WaitingCache:
    def __init__(self, lm: Waiting) -> None:
        self._lm = lm
        self._cache = lm.lm.kv_cache()

    @property
    def length(self) -> int:
        return self._cache.length

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        self._lm.turn.clear()
        self._lm.turns += self._lm.turn.wait(SECONDS)
        return self._cache.forward(ids, rows)

    def rollback(self, length: int) -> None:
        self._cache.rollback(length)


def test_the_event_loop_has_turns_while_the_model_steps(
    make_lm: Callable[..., LanguageModel],
) -> None:
    """The first step is over a prompt, and no one knows how long it takes: on the loop it would
    wait for a turn for ever.
    """
    slm = Waiting(make_lm())

    async def answered() -> None:
        async def turns() -> None:
            while True:
                slm.turn.set()
                # A turn of the loop, not a wait for anything.
                await asyncio.sleep(0)

        turning = asyncio.create_task(turns())
        async for _ in Session(
            slm, [1, 2, 3], config_of(policy="never", max_new_tokens=1)
        ).tokens():
            pass
        turning.cancel()

    asyncio.run(answered())
    assert slm.turns == 1
