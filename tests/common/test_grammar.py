"""Grammars: what follows them is what they say, wherever they are asked from, and what cannot be
met is refused in time.
"""

import json
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.common.errors import BadInput
from hedge.common.grammar import Grammar, convert_lark, convert_regex, convert_schema
from hedge.common.loading import load
from hedge.common.logits import NEVER, LogitsOptions, LogitsProcessor
from hedge.common.model import BUNDLED, LanguageModel

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", "catfish"]},
        "seen": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "seen"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load(BUNDLED, "slm")


def walk(lm: LanguageModel, grammar: str, seed: int, most: int = 200) -> list[int]:
    """Ids drawn evenly from what is allowed, up to an end."""
    rng = np.random.default_rng(seed)
    followed = Grammar(grammar, lm, lm.end_ids)
    said = list[int]()
    while len(said) < most:
        allowed = np.flatnonzero(followed.allowed(said))
        said.append(int(rng.choice(allowed)))
        if said[-1] in lm.end_ids:
            return said[:-1]
    raise AssertionError(f"no end in {most} tokens: {lm.decode(said)}")


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_whatever_is_drawn_is_json_of_the_schema(lm: LanguageModel, seed: int) -> None:
    value = json.loads(lm.decode(walk(lm, convert_schema(PERSON), seed)))
    assert set(value) == set(PERSON["properties"])
    assert len(value["name"]) <= 8
    assert 0 <= value["age"] <= 150
    assert value["kind"] in ("cat", "dog", "catfish")
    assert len(value["seen"]) <= 3


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([r"[a-c]{2,5}(x|y)", r"(yes|no|yesterday)", r"[0-9]{1,3}(\.[0-9]{2})?", "ß+€"]),
)
def test_whatever_is_drawn_matches_the_expression(
    lm: LanguageModel, seed: int, pattern: str
) -> None:
    # `+` may go on for a while.
    assert re.fullmatch(pattern, lm.decode(walk(lm, convert_regex(pattern), seed, 5000)))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_it_says_the_same_wherever_it_was_before(
    lm: LanguageModel, seed: int, places: list[int]
) -> None:
    """Rolled back and moved on as drafts are: what is allowed depends on the answer alone."""
    grammar = convert_schema(PERSON)
    said = walk(lm, convert_schema(PERSON), seed)
    moved = Grammar(grammar, lm, lm.end_ids)
    for place in places:
        before = said[: place % (len(said) + 1)]
        fresh = Grammar(grammar, lm, lm.end_ids)
        assert moved.forced(before) == fresh.forced(before)
        assert (moved.allowed(before) == fresh.allowed(before)).all()


def test_what_is_forced_is_all_that_is_allowed(lm: LanguageModel) -> None:
    followed = Grammar(convert_schema(PERSON), lm, lm.end_ids)
    said = list[int]()
    first = followed.forced(said)
    assert first is not None
    while (only := followed.forced(said)) is not None:
        assert np.flatnonzero(followed.allowed(said)).tolist() == [only]
        said.append(only)
    assert lm.decode(said) == '{"name": "'
    assert followed.allowed(said).sum() > 1


def test_where_the_grammar_is_met_the_answer_ends(lm: LanguageModel) -> None:
    followed = Grammar(convert_regex("ab?"), lm, [2, 5])
    a, b = (lm.encode_text(letter)[-1] for letter in "ab")
    # The first of the ends, where nothing else may follow, and any of them, where something may.
    assert followed.forced([a, b]) == 2
    assert {2, 5, b} <= set(np.flatnonzero(followed.allowed([a])).tolist())
    assert not followed.allowed([])[[2, 5]].any()


def test_what_is_not_allowed_cannot_be_drawn(lm: LanguageModel) -> None:
    process = LogitsProcessor(LogitsOptions(grammar=convert_regex("[0-9]+")), lm, 1, lm.end_ids)
    logits = process(np.full(lm.vocab_size, 50, np.float32), [1])
    texts = [lm.decode([int(token)]) for token in np.flatnonzero(logits > NEVER)]
    assert texts
    assert all(text.isdigit() for text in texts)


EXPONENTIAL = {
    "allOf": [{"anyOf": [{"pattern": f"a{{{n}}}b*c{{{m}}}"} for m in range(8)]} for n in range(12)],
    "type": "string",
}


@pytest.mark.parametrize(
    "grammar",
    [
        convert_schema({"type": "nope"}),
        convert_schema({"type": "integer", "minimum": 5, "maximum": 3}),
        convert_schema({"$ref": "#/nowhere"}),
        convert_schema({"type": "string", "pattern": "(?=a)b"}),
        convert_schema({"enum": []}),
        convert_regex("[a"),
        convert_lark("start: nowhere"),
        convert_lark("start: start start"),
        convert_regex("[^\\s\\S]"),
        convert_schema({"$ref": "#"}),
        convert_lark('start: start "ab"'),
        "not a grammar",
        "{}",
    ],
)
def test_what_cannot_be_followed_is_refused_in_a_line(lm: LanguageModel, grammar: str) -> None:
    with pytest.raises(BadInput, match="grammar") as refused:
        Grammar(grammar, lm, lm.end_ids).allowed([])
    assert "\n" not in str(refused.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "grammar",
    [
        convert_schema(EXPONENTIAL),
        convert_regex("((((a{1,999}){1,999}){1,999}){1,999})"),
        convert_regex("(a|aa)+" * 40 + "b"),
        convert_lark('start: a a a a\na: b b b b b b b b\nb: "x"? "y"? "z"?'),
    ],
)
def test_what_explodes_is_answered_in_time(lm: LanguageModel, grammar: str) -> None:
    """Refused or followed: either way without minutes of work."""
    with suppress(BadInput):
        assert Grammar(grammar, lm, lm.end_ids).allowed([]).any()


@pytest.mark.parametrize("schema", [[], "x", 3, None, True])
def test_a_schema_is_an_object(schema: object) -> None:
    with pytest.raises(BadInput, match="a JSON schema is an object"):
        convert_schema(schema)


def test_ids_that_the_grammar_does_not_know_are_named(lm: LanguageModel) -> None:
    process = LogitsProcessor(LogitsOptions(grammar=convert_regex("[0-9]+")), lm, 1, lm.end_ids)
    with pytest.raises(BadInput, match=r"id \d+ at position 0 is not what the grammar allows"):
        process.check([1, lm.encode_text("x")[-1]])


def test_long_forced_text_is_looked_up_once(lm: LanguageModel) -> None:
    """And is the same ids from wherever an answer goes on: a run is found again by what came before
    it.
    """
    grammar = Grammar(convert_regex("x(" + "qz" * 2000 + "|b)"), lm, lm.end_ids)
    said = list[int]()
    q = lm.encode_text("q")[-1]
    while (only := grammar.forced(said)) not in lm.end_ids:
        said.append(q if only is None else only)
    assert lm.decode(said).startswith("xqzqz")
    looked = len(grammar._runs)
    assert looked < 10
    fresh = Grammar(convert_regex("x(" + "qz" * 2000 + "|b)"), lm, lm.end_ids)
    fresh.follow(said[:700])
    assert [fresh.forced(said[:at]) for at in (700, 3, 701, 650)] == [
        said[at] for at in (700, 3, 701, 650)
    ]
