"""What a client of the OpenAI API asks for, checked: every refusal says which parameter, and in the shape that API has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from common.noise import SEED_LIMIT
from edge_client.config import MAX_NEW_TOKENS
from edge_client.systems import SYSTEMS, GenerationConfig

MAX_CHOICES, MAX_STOPS, MAX_PROMPTS = 8, 4, 16
# What is asked of models that have it; here only its absence can be granted.
_UNSUPPORTED = (
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
    "audio",
    "modalities",
    "echo",
    "suffix",
    "top_logprobs",
)


class ApiError(Exception):
    """Ends a request with an HTTP status and an error object."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request; None where it leaves the choice to the server. It asks for `conversations`, or `texts` to go on with."""

    model: str
    conversations: tuple[tuple[dict[str, str], ...], ...] = ()
    texts: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    threshold: float | None = None

    def applied(self, config: GenerationConfig, seed: int) -> GenerationConfig:
        """The configuration with what was asked for in the place of the server's own."""
        asked = {"temperature": self.temperature, "top_p": self.top_p, "max_new_tokens": self.max_tokens}
        changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        config = replace(config, sampling=replace(config.sampling, seed=seed, stop=self.stop, **changes))
        return config if self.threshold is None else config.with_threshold(self.threshold)


def _wrong(param: str, value: object, limit: str) -> ApiError:
    return ApiError(400, f"{param} {value!r} is not {limit}", param=param)


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise _wrong(name, value, f"a number in {low:g}..{high:g}")
    return float(value)


def _whole(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(name, value, f"a whole number in {low}..{high}")
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name) or False
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _stops(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise _wrong("stop", value, f"a string or up to {MAX_STOPS} of them, none of them empty")
    return tuple(stops)


def _content(value: object, where: str) -> str:
    """A message's text, whole or in parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        return "".join(str(part.get("text", "")) for part in value)
    raise ApiError(400, f"{where}.content is not text", param="messages")


def _messages(value: object) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise _wrong("messages", value, "a list of messages, at least one")
    messages = []
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant"):
            raise ApiError(400, f"{where} has no role of system, user or assistant", param="messages")
        role = "system" if message["role"] == "developer" else str(message["role"])
        messages.append({"role": role, "content": _content(message.get("content"), where)})
    return tuple(messages)


def _texts(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_PROMPTS or not all(isinstance(one, str) for one in texts):
        raise _wrong("prompt", value, f"a string or up to {MAX_PROMPTS} of them")
    return tuple(texts)


def _threshold(value: object) -> float | None:
    """Of our own block: ask above this uncertainty."""
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) - {"threshold"}:
        raise _wrong("hedge", value, 'an object with "threshold" alone')
    return _number(value, "threshold", 0, 1)


def parse_request(body: object, *, chat: bool) -> ApiRequest:
    """ApiError for what cannot be granted; what only describes the caller is let be."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    model = body.get("model") or "hedge"
    if model not in SYSTEMS:
        raise ApiError(404, f"no model {model!r}; there are {', '.join(SYSTEMS)}", param="model", code="model_not_found")
    for name in _UNSUPPORTED:
        # Empty, false, 0 and none are ways to say that it is not wanted.
        if body.get(name) and body[name] not in ("none", {"type": "text"}):
            raise ApiError(400, f"{name} is not supported", param=name, code="unsupported_parameter")
    if body.get("best_of") not in (None, 1):
        raise ApiError(400, "best_of is not supported", param="best_of", code="unsupported_parameter")
    options = body.get("stream_options") or {}
    return ApiRequest(
        model=str(model),
        conversations=(_messages(body.get("messages")),) if chat else (),
        texts=() if chat else _texts(body.get("prompt")),
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        max_tokens=_whole(
            body, "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens", 1, MAX_NEW_TOKENS
        ),
        stop=_stops(body.get("stop")),
        seed=_whole(body, "seed", 0, SEED_LIMIT - 1),
        n=_whole(body, "n", 1, MAX_CHOICES) or 1,
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, dict) and _flag(options, "include_usage"),
        logprobs=not (body.get("logprobs") is None or body["logprobs"] is False),
        threshold=_threshold(body.get("hedge")),
    )
