"""What a client of the OpenAI API asks for: a body, read and checked, as one request."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from hedge.common.grammar import convert_lark, convert_regex, convert_schema
from hedge.edge_client.http.errors import ApiError, shown
from hedge.edge_client.http.schema import (
    Body,
    ChatBody,
    Message,
    NamedTool,
    ResponseFormat,
    StructuredOutputs,
    TextBody,
    checked,
    unsupported,
)
from hedge.edge_client.systems import SYSTEMS, GenerationConfig

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
_LET_BE = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request; None where it leaves the choice to the server. It asks for `conversations`, or
    `texts` to go on with.
    """

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
    # None: the server's own.
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    # Of so many of the likeliest tokens besides each; None for none.
    logprobs: int | None = None
    threshold: float | None = None

    def configure(self, config: GenerationConfig, seed: int) -> GenerationConfig:
        """The configuration with what was asked for in the place of the server's own."""
        changes = _given(self, max_new_tokens="max_tokens", logprobs="logprobs")
        warp = _given(self, temperature="temperature", top_k="top_k", top_p="top_p", min_p="min_p")
        logits = self.logits | ({"grammar": self.grammar} if self.grammar else {})
        sampling = replace(
            config.sampling,
            warp=replace(config.sampling.warp, **warp),
            seed=seed,
            stop=config.sampling.stop if self.stop is None else self.stop,
            **changes,
        )
        config = replace(
            config, sampling=replace(sampling, logits=replace(sampling.logits, **logits))
        )
        return config if self.threshold is None else config.with_threshold(self.threshold)


def _given(request: ApiRequest, **names: str) -> dict[str, Any]:
    """The fields of the request that are not None, by other names."""
    found = {name: getattr(request, own) for name, own in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def parse_request(body: object, *, chat: bool) -> ApiRequest:
    """ApiError for what cannot be granted; what only describes the caller is let be."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    # As in the API that this one is like, null leaves the choice to the server.
    given = {
        name: value for name, value in body.items() if value is not None and name not in _LET_BE
    }
    for name, neutral in _ABSENT.items():
        if name in given and given.pop(name) not in neutral:
            raise unsupported(name)
    return _parse_chat(given) if chat else _parse_text(given)


def _parse_chat(given: dict[str, Any]) -> ApiRequest:
    if isinstance(said := given.get("messages"), list):
        # Clients send an answer back with all the names that it might have had.
        given["messages"] = [_without_nulls(one) for one in said]
    found = checked(ChatBody, given)
    plain = tuple(_plain(number, message) for number, message in enumerate(found.messages))
    longest = (
        found.max_tokens if found.max_completion_tokens is None else found.max_completion_tokens
    )
    if found.top_logprobs is not None and not found.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs true", param="top_logprobs")
    likeliest = (found.top_logprobs or 0) if found.logprobs else None
    format_ = _format(found.response_format)
    calls = _tools(found)
    return _request(found, longest, format_, logprobs=likeliest, conversations=(plain,), **calls)


def _parse_text(given: dict[str, Any]) -> ApiRequest:
    completed = checked(TextBody, given)
    prompt: Any = completed.prompt
    alone = isinstance(prompt, str) or isinstance(prompt[0], int)
    texts = (prompt,) if alone else tuple(prompt)
    suffix = completed.suffix or None
    if suffix is not None and not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "suffix goes only with a prompt of text", param="suffix")
    return _request(
        completed, completed.max_tokens, "", logprobs=completed.logprobs, texts=texts, suffix=suffix
    )


def _without_nulls(message: object) -> object:
    if not isinstance(message, dict):
        return message
    return {
        name: value
        for name, value in message.items()
        if value is not None and (name, value) != ("annotations", [])
    }


def _plain(number: int, message: Message) -> dict[str, Any]:
    if message.content is None and not message.tool_calls:
        raise ApiError(
            400,
            f"messages[{number}].content is missing",
            param="messages",
            code="missing_required_parameter",
        )
    if message.tool_calls and message.role != "assistant":
        raise ApiError(
            400, f"messages[{number}].tool_calls belong to the role assistant", param="messages"
        )
    return message.plain()


def _format(asked: ResponseFormat | None) -> str:
    """The grammar of a response format."""
    if asked is None or asked.type == "text":
        return ""
    if asked.type == "json_object":
        return convert_schema({"type": "object"})
    if asked.json_schema is None or asked.json_schema.json_schema is None:
        path = "response_format.json_schema.schema"
        raise ApiError(
            400, f"{path} is missing", param="response_format", code="missing_required_parameter"
        )
    return convert_schema(asked.json_schema.json_schema)


def _tools(body: ChatBody) -> dict[str, Any]:
    """What may be called, and what has to be."""
    choice = (
        body.tool_choice.function.name
        if isinstance(body.tool_choice, NamedTool)
        else body.tool_choice or "auto"
    )
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "two tools have one name", param="tools")
    if isinstance(body.tool_choice, NamedTool) and choice not in names:
        raise ApiError(
            400, f"tool_choice {shown(choice)} is not one of the tools", param="tool_choice"
        )
    if choice == "required" and not tools:
        raise ApiError(400, "tool_choice required needs tools", param="tool_choice")
    if choice == "none":
        tools = []
    return {"tools": tuple(tools), "tool_choice": choice, "parallel": body.parallel_tool_calls}


def _structured(asked: StructuredOutputs | None) -> str:
    """The grammar that is asked for as vLLM has it."""
    given = {} if asked is None else asked.model_dump(exclude_none=True)
    if len(given) > 1:
        raise ApiError(
            400,
            f"structured_outputs has {', '.join(given)}: one of them is enough",
            param="structured_outputs",
        )
    if asked is None or not given:
        return ""
    if asked.json_ is not None:
        return convert_schema(asked.json_)
    if asked.choice is not None:
        return convert_regex("|".join(re.escape(text) for text in asked.choice))
    return (
        convert_regex(asked.regex) if asked.regex is not None else convert_lark(asked.grammar or "")
    )


def _biases(given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for name in given:
        if not (name.isascii() and name.isdigit() and len(name) < 10 and name == str(int(name))):
            raise ApiError(400, f"logit_bias {shown(name)} is not a token id", param="logit_bias")
    return tuple((int(name), bias) for name, bias in given.items())


def _request(
    body: Body, max_tokens: int | None, grammar: str, *, logprobs: int | None, **asked: Any
) -> ApiRequest:
    if body.model not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise ApiError(
            404,
            f"no model {shown(body.model)}; there are {known}",
            param="model",
            code="model_not_found",
        )
    if grammar and body.structured_outputs:
        raise ApiError(
            400,
            "response_format and structured_outputs exclude each other",
            param="structured_outputs",
        )
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
        stop=(body.stop,)
        if isinstance(body.stop, str)
        else None
        if body.stop is None
        else tuple(body.stop),
        seed=body.seed,
        n=body.n,
        stream=body.stream,
        include_usage=body.stream_options.include_usage,
        logprobs=logprobs,
        threshold=body.hedge.threshold,
        **asked,
    )
