"""The schema of the HTTP API's bodies: it checks them, words what it refuses, and is the OpenAPI
page.
"""

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hedge.common.logits import MAX_BIASES
from hedge.common.noise import SEED_LIMIT
from hedge.edge_client.config import MAX_LOGPROBS, MAX_NEW_TOKENS
from hedge.edge_client.http.errors import SHOWN, ApiError, shown

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_PROMPTS = 16
MAX_TOOLS = 128


class _Part(BaseModel):
    """Of everything that has a shape: no other names, no conversions, and no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _encodable(text: str) -> str:
    """JSON has halves of characters, and nothing else does."""
    text.encode()
    return text


def _encodable_whole(value: dict[str, Any]) -> dict[str, Any]:
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _of_an_object(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise ValueError(schema)
    return schema


Text = Annotated[str, AfterValidator(_encodable)]
# A JSON schema.
Schema = Annotated[dict[str, Any], AfterValidator(_encodable_whole)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
Stop = Annotated[Text, Field(min_length=1)]
_TOKENS = f"a whole number in 1..{MAX_NEW_TOKENS}"
_LIKELIEST = f"a whole number in 0..{MAX_LOGPROBS}"
_STOPS = f"a string or up to {MAX_STOPS} of them, none of them empty"


class TextPart(_Part):
    type: Literal["text"]
    text: Text


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="1 to 64 letters, digits, _, - and .")
]


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
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        }


class Message(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="one of system, developer, user, assistant, tool"
    )
    content: Text | list[TextPart] | None = Field(
        default=None, description="text, or a list of parts of type text"
    )
    name: Text | None = Field(default=None, description="a name")
    refusal: Text | None = Field(default=None, description="text")
    tool_calls: list[ToolCallPart] | None = Field(
        default=None, description="a list of calls of functions"
    )
    tool_call_id: Text | None = Field(default=None, description="the id of a call")

    def plain(self) -> dict[str, Any]:
        role = "system" if self.role == "developer" else self.role
        parts = self.content if isinstance(self.content, list) else []
        content = (
            self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        )
        calls = (
            {"tool_calls": [call.plain() for call in self.tool_calls]} if self.tool_calls else {}
        )
        more = {
            key: value
            for key in ("name", "tool_call_id")
            if role == "tool" and (value := getattr(self, key))
        }
        return {"role": role, "content": content} | calls | more


class Function(_Part):
    name: Name
    description: Text | None = None
    parameters: Annotated[Schema, AfterValidator(_of_an_object)] | None = Field(
        default=None, description="a JSON schema, an object, of objects"
    )
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
    json_schema: Schema | None = Field(
        default=None, alias="schema", description="a JSON schema, an object"
    )
    strict: bool | None = None


class ResponseFormat(_Part):
    type: Literal["text", "json_object", "json_schema"] = Field(
        description="one of text, json_object, json_schema"
    )
    json_schema: JsonSchema | None = Field(default=None, description="an object with a schema")


class StructuredOutputs(_Part):
    """As vLLM has them: one of these."""

    json_: Schema | None = Field(default=None, alias="json", description="a JSON schema, an object")
    regex: Text | None = Field(default=None, min_length=1, description="a regular expression")
    grammar: Text | None = Field(
        default=None, min_length=1, description="a grammar in Lark's notation"
    )
    choice: list[Text] | None = Field(default=None, min_length=1, description="a list of texts")


class StreamOptions(_Part):
    include_usage: bool = Field(default=False, description="true or false")
    include_obfuscation: bool = Field(default=False, description="true or false")


class HedgeBlock(_Part):
    threshold: float | None = Field(default=None, ge=0, le=1, description="a number in 0..1")


class Body(_Part):
    model: str = Field(default="hedge", description="the name of a system")
    temperature: float | None = Field(default=None, ge=0, le=2, description="a number in 0..2")
    top_p: float | None = Field(default=None, gt=0, le=1, description="a number above 0, at most 1")
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS, description=_TOKENS)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = Field(
        default=None, description=_STOPS
    )
    seed: int | None = Field(
        default=None, ge=0, lt=SEED_LIMIT, description=f"a whole number in 0..{SEED_LIMIT - 1}"
    )
    n: int = Field(
        default=1, ge=1, le=MAX_CHOICES, description=f"a whole number in 1..{MAX_CHOICES}"
    )
    stream: bool = Field(default=False, description="true or false")
    stream_options: StreamOptions = Field(default=StreamOptions(), description="an object")
    top_k: int | None = Field(
        default=None, ge=-1, lt=1 << 31, description="a count, 0 or -1 for all"
    )
    min_p: float | None = Field(default=None, ge=0, le=1, description="a number in 0..1")
    repetition_penalty: float | None = Field(
        default=None, ge=0.1, le=10, description="a number in 0.1..10"
    )
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="a number in -2..2"
    )
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="a number in -2..2"
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={},
        max_length=MAX_BIASES,
        description=f"an object of up to {MAX_BIASES} token ids, each with a number in -100..100",
    )
    structured_outputs: StructuredOutputs | None = Field(default=None, description="an object")
    hedge: HedgeBlock = Field(default=HedgeBlock(), description='an object with "threshold" alone')


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, description="a list of messages, at least one")
    max_completion_tokens: int | None = Field(
        default=None, ge=1, le=MAX_NEW_TOKENS, description=_TOKENS
    )
    logprobs: bool = Field(default=False, description="true or false")
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS, description=_LIKELIEST)
    response_format: ResponseFormat | None = Field(default=None, description="an object")
    tools: list[Tool] = Field(
        default=[], max_length=MAX_TOOLS, description=f"a list of up to {MAX_TOOLS} tools"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        default=None, description="none, auto, required, or a function by its name"
    )
    parallel_tool_calls: bool = Field(default=True, description="true or false")


class TextBody(Body):
    """POST /v1/completions."""

    prompt: (
        Text | Ids | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    ) = Field(description=f"a string, a list of token ids, or up to {MAX_PROMPTS} of one kind")
    suffix: Text | None = Field(default=None, description="text")
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS, description=_LIKELIEST)


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
Checked = TypeVar("Checked", bound=Body)


def checked(schema: type[Checked], given: dict[str, Any]) -> Checked:
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise _refusal(schema, given, error) from None


def _refusal(schema: type[BaseModel], given: object, error: ValidationError) -> ApiError:
    """Of the first thing that is wrong: where it is, and what it has to be."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if not first["loc"]:
        return ApiError(400, "the body has a name that is not Unicode")
    path = ""
    value = given
    param = str(first["loc"][0])
    missing = False
    described: Any = None
    for step in first["loc"]:
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            path = f"{path}[{step}]"
            value = value[step]
        elif (
            isinstance(step, str)
            and isinstance(value, dict)
            and (step in value or first["type"] == "missing")
        ):
            path = f"{path}.{step}" if path else step
            missing = step not in value
            value = value.get(step)
            described = _described(schema, path) or described
        else:
            # The name of one of the types that it might have been.
            break
    if first["type"] == "extra_forbidden":
        return unsupported(path)
    if missing:
        return ApiError(400, f"{path} is missing", param=param, code="missing_required_parameter")
    return _wrong(path, value, described, param)


def _described(schema: type[BaseModel], path: str) -> str | None:
    """What a field of the schema, or of a message in it, is said to be."""
    outer, _, name = re.sub(r"\[\d+\]", "", path).rpartition(".")
    if outer == "logit_bias":
        return "a number in -100..100"
    owner = _INNER.get(outer, schema) if outer else schema
    fields = owner.model_fields
    found = fields.get(name) or next((one for one in fields.values() if one.alias == name), None)
    return found.description if found else None


def unsupported(name: str) -> ApiError:
    plain = name if name.isprintable() and len(name) <= SHOWN else shown(name)
    return ApiError(
        400, f"{plain} is not supported", param=name[: 4 * SHOWN], code="unsupported_parameter"
    )


def _wrong(path: str, value: object, limit: str | None, param: str | None = None) -> ApiError:
    return ApiError(
        400,
        f"{path} {shown(value)} is not {limit or 'what is expected there'}",
        param=param or path,
    )


def openapi(version: str) -> dict[str, Any]:
    """The description of the API that its schema is."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, body in (("/v1/chat/completions", ChatBody), ("/v1/completions", TextBody)):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {body.__name__: schema}
        content = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
        }
        answers = {
            "200": {"description": "the answer, or server-sent events"},
            "400": {"description": "names what is refused"},
        }
        paths[path] = {
            "post": {"requestBody": {"required": True, "content": content}, "responses": answers}
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "hedge serve", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }
