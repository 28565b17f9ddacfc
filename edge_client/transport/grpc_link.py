"""The way to the cloud over gRPC."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, Self

import grpc
import grpc.aio

from hedge.common.errors import (
    BadInput,
    Denied,
    Disconnected,
    HedgeError,
    Incompatible,
    Unreachable,
)
from hedge.common.rpc import open_channel, split_address
from hedge.edge_client.transport.sockets import bytes_with
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub

INFO_SECONDS = 10.0
# Before a cloud is asked again that had no room.
BUSY_SECONDS = 0.5

_ERRORS: dict[grpc.StatusCode, type[HedgeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.FAILED_PRECONDITION: Incompatible,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
}
# NOT_FOUND is Ray Serve's while a replica loads its model.
_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.NOT_FOUND,
)
# What gRPC says of a stream that a proxy or a dying connection cut, or that ended while something
# was written, and Ray Serve of a replica that died or has no time, whatever status they give it.
_CUT = (
    "RST_STREAM",
    "Stream removed",
    "Internal error from Core",
    "The actor ",
    "dropped due to backpressure",
)


def _raise(address: str, code: grpc.StatusCode, details: str | None) -> NoReturn:
    lines = (details or "").splitlines()
    # gRPC tells the whole way to what failed.
    line = lines[0].rpartition("Failed to connect to remote host: ")[2] if lines else code.name
    if code == grpc.StatusCode.UNIMPLEMENTED:
        raise Unreachable(f"{address} is a gRPC server, but not a Hedge cloud")
    if code in _GONE or any(word in line for word in _CUT):
        raise Disconnected(f"no Hedge cloud answers at {address}: {line}")
    # A quota that one answer exceeds is exceeded again; an engine's queue is not.
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "queue is full" in line:
        raise Disconnected(f"the cloud at {address} is busy: {line}", BUSY_SECONDS)
    if code in _ERRORS:
        raise _ERRORS[code](line)
    # What failed there would fail again.
    raise HedgeError(f"the cloud at {address}: {line}")


class GrpcStream:
    """One Generate call. `ended` is awaited once, when it is closed."""

    def __init__(self, address: str, call: Any, ended: Callable[[], Awaitable[None]]) -> None:
        self._address = address
        self._call = call
        self._ended = ended
        self._closed = False
        self._reading: asyncio.Task[pb.Verdict | None] | None = None
        self.opened: pb.Opened | None = None

    async def send(self, draft: pb.Draft) -> None:
        await self.write(pb.ClientMessage(draft=draft))

    async def write(self, message: pb.ClientMessage) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            _raise(self._address, error.code(), error.details())
        except (grpc.aio.UsageError, asyncio.InvalidStateError):
            # The server has already ended the call; the reason comes with the next read.
            return

    async def receive(self) -> pb.Verdict | None:
        try:
            return await self._read()
        finally:
            self._reading = None

    def arrived(self) -> bool:
        return self._read().done()

    def _read(self) -> "asyncio.Task[pb.Verdict | None]":
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._verdict())
        return self._reading

    async def _verdict(self) -> pb.Verdict | None:
        message = await self._message()
        if message is not None and self.opened is None and message.WhichOneof("kind") == "opened":
            self.opened = message.opened
            message = await self._message()
        if message is None:
            return None
        match message.WhichOneof("kind"):
            case "verdict" if self.opened is not None:
                return message.verdict
            case "throttle":
                throttle = message.throttle
                raise Disconnected(
                    f"{self._address}: {throttle.reason}", throttle.retry_after_ms / 1e3
                )
            case kind:
                raise Unreachable(
                    f"{self._address} answered {kind} where "
                    f"{'a verdict' if self.opened else 'opened'} was due"
                )

    async def _message(self) -> pb.ServerMessage | None:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            _raise(self._address, error.code(), error.details())
        if message is grpc.aio.EOF:
            if (code := await self._call.code()) is not grpc.StatusCode.OK:
                _raise(self._address, code, await self._call.details())
            return None
        assert isinstance(message, pb.ServerMessage)
        return message

    async def close(self) -> None:
        try:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)
        finally:
            self._call.cancel()
            if not self._closed:
                self._closed = True
                await self._ended()


class _Connection:
    """A channel of many calls. When left it closes with the last of them: nobody's reconnecting
    cuts another's answer short.
    """

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.channel = open_channel(address, credentials)
        self.stub: Any = HedgeStub(self.channel)
        self.calls = 0
        self.left = False


class GrpcLink:
    """A connection to the first of some servers that answers; an async context manager."""

    info: pb.ServerInfo

    def __init__(
        self,
        addresses: str | Sequence[str],
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        self._credentials = credentials
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._ports = {split_address(address)[1] for address in self._addresses}
        self._at = -1
        self.connection = 0
        self._now: _Connection | None = None
        self._reaching = asyncio.Lock()
        # Bytes of connections that are no more.
        self._past = (0, 0)

    @property
    def address(self) -> str:
        return self._addresses[self._at]

    @property
    def connected(self) -> bool:
        """Whether nobody has closed the connection, as far as this side has heard."""
        return (
            self._now is not None
            and self._now.channel.get_state() is grpc.ChannelConnectivity.READY
        )

    async def __aenter__(self) -> Self:
        for remaining in reversed(range(len(self._addresses))):
            try:
                await self.reach(0)
                break
            except HedgeError:
                if not remaining:
                    raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def reach(self, after: int) -> None:
        async with self._reaching:
            if self._now and self.connection > after:
                # Another session has been here meanwhile.
                return
            await self._leave()
            self._at = (self._at + 1) % len(self._addresses)
            self.connection += 1
            self._now = _Connection(self.address, self._credentials)
            try:
                await self._ask(self._now)
            except BaseException:
                # Not known to be the server: a cancelled question says nothing of who listens
                # there.
                await self._leave()
                raise

    async def _ask(self, connection: _Connection) -> None:
        connection.calls += 1
        try:
            info = await connection.stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=INFO_SECONDS, metadata=self._metadata
            )
            if connection is self._now:
                self.info = info
        except grpc.aio.AioRpcError as error:
            _raise(connection.address, error.code(), error.details())
        finally:
            await self._ended(connection)

    async def probe(self) -> None:
        """Asks the server who it is, over the live connection if any. Raises Disconnected."""
        known = self.connection
        if self._now:
            try:
                await self._ask(self._now)
            except Disconnected:
                pass
            else:
                return
        await self.reach(known)

    async def _leave(self) -> None:
        left = self._now
        self._now = None
        if left:
            left.left = True
            await self._close(left)

    async def _ended(self, connection: _Connection) -> None:
        connection.calls -= 1
        await self._close(connection)

    async def _close(self, connection: _Connection) -> None:
        if connection.calls or not connection.left:
            return
        before = self.socket_bytes()
        await connection.channel.close()
        if before and (after := self.socket_bytes()):
            self._past = (
                self._past[0] + before[0] - after[0],
                self._past[1] + before[1] - after[1],
            )

    async def open(self, request: pb.Open) -> GrpcStream:
        connection = self._now
        if connection is None:
            raise Disconnected(f"no Hedge cloud answers at {self.address}")
        connection.calls += 1
        call = connection.stub.Generate(metadata=self._metadata)
        stream = GrpcStream(connection.address, call, lambda: self._ended(connection))
        try:
            await stream.write(pb.ClientMessage(open=request))
        except BaseException:
            await stream.close()
            raise
        return stream

    def socket_bytes(self) -> tuple[int, int] | None:
        now = bytes_with(self._ports)
        return now and (now[0] + self._past[0], now[1] + self._past[1])
