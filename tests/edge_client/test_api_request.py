"""Bodies of the HTTP API: what is granted, what is refused and in which words, and that nothing
else can happen.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.edge_client.http.api_request import parse_request
from hedge.edge_client.http.errors import ApiError
from hedge.edge_client.http.json_body import read_body
from hedge.edge_client.http.replies import event
from hedge.edge_client.http.schema import ChatBody, TextBody, openapi
from tests.effort import scaled

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
INNER = (
    "user",
    "role",
    "content",
    "type",
    "text",
    "function",
    "name",
    "parameters",
    "schema",
    "regex",
    "choice",
    "json",
)
NAMES = sorted({*ChatBody.model_fields, *TextBody.model_fields, *INNER})
WORDS = st.sampled_from(["hedge", "user", "text", "function", "json_schema", "required"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)


def refusal(data: bytes, *, chat: bool) -> ApiError | None:
    try:
        parse_request(read_body(data), chat=chat)
    except ApiError as error:
        return error
    return None


@pytest.mark.statistics
@settings(max_examples=scaled(5000))
@given(body=BODIES, chat=st.booleans(), asked=st.booleans())
def test_any_object_is_granted_or_refused_by_name(
    body: dict[str, Any], *, chat: bool, asked: bool
) -> None:
    begun = (CHAT if chat else {"prompt": "hi"}) if asked else {}
    if error := refusal(json.dumps(begun | body, allow_nan=True).encode(), chat=chat):
        assert error.status in (400, 404)
        assert error.param or "not a number that JSON has" in str(error)
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 500


@pytest.mark.statistics
@settings(max_examples=scaled(5000))
@given(st.binary(max_size=40) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    error = refusal(data, chat=True)
    assert error
    assert error.status == 400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"n": ' + b"[" * 900 + b"]" * 900 + b"}", "n"),
        (b'{"n": 1, "n": 2}', "'n' comes twice"),
        (b'{"temperature": NaN}', "NaN is not a number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"model": "\xff"}', "not JSON"),
        (b"", "not JSON"),
        (b"7", "not a JSON object"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
        (
            b'{"messages": [{"role": "user", "content": "x", "images": []}]}',
            "messages[0].images is not supported",
        ),
        (b'{"messages": [{"role": "user"}]}', "messages[0].content is missing"),
        (b'{"\\ud800": 1}', "is not Unicode"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "is not Unicode"),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"1": 101}}',
            "logit_bias.1 101 is not a number in -100..100",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"01": 1}}',
            "logit_bias '01' is not a token id",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "top_p": 0}',
            "top_p 0 is not a number above 0",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "repetition_penalty": 1e-300}',
            "is not a number in 0.1..10",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "structured_outputs": {"grammar": '
            b'""}}',
            "structured_outputs.grammar ''",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", '
            b'"function": '
            b'{"name": "f", "parameters": {"type": "array"}}}]}',
            "tools[0].function.parameters",
        ),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", '
            b'"function": '
            b'{"name": "f", "parameters": {"properties": {"a": {"const": "\\udc00"}}}}}]}',
            "tools[0].function.parameters",
        ),
        (
            b'{"messages": [{"role": "wizard", "content": "x"}]}',
            "messages[0].role 'wizard' is not one of system",
        ),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
            "messages[0].content [{",
        ),
        (b'{"messages": 1}', "messages 1 is not a list of messages"),
        (b"{}", "messages is missing"),
        (b'{"temperature": "hot", "messages": []}', "temperature 'hot' is not a number in 0..2"),
        (b'{"temperature": true, "messages": []}', "temperature True is not a number in 0..2"),
        (b'{"stop": [1], "messages": []}', "stop"),
        (
            b'{"stop": "", "messages": [{"role": "user", "content": "x"}]}',
            "stop '' is not a string or up to 4 of them",
        ),
        (
            b'{"max_completion_tokens": 0, "messages": [{"role": "user", "content": "x"}]}',
            "max_completion_tokens 0 is not a whole",
        ),
        (
            b'{"logprobs": 1, "messages": [{"role": "user", "content": "x"}]}',
            "logprobs 1 is not true or false",
        ),
        (b'{"stream_options": {"usage": true}}', "stream_options.usage is not supported"),
    ],
)
def test_what_is_refused_is_named(data: bytes, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_request(read_body(data), chat=True)
    assert words in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "more",
    [
        {name: None for name in NAMES if name not in ("messages", "prompt", *INNER[1:])},
        {
            "tools": [],
            "tool_choice": "auto",
            "response_format": {"type": "text"},
            "presence_penalty": 0.0,
            "top_k": -1,
        },
        {"user": "someone", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {
            "n": 2,
            "seed": 0,
            "stop": "the end.",
            "max_tokens": 7,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ],
)
def test_what_is_harmless_is_granted(more: dict[str, Any]) -> None:
    parse_request(CHAT | more, chat=True)


def test_texts_and_their_number() -> None:
    assert parse_request({"prompt": ["a", "b"]}, chat=False).texts == ("a", "b")
    assert parse_request({"prompt": [3, 4]}, chat=False).texts == ([3, 4],)
    assert parse_request({"prompt": [[3], [4]]}, chat=False).texts == ([3], [4])
    for wrong in ([], ["a"] * 17, 3, ["a", 3], [[]], [-1]):
        with pytest.raises(
            ApiError,
            match=r"prompt.* is not a string, a list of token ids, or up to 16 of one kind",
        ):
            parse_request({"prompt": wrong}, chat=False)


def test_nothing_in_a_stream_ends_a_line_but_its_end() -> None:
    said = "a\u2028b\u2029c\x85d\re\nf"
    sent = event({"text": said})
    assert sent.splitlines() == [sent.removesuffix("\n\n"), ""]
    assert json.loads(sent.removeprefix("data: ")) == {"text": said}


def test_the_description_has_every_field() -> None:
    described = openapi("1")
    chat = described["components"]["schemas"]["ChatBody"]
    assert set(chat["properties"]) == set(ChatBody.model_fields)
    assert chat["additionalProperties"] is False
    assert "#/components/schemas/ChatBody" in json.dumps(described["paths"])
