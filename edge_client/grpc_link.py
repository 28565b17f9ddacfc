"""The way to the cloud over gRPC."""

import asyncio
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub

from common.errors import BadInput, HedgeError, Incompatible, Unreachable
from common.rpc import open_channel, split_address
from edge_client.sockets import bytes_with

INFO_SECONDS = 10.0
STEP_SECONDS = 120.0

_ERRORS: dict[grpc.StatusCode, type[HedgeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.FAILED_PRECONDITION: Incompatible,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
}


def _raise(address: str, error: grpc.aio.AioRpcError) -> NoReturn:
    code, details = error.code(), (error.details() or "").splitlines()
    line = details[0] if details else code.name
    if code == grpc.StatusCode.UNIMPLEMENTED:
        raise Unreachable(f"{address} is a gRPC server, but not a Hedge cloud") from None
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise Unreachable(f"no Hedge cloud answers at {address}: {line}") from None
    if code in _ERRORS:
        raise _ERRORS[code](line) from None
    raise HedgeError(f"{address} failed: {code.name} {line}") from None


class GrpcStream:
    """One Generate call. A step that takes longer than STEP_SECONDS counts as a dead link."""

    def __init__(self, address: str, call: Any, opened: pb.Opened) -> None:
        self._address, self._call, self.opened = address, call, opened
        self._reading: asyncio.Task[pb.ServerMessage | None] | None = None

    async def send(self, draft: pb.Draft) -> None:
        try:
            await self._call.write(pb.ClientMessage(draft=draft))
        except grpc.aio.AioRpcError as error:
            _raise(self._address, error)
        except (grpc.aio.UsageError, asyncio.InvalidStateError):
            # The server has already ended the call; the reason comes with the next read.
            return

    async def receive(self) -> pb.Verdict | None:
        try:
            message = await self._read()
        finally:
            self._reading = None
        if message is None:
            return None
        if message.WhichOneof("kind") != "verdict":
            raise Unreachable(f"{self._address} answered {message.WhichOneof('kind')} where a verdict was due")
        return message.verdict

    def arrived(self) -> bool:
        return self._read().done()

    def _read(self) -> "asyncio.Task[pb.ServerMessage | None]":
        if self._reading is None:
            self._reading = asyncio.ensure_future(_read(self._address, self._call))
        return self._reading

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._call.cancel()


async def _read(address: str, call: Any) -> pb.ServerMessage | None:
    try:
        message = await asyncio.wait_for(call.read(), STEP_SECONDS)
        if message is grpc.aio.EOF:
            if await call.code() is not grpc.StatusCode.OK:
                raise Unreachable(f"{address} ended the stream: {await call.code()} {await call.details()}")
            return None
        assert isinstance(message, pb.ServerMessage)
        return message
    except grpc.aio.AioRpcError as error:
        _raise(address, error)
    except TimeoutError:
        raise Unreachable(f"{address} has not answered for {STEP_SECONDS:g} s") from None


class GrpcLink:
    """A connection to one server; use as an async context manager."""

    info: pb.ServerInfo

    def __init__(self, address: str) -> None:
        self.address = address
        self._port = split_address(address)[1]

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self.address)
        self._stub: Any = HedgeStub(self._channel)
        try:
            self.info = await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=INFO_SECONDS)
        except grpc.aio.AioRpcError as error:
            await self._channel.close()
            _raise(self.address, error)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def open(self, request: pb.Open) -> GrpcStream:
        call = self._stub.Generate()
        try:
            await call.write(pb.ClientMessage(open=request))
        except grpc.aio.AioRpcError as error:
            _raise(self.address, error)
        message = await _read(self.address, call)
        if message is None or message.WhichOneof("kind") != "opened":
            raise Unreachable(f"{self.address} did not open the session")
        return GrpcStream(self.address, call, message.opened)

    def socket_bytes(self) -> tuple[int, int] | None:
        return bytes_with(self._port)
