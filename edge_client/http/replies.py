"""Answers in the shapes of the OpenAI API: whole, in pieces, and as errors."""

import json
import math
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from hedge.common.errors import BadInput, Disconnected, Incompatible
from hedge.common.model import LanguageModel
from hedge.edge_client.engine.session import Emitted
from hedge.edge_client.http.api_request import ApiRequest
from hedge.edge_client.http.errors import ApiError
from hedge.edge_client.http.tools import CallReader, Piece, ToolCall
from hedge.edge_client.receipt import summed
from hedge.edge_client.reply import Reply
from hedge.edge_client.transport.events import Event


@dataclass(frozen=True, slots=True)
class Said:
    """A token and what came of it: text, and calls, the first of them number `first`.

    `logprob` is its entry where that is wanted, behind `before` characters of tokens.
    """

    emitted: Emitted | None
    text: str
    calls: list[ToolCall]
    first: int
    logprob: dict[str, Any] | None = None
    before: int = 0

    @property
    def delta(self) -> dict[str, Any]:
        """As a stream has it."""
        calls = [
            {"index": number, **call.to_json()}
            for number, call in enumerate(self.calls, self.first)
        ]
        return {"content": self.text} | ({"tool_calls": calls} if calls else {})


@dataclass(slots=True)
class Choice:
    """One of the answers of a request."""

    index: int
    reply: Reply
    prompt_tokens: int
    # Reads calls of tools out of what is said.
    reader: CallReader | None = None
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    # What was said of the link while the answer was under way.
    notes: list[Event] = field(default_factory=list)
    # One entry a token, where they are wanted.
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    # Of the same tokens: how many characters come before each.
    offsets: list[int] = field(default_factory=list)

    async def pieces(self, slm: LanguageModel, *, logprobs: bool) -> AsyncIterator[Said]:
        tokens = before = 0
        # A part of a character is a character of its own only where it stays one.
        characters = getincrementaldecoder("utf-8")("ignore")
        async with aclosing(self.reply.tokens()) as pieces:  # type: ignore[type-var]
            async for emitted in pieces:
                # The last one may come once more, for text that was held back.
                fresh = self.reply.session.statistics.tokens > tokens
                tokens += fresh
                logprob = _logprob(slm, emitted) if logprobs and fresh else None
                read = self.reader.feed(emitted.text) if self.reader else [emitted.text]
                yield self._said(emitted, read, logprob, before)
                before += len(characters.decode(bytes(logprob["bytes"]))) if logprob else 0
        if self.reader and (rest := self.reader.finish()):
            yield self._said(None, rest)

    def _said(
        self,
        emitted: Emitted | None,
        pieces: Sequence[Piece],
        logprob: dict[str, Any] | None = None,
        before: int = 0,
    ) -> Said:
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
        said = Said(emitted, text, calls, len(self.calls), logprob, before)
        self.text += text
        self.calls += calls
        if logprob:
            self.logprobs.append(logprob)
            self.offsets.append(before)
        return said

    @property
    def finish_reason(self) -> str:
        reason = self.reply.session.finish_reason
        return "tool_calls" if self.calls and reason == "stop" else reason


# In place of a logarithm of nothing, which JSON does not have.
_NEVER = -9999.0


def _logprob(slm: LanguageModel, emitted: Emitted) -> dict[str, Any]:
    own, likeliest = emitted.logprobs or (_NEVER, [])
    return {
        **_entry(slm, emitted.token, own),
        "top_logprobs": [_entry(slm, token, value) for token, value in likeliest],
    }


def _entry(slm: LanguageModel, token: int, value: float) -> dict[str, Any]:
    data = slm.token_text(token)
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": max(value, _NEVER),
        "bytes": list(data),
    }


def _logprobs(
    entries: list[dict[str, Any]], offsets: list[int], asked: ApiRequest, *, chat: bool
) -> dict[str, Any]:
    """In the shape of chats, or in that of completions, with the `offsets` of the entries in the
    text.
    """
    if chat:
        return {"content": entries, "refusal": None}
    tops = [{one["token"]: one["logprob"] for one in entry["top_logprobs"]} for entry in entries]
    return {
        "tokens": [one["token"] for one in entries],
        "token_logprobs": [one["logprob"] for one in entries],
        "top_logprobs": tops if asked.logprobs else None,
        "text_offset": offsets,
    }


def choice_json(choice: Choice, asked: ApiRequest, *, chat: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.calls:
        message |= {
            "content": choice.text or None,
            "tool_calls": [call.to_json() for call in choice.calls],
        }
    body: dict[str, Any] = {"message": message}
    logprobs = (
        None
        if asked.logprobs is None
        else _logprobs(choice.logprobs, choice.offsets, asked, chat=chat)
    )
    return {
        "index": choice.index,
        **(body if chat else {"text": choice.text}),
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
        "hedge": choice.reply.to_json(),
    }


def delta_json(choice: Choice, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": finish}


def chunk_json(
    choice: Choice, said: Said | None, asked: ApiRequest, *, chat: bool
) -> dict[str, Any]:
    """A token, or the end of a choice with what it came to."""
    finish = None if said else choice.finish_reason
    if chat:
        choice_json = delta_json(choice, said.delta if said else {}, finish)
    else:
        choice_json = {
            "index": choice.index,
            "text": said.text if said else "",
            "logprobs": None,
            "finish_reason": finish,
        }
    if said and said.logprob:
        choice_json["logprobs"] = _logprobs([said.logprob], [said.before], asked, chat=chat)
    if said is None:
        choice_json["hedge"] = choice.reply.to_json()
    elif said.emitted:
        choice_json["hedge"] = _meters(choice, said.emitted)
    return {"choices": [choice_json]}


def _meters(choice: Choice, emitted: Emitted) -> dict[str, Any]:
    """What a token came to, and what the answer has cost so far."""
    statistics = choice.reply.session.statistics
    notes = [str(event) for event in choice.notes]
    choice.notes[:] = []
    return {
        "provenance": emitted.provenance.value,
        "proposed": round(emitted.prob, 4),
        "rounds": statistics.rounds,
        "up": statistics.uplink_payload_bytes,
        "down": statistics.downlink_payload_bytes,
        "verdict_ms": round(1e3 * statistics.verdict_s, 1),
        "link": notes,
    }


def usage_json(choices: list[Choice]) -> dict[str, Any]:
    """`hedge` is the receipt, of several answers their sum."""
    prompt = sum(choice.prompt_tokens for choice in choices)
    completion = sum(choice.reply.session.statistics.tokens for choice in choices)
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    receipts = [choice.reply.receipt for choice in choices]
    return counts | {"hedge": receipts[0] if len(receipts) == 1 else summed(receipts)}


def usage_headers(usage: dict[str, Any]) -> dict[str, str]:
    """The receipt in short, for who looks at headers alone."""
    receipt = usage["hedge"]
    found = {
        "LLM-Passes": receipt["llm"]["passes"],
        "LLM-Positions": receipt["llm"]["positions"],
        "Bytes-Up": receipt["bytes"]["up"],
        "Bytes-Down": receipt["bytes"]["down"],
        "Sent": ", ".join(receipt["sent"]) or "nothing",
        "Near-Ties": receipt["near_ties"],
    }
    if "guarantee" in receipt:
        found["Guarantee"] = receipt["guarantee"]
    return {f"X-Hedge-{name}": str(value) for name, value in found.items()}


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
    retry = (
        {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        if isinstance(error, Disconnected)
        else {}
    )
    return JSONResponse(refusal.to_json(), refusal.status, headers=retry)
