"""Tools that an answer may call: how a family of models writes calls, and how they are read out of
what it says.

The family is told by the chat template, which also writes the tools into the prompt.
"""

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hedge.common.errors import BadInput
from hedge.common.grammar import WRITTEN, convert_lark
from hedge.common.model import LanguageModel
from hedge.edge_client.engine.release import overlap

# What small models put around a call, or the beginning of it.
_FENCE = "```json"
_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"
_MOST_CALLS = 8
# Of a schema: what is no schema itself.
_DATA = ("const", "enum", "default", "examples")
_NO_PARAMETERS = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function by its name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: "call_" + secrets.token_hex(12))

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


Piece = str | ToolCall


class CallReader(ABC):
    """Takes the text of an answer as it comes, gives what is said and what is called. Calls of no
    known `names` are said.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        return list(self._read(ended=False))

    def finish(self) -> list[Piece]:
        """What is left when the answer has ended."""
        return [*self._read(ended=True), *([self._held] if self._held else [])]

    @abstractmethod
    def _read(self, *, ended: bool) -> Iterator[Piece]: ...

    def _call(self, text: str, arguments: str) -> ToolCall | None:
        """The call that a JSON object says, its arguments under the name `arguments`."""
        try:
            said = json.loads(text)
            name = said["name"]
            given = said.get(arguments, {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if not (isinstance(name, str) and name in self._names and isinstance(given, dict)):
            return None
        return ToolCall(name, json.dumps(given, ensure_ascii=False))

    @classmethod
    @abstractmethod
    def grammar(cls, tools: Sequence[dict[str, Any]], lm: LanguageModel, most: int) -> str:
        """Of answers that are 1 to `most` calls, and nothing else."""


class HermesReader(CallReader):
    """Hermes and Qwen: a JSON object with name and arguments, between <tool_call> and </tool_call>.

    Small models of these families leave the marks away: an answer that is such an object, and
    nothing else, is a call too.
    """

    _begun = _called = False

    def _read(self, *, ended: bool) -> Iterator[Piece]:
        bare = self._held.strip().removeprefix(_FENCE).removesuffix("```").lstrip()
        if not self._begun and (bare.startswith("{") or _FENCE.startswith(bare)):
            if not ended:
                return
            if call := self._call(bare.rstrip(), "arguments"):
                self._held = ""
                yield call
        self._begun = True
        yield from self._read_marked(ended=ended)

    def _read_marked(self, *, ended: bool) -> Iterator[Piece]:
        """Text, and the calls between the marks in it."""
        while self._held:
            if self._called:
                # White space behind a call is of no meaning.
                self._held = self._held.lstrip()
                self._called = not self._held
                continue
            said, mark, rest = self._held.partition(_OPEN)
            if not mark:
                keep = 0 if ended else overlap(self._held, _OPEN)
                said = self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
                if said:
                    yield said
                return
            inside, closed, after = _closed(rest)
            if not closed and not ended:
                return
            call = self._call(inside, "arguments")
            if said.strip() or call is None:
                yield said if call else said + mark + inside + closed
            if call:
                yield call
            self._held = after
            self._called = call is not None

    @classmethod
    def grammar(cls, tools: Sequence[dict[str, Any]], lm: LanguageModel, most: int) -> str:
        marks = [mark if _is_special(lm, mark) else json.dumps(mark) for mark in (_OPEN, _CLOSE)]
        calls = _schema(tools, "arguments")
        more = f' ("\\n" call){{0,{most - 1}}}' if most > 1 else ""
        return convert_lark(
            f'start: call{more}\ncall: {marks[0]} "\\n" body "\\n" {marks[1]}\nbody: %json '
            f"{calls}\n"
        )


class LlamaReader(CallReader):
    """Llama 3: the whole answer is a JSON object with name and parameters, or several with
    semicolons between them.
    """

    _says = False

    def _read(self, *, ended: bool) -> Iterator[Piece]:
        begun = self._held.lstrip()
        # What begins to say something goes on so.
        self._says = self._says or not (begun.startswith("{") or not begun)
        if self._says:
            said = self._held
            self._held = ""
            if said:
                yield said
        elif ended:
            calls = [self._call(part, "parameters") for part in _objects(begun)]
            if all(calls):
                self._held = "" if calls else self._held
                yield from (call for call in calls if call)

    @classmethod
    def grammar(cls, tools: Sequence[dict[str, Any]], lm: LanguageModel, most: int) -> str:
        calls = _schema(tools, "parameters")
        more = f' ("; " call){{0,{most - 1}}}' if most > 1 else ""
        return convert_lark(f"start: call{more}\ncall: %json {calls}\n")


def reader_of(lm: LanguageModel) -> type[CallReader]:
    """By the chat template. BadInput for one that takes no tools, or whose calls are written in a
    way not known here.
    """
    template = lm.chat_template
    if "tools" not in template:
        raise BadInput(f"the chat template of {lm.name} takes no tools")
    if "<function=" not in template:
        if _OPEN in template:
            return HermesReader
        if '"parameters"' in template and "python_tag" in template:
            return LlamaReader
    raise BadInput(
        f"{lm.name} writes tool calls in a way that is not known here; known are Hermes, Qwen 2.5 "
        "and Llama 3"
    )


def calls_grammar(tools: Sequence[dict[str, Any]], lm: LanguageModel, *, parallel: bool) -> str:
    """Of an answer that has to call one of `tools`."""
    return reader_of(lm).grammar(tools, lm, _MOST_CALLS if parallel else 1)


def _schema(tools: Sequence[dict[str, Any]], arguments: str) -> str:
    calls = []
    for number, tool in enumerate(tools):
        function = tool["function"]
        parameters = _moved(
            function.get("parameters") or _NO_PARAMETERS, f"#/anyOf/{number}/properties/{arguments}"
        )
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, arguments: parameters},
                "required": ["name", arguments],
                "additionalProperties": False,
            }
        )
    return json.dumps({"anyOf": calls, "x-guidance": WRITTEN}, ensure_ascii=False)


def _moved(schema: Any, where: str) -> Any:
    """A schema that stands inside of another one: what it refers to in itself is found there."""
    if isinstance(schema, dict) and "$id" in schema:
        # It is found by a name of its own.
        return schema
    if isinstance(schema, dict):
        inside = {
            name: part if name in _DATA else _moved(part, where) for name, part in schema.items()
        }
        target = schema.get("$ref")
        return (
            inside | {"$ref": where + target[1:]}
            if isinstance(target, str) and target.startswith("#")
            else inside
        )
    return [_moved(part, where) for part in schema] if isinstance(schema, list) else schema


def _is_special(lm: LanguageModel, text: str) -> bool:
    tokenizer = lm.grammar_tokenizer
    ids = tokenizer.tokenize_str(text, parse_special=True)
    return len(ids) == 1 and bool(tokenizer.is_special_token(ids[0]))


def _closed(text: str) -> tuple[str, str, str]:
    """What is before the closing mark, the mark, and what is behind it: one inside of a JSON string
    is none.
    """
    at = text.find(_CLOSE)
    while at >= 0 and _in_string(text[:at]):
        at = text.find(_CLOSE, at + 1)
    return (text, "", "") if at < 0 else (text[:at], _CLOSE, text[at + len(_CLOSE) :])


def _in_string(text: str) -> bool:
    quotes = re.sub(r"\\.", "", text, flags=re.DOTALL).count('"')
    return quotes % 2 == 1


def _objects(text: str) -> list[str]:
    """The JSON objects of a text with semicolons between them; the text itself where it is
    something else.
    """
    decoder = json.JSONDecoder()
    found = list[str]()
    at = 0
    while at < len(text):
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return [text]
        found.append(text[at:end])
        at = end
        while at < len(text) and text[at] in "; \n":
            at += 1
    return found
