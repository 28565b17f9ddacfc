"""What a client of the OpenAI API asks for, as a schema: it checks requests, words what it refuses, and is the OpenAPI page."""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.noise import SEED_LIMIT
from edge_client.config import MAX_NEW_TOKENS
from edge_client.systems import SYSTEMS, GenerationConfig

MAX_CHOICES, MAX_STOPS, MAX_PROMPTS = 8, 4, 16
# Characters of a refused value that are shown.
_SHOWN = 60
# What is asked of models that have it; here only its absence can be granted, in these words.
_ABSENT: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "top_logprobs": (0,),
}
# They describe the caller, or how an answer is kept and billed.
_LET_BE = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")


class ApiError(Exception):
    """Ends a request with an HTTP status and an error object."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Part(BaseModel):
    """Of everything that has a shape: no other names, no conversions, and no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _encodable(text: str) -> str:
    """JSON has halves of characters, and nothing else does."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Stop = Annotated[Text, Field(min_length=1)]
_TOKENS = f"a whole number in 1..{MAX_NEW_TOKENS}"
_STOPS = f"a string or up to {MAX_STOPS} of them, none of them empty"


class TextPart(_Part):
    type: Literal["text"]
    text: Text


class Message(_Part):
    role: Literal["system", "developer", "user", "assistant"] = Field(description="one of system, developer, user, assistant")
    content: Text | list[TextPart] = Field(description="text, or a list of parts of type text")
    name: str | None = Field(default=None, description="a name")
    refusal: str | None = Field(default=None, description="text")

    def plain(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": role, "content": content}


class StreamOptions(_Part):
    include_usage: bool = Field(default=False, description="true or false")
    include_obfuscation: bool = Field(default=False, description="true or false")


class HedgeBlock(_Part):
    threshold: float | None = Field(default=None, ge=0, le=1, description="a number in 0..1")


class _Body(_Part):
    model: str = Field(default="hedge", description="the name of a system")
    temperature: float | None = Field(default=None, ge=0, le=2, description="a number in 0..2")
    top_p: float | None = Field(default=None, ge=0, le=1, description="a number in 0..1")
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS, description=_TOKENS)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(default=[], description=_STOPS)
    seed: int | None = Field(default=None, ge=0, lt=SEED_LIMIT, description=f"a whole number in 0..{SEED_LIMIT - 1}")
    n: int = Field(default=1, ge=1, le=MAX_CHOICES, description=f"a whole number in 1..{MAX_CHOICES}")
    stream: bool = Field(default=False, description="true or false")
    stream_options: StreamOptions = Field(default=StreamOptions(), description="an object")
    hedge: HedgeBlock = Field(default=HedgeBlock(), description='an object with "threshold" alone')


class ChatBody(_Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, description="a list of messages, at least one")
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS, description=_TOKENS)
    logprobs: bool = Field(default=False, description="true or false")


class TextBody(_Body):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)] = Field(
        description=f"a string or up to {MAX_PROMPTS} of them"
    )
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = Field(default=None, description="0: only the drawn tokens' own")


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


def read_body(data: bytes) -> object:
    """What the bytes of a body say. ApiError: not JSON as RFC 8259 has it, a name that comes twice, nested too deep."""
    try:
        return json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ApiError(400, "the body is nested too deep") from None
    except ValueError:
        raise ApiError(400, "the body is not JSON") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ApiError(400, f"{_shown(name)} comes twice in an object", param=name)
        found[name] = value
    return found


def _no_number(name: str) -> Any:
    raise ApiError(400, f"{name} is not a number that JSON has")


def parse_request(body: object, *, chat: bool) -> ApiRequest:
    """ApiError for what cannot be granted; what only describes the caller is let be."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    # As in the API that this one is like, null leaves the choice to the server.
    given = {name: value for name, value in body.items() if value is not None and name not in _LET_BE}
    for name, neutral in _ABSENT.items():
        if name in given and given.pop(name) not in neutral:
            raise _unsupported(name)
    if chat:
        found = _checked(ChatBody, given)
        said = tuple(message.plain() for message in found.messages)
        longest = found.max_tokens if found.max_completion_tokens is None else found.max_completion_tokens
        return _request(found, longest, logprobs=found.logprobs, conversations=(said,))
    completed = _checked(TextBody, given)
    texts = (completed.prompt,) if isinstance(completed.prompt, str) else tuple(completed.prompt)
    return _request(completed, completed.max_tokens, logprobs=completed.logprobs is not None, texts=texts)


def _request(body: _Body, max_tokens: int | None, *, logprobs: bool, **asked: Any) -> ApiRequest:
    if body.model not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise ApiError(404, f"no model {_shown(body.model)}; there are {known}", param="model", code="model_not_found")
    return ApiRequest(
        model=body.model,
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=max_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        seed=body.seed,
        n=body.n,
        stream=body.stream,
        include_usage=body.stream_options.include_usage,
        logprobs=logprobs,
        threshold=body.hedge.threshold,
        **asked,
    )


Checked = TypeVar("Checked", bound=_Body)


def _checked(schema: type[Checked], given: dict[str, Any]) -> Checked:
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise _refusal(schema, given, error) from None


def _refusal(schema: type[BaseModel], given: object, error: ValidationError) -> ApiError:
    """Of the first thing that is wrong: where it is, and what it has to be."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path, value, param, missing = "", given, str(first["loc"][0]), False
    described: Any = None
    for step in first["loc"]:
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            path, value = f"{path}[{step}]", value[step]
        elif isinstance(step, str) and isinstance(value, dict) and (step in value or first["type"] == "missing"):
            path, missing = f"{path}.{step}" if path else step, step not in value
            value = value.get(step)
            described = _described(schema, path) or described
        else:
            # The name of one of the types that it might have been.
            break
    if first["type"] == "extra_forbidden":
        return _unsupported(path)
    if missing:
        return ApiError(400, f"{path} is missing", param=param, code="missing_required_parameter")
    return _wrong(path, value, described, param)


def _described(schema: type[BaseModel], path: str) -> str | None:
    """What a field of the schema, or of a message in it, is said to be."""
    *outer, name = path.split(".")
    inner: dict[str, type[BaseModel]] = {"messages": Message, "stream_options": StreamOptions, "hedge": HedgeBlock}
    owner: type[BaseModel] = inner.get(outer[0].partition("[")[0], schema) if outer else schema
    field = owner.model_fields.get(name.partition("[")[0])
    return field.description if field else None


def _unsupported(name: str) -> ApiError:
    shown = name if name.isprintable() and len(name) <= _SHOWN else _shown(name)
    return ApiError(400, f"{shown} is not supported", param=name[: 4 * _SHOWN], code="unsupported_parameter")


def _wrong(path: str, value: object, limit: str | None, param: str | None = None) -> ApiError:
    return ApiError(400, f"{path} {_shown(value)} is not {limit}", param=param or path)


def _shown(value: object) -> str:
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except RecursionError:
        text = "of that depth"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def openapi(version: str) -> dict[str, Any]:
    """The description of the API that its schema is."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, body in (("/v1/chat/completions", ChatBody), ("/v1/completions", TextBody)):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {body.__name__: schema}
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        answers = {"200": {"description": "the answer, or server-sent events"}, "400": {"description": "names what is refused"}}
        paths[path] = {"post": {"requestBody": {"required": True, "content": content}, "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "hedge serve", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }
