"""What is behind the device's HTTP API: the SLM, the link, found again when it dies, and a session
for every answer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hedge.common.command import say
from hedge.common.errors import BadInput, Disconnected, HedgeError
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.config import CloudConfig, GateConfig
from hedge.edge_client.engine.gates.recalibration import Recalibrated, recalibration_of
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Emitted, Session
from hedge.edge_client.http.metrics import Metrics
from hedge.edge_client.memory import remembered
from hedge.edge_client.receipt import Prices, ReceiptLog, receipt_of
from hedge.edge_client.resolve import resolve
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.connect import reached
from hedge.edge_client.transport.connection import pause
from hedge.edge_client.transport.events import Event, EventKind, Notify
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.edge_client.transport.link import Link
from hedge.v1 import hedge_pb2 as pb

logger = logging.getLogger(__name__)

# Seconds that a new answer waits for a cloud that was there before.
GRACE = 3.0


@dataclass(slots=True)
class Reply:
    """An answer under way. `alone`: the cloud was never there, and the device answers for it."""

    session: Session
    config: GenerationConfig
    alone: bool
    prices: Prices | None
    # Told the receipt, however the answer ends.
    ended: Callable[[dict[str, Any]], None]

    async def pieces(self) -> AsyncIterator[Emitted]:
        try:
            async for emitted in self.session.tokens():
                yield replace(emitted, provenance=Provenance.OFFLINE) if self.alone else emitted
        finally:
            self.ended(self.receipt)

    @property
    def receipt(self) -> dict[str, Any]:
        found = receipt_of(self.session, self.prices)
        if self.alone:
            tokens = {
                "all": found["tokens"]["all"],
                Provenance.OFFLINE.value: found["tokens"]["all"],
            }
            found |= {"guarantee": "none", "tokens": tokens}
        return found

    @property
    def provenance(self) -> list[str]:
        kinds = self.session.provenance
        return [Provenance.OFFLINE.value if self.alone else kind.value for kind in kinds]

    def to_json(self) -> dict[str, Any]:
        """The `hedge` block of the API."""
        statistics = self.session.statistics.to_json()
        return {
            "system": self.config.system,
            "guarantee": "none" if self.alone else self.session.guarantee,
            "exact": self.session.exact and not self.alone,
            "offline": self.alone or bool(statistics["offline"]),
            "seed": self.config.sampling.seed,
            "provenance": self.provenance,
            "stats": statistics,
            "receipt": self.receipt,
        }


class Service:
    """Makes sessions; use as an async context manager. Without a cloud it goes on looking for one.

    `configure` gives the configuration of a system, `calibration` its file where it is not a
    bundled one. One that `remembers` begins with what verdicts of its pair have taught, and leaves
    what it has learned.
    """

    def __init__(
        self,
        slm: LanguageModel,
        cloud: CloudConfig | None,
        configure: Callable[[str], GenerationConfig],
        calibration: Path | None = None,
        *,
        remembers: bool = False,
        prices: Prices | None = None,
        log: ReceiptLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.slm = slm
        self._cloud = cloud
        self._configure = configure
        self._calibration = calibration
        self._prices = prices
        self._log = log or ReceiptLog(None)
        self.metrics = metrics or Metrics()
        self.metrics.up.set_function(lambda: self.up)
        self._stack = AsyncExitStack()
        self._link: GrpcLink | None = None
        self._looking: asyncio.Task[None] | None = None
        self._recalibrated: dict[tuple[GateConfig, Warp], Recalibrated | None] = {}
        self._survival = Survival()
        self._remembers = remembers
        # Set while the link is not known to be alive.
        self._down = asyncio.Event()
        self._up = asyncio.Event()
        self._down.set()

    async def __aenter__(self) -> Self:
        if self._cloud:
            await self._reach()
            self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._stack.aclose()

    async def _reach(self) -> bool:
        """Whether the cloud answers; other errors than its absence are raised."""
        assert self._cloud
        try:
            link = await self._stack.enter_async_context(
                reached(self._cloud, self.slm, lambda line: say(f"hedge: {line}"))
            )
        except Disconnected as error:
            logger.info("%s", error)
            return False
        self._link = link
        self._survival = self._stack.enter_context(
            remembered(Pair(self.slm, link.info), keep=self._remembers)
        )
        self._heard(up=True)
        return True

    async def _look(self) -> None:
        """Finds the cloud for the first time, and again whenever an answer has lost it."""
        rng = np.random.default_rng()
        while True:
            await self._down.wait()
            attempt = 0
            while not await self._found():
                await asyncio.sleep(pause(attempt, rng))
                attempt += 1

    async def _found(self) -> bool:
        try:
            if self._link is None:
                return await self._reach()
            await self._link.probe()
        except HedgeError as error:
            # One that is no Hedge cloud, or lets nobody in, may be another tomorrow.
            logger.info("%s", error)
            return False
        self._heard(up=True)
        return True

    def _heard(self, *, up: bool) -> None:
        (self._up if up else self._down).set()
        (self._down if up else self._up).clear()

    async def looked(self) -> None:
        """Whether the cloud is there, before a new answer: one that has just been lost may be found
        by the next look.
        """
        if self._link is not None:
            if not self._link.connected:
                # Closed while no answer was under way.
                self._heard(up=False)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._up.wait(), GRACE)

    @property
    def up(self) -> bool:
        """Whether the link was alive when it was last heard of."""
        return self._up.is_set()

    @property
    def link(self) -> GrpcLink | None:
        return self._link

    @property
    def cloud(self) -> pb.ServerInfo | None:
        return self._link.info if self._link else None

    def _ended(self, receipt: dict[str, Any]) -> None:
        self._log.add(receipt)
        self.metrics.answered(receipt)

    def reply(
        self,
        system: str,
        ids: list[int],
        changed: Callable[[GenerationConfig], GenerationConfig] = lambda config: config,
        notify: Notify = lambda _: None,
    ) -> Reply:
        """A session of a system over prompt ids, as `changed` says; `notify` hears of the link.

        Disconnected when the system needs a cloud, none answers, and the device is not to go on
        alone.
        """
        config = changed(self._configure(system))
        alone = config.needs_cloud and not self.up
        if alone and self._cloud is None:
            raise BadInput(
                f"model {system} needs a cloud, and this device answers alone (--local-only): "
                "model slm does"
            )
        if alone:
            assert self._cloud
            if config.link.on_disconnect != "continue":
                address = ",".join(self._cloud.addresses)
                raise Disconnected(
                    f"no Hedge cloud answers at {address} now; model slm needs none", 1.0
                )
            config = changed(self._configure("slm"))
        config = resolve(config, Pair(self.slm, self.cloud), self._calibration, say)
        link: Link | None = self._link if config.needs_cloud else None
        if config.gate.recalibrate is not None:
            # One threshold for all answers of a gate under a warp.
            recalibrated = self._recalibrated.setdefault(
                (config.gate, config.sampling.warp), recalibration_of(config)
            )
        else:
            recalibrated = None

        def note(event: Event) -> None:
            if event.kind is not EventKind.SLM_NOT_FINITE:
                self._heard(up=event.kind is EventKind.LINK_REGAINED)
            notify(event)

        session = Session(
            self.slm,
            ids,
            config,
            link,
            recalibrated=recalibrated,
            survival=self._survival,
            notify=note,
        )
        return Reply(session, config, alone, self._prices, self._ended)
