"""Calls are read out of an answer the same way however it is cut into pieces; everything else is
said.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.errors import BadInput
from hedge.common.grammar import Grammar
from hedge.common.loading import load
from hedge.common.model import BUNDLED, KVCache, LanguageModel, WrappedModel
from hedge.edge_client.http.tools import (
    CallReader,
    HermesReader,
    LlamaReader,
    ToolCall,
    calls_grammar,
    reader_of,
)

NAMES = ["weather", "add"]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2, "<tool_call>"]}}\n</tool_call>'
ADDED = ("add", {"a": 1, "b": [2, "<tool_call>"]})
HERMES: list[tuple[str, list[Any]]] = [
    ("Hello.", ["Hello."]),
    (CALL, [ADDED]),
    (f"I will add.\n{CALL}", ["I will add.\n", ADDED]),
    (f"{CALL}\n{CALL}", [ADDED, ADDED]),
    ("a < b <tool", ["a < b <tool"]),
    (
        '<tool_call>{"name": "add", "arguments": {"v": "\\"</tool_call>"}}</tool_call>\n\n',
        [("add", {"v": '"</tool_call>'})],
    ),
    (f"{CALL}\n\n  Done.", [ADDED, "Done."]),
    ("<tool_call>\nnot JSON\n</tool_call> then", ["<tool_call>\nnot JSON\n</tool_call> then"]),
    (
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": "other", "arguments": {}}</tool_call>'],
    ),
    (
        '<tool_call>{"name": "add", "arguments": []}</tool_call>',
        ['<tool_call>{"name": "add", "arguments": []}</tool_call>'],
    ),
    # Without the marks, as small models write it.
    ('{"name": "add", "arguments": {"a": 1}}', [("add", {"a": 1})]),
    ('```json\n{"name": "add", "arguments": {}}\n```', [("add", {})]),
    ('{"name": "other", "arguments": {}}', ['{"name": "other", "arguments": {}}']),
    ('{"a": 1} and more', ['{"a": 1} and more']),
    # Cut off at its end: whole as JSON, or not.
    ('<tool_call>{"name": "weather"}', [("weather", {})]),
    ('<tool_call>{"name": "wea', ['<tool_call>{"name": "wea']),
]
LLAMA: list[tuple[str, list[Any]]] = [
    ("Hello.", ["Hello."]),
    ('{"name": "add", "parameters": {"a": 1}}', [("add", {"a": 1})]),
    (
        ' {"name": "add", "parameters": {}}; {"name": "weather", "parameters": {}}',
        [("add", {}), ("weather", {})],
    ),
    ('{"name": "other", "parameters": {}}', ['{"name": "other", "parameters": {}}']),
    ('{"name": "add", "para', ['{"name": "add", "para']),
    ("{} is empty", ["{} is empty"]),
    ("", []),
]


def read(reader: CallReader, pieces: list[str]) -> list[Any]:
    """What comes out, texts in a row joined."""
    found: list[Any] = []
    for piece in [one for text in pieces for one in reader.feed(text)] + reader.finish():
        if isinstance(piece, ToolCall):
            found.append((piece.name, json.loads(piece.arguments)))
        elif found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


@pytest.mark.parametrize(("kind", "cases"), [(HermesReader, HERMES), (LlamaReader, LLAMA)])
def test_calls_are_found_letter_by_letter(
    kind: type[CallReader], cases: list[tuple[str, list[Any]]]
) -> None:
    for text, expected in cases:
        assert read(kind(NAMES), list(text)) == expected


@given(
    st.sampled_from(
        [(HermesReader, *one) for one in HERMES] + [(LlamaReader, *one) for one in LLAMA]
    ),
    st.data(),
)
def test_calls_are_found_wherever_the_text_is_cut(
    case: tuple[type[CallReader], str, list[Any]], data: st.DataObject
) -> None:
    kind, text, expected = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(kind(NAMES), pieces) == expected


def test_text_is_not_held_back_longer_than_it_has_to_be() -> None:
    reader = HermesReader(NAMES)
    assert reader.feed("three <") == ["three "]
    assert reader.feed("b") == ["<b"]


TOOLS = [
    {"type": "function", "function": {"name": "weather"}},
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/number"}, "b": {"$ref": "#/$defs/number"}},
                "required": ["a", "b"],
                "additionalProperties": False,
                "$defs": {"number": {"type": "integer", "minimum": 0, "maximum": 999}},
            },
        },
    },
]


class Templated(WrappedModel):
    """The bundled model as if its template were another."""

    def __init__(self, template: str) -> None:
        super().__init__(load(BUNDLED, "slm"))
        self.chat_template = template

    def kv_cache(self) -> KVCache:
        return self.lm.kv_cache()


HERMES_TEMPLATE = "{% if tools %}<tool_call>{% endif %}"
LLAMA_TEMPLATE = '{% if tools %}{"name": "", "parameters": {}} <|python_tag|>{% endif %}'


@pytest.mark.parametrize(
    ("template", "kind"), [(HERMES_TEMPLATE, HermesReader), (LLAMA_TEMPLATE, LlamaReader)]
)
@pytest.mark.parametrize("parallel", [True, False])
def test_an_answer_that_has_to_call_is_calls_and_nothing_else(
    template: str, kind: type[CallReader], *, parallel: bool
) -> None:
    lm: LanguageModel = Templated(template)
    assert reader_of(lm) is kind
    grammar = calls_grammar(TOOLS[1:], lm, parallel=parallel)
    numbers = set[int]()
    for seed in range(30):
        followed = Grammar(grammar, lm, lm.end_ids)
        said = list[int]()
        rng = np.random.default_rng(seed)
        while not said or said[-1] not in lm.end_ids:
            said.append(int(rng.choice(np.flatnonzero(followed.allowed(said)))))
        calls = read(kind(NAMES), [lm.decode(said)])
        assert all(isinstance(call, tuple) and call[0] == "add" for call in calls)
        assert all(0 <= call[1][name] <= 999 for call in calls for name in "ab")
        numbers.add(len(calls))
    assert (max(numbers) > 1) == parallel
    assert min(numbers) == 1


def test_data_in_a_schema_is_left_as_it_is() -> None:
    parameters = {
        "type": "object",
        "properties": {"v": {"const": {"$ref": "#/x"}}},
        "required": ["v"],
        "additionalProperties": False,
    }
    named = {"$id": "http://e.x/s", **TOOLS[1]["function"]["parameters"]}  # type: ignore[dict-item]
    lm = Templated(HERMES_TEMPLATE)
    for schema, expected in ((parameters, {"v": {"$ref": "#/x"}}), (named, None)):
        tool = {"type": "function", "function": {"name": "add", "parameters": schema}}
        followed = Grammar(calls_grammar([tool], lm, parallel=False), lm, lm.end_ids)
        said = list[int]()
        rng = np.random.default_rng(1)
        while not said or said[-1] not in lm.end_ids:
            said.append(int(rng.choice(np.flatnonzero(followed.allowed(said)))))
        ((_, arguments),) = read(HermesReader(NAMES), [lm.decode(said)])
        assert arguments == expected or (expected is None and set(arguments) == {"a", "b"})


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages }}", "takes no tools"),
        ("{{ tools }}", "not known here"),
        ("{{ tools }}<tool_call><function=", "not known here"),
    ],
)
def test_a_family_that_is_not_known_is_refused(template: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        reader_of(Templated(template))
