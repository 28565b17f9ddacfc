"""What OpenAI's clients may ask of `hedge serve`: forms of answers, tools, log-probabilities,
penalties; by real processes.
"""

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from hedge.common.model import bundled_folder
from tests.integration.conftest import Cloud, StartCloud, serving
from tests.integration.test_serve import MESSAGES

# Else it asks the internet what models cost.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm

# The bundled pair's own template, with tools in the way of Hermes.
TEMPLATE = (
    "{{ '<|begin|>' }}{% if tools %}{{ '<|system|>Call a tool: <tool_call>' + tools | tojson + "
    "'<|end|>' }}{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{% for call in message.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + "
    "'</tool_call>' }}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "greet", "description": "Says hello.", "parameters": PERSON},
    },
    {"type": "function", "function": {"name": "leave"}},
]


@pytest.fixture(scope="module")
def with_tools(start_cloud: StartCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bundled pair behind a template that takes tools."""
    folders = {}
    for side in ("slm", "llm"):
        folders[side] = tmp_path_factory.mktemp("tools") / side
        shutil.copytree(bundled_folder() / side, folders[side])
        (folders[side] / "chat_template.jinja").write_text(TEMPLATE)
    cloud = start_cloud("--threads", "1", "--llm", str(folders["llm"]))
    with serving("--cloud", cloud.address, "--slm", str(folders["slm"])) as address:
        yield address


@pytest.fixture
def tooled(with_tools: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{with_tools}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", ["hedge", "llm", "slm", "gelato"])
def test_an_answer_has_the_form_that_is_asked_for(model: str, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": MESSAGES,
        "temperature": 1,
        "seed": 3,
        "max_tokens": 60,
    }
    person = json.loads(
        client.chat.completions.create(**asked, response_format=FORMAT).choices[0].message.content
        or ""
    )
    assert set(person) == {"name", "age"}
    assert 0 <= person["age"] <= 150
    extra = {"structured_outputs": {"choice": ["red", "green"]}}
    assert client.chat.completions.create(**asked, extra_body=extra).choices[0].message.content in (
        "red",
        "green",
    )
    anything = client.chat.completions.create(
        **asked, response_format={"type": "json_object"}, stop=["}"]
    ).choices[0]
    assert (anything.message.content or "").startswith("{")


def test_exact_systems_give_one_answer_whatever_is_asked(client: openai.OpenAI) -> None:
    tale: Any = [{"role": "user", "content": "Tell me a tale about a king."}]
    asked: dict[str, Any] = {
        "messages": tale,
        "temperature": 1.2,
        "seed": 5,
        "max_tokens": 40,
        "presence_penalty": 2,
    }
    asked |= {"frequency_penalty": 0.3, "logit_bias": {"95": 2, "7": -5}, "top_p": 0.95}
    asked["extra_body"] = {"top_k": 80, "min_p": 0.01, "repetition_penalty": 1.1}
    texts = {
        client.chat.completions.create(model=one, **asked).choices[0].message.content
        for one in ("llm", "hedge", "gelato")
    }
    assert len(texts) == 1
    del asked["presence_penalty"], asked["frequency_penalty"]
    assert (
        client.chat.completions.create(model="llm", **asked).choices[0].message.content not in texts
    )


@pytest.mark.parametrize("model", ["hedge", "llm", "slm", "cu-hlm"])
def test_every_token_has_its_log_probabilities(model: str, client: openai.OpenAI) -> None:
    """As many entries as tokens, whatever a stop cuts off, and the same ones in a stream."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": MESSAGES,
        "temperature": 0,
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.usage
    entries = (whole.choices[0].logprobs and whole.choices[0].logprobs.content) or []
    assert len(entries) == whole.usage.completion_tokens
    assert "".join(one.token for one in entries) == whole.choices[0].message.content
    assert all(
        len(one.top_logprobs) == 3 and one.logprob <= one.top_logprobs[0].logprob <= 0
        for one in entries
    )
    streamed = [
        entry
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        for entry in (choice.logprobs and choice.logprobs.content) or []
    ]
    assert streamed == entries
    cut = client.chat.completions.create(
        **asked, stop=[(whole.choices[0].message.content or "")[1:3]]
    )
    assert cut.usage
    assert cut.choices[0].logprobs
    assert len(cut.choices[0].logprobs.content or []) == cut.usage.completion_tokens
    # The beginning of a stop that never comes is held back until the end, and comes with the last
    # token once more.
    held = client.chat.completions.create(
        **asked, stop=[(whole.choices[0].message.content or "")[-1] + "never"]
    )
    assert held.choices[0].message.content == whole.choices[0].message.content
    assert held.choices[0].logprobs
    assert len(held.choices[0].logprobs.content or []) == len(entries)
    text: dict[str, Any] = {
        "model": model,
        "prompt": "Once upon",
        "temperature": 0,
        "seed": 1,
        "logprobs": 2,
        "max_tokens": 6,
    }
    plain = client.completions.create(**text).choices[0].logprobs
    assert plain
    assert [len(one) for one in plain.top_logprobs or []] == [2] * 6
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**text, stream=True)]
    assert [at for part in parts if part for at in part.text_offset or []] == plain.text_offset


def test_half_characters_have_their_bytes(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "hedge",
        "messages": MESSAGES,
        "logprobs": True,
        "temperature": 1,
        "seed": 1,
    }
    found = client.chat.completions.create(
        **asked, extra_body={"structured_outputs": {"choice": ["€ß漢字"]}}
    ).choices[0]
    assert found.message.content == "€ß漢字"
    assert found.logprobs
    assert (
        bytes(part for one in found.logprobs.content or [] for part in one.bytes or []).decode()
        == "€ß漢字"
    )
    shape = {"structured_outputs": {"choice": ["€ß漢字."]}}
    text = client.completions.create(
        model="hedge", prompt="a", logprobs=0, max_tokens=40, extra_body=shape
    ).choices[0]
    assert text.logprobs
    # Where a token is in the text, although a character may take several.
    assert text.logprobs.text_offset
    assert text.logprobs.text_offset == sorted(text.logprobs.text_offset)
    assert {0, 1, 2, 3, 4} <= set(text.logprobs.text_offset) <= {0, 1, 2, 3, 4, 5}


def test_prompts_may_be_token_ids(client: openai.OpenAI) -> None:
    one = client.completions.create(model="hedge", prompt=[5, 6, 7], max_tokens=4)
    both = client.completions.create(model="hedge", prompt=[[5, 6, 7], [8]], max_tokens=4)
    assert both.choices[0].text == one.choices[0].text
    with pytest.raises(openai.BadRequestError, match="id 99999"):
        client.completions.create(model="hedge", prompt=[99999], max_tokens=4)


@pytest.mark.parametrize("model", ["hedge", "llm", "slm"])
def test_tools_are_called_and_their_answers_heard(model: str, tooled: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": MESSAGES,
        "tools": TOOLS,
        "temperature": 1,
        "seed": 2,
        "max_tokens": 120,
        "parallel_tool_calls": False,
    }
    choice = tooled.chat.completions.create(**asked, tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "leave" or set(json.loads(call.function.arguments)) == {
        "name",
        "age",
    }
    named: Any = {"type": "function", "function": {"name": "greet"}}
    whole = tooled.chat.completions.create(**asked, tool_choice=named).choices[0].message
    assert whole.tool_calls
    assert [call.type == "function" and call.function.name for call in whole.tool_calls] == [
        "greet"
    ]
    streamed = [
        part
        for chunk in tooled.chat.completions.create(**asked, tool_choice=named, stream=True)
        for part in chunk.choices[0].delta.tool_calls or []
    ]
    assert [(part.index, part.function and part.function.name) for part in streamed] == [
        (0, "greet")
    ]
    assert whole.tool_calls[0].type == "function"
    assert streamed[0].function
    assert streamed[0].function.arguments == whole.tool_calls[0].function.arguments
    # The answer goes back as the client has it, with what the tool said.
    heard = [
        *MESSAGES,
        whole.model_dump(),
        {"role": "tool", "tool_call_id": whole.tool_calls[0].id, "content": "done"},
    ]
    assert (
        tooled.chat.completions.create(**{**asked, "messages": heard}, tool_choice="none")
        .choices[0]
        .message.content
    )


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"tools": TOOLS}, "tools", "takes no tools"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "'x' is not one of the tools",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
            "tools",
            "a JSON schema, an object",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
            "Invalid type",
        ),
        ({"structured_outputs": {"regex": "(" * 3000}}, "structured_outputs", "regex"),
        ({"structured_outputs": {"grammar": "x" * 100000}}, "structured_outputs", "100"),
        (
            {"structured_outputs": {"regex": "a", "choice": ["b"]}},
            "structured_outputs",
            "one of them is enough",
        ),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "id 99999"),
        (
            {"structured_outputs": {"regex": "[^\\s\\S]"}},
            "structured_outputs",
            "nothing can come at position 0",
        ),
        ({"guided_json": {}}, "guided_json", "not supported"),
    ],
)
def test_what_cannot_be_granted_is_refused_by_name(
    more: dict[str, Any], param: str | None, words: str, address: str
) -> None:
    """By curl, as a script would ask."""
    body = json.dumps({"model": "hedge", "messages": MESSAGES, "max_tokens": 5, **more})
    command = [
        "curl",
        "-s",
        "-w",
        "\n%{http_code}",
        f"http://{address}/v1/chat/completions",
        "-d",
        "@-",
    ]
    done = subprocess.run(
        command, input=body, capture_output=True, text=True, timeout=60, check=True
    )
    answer, status = done.stdout.rsplit("\n", 1)
    error = json.loads(answer)["error"]
    assert (int(status), error["param"]) == (400, param)
    assert words in error["message"]


@pytest.mark.filterwarnings("ignore")
def test_litellm_asks_for_all_of_it(address: str, with_tools: str) -> None:
    def ask(where: str, **more: Any) -> Any:
        return litellm.completion(
            "openai/hedge",
            MESSAGES,
            api_base=f"http://{where}/v1",
            api_key="none",
            temperature=0,
            max_tokens=80,
            **more,
        )

    plain = ask(address).choices[0].message.content
    assert plain
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in ask(address, stream=True))
        == plain
    )
    assert set(json.loads(ask(address, response_format=FORMAT).choices[0].message.content)) == {
        "name",
        "age",
    }
    assert ask(address, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    called = ask(
        with_tools, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    ).choices[0]
    assert called.finish_reason == "tool_calls"
    assert called.message.tool_calls[0].function.name in ("greet", "leave")
    text = litellm.text_completion(
        model="openai/hedge",
        prompt="Once upon",
        api_base=f"http://{address}/v1",
        api_key="none",
        max_tokens=5,
    )
    assert text.choices[0].text


def test_a_template_may_raise_anything(
    start_cloud: StartCloud, tmp_path: Path, cloud: Cloud
) -> None:
    shutil.copytree(bundled_folder() / "slm", tmp_path / "slm")
    (tmp_path / "slm" / "chat_template.jinja").write_text(
        "{{ 1 / (messages | length - 2) }}{{ messages[0].content }}"
    )
    with (
        serving("--cloud", cloud.address, "--slm", str(tmp_path / "slm")) as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(
            openai.BadRequestError,
            match=r"chat template .* refuses this conversation: division by zero",
        ),
    ):
        client.chat.completions.create(model="slm", messages=[*MESSAGES, *MESSAGES])
