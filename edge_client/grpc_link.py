"""The way to the cloud over gRPC."""

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub

from common.errors import BadInput, Denied, Disconnected, HedgeError, Incompatible, Unreachable
from common.rpc import open_channel, split_address
from edge_client.sockets import bytes_with

INFO_SECONDS = 10.0

_ERRORS: dict[grpc.StatusCode, type[HedgeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.FAILED_PRECONDITION: Incompatible,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
}
_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def _raise(address: str, code: grpc.StatusCode, details: str | None) -> NoReturn:
    lines = (details or "").splitlines()
    line = lines[0] if lines else code.name
    if code == grpc.StatusCode.UNIMPLEMENTED:
        raise Unreachable(f"{address} is a gRPC server, but not a Hedge cloud")
    if code in _GONE:
        raise Disconnected(f"no Hedge cloud answers at {address}: {line}")
    if code in _ERRORS:
        raise _ERRORS[code](line)
    # A server that broke down, or a proxy whose replica did: another one, or the same one later, may do better.
    raise Disconnected(f"{address} failed: {code.name} {line}")


class GrpcStream:
    """One Generate call."""

    def __init__(self, address: str, call: Any) -> None:
        self._address, self._call = address, call
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
                raise Disconnected(f"{self._address}: {throttle.reason}", throttle.retry_after_ms / 1e3)
            case kind:
                raise Unreachable(f"{self._address} answered {kind} where {'a verdict' if self.opened else 'opened'} was due")

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
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._call.cancel()


class GrpcLink:
    """A connection to one of some servers, the first that answers; use as an async context manager."""

    info: pb.ServerInfo

    def __init__(
        self, addresses: str | Sequence[str], credentials: grpc.ChannelCredentials | None = None, token: str | None = None
    ) -> None:
        self._credentials = credentials
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._ports = {split_address(address)[1] for address in self._addresses}
        self._at = -1
        self._channel: grpc.aio.Channel | None = None
        self._reaching = asyncio.Lock()
        # Bytes of connections that are no more.
        self._past = (0, 0)

    @property
    def address(self) -> str:
        return self._addresses[self._at]

    async def __aenter__(self) -> Self:
        for remaining in reversed(range(len(self._addresses))):
            try:
                await self.reach()
                break
            except Disconnected:
                if not remaining:
                    raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def reach(self) -> None:
        channel = self._channel
        async with self._reaching:
            if self._channel is not channel:
                # Another session has been here meanwhile.
                return
            await self._leave()
            self._at = (self._at + 1) % len(self._addresses)
            self._channel = open_channel(self.address, self._credentials)
            self._stub: Any = HedgeStub(self._channel)
            try:
                self.info = await self._stub.GetServerInfo(
                    pb.GetServerInfoRequest(), timeout=INFO_SECONDS, metadata=self._metadata
                )
            except grpc.aio.AioRpcError as error:
                await self._leave()
                _raise(self.address, error.code(), error.details())

    async def probe(self) -> None:
        """Asks who answers, on the connection there is if it lives. Disconnected when nobody does."""
        if self._channel is not None:
            try:
                await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=INFO_SECONDS, metadata=self._metadata)
            except grpc.aio.AioRpcError:
                pass
            else:
                return
        await self.reach()

    async def _leave(self) -> None:
        if self._channel is None:
            return
        before = self.socket_bytes()
        await self._channel.close()
        self._channel = None
        if before and (after := self.socket_bytes()):
            self._past = (self._past[0] + before[0] - after[0], self._past[1] + before[1] - after[1])

    async def open(self, request: pb.Open) -> GrpcStream:
        if self._channel is None:
            raise Disconnected(f"no Hedge cloud answers at {self.address}")
        stream = GrpcStream(self.address, self._stub.Generate(metadata=self._metadata))
        await stream.write(pb.ClientMessage(open=request))
        return stream

    def socket_bytes(self) -> tuple[int, int] | None:
        now = bytes_with(self._ports)
        return now and (now[0] + self._past[0], now[1] + self._past[1])
