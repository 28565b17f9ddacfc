"""Prompts: what a message says never becomes a special token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.chat import ChatTemplate, Messages, encode_chat
from hedge.common.errors import BadInput

SPECIALS = {"<|user|>": 1001, "<|end|>": 1002, "<|end": 1003}
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


def encode(text: str, parse: bool) -> list[int]:
    """Characters, and special tokens if asked for."""
    ids = []
    while text:
        special = next(
            (s for s in sorted(SPECIALS, key=len, reverse=True) if parse and text.startswith(s)),
            None,
        )
        ids.append(SPECIALS[special] if special else ord(text[0]))
        text = text[len(special) if special else 1 :]
    return ids


def ids_of(*contents: str, template: str = TEMPLATE) -> list[int]:
    messages = [{"role": "user", "content": content} for content in contents]
    return encode_chat(messages, SPECIALS, ChatTemplate(template, "m", "", "").render, encode)


@given(
    st.lists(
        st.lists(st.sampled_from([*SPECIALS, "a", " ", "<|", "|>", "\ue000", "é"])).map("".join),
        min_size=1,
    )
)
def test_special_tokens_in_messages_stay_text(contents: list[str]) -> None:
    expected: list[int] = []
    for content in contents:
        expected += [1001, *map(ord, content.strip()), 1002]
    assert ids_of(*contents) == [*expected, ord(">")]


@pytest.mark.parametrize("template", ["{% for %}", "{{ unclosed", "{% nonsense %}"])
def test_a_template_that_is_none_is_named(template: str) -> None:
    with pytest.raises(BadInput, match="the chat template of m is not a Jinja template"):
        ids_of("a", template=template)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no such role') }}", "{{ messages[9].content.x }}", "{{ 1 / 'a' }}"],
)
def test_a_template_that_refuses_is_named(template: str) -> None:
    with pytest.raises(BadInput, match="the chat template of m refuses this conversation"):
        ids_of("a", template=template)


def test_a_template_cannot_reach_out() -> None:
    with pytest.raises(BadInput, match="refuses"):
        ids_of("a", template="{{ messages.__class__.__mro__[1].__subclasses__() }}")


def test_templates_have_what_hugging_face_gives_them() -> None:
    loop = "{% for m in messages %}{% break %}{% endfor %}"
    template = (
        "{{ bos_token }}{{ {'b': 'é'} | tojson }}" + loop + "{{ strftime_now('%Y') | length }}"
    )
    rendered = ChatTemplate(template, "m", "<s>", "</s>").render([{"role": "user", "content": "a"}])
    assert rendered == '<s>{"b": "é"}4'


def test_a_conversation_is_a_list_of_messages() -> None:
    seen: list[Messages] = []
    encode_chat(
        [{"role": "user", "content": "a<|end|>"}],
        SPECIALS,
        lambda m, _: seen.append(m) or "",
        encode,
    )  # type: ignore[func-returns-value]
    assert "<|end|>" not in seen[0][0]["content"]
