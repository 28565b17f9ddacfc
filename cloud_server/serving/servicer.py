"""The gRPC face of the verifier: streams in, verdicts out. All decisions are the session's and the
quotas'.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from hedge.cloud_server.engines.runner import Runner
from hedge.cloud_server.engines.self_check import Exactness
from hedge.cloud_server.serving.access import Access
from hedge.cloud_server.serving.limits import Limits, Quotas
from hedge.cloud_server.serving.metrics import CloudMetrics
from hedge.cloud_server.sessions.opening import make_server_info
from hedge.cloud_server.sessions.session import VerifierSession
from hedge.cloud_server.sessions.steps import SessionCache
from hedge.common.errors import BadInput, Busy, Denied, HedgeError, Incompatible, Unreachable
from hedge.common.model import LanguageModel, first_line
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeServicer

logger = logging.getLogger(__name__)

RETRY_MS = 1000
_STATUS: tuple[tuple[type[HedgeError], grpc.StatusCode], ...] = (
    (BadInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Incompatible, grpc.StatusCode.FAILED_PRECONDITION),
    (Denied, grpc.StatusCode.UNAUTHENTICATED),
    (Busy, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unreachable, grpc.StatusCode.UNAVAILABLE),
)
Item = TypeVar("Item")


def to_status(error: Exception) -> grpc.StatusCode:
    return next(
        (code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL
    )


def describe_error(error: Exception) -> str:
    """What the client is told. What no HedgeError foresaw is logged whole."""
    if isinstance(error, HedgeError):
        return str(error)
    logger.error("a call failed", exc_info=error)
    return f"it failed: {type(error).__name__}: {first_line(error)}"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns an error of any call into its gRPC status and one line; bytes that are no message
    included.
    """

    def __init__(self, metrics: CloudMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/hedge."):
            return handler  # type: ignore[no-any-return]

        async def guarded(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            try:
                async for answer in handler.stream_stream(
                    _parsed(requests, handler.request_deserializer), context
                ):
                    yield answer
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._refuse(error, context)

        async def guarded_unary(request: Any, context: Any) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._refuse(error, context)

        behaviour: Any = guarded if handler.stream_stream else guarded_unary
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                behaviour, response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )

    async def _refuse(self, error: Exception, context: Any) -> None:
        status = to_status(error)
        line = describe_error(error)
        self._metrics.count_refusal(status.name.lower())
        logger.info("refused: %s", line)
        await context.abort(status, line)


async def _parsed(
    requests: AsyncIterator[bytes], parse: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    async for data in requests:
        try:
            message = parse(data)
        except DecodeError:
            raise BadInput(f"{len(data)} bytes that are no message of hedge.v1") from None
        yield message


async def _within(seconds: float, what: str, wanted: Awaitable[Item]) -> Item:
    """The result of `wanted`; Unreachable when it takes longer. 0 is no limit."""
    try:
        # Not wait_for: until Python 3.12 it loses a cancellation that comes together with the
        # result.
        async with asyncio.timeout(seconds or None):
            return await wanted
    except TimeoutError:
        raise Unreachable(f"{what} took longer than {seconds:g} s") from None


async def _closed(requests: AsyncIterator[pb.ClientMessage]) -> None:
    """Returns at Close; a client that only stops writing still wants its answer."""
    async for message in requests:
        if message.WhichOneof("kind") == "close":
            return
        raise BadInput(f"{message.WhichOneof('kind')} in a session that streams")
    await asyncio.Event().wait()


def split_forward_time(timings: pb.Timings, late: float, computed: float) -> None:
    """Parts `forward_us`, from asking for the model to having logits, into passes and waiting.
    `late` was waiting too.
    """
    since_asked = timings.forward_us
    forward = round(computed * 1e6)
    timings.queue_us = round(late * 1e6) + max(0, since_asked - forward)
    timings.forward_us = min(since_asked, forward)


class Servicer(HedgeServicer):
    """Hedge over one LLM. `draining` refuses new sessions and lets the others finish."""

    def __init__(
        self,
        lm: LanguageModel,
        runner: Runner[Any],
        limits: Limits,
        access: Access | None = None,
        metrics: CloudMetrics | None = None,
        exactness: Exactness | None = None,
    ) -> None:
        self._lm = lm
        self._runner = runner
        self._limits = limits
        self._access = access or Access()
        self._metrics = metrics or CloudMetrics()
        self._quotas = Quotas(limits, time.monotonic, runner.token_bytes)
        self._context = min(lm.context, runner.capacity)
        self._exactness = (
            pb.Exactness(difference=exactness.difference) if exactness and exactness.rows else None
        )
        self._sessions: set[VerifierSession] = set()
        self.draining = False
        self._metrics.sessions.set_function(lambda: len(self._sessions))

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.ServerInfo:
        self._access.client(context.invocation_metadata() or ())
        cached = sum(session.cached_tokens for session in self._sessions)
        rows = self._runner.whole_rows
        return make_server_info(
            self._lm, self._context, self._exactness, len(self._sessions), cached, whole_rows=rows
        )

    async def Generate(
        self, request_iterator: AsyncIterator[pb.ClientMessage], context: Any
    ) -> AsyncIterator[pb.ServerMessage]:
        client = self._access.client(context.invocation_metadata() or ())
        requests = aiter(request_iterator)
        first = await _within(self._limits.open_s, "the opening", anext(requests, None))
        if first is None:
            return
        self._metrics.count_received(first)
        if first.WhichOneof("kind") != "open":
            raise BadInput(f"a stream begins with open, not {first.WhichOneof('kind')}")
        prompt = len(first.open.prompt_ids)
        try:
            if self.draining:
                raise Busy("the server is about to stop")
            self._quotas.enter(client, prompt)
        except Busy as busy:
            self._metrics.count_refusal("busy")
            yield pb.ServerMessage(throttle=pb.Throttle(retry_after_ms=RETRY_MS, reason=str(busy)))
            return
        name = first.open.session_id[:64]
        session = None
        prefix = self._runner.prefix()
        logger.info("session=%s client=%s open ids=%d", name, client, prompt)
        # A grammar is read to its end, whether its client stays or not.
        building = asyncio.ensure_future(self._session(first.open, prefix))
        try:
            session = await asyncio.shield(building)
            self._sessions.add(session)
            deadline = time.monotonic() + (self._limits.session_s or float("inf"))
            opened = await self._run(client, prefix, session, session.prefill())
            yield self._sent(pb.ServerMessage(opened=opened))
            answer = self._stream if session.streams else self._verify
            async for verdict in answer(client, session, prefix, requests):
                if verdict is not None:
                    logger.info(
                        "session=%s step=%d accepted=%d", name, verdict.step_id, verdict.accepted
                    )
                    yield self._sent(pb.ServerMessage(verdict=verdict))
                if time.monotonic() > deadline:
                    raise Unreachable(f"the session took longer than {self._limits.session_s:g} s")
        finally:
            self._runner.leave(prefix)
            if session is not None:
                self._sessions.discard(session)
            left = partial(
                self._quotas.leave, client, prompt if session is None else session.counted
            )
            if building.done():
                left()
            else:
                building.add_done_callback(lambda built: (built.exception(), left()))
            logger.info("session=%s closed", name)

    async def _session(self, request: pb.Open, prefix: SessionCache) -> VerifierSession:
        difference = self._exactness.difference if self._exactness else 0.0
        made: tuple[Any, ...] = (self._lm, request, prefix, self._context, difference)
        # A grammar may take a second to read, and the first one as long again for the vocabulary.
        session = (
            await asyncio.to_thread(VerifierSession, *made)
            if request.processors.grammar
            else VerifierSession(*made)
        )
        if session.wants_rows and not self._runner.whole_rows:
            raise Incompatible(
                "the server's engine has no whole rows of logits: no logits processors, and "
                "no log-probabilities"
            )
        return session

    def _sent(self, message: pb.ServerMessage) -> pb.ServerMessage:
        self._metrics.count_sent(message)
        return message

    async def _run(
        self, client: str, prefix: SessionCache, session: VerifierSession, steps: Any
    ) -> Any:
        """Runs steps of a session, and lets its client wait when it has used the model more than it
        may.
        """
        before = session.spent
        result, late, computed = await _within(
            self._limits.step_s, "the verdict", self._runner.run(prefix, steps)
        )
        grown = len(session.history) - session.counted
        self._quotas.hold(client, grown)
        session.counted += grown
        # A verdict that is told again keeps its times.
        if isinstance(result, pb.Verdict) and computed:
            split_forward_time(result.timings, late, computed)
        if pause := self._quotas.spend(client, session.spent - before):
            await asyncio.sleep(pause)
        return result

    async def _stream(
        self,
        client: str,
        session: VerifierSession,
        prefix: SessionCache,
        requests: AsyncIterator[pb.ClientMessage],
    ) -> AsyncIterator[pb.Verdict | None]:
        closing = asyncio.create_task(_closed(requests))
        try:
            while not closing.done():
                if (
                    verdict := await self._run(client, prefix, session, session.next_token())
                ) is None:
                    return
                yield verdict
            await closing
        finally:
            closing.cancel()

    async def _verify(
        self,
        client: str,
        session: VerifierSession,
        prefix: SessionCache,
        requests: AsyncIterator[pb.ClientMessage],
    ) -> AsyncIterator[pb.Verdict | None]:
        """A verdict on every draft; None for one that is void."""
        while message := await _within(
            self._limits.idle_s, "the next message", anext(requests, None)
        ):
            self._metrics.count_received(message)
            match message.WhichOneof("kind"):
                case "draft":
                    started = time.perf_counter()
                    if (
                        verdict := await self._run(
                            client, prefix, session, session.verify(message.draft)
                        )
                    ) is not None:
                        tested, untested = session.judged
                        self._metrics.observe_verdict(
                            verdict, tested, untested, time.perf_counter() - started
                        )
                    yield verdict
                case "close":
                    return
                case kind:
                    raise BadInput(f"{kind} in an open session")
