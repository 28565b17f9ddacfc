"""The stream of one answer: opened, counted, and found again when the link dies."""

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence

import numpy as np

from hedge.common import ids
from hedge.common.errors import Disconnected, Incompatible, Unreachable
from hedge.common.model import LanguageModel
from hedge.edge_client.transport.events import Event, EventKind, Notify
from hedge.edge_client.transport.link import Link, Stream
from hedge.edge_client.transport.messages import check_opened, check_server, engine_of, id_codec_of
from hedge.edge_client.transport.traffic import Traffic
from hedge.v1 import hedge_pb2 as pb

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
# Without a verdict for so many attempts in a row (about five minutes) the server counts as gone for
# good.
ATTEMPTS = 50


def pause(attempt: int, rng: np.random.Generator) -> float:
    """Seconds before attempt number `attempt` >= 0: doubling up to a cap, half of it random, so
    that devices spread out.
    """
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 20)) * (0.5 + 0.5 * rng.random())


class Connection:
    """Speaks for one answer. `request` is what every opening asks for, but for its ids; `patience`
    in seconds.
    """

    def __init__(
        self,
        link: Link,
        slm: LanguageModel,
        request: pb.Open,
        patience: float,
        traffic: Traffic,
        notify: Notify,
    ) -> None:
        self._link = link
        self._slm = slm
        self.request = request
        self._patience = patience
        self._traffic = traffic
        self.notify = notify
        self._model = link.info.model_fingerprint
        self._ends = frozenset(link.info.end_ids)
        self._stream: Stream | None = None
        self._on = 0
        self._heard = False
        self._attempts = 0
        self._began = time.perf_counter()
        self._rng = np.random.default_rng()

    @property
    def is_open(self) -> bool:
        return self._stream is not None

    @property
    def is_heard(self) -> bool:
        """Whether a verdict has come on this stream."""
        return self._heard

    async def open(self, held: Sequence[int], generated: int) -> None:
        """A session over the `held` ids, the last `generated` of them the answer's; the server's
        reply is not waited for.
        """
        request = pb.Open()
        request.CopyFrom(self.request)
        request.session_id = uuid.uuid4().hex
        request.resume_position = generated
        request.prompt_ids.extend(held)
        self.id_version = id_codec_of(self._link.info, self._slm)
        self.ids = ids.id_codec(self.id_version, self._slm.vocab_size, self._slm.primer)
        size = pb.ClientMessage(open=request).ByteSize()
        self._traffic.open_bytes += size
        self._traffic.open_ids += len(held)
        self._traffic.uplink_payload_bytes += size
        self._heard = False
        self._on = self._link.connection
        if self._traffic.engine != "rounding":
            self._traffic.engine = engine_of(self._link.info)
        self._stream = await self._link.open(request)

    async def send(self, draft: pb.Draft) -> None:
        assert self._stream
        await self._stream.send(draft)

    def arrived(self) -> bool:
        return self._stream is not None and self._stream.arrived()

    async def receive(self) -> pb.Verdict | None:
        """The next verdict; None when the server has ended the stream."""
        assert self._stream
        waiting = time.perf_counter()
        try:
            # Not wait_for: until Python 3.12 it loses a cancellation that comes together with the
            # verdict.
            async with asyncio.timeout(self._patience):
                verdict = await self._stream.receive()
        except TimeoutError:
            raise Disconnected(f"the cloud has not answered for {self._patience:g} s") from None
        finally:
            self._traffic.wait_s += time.perf_counter() - waiting
        if verdict is None:
            return None
        if not self._heard and self._stream.opened is not None:
            check_opened(self._stream.opened, self.id_version)
            self._traffic.downlink_payload_bytes += pb.ServerMessage(
                opened=self._stream.opened
            ).ByteSize()
        self._heard = True
        if self._attempts:
            self._traffic.gaps[-1].append(time.perf_counter() - self._began)
            self.notify(Event(EventKind.LINK_REGAINED, "the cloud is back"))
        self._attempts = 0
        self._traffic.downlink_payload_bytes += pb.ServerMessage(verdict=verdict).ByteSize()
        return verdict

    async def lose(self, error: Disconnected) -> None:
        """The stream is gone."""
        logger.info("disconnected: %s", error)
        if not self._attempts:
            self._traffic.disconnects += 1
            self._traffic.gaps.append([time.perf_counter() - self._began])
            self.notify(Event(EventKind.LINK_LOST, str(error)))
        await self.close()

    async def regain(self, error: Disconnected) -> None:
        """Returns when a server with the same model answers. Unreachable when none has for too
        long.
        """
        while True:
            if self._attempts >= ATTEMPTS:
                raise Unreachable(f"given up after {ATTEMPTS} attempts: {error}")
            self._attempts += 1
            await asyncio.sleep(max(pause(self._attempts - 1, self._rng), error.retry_after))
            try:
                await self._link.reach(self._on)
            except Disconnected as again:
                error = again
                continue
            check_server(self._link.info, self._slm)
            if self._link.info.model_fingerprint != self._model:
                raise Incompatible(
                    f"the server has model {self._link.info.model_fingerprint} now, the answer was "
                    f"begun with {self._model}"
                )
            if frozenset(self._link.info.end_ids) != self._ends:
                raise Incompatible(
                    f"the server ends answers at {sorted(self._link.info.end_ids)} now, the answer "
                    "was begun with "
                    f"{sorted(self._ends)}"
                )
            return

    async def close(self) -> None:
        if self._stream:
            await self._stream.close()
            self._stream = None
