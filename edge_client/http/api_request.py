"""What a client of the OpenAI API asks for, as a schema: it checks requests, words what it refuses, and is the OpenAPI page."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.grammar import of_lark, of_regex, of_schema
from common.logits import MAX_BIASES
from common.noise import SEED_LIMIT
from edge_client.config import MAX_LOGPROBS, MAX_NEW_TOKENS
from edge_client.systems import SYSTEMS, GenerationConfig

MAX_DEPTH = 100
MAX_CHOICES, MAX_STOPS, MAX_PROMPTS, MAX_TOOLS = 8, 4, 16, 128
# Characters of a refused value that are shown.
_SHOWN = 60
# What is asked of models that have it; here only its absence can be granted, in these words.
_ABSENT: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "best_of": (1,),
    "echo": (False,),
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
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
Stop = Annotated[Text, Field(min_length=1)]
_TOKENS = f"a whole number in 1..{MAX_NEW_TOKENS}"
_LIKELIEST = f"a whole number in 0..{MAX_LOGPROBS}"
_STOPS = f"a string or up to {MAX_STOPS} of them, none of them empty"


class TextPart(_Part):
    type: Literal["text"]
    text: Text


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="1 to 64 letters, digits, _, - and .")]


class CalledFunction(_Part):
    name: Text
    arguments: Text


class ToolCallPart(_Part):
    id: Text = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def plain(self) -> dict[str, Any]:
        """As chat templates expect it: arguments are an object where they are one."""
        try:
            arguments = json.loads(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            arguments = self.function.arguments
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class Message(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="one of system, developer, user, assistant, tool"
    )
    content: Text | list[TextPart] | None = Field(default=None, description="text, or a list of parts of type text")
    name: Text | None = Field(default=None, description="a name")
    refusal: Text | None = Field(default=None, description="text")
    tool_calls: list[ToolCallPart] | None = Field(default=None, description="a list of calls of functions")
    tool_call_id: Text | None = Field(default=None, description="the id of a call")

    def plain(self) -> dict[str, Any]:
        role = "system" if self.role == "developer" else self.role
        parts = self.content if isinstance(self.content, list) else []
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        calls = {"tool_calls": [call.plain() for call in self.tool_calls]} if self.tool_calls else {}
        more = {key: value for key in ("name", "tool_call_id") if role == "tool" and (value := getattr(self, key))}
        return {"role": role, "content": content} | calls | more


class Function(_Part):
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="a JSON schema, an object")
    strict: bool | None = None


class Tool(_Part):
    type: Literal["function"]
    function: Function


class NamedFunction(_Part):
    name: str


class NamedTool(_Part):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(_Part):
    name: str = ""
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    type: Literal["text", "json_object", "json_schema"] = Field(description="one of text, json_object, json_schema")
    json_schema: JsonSchema | None = Field(default=None, description="an object with a schema")


class StructuredOutputs(_Part):
    """As vLLM has them: one of these."""

    json_: dict[str, Any] | None = Field(default=None, alias="json", description="a JSON schema, an object")
    regex: Text | None = Field(default=None, description="a regular expression")
    grammar: Text | None = Field(default=None, description="a grammar in Lark's notation")
    choice: list[Text] | None = Field(default=None, min_length=1, description="a list of texts")


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
    top_k: int | None = Field(default=None, ge=-1, lt=1 << 31, description="a count, 0 or -1 for all")
    min_p: float | None = Field(default=None, ge=0, le=1, description="a number in 0..1")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="a number above 0, at most 10")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="a number in -2..2")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="a number in -2..2")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={},
        max_length=MAX_BIASES,
        description=f"an object of up to {MAX_BIASES} token ids, each with a number in -100..100",
    )
    structured_outputs: StructuredOutputs | None = Field(default=None, description="an object")
    hedge: HedgeBlock = Field(default=HedgeBlock(), description='an object with "threshold" alone')


class ChatBody(_Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, description="a list of messages, at least one")
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS, description=_TOKENS)
    logprobs: bool = Field(default=False, description="true or false")
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS, description=_LIKELIEST)
    response_format: ResponseFormat | None = Field(default=None, description="an object")
    tools: list[Tool] = Field(default=[], max_length=MAX_TOOLS, description=f"a list of up to {MAX_TOOLS} tools")
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        default=None, description="none, auto, required, or a function by its name"
    )
    parallel_tool_calls: bool = Field(default=True, description="true or false")


class TextBody(_Body):
    """POST /v1/completions."""

    prompt: Text | Ids | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)] = Field(
        description=f"a string, a list of token ids, or up to {MAX_PROMPTS} of one kind"
    )
    suffix: Text | None = Field(default=None, description="text")
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS, description=_LIKELIEST)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request; None where it leaves the choice to the server. It asks for `conversations`, or `texts` to go on with."""

    model: str
    conversations: tuple[tuple[dict[str, Any], ...], ...] = ()
    texts: tuple[str | list[int], ...] = ()
    # What comes behind the one text, which is to be filled in.
    suffix: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    # `auto`, or what must be called: `required` for any, or the name of a function.
    tool_choice: str = "auto"
    parallel: bool = True
    # And the name of the field that it comes from.
    grammar: str = ""
    shaped_by: str = "response_format"
    logits: dict[str, Any] = field(default_factory=dict)
    top_k: int | None = None
    min_p: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    # Of so many of the likeliest tokens besides each; None for none.
    logprobs: int | None = None
    threshold: float | None = None

    def applied(self, config: GenerationConfig, seed: int) -> GenerationConfig:
        """The configuration with what was asked for in the place of the server's own."""
        asked = {"temperature": self.temperature, "top_p": self.top_p, "max_new_tokens": self.max_tokens}
        asked |= {"top_k": self.top_k, "min_p": self.min_p, "logprobs": self.logprobs}
        changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        logits = self.logits | ({"grammar": self.grammar} if self.grammar else {})
        sampling = replace(config.sampling, seed=seed, stop=self.stop, **changes)
        config = replace(config, sampling=replace(sampling, logits=replace(sampling.logits, **logits)))
        return config if self.threshold is None else config.with_threshold(self.threshold)


def read_body(data: bytes) -> object:
    """What the bytes of a body say. ApiError: not JSON as RFC 8259 has it, a name that comes twice, nested too deep."""
    try:
        body = json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ApiError(400, "the body is nested too deep") from None
    except ValueError:
        raise ApiError(400, "the body is not JSON") from None
    level = [body]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one)]
    if level:
        raise ApiError(400, f"the body is nested too deep: more than {MAX_DEPTH} levels")
    return body


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
        if isinstance(said := given.get("messages"), list):
            # Clients send an answer back with all the names that it might have had.
            given["messages"] = [_without_nulls(one) for one in said]
        found = _checked(ChatBody, given)
        plain = tuple(_plain(number, message) for number, message in enumerate(found.messages))
        longest = found.max_tokens if found.max_completion_tokens is None else found.max_completion_tokens
        if found.top_logprobs is not None and not found.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs true", param="top_logprobs")
        likeliest = (found.top_logprobs or 0) if found.logprobs else None
        format_, calls = _format(found.response_format), _tools(found)
        return _request(found, longest, format_, logprobs=likeliest, conversations=(plain,), **calls)
    completed = _checked(TextBody, given)
    prompt: Any = completed.prompt
    alone = isinstance(prompt, str) or isinstance(prompt[0], int)
    texts = (prompt,) if alone else tuple(prompt)
    suffix = completed.suffix or None
    if suffix is not None and not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "suffix goes only with a prompt of text", param="suffix")
    return _request(completed, completed.max_tokens, "", logprobs=completed.logprobs, texts=texts, suffix=suffix)


def _without_nulls(message: object) -> object:
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None and (name, value) != ("annotations", [])}


def _plain(number: int, message: Message) -> dict[str, Any]:
    if message.content is None and not message.tool_calls:
        raise ApiError(400, f"messages[{number}].content is missing", param="messages", code="missing_required_parameter")
    if message.tool_calls and message.role != "assistant":
        raise ApiError(400, f"messages[{number}].tool_calls belong to the role assistant", param="messages")
    return message.plain()


def _format(asked: ResponseFormat | None) -> str:
    """The grammar of a response format."""
    if asked is None or asked.type == "text":
        return ""
    if asked.type == "json_object":
        return of_schema({"type": "object"})
    if asked.json_schema is None or asked.json_schema.json_schema is None:
        path = "response_format.json_schema.schema"
        raise ApiError(400, f"{path} is missing", param="response_format", code="missing_required_parameter")
    return of_schema(asked.json_schema.json_schema)


def _tools(body: ChatBody) -> dict[str, Any]:
    """What may be called, and what has to be."""
    choice = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else body.tool_choice or "auto"
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "two tools have one name", param="tools")
    if isinstance(body.tool_choice, NamedTool) and choice not in names:
        raise ApiError(400, f"tool_choice {_shown(choice)} is not one of the tools", param="tool_choice")
    if choice == "required" and not tools:
        raise ApiError(400, "tool_choice required needs tools", param="tool_choice")
    if choice == "none":
        tools = []
    return {"tools": tuple(tools), "tool_choice": choice, "parallel": body.parallel_tool_calls}


def _structured(asked: StructuredOutputs | None) -> str:
    """The grammar that is asked for as vLLM has it."""
    given = {} if asked is None else asked.model_dump(exclude_none=True)
    if len(given) > 1:
        raise ApiError(400, f"structured_outputs has {', '.join(given)}: one of them is enough", param="structured_outputs")
    if asked is None or not given:
        return ""
    if asked.json_ is not None:
        return of_schema(asked.json_)
    if asked.choice is not None:
        return of_regex("|".join(re.escape(text) for text in asked.choice))
    return of_regex(asked.regex) if asked.regex is not None else of_lark(asked.grammar or "")


def _biases(given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for name in given:
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise ApiError(400, f"logit_bias {_shown(name)} is not a token id", param="logit_bias")
    return tuple((int(name), bias) for name, bias in given.items())


def _request(body: _Body, max_tokens: int | None, grammar: str, *, logprobs: int | None, **asked: Any) -> ApiRequest:
    if body.model not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise ApiError(404, f"no model {_shown(body.model)}; there are {known}", param="model", code="model_not_found")
    if grammar and body.structured_outputs:
        raise ApiError(400, "response_format and structured_outputs exclude each other", param="structured_outputs")
    penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    logits = {name: value for name in penalties if (value := getattr(body, name)) is not None}
    if body.logit_bias:
        logits["logit_bias"] = _biases(body.logit_bias)
    return ApiRequest(
        model=body.model,
        grammar=grammar or _structured(body.structured_outputs),
        shaped_by="structured_outputs" if body.structured_outputs else "response_format",
        logits=logits,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
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


# What the schema has at a path.
_INNER: dict[str, type[BaseModel]] = {
    "messages": Message,
    "messages.content": TextPart,
    "messages.tool_calls": ToolCallPart,
    "messages.tool_calls.function": CalledFunction,
    "stream_options": StreamOptions,
    "hedge": HedgeBlock,
    "tools": Tool,
    "tools.function": Function,
    "tool_choice": NamedTool,
    "tool_choice.function": NamedFunction,
    "response_format": ResponseFormat,
    "response_format.json_schema": JsonSchema,
    "structured_outputs": StructuredOutputs,
}
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
    outer, _, name = re.sub(r"\[\d+\]", "", path).rpartition(".")
    owner = _INNER.get(outer, schema) if outer else schema
    fields = owner.model_fields
    found = fields.get(name) or next((one for one in fields.values() if one.alias == name), None)
    return found.description if found else None


def _unsupported(name: str) -> ApiError:
    shown = name if name.isprintable() and len(name) <= _SHOWN else _shown(name)
    return ApiError(400, f"{shown} is not supported", param=name[: 4 * _SHOWN], code="unsupported_parameter")


def _wrong(path: str, value: object, limit: str | None, param: str | None = None) -> ApiError:
    return ApiError(400, f"{path} {_shown(value)} is not {limit or 'what is expected there'}", param=param or path)


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
