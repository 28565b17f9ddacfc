"""The way to a cloud: a link that is found, and found again when it dies."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Self

import numpy as np

from hedge.common.errors import Disconnected, HedgeError
from hedge.common.model import LanguageModel
from hedge.edge_client.config import CloudConfig
from hedge.edge_client.transport.connect import reached
from hedge.edge_client.transport.connection import pause
from hedge.edge_client.transport.events import Event, EventKind
from hedge.edge_client.transport.grpc_link import GrpcLink

logger = logging.getLogger(__name__)

# Seconds that a new answer waits for a cloud that was there before.
GRACE = 3.0


class CloudWatch:
    """Holds the link to a cloud; use as an async context manager. Without `cloud` there is none.

    A `patient` one starts without a cloud that does not answer, and goes on looking for it; another
    one raises Disconnected. `on_found` is called with the link when it is made.
    """

    def __init__(
        self,
        cloud: CloudConfig | None,
        slm: LanguageModel,
        notify: Callable[[str], None],
        on_found: Callable[[GrpcLink], None],
        *,
        patient: bool,
    ) -> None:
        self.cloud = cloud
        self.link: GrpcLink | None = None
        self._slm = slm
        self._notify = notify
        self._on_found = on_found
        self._patient = patient
        self._stack = AsyncExitStack()
        self._looking: asyncio.Task[None] | None = None
        # Set while the link is not known to be alive.
        self._down = asyncio.Event()
        self._up = asyncio.Event()
        self._down.set()

    async def __aenter__(self) -> Self:
        if self.cloud:
            await self._connect(self.cloud)
            if self._patient:
                self._looking = asyncio.create_task(self._look(self.cloud))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._stack.aclose()

    @property
    def up(self) -> bool:
        """Whether the link was alive when it was last heard of."""
        return self._up.is_set()

    async def wait_briefly(self) -> None:
        """Gives a link that has just been lost the time to be found, before a new answer."""
        if self.link is None:
            return
        if not self.link.connected:
            # Closed while no answer was under way.
            self._mark(up=False)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), GRACE)

    def hear(self, event: Event) -> None:
        """Learns from an event of an answer whether the link is alive."""
        if event.kind is not EventKind.SLM_NOT_FINITE:
            self._mark(up=event.kind is EventKind.LINK_REGAINED)

    async def _connect(self, cloud: CloudConfig) -> bool:
        """Whether the cloud answers. Errors other than its absence are raised."""
        try:
            link = await self._stack.enter_async_context(reached(cloud, self._slm, self._notify))
        except Disconnected as error:
            if not self._patient:
                raise
            logger.info("%s", error)
            return False
        self.link = link
        self._on_found(link)
        self._mark(up=True)
        return True

    async def _look(self, cloud: CloudConfig) -> None:
        """Finds the cloud for the first time, and again whenever an answer has lost it."""
        rng = np.random.default_rng()
        while True:
            await self._down.wait()
            attempt = 0
            while not await self._find(cloud):
                await asyncio.sleep(pause(attempt, rng))
                attempt += 1

    async def _find(self, cloud: CloudConfig) -> bool:
        try:
            if self.link is None:
                return await self._connect(cloud)
            await self.link.probe()
        except HedgeError as error:
            # One that is no Hedge cloud, or lets nobody in, may be another tomorrow.
            logger.info("%s", error)
            return False
        self._mark(up=True)
        return True

    def _mark(self, *, up: bool) -> None:
        (self._up if up else self._down).set()
        (self._down if up else self._up).clear()
