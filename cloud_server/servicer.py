"""The gRPC face of the verifier: streams in, verdicts out. All decisions are the session's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeServicer

from cloud_server.batcher import Batcher, PooledPrefix
from cloud_server.session import Session, server_info
from common.errors import BadInput, HedgeError, Incompatible, Unreachable
from common.model import CausalLM

logger = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[HedgeError], grpc.StatusCode], ...] = (
    (BadInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Incompatible, grpc.StatusCode.FAILED_PRECONDITION),
    (Unreachable, grpc.StatusCode.UNAVAILABLE),
    (HedgeError, grpc.StatusCode.INTERNAL),
)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a HedgeError of any stream into its gRPC status and one line; bytes that are no message included."""

    async def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler.stream_stream:
            return handler  # type: ignore[no-any-return]

        async def guarded(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            try:
                async for answer in handler.stream_stream(_parsed(requests, handler.request_deserializer), context):
                    yield answer
            except HedgeError as error:
                status = next(code for kind, code in _STATUS if isinstance(error, kind))
                logger.info("refused: %s", error)
                await context.abort(status, str(error))

        behaviour: Any = guarded
        return grpc.stream_stream_rpc_method_handler(behaviour, response_serializer=handler.response_serializer)


async def _parsed(requests: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for data in requests:
        try:
            message = parse(data)
        except DecodeError:
            raise BadInput(f"{len(data)} bytes that are no message of hedge.v1") from None
        yield message


async def _closed(requests: AsyncIterator[pb.ClientMessage]) -> None:
    """Returns at Close; a client that only stops writing still wants its answer."""
    async for message in requests:
        if message.WhichOneof("kind") == "close":
            return
        raise BadInput(f"{message.WhichOneof('kind')} in a session that streams")
    await asyncio.Event().wait()


class Servicer(HedgeServicer):
    """Hedge over one LLM."""

    def __init__(self, lm: CausalLM, batcher: Batcher) -> None:
        self._lm = lm
        self._batcher = batcher
        self._context = min(lm.context, batcher.capacity)
        self._sessions: set[Session] = set()

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.ServerInfo:  # noqa: N802, ARG002
        return server_info(self._lm, self._sessions, self._context)

    async def Generate(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ClientMessage],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.ServerMessage]:
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        if first.WhichOneof("kind") != "open":
            raise BadInput(f"a stream begins with open, not {first.WhichOneof('kind')}")
        prefix = self._batcher.prefix()
        session = Session(self._lm, first.open, prefix, self._context)
        self._sessions.add(session)
        logger.info("session %s: open, %d ids", first.open.session_id[:64], len(first.open.prompt_ids))
        try:
            opened, _ = await self._batcher.run(prefix, session.prefill())
            yield pb.ServerMessage(opened=opened)
            answer = self._stream if session.streams else self._verify
            async for verdict in answer(session, prefix, request_iterator):
                yield pb.ServerMessage(verdict=verdict)
        finally:
            self._batcher.leave(prefix)
            self._sessions.discard(session)
            logger.info("session %s: closed", first.open.session_id[:64])

    async def _stream(
        self, session: Session, prefix: PooledPrefix, requests: AsyncIterator[pb.ClientMessage]
    ) -> AsyncIterator[pb.Verdict]:
        closing = asyncio.create_task(_closed(requests))
        try:
            while not closing.done():
                verdict, waited = await self._batcher.run(prefix, session.next_token())
                if verdict is None:
                    return
                verdict.timings.queue_us = round(waited * 1e6)
                yield verdict
            await closing
        finally:
            closing.cancel()

    async def _verify(
        self, session: Session, prefix: PooledPrefix, requests: AsyncIterator[pb.ClientMessage]
    ) -> AsyncIterator[pb.Verdict]:
        async for message in requests:
            match message.WhichOneof("kind"):
                case "draft":
                    verdict, waited = await self._batcher.run(prefix, session.verify(message.draft))
                    if verdict is not None:
                        verdict.timings.queue_us = round(waited * 1e6)
                        yield verdict
                case "close":
                    return
                case kind:
                    raise BadInput(f"{kind} in an open session")
