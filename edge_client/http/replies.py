"""Answers in the shapes of the OpenAI API: whole, in pieces, and as errors."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from common.errors import BadInput, Disconnected, Incompatible
from edge_client.engine.session import Emitted
from edge_client.http.api_request import ApiError, ApiRequest
from edge_client.http.service import Reply


@dataclass(slots=True)
class Choice:
    """One of the answers of a request."""

    index: int
    reply: Reply
    prompt_tokens: int
    text: str = ""
    # What was said of the link while the answer was under way.
    notes: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    async def pieces(self, *, logprobs: bool) -> AsyncIterator[Emitted]:
        async with aclosing(self.reply.pieces()) as pieces:  # type: ignore[type-var]
            async for emitted in pieces:
                self.text += emitted.text
                if logprobs:
                    self.logprobs.append(_logprob(emitted))
                yield emitted

    @property
    def finish_reason(self) -> str:
        return self.reply.session.finish_reason


def _logprob(emitted: Emitted) -> dict[str, Any]:
    chance = math.log(emitted.prob) if emitted.prob > 0 else -9999.0
    return {"token": emitted.text, "logprob": chance, "bytes": list(emitted.text.encode()), "top_logprobs": []}


def _logprobs(entries: list[dict[str, Any]], offset: int, *, chat: bool) -> dict[str, Any]:
    """In the shape of chats, or in that of completions: `offset` characters of text come before."""
    if chat:
        return {"content": entries, "refusal": None}
    offsets = []
    for one in entries:
        offsets.append(offset)
        offset += len(one["token"])
    return {
        "tokens": [one["token"] for one in entries],
        "token_logprobs": [one["logprob"] for one in entries],
        "top_logprobs": None,
        "text_offset": offsets,
    }


def choice_json(choice: Choice, asked: ApiRequest, *, chat: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
    logprobs = _logprobs(choice.logprobs, 0, chat=chat) if asked.logprobs else None
    return {
        "index": choice.index,
        **(body if chat else {"text": choice.text}),
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
        "hedge": choice.reply.to_json(),
    }


def delta_json(choice: Choice, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": finish}


def chunk_json(choice: Choice, emitted: Emitted | None, asked: ApiRequest, *, chat: bool) -> dict[str, Any]:
    """A token, or the end of a choice with what it came to."""
    finish = None if emitted else choice.finish_reason
    text = emitted.text if emitted else ""
    if chat:
        choice_json = delta_json(choice, {"content": text} if emitted else {}, finish)
    else:
        choice_json = {"index": choice.index, "text": text, "logprobs": None, "finish_reason": finish}
    if emitted and asked.logprobs:
        before = sum(len(one["token"]) for one in choice.logprobs[:-1])
        choice_json["logprobs"] = _logprobs(choice.logprobs[-1:], before, chat=chat)
    choice_json["hedge"] = _meters(choice, emitted) if emitted else choice.reply.to_json()
    return {"choices": [choice_json]}


def _meters(choice: Choice, emitted: Emitted) -> dict[str, Any]:
    """What a token came to, and what the answer has cost so far."""
    statistics = choice.reply.session.statistics
    notes, choice.notes[:] = list(choice.notes), []
    return {
        "provenance": emitted.provenance.value,
        "proposed": round(emitted.prob, 4),
        "rounds": statistics.rounds,
        "up": statistics.uplink_payload_bytes,
        "down": statistics.downlink_payload_bytes,
        "verdict_ms": round(1e3 * statistics.verdict_s, 1),
        "link": notes,
    }


def usage_json(choices: list[Choice]) -> dict[str, int]:
    prompt = sum(choice.prompt_tokens for choice in choices)
    completion = sum(choice.reply.session.statistics.tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


# They end lines for some readers of server-sent events.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False).translate(_LINE_ENDS)}\n\n"


def api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Disconnected):
        return ApiError(503, str(error), code="cloud_unreachable")
    if isinstance(error, BadInput):
        return ApiError(400, str(error))
    return ApiError(409 if isinstance(error, Incompatible) else 502, str(error))


def error_response(error: Exception) -> JSONResponse:
    refusal = api_error(error)
    retry = {"Retry-After": str(max(1, math.ceil(error.retry_after)))} if isinstance(error, Disconnected) else {}
    return JSONResponse(refusal.to_json(), refusal.status, headers=retry)
