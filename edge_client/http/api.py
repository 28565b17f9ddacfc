"""The OpenAI-compatible HTTP API of the device."""

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hedge.common.errors import BadInput, HedgeError
from hedge.common.logits import LogitsOptions, LogitsProcessor
from hedge.common.model import LanguageModel
from hedge.edge_client.http.api_request import ApiRequest, parse_request
from hedge.edge_client.http.errors import ApiError
from hedge.edge_client.http.json_body import read_body
from hedge.edge_client.http.replies import (
    Choice,
    Said,
    api_error,
    choice_json,
    chunk_json,
    delta_json,
    error_response,
    event,
    usage_headers,
    usage_json,
)
from hedge.edge_client.http.schema import openapi
from hedge.edge_client.http.service import Service
from hedge.edge_client.http.tools import CallReader, calls_grammar, reader_of
from hedge.edge_client.systems import SYSTEMS
from hedge.edge_client.transport.events import Event

MAX_BODY = 1 << 20
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """`most` requests at once; `key`, where there is one, has to come with each."""

    def __init__(
        self,
        service: Service,
        key: str | None = None,
        most: int = 64,
        origins: tuple[str, ...] = (),
        seed: int | None = None,
    ) -> None:
        self._service = service
        self._key = key
        self._most = most
        self._origins = origins
        self._seed = seed
        self._open = 0
        service.metrics.open.set_function(lambda: self._open)
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.guarded(self._models)),
            Route("/v1/models/{name}", self.guarded(self._model)),
            Route("/v1/chat/completions", self.guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self.guarded(self._completions), methods=["POST"]),
            Route("/openapi.json", self.guarded(self._described_whole)),
            Route("/health", self.guarded(self._health)),
            Route("/version", self.guarded(self._version)),
            *self._service.metrics.routes(),
        ]

    def app(self, more: list[Route] | None = None) -> Starlette:
        cors = Middleware(
            CORSMiddleware, allow_origins=self._origins, allow_methods=["*"], allow_headers=["*"]
        )
        return Starlette(
            routes=[*self.routes(), *(more or [])],
            middleware=[cors] if self._origins else [],
            exception_handlers={HTTPException: _not_found},
        )

    def guarded(self, handler: Handler) -> Handler:
        """Answers with an error object whatever goes wrong."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request)
                return await handler(request)
            except (ApiError, HedgeError) as error:
                return error_response(error)

        return guarded

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise ApiError(401, "this API key is not known here", code="invalid_api_key")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(name) for name in SYSTEMS]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SYSTEMS:
            raise ApiError(
                404,
                f"no model {name!r}; there are {', '.join(SYSTEMS)}",
                param="model",
                code="model_not_found",
            )
        return JSONResponse(self._described(name))

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "hedge"}

    async def _described_whole(self, request: Request) -> Response:
        return JSONResponse(openapi(version("hedge-hlm")))

    async def _health(self, request: Request) -> Response:
        """The process answers; whether the cloud does is a part of it, and no reason to be
        restarted.
        """
        return JSONResponse({"status": "ok", "cloud": self._service.up})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": version("hedge-hlm")})

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        asked = parse_request(await body_of(request), chat=chat)
        self._check_room()
        await self._service.hedge.watch.wait_briefly()
        if asked.grammar or asked.tools or asked.logprobs is not None:
            # The first time it takes a large vocabulary a second or two.
            with suppress(BadInput):
                await asyncio.to_thread(getattr, self._service.slm, "grammar_tokenizer")
        # Others may have come meanwhile.
        self._check_room()
        choices = self._choices(asked)
        slm = self._service.slm
        head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": slm.fingerprint,
        }
        if asked.stream:
            self._open += 1
            return _Events(self._events(asked, choices, head, chat=chat), self._left)
        self._open += 1
        try:
            await _unless_left(
                request,
                asyncio.create_task(together([_drained(choice, slm, asked) for choice in choices])),
            )
        finally:
            self._left()
        kind = "chat.completion" if chat else "text_completion"
        answered = [choice_json(choice, asked, chat=chat) for choice in choices]
        usage = usage_json(choices)
        return JSONResponse(
            {**head, "object": kind, "choices": answered, "usage": usage},
            headers=usage_headers(usage),
        )

    def _choices(self, asked: ApiRequest) -> list[Choice]:
        """A session per choice, all of them checked before any begins."""
        choices = list[Choice]()
        reader = self._reader(asked)
        if reader and asked.tool_choice != "auto":
            asked = replace(asked, grammar=self._calls(asked), shaped_by="tools")
        self._check_logits(asked)
        prompts = self._prompts(asked)
        seed = next(
            seed for seed in (asked.seed, self._seed, secrets.randbits(32)) if seed is not None
        )
        for ids in prompts:
            for _ in range(asked.n):
                notes: list[Event] = []
                number = (seed + len(choices)) % (1 << 64)
                reply = self._service.reply(asked, ids, number, notes.append)
                calls = (
                    reader([tool["function"]["name"] for tool in asked.tools]) if reader else None
                )
                choices.append(Choice(len(choices), reply, len(ids), calls, notes=notes))
        return choices

    def _reader(self, asked: ApiRequest) -> type[CallReader] | None:
        if not asked.tools:
            return None
        try:
            return reader_of(self._service.slm)
        except BadInput as error:
            raise ApiError(400, str(error), param="tools", code="unsupported_parameter") from None

    def _check_logits(self, asked: ApiRequest) -> None:
        slm = self._service.slm
        parts = {
            "logit_bias": {"logit_bias": asked.logits.get("logit_bias", ())},
            asked.shaped_by: {"grammar": asked.grammar},
        }
        for param, options in parts.items():
            try:
                LogitsProcessor(LogitsOptions(**options), slm, 0, slm.end_ids).check(())
            except BadInput as error:
                raise ApiError(400, str(error), param=param) from None

    def _calls(self, asked: ApiRequest) -> str:
        if asked.grammar:
            raise ApiError(
                400, "an answer that has to call a tool has no other form", param=asked.shaped_by
            )
        named = [
            tool
            for tool in asked.tools
            if asked.tool_choice in ("required", tool["function"]["name"])
        ]
        return calls_grammar(
            named, self._service.slm, parallel=asked.parallel and asked.tool_choice == "required"
        )

    def _prompts(self, asked: ApiRequest) -> list[list[int]]:
        slm = self._service.slm
        if asked.conversations:
            tools = {"tools": asked.tools} if asked.tools else {}
            return [slm.encode_chat(list(one), **tools) for one in asked.conversations]
        return [self._prompt(text, asked.suffix) for text in asked.texts]

    def _prompt(self, text: str | list[int], suffix: str | None) -> list[int]:
        slm = self._service.slm
        if isinstance(text, str):
            return slm.encode_text(text) if suffix is None else slm.encode_infill(text, suffix)
        if max(text) >= slm.vocab_size:
            raise ApiError(
                400,
                f"prompt has id {max(text)}, and {slm.name} {slm.vocab_size} ids",
                param="prompt",
            )
        return text

    def _check_room(self) -> None:
        if self._open >= self._most:
            raise ApiError(
                429,
                f"{self._most} requests are being answered, no more are taken",
                code="rate_limit_exceeded",
            )

    def _left(self) -> None:
        self._open -= 1

    async def _events(
        self, asked: ApiRequest, choices: list[Choice], head: dict[str, Any], *, chat: bool
    ) -> AsyncIterator[str]:
        """Server-sent events, the choices interleaved as their tokens come."""
        kind = {**head, "object": "chat.completion.chunk" if chat else "text_completion"}
        queue: asyncio.Queue[tuple[Choice, Said | None, Exception | None]] = asyncio.Queue()

        async def pump(choice: Choice) -> None:
            try:
                async for said in choice.pieces(
                    self._service.slm, logprobs=asked.logprobs is not None
                ):
                    await queue.put((choice, said, None))
                await queue.put((choice, None, None))
            except HedgeError as error:
                await queue.put((choice, None, error))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pump(choice)) for choice in choices]
            try:
                if chat:
                    for choice in choices:
                        yield event(
                            {
                                **kind,
                                "choices": [
                                    delta_json(choice, {"role": "assistant", "content": ""})
                                ],
                            }
                        )
                left = len(choices)
                while left:
                    choice, said, error = await queue.get()
                    if error is not None:
                        yield event(api_error(error).to_json())
                        return
                    left -= said is None
                    yield event({**kind, **chunk_json(choice, said, asked, chat=chat)})
                if asked.include_usage:
                    yield event({**kind, "choices": [], "usage": usage_json(choices)})
                yield "data: [DONE]\n\n"
            finally:
                for task in tasks:
                    task.cancel()


class _Events(StreamingResponse):
    """Server-sent events; `left` is called when they have ended, or never began."""

    def __init__(self, events: AsyncIterator[str], left: Callable[[], None]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


async def body_of(request: Request) -> object:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise ApiError(413, f"a body of more than {MAX_BODY} bytes")
    return read_body(data)


async def _drained(choice: Choice, slm: LanguageModel, asked: ApiRequest) -> None:
    async for _ in choice.pieces(slm, logprobs=asked.logprobs is not None):
        pass


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of them; the first that fails ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _unless_left(request: Request, work: "asyncio.Task[None]") -> None:
    """Awaits the work, and gives it up when the client has gone."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(left())
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ApiError(499, "the client has gone")
        await work
    finally:
        leaving.cancel()
        work.cancel()
        await asyncio.gather(leaving, work, return_exceptions=True)


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path} is not served here"
    code = "method_not_allowed" if status == 405 else "not_found"
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(ApiError(status, message, code=code).to_json(), status, headers=headers)
