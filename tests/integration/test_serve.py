"""hedge serve, asked by the official OpenAI client and by raw HTTP, over a real cloud."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import openai
import pytest

from hedge.evaluation.processes import free_port
from tests.integration.conftest import Cloud, Run, StartCloud, StartCloudProcess, serving

ASKED = "What is 47 + 38?"
MESSAGES: Any = [{"role": "user", "content": ASKED}]


def generated(run: Run, cloud: Cloud, *options: str) -> str:
    words = (
        "generate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--threads",
        "1",
        "--prompt",
        ASKED,
        "--temperature",
        "0",
    )
    return run(*words, *options).stdout.strip()


def test_chat_streamed_and_not(client: openai.OpenAI, cloud: Cloud, here: Run) -> None:
    asked: dict[str, Any] = {"model": "hedge", "messages": MESSAGES, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    choice = whole.choices[0]
    assert choice.message.content == generated(here, cloud)
    assert choice.finish_reason == "stop"
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    extra: Any = choice.model_extra
    assert extra["hedge"]["exact"] is True
    assert len(extra["hedge"]["provenance"]) == whole.usage.completion_tokens
    assert extra["hedge"]["stats"]["rounds"] > 0
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == choice.message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_stop_seed_n_and_max_tokens(client: openai.OpenAI) -> None:
    tale: Any = [{"role": "user", "content": "Tell me a tale about a king."}]
    asked: dict[str, Any] = {"model": "hedge", "messages": tale, "temperature": 1}
    twice = [client.chat.completions.create(**asked, seed=7, n=2, max_tokens=20) for _ in range(2)]
    texts = [[choice.message.content for choice in one.choices] for one in twice]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]
    assert {choice.finish_reason for choice in twice[0].choices} == {"length"}
    assert twice[0].usage
    assert twice[0].usage.completion_tokens == 40
    single = client.chat.completions.create(**asked, seed=8, max_tokens=20)
    assert single.choices[0].message.content == texts[0][1]
    stop = (texts[0][0] or "")[10:14]
    cut = client.chat.completions.create(**asked, seed=7, max_tokens=20, stop=[stop])
    assert cut.choices[0].message.content == (texts[0][0] or "").partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    both: dict[int, str] = {0: "", 1: ""}
    for chunk in client.chat.completions.create(**asked, seed=7, n=2, max_tokens=20, stream=True):
        for choice in chunk.choices:
            both[choice.index] += choice.delta.content or ""
    assert [both[0], both[1]] == texts[0]


def test_completions_models_and_logprobs(client: openai.OpenAI) -> None:
    assert {"hedge", "slm", "llm", "cu-hlm"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("slm").id == "slm"
    texts = client.completions.create(
        model="llm", prompt=["Once upon", "There was"], max_tokens=5, temperature=0
    )
    assert [choice.index for choice in texts.choices] == [0, 1]
    assert all(choice.text for choice in texts.choices)
    known = client.chat.completions.create(
        model="slm", messages=MESSAGES, seed=1, logprobs=True
    ).choices[0]
    assert known.logprobs
    assert known.logprobs.content
    assert "".join(one.token for one in known.logprobs.content) == known.message.content
    assert all(-30 < one.logprob <= 0 for one in known.logprobs.content)
    # Completions have a shape of their own.
    plain = client.completions.create(
        model="slm", prompt="Once upon", seed=1, temperature=1, logprobs=0, max_tokens=6
    ).choices[0]
    assert plain.logprobs
    assert plain.logprobs.tokens
    assert "".join(plain.logprobs.tokens) == plain.text
    assert plain.logprobs.text_offset == [
        plain.text.index(plain.text[at:]) for at in plain.logprobs.text_offset or []
    ]
    assert len(plain.logprobs.token_logprobs or []) == len(plain.logprobs.tokens)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "no model 'gpt-9'"),
        ({"temperature": 9}, openai.BadRequestError, "temperature 9 is not a number in 0..2"),
        ({"top_p": 0}, openai.BadRequestError, "top_p 0 is not a number above 0"),
        ({"n": 99}, openai.BadRequestError, "n 99"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens 0"),
        ({"stop": ["", "a"]}, openai.BadRequestError, "stop"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, openai.BadRequestError, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            openai.BadRequestError,
            "messages[0].content",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            openai.BadRequestError,
            "takes no tools",
        ),
        ({"extra_body": {"top_k": -5}}, openai.BadRequestError, "top_k -5 is not a count"),
        (
            {"extra_body": {"guided_json": {}}},
            openai.BadRequestError,
            "guided_json is not supported",
        ),
        ({"extra_body": {"temprature": 0}}, openai.BadRequestError, "temprature is not supported"),
        (
            {"extra_body": {"hedge": {"treshold": 0}}},
            openai.BadRequestError,
            "hedge.treshold is not supported",
        ),
        (
            {"messages": [{"role": "user"}]},
            openai.BadRequestError,
            "messages[0].content is missing",
        ),
        (
            {"extra_body": {"model": []}},
            openai.BadRequestError,
            "model [] is not the name of a system",
        ),
        (
            {"frequency_penalty": 3},
            openai.BadRequestError,
            "frequency_penalty 3 is not a number in -2..2",
        ),
        ({"extra_body": {"echo": True}}, openai.BadRequestError, "echo is not supported"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs needs logprobs"),
        (
            {"messages": [{"role": "user", "content": "word " * 4000}]},
            openai.BadRequestError,
            "context of",
        ),
    ],
)
def test_errors_have_the_shape_that_clients_know(
    changes: dict[str, Any], error: type[openai.APIStatusError], words: str, client: openai.OpenAI
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "hedge", "messages": MESSAGES, **changes})
    assert words in str(caught.value)
    body: Any = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1/nothing", None, 404),
        ("/v1/chat/completions", None, 405),
        ("/v1/chat/completions", b" " * (1 << 20) + b"{}", 413),
    ],
)
def test_raw_nonsense_is_answered(path: str, data: bytes | None, status: int, address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", data), timeout=20)
    with caught.value as answer:
        assert answer.status == status
        assert json.loads(answer.read())["error"]["message"]
        assert "access-control-allow-origin" not in answer.headers


def test_twenty_chats_at_once_are_all_served_and_right(address: str) -> None:
    async def everything() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(
            base_url=f"http://{address}/v1", api_key="none", max_retries=0
        ) as client:

            async def one(number: int) -> str:
                asked: Any = [{"role": "user", "content": f"What is {number} + {number + 1}?"}]
                made = await client.chat.completions.create(
                    model="hedge", messages=asked, temperature=0
                )
                return made.choices[0].message.content or ""

            async def rival(number: int) -> str:
                asked: Any = [{"role": "user", "content": f"What is {number} + {number + 1}?"}]
                made = await client.chat.completions.create(
                    model="llm", messages=asked, temperature=0
                )
                return made.choices[0].message.content or ""

            ours = await asyncio.gather(*(one(number) for number in range(10, 30)))
            theirs = await asyncio.gather(*(rival(number) for number in range(10, 30)))
        return list(zip(ours, theirs, strict=True))

    assert all(ours == theirs != "" for ours, theirs in asyncio.run(everything()))


def test_a_client_that_leaves_ends_its_answer(
    client: openai.OpenAI, cloud: Cloud, sessions: Callable[[str], int]
) -> None:
    asked: dict[str, Any] = {
        "model": "hedge",
        "messages": [{"role": "user", "content": "Tell me a tale about a fox."}],
    }
    stream = client.chat.completions.create(**asked, stream=True, max_tokens=400)
    next(iter(stream))
    stream.close()
    while sessions(cloud.address):
        pass


@pytest.fixture
def sessions() -> Callable[[str], int]:
    """Open sessions of a server."""
    from hedge.edge_client.transport.grpc_link import GrpcLink

    async def now(address: str) -> int:
        async with GrpcLink(address) as link:
            return int(link.info.open_sessions)

    return lambda address: asyncio.run(now(address))


def test_a_key_where_one_is_asked_for(cloud: Cloud, tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text("secret-1\n")
    with serving(
        "--cloud", cloud.address, "--api-key-file", str(key), "--cors", "http://page.example"
    ) as address:
        url = f"http://{address}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="secret-1") as right,
            openai.OpenAI(base_url=url, api_key="x") as wrong,
        ):
            assert right.models.list().data
            with pytest.raises(openai.AuthenticationError, match="not known"):
                wrong.models.list()
        asked = urllib.request.Request(
            f"{url}/models",
            headers={"Authorization": "Bearer secret-1", "Origin": "http://page.example"},
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert answer.headers["access-control-allow-origin"] == "http://page.example"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://{address}/hedge/link", b'{"cut": true}', timeout=20)


def test_the_options_of_the_server_are_those_of_a_request_without(cloud: Cloud) -> None:
    """And no more requests than it says are answered at once: one that streams counts from its
    first byte to its last.
    """
    tale: dict[str, Any] = {
        "model": "slm",
        "messages": [{"role": "user", "content": "Tell me a tale about a king."}],
    }
    tale |= {"temperature": 1, "max_tokens": 20}
    with (
        serving(
            "--cloud", cloud.address, "--seed", "7", "--stop", " ", "--max-requests", "1"
        ) as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key="x", max_retries=0) as client,
    ):
        first, second, whole = (
            client.chat.completions.create(**tale, **own).choices[0].message.content or ""
            for own in ({}, {}, {"stop": ["zzz"]})
        )
        other = client.chat.completions.create(**tale, seed=8, stop=[]).choices[0].message.content
        with client.chat.completions.create(
            **{**tale, "max_tokens": 900}, stop=[], stream=True
        ) as streamed:
            next(iter(streamed))
            with pytest.raises(openai.RateLimitError, match="1 requests are being answered"):
                client.chat.completions.create(**tale)
        while True:
            with suppress(openai.RateLimitError):
                assert client.chat.completions.create(**tale).choices[0].message.content == first
                break
    assert first == second == whole.split(" ")[0]
    assert " " in whole
    assert other != whole


@pytest.mark.process
@pytest.mark.parametrize("alone", [False, True])
def test_a_cloud_that_went_away_is_not_waited_for(
    alone: bool, start_cloud_process: StartCloudProcess
) -> None:
    """Nor is it when it went while nobody asked. A client gives up long before an answer's own
    patience ends.
    """
    port = free_port()
    asked: dict[str, Any] = {
        "model": "hedge",
        "messages": MESSAGES,
        "temperature": 0,
        "timeout": 30,
    }
    cloud = start_cloud_process("--listen", f"127.0.0.1:{port}", "--threads", "1")
    options = ("--on-disconnect", "continue") if alone else ()
    with (
        serving("--cloud", f"127.0.0.1:{port}", *options) as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key="x", max_retries=0) as client,
    ):
        before = client.chat.completions.create(**asked).choices[0].message.content
        cloud.process.kill()
        cloud.process.wait()
        if alone:
            after: Any = client.chat.completions.create(**asked).choices[0].model_extra
            assert set(after["hedge"]["provenance"]) == {"offline"}
        else:
            for stream in (False, True):
                with pytest.raises(
                    openai.InternalServerError, match="no Hedge cloud answers"
                ) as caught:
                    client.chat.completions.create(**asked, stream=stream)
                assert caught.value.status_code == 503
                assert int(caught.value.response.headers["retry-after"]) >= 1
            start_cloud_process("--listen", f"127.0.0.1:{port}", "--threads", "1")
            while True:
                with suppress(openai.InternalServerError):
                    assert (
                        client.chat.completions.create(**asked).choices[0].message.content == before
                    )
                    break


@pytest.mark.parametrize("path", ["/health", "/version", "/openapi.json"])
def test_what_a_supervisor_and_a_reader_ask(path: str, address: str) -> None:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
        found = json.loads(answer.read())
    assert {"/health": "cloud", "/version": "version", "/openapi.json": "paths"}[path] in found


def test_a_wrong_method_has_its_own_code(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{address}/v1/chat/completions", timeout=20)
    with caught.value as answer:
        assert json.loads(answer.read())["error"]["code"] == "method_not_allowed"
        assert answer.headers["allow"] == "POST"


def test_without_a_cloud_it_says_so_or_answers_alone_and_finds_it_later(
    start_cloud: StartCloud,
) -> None:
    port = free_port()
    asked: dict[str, Any] = {"model": "hedge", "messages": MESSAGES, "temperature": 0}
    where = ("--cloud", f"127.0.0.1:{port}")
    with (
        serving(*where) as strict,
        openai.OpenAI(base_url=f"http://{strict}/v1", api_key="x", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="no Hedge cloud answers") as caught:
            client.chat.completions.create(**asked)
        assert caught.value.status_code == 503
        assert (
            client.chat.completions.create(**{**asked, "model": "slm"}).choices[0].message.content
        )
    with (
        serving(*where, "--on-disconnect", "continue") as alone,
        openai.OpenAI(base_url=f"http://{alone}/v1", api_key="x", max_retries=0) as client,
    ):
        first: Any = client.chat.completions.create(**asked).choices[0].model_extra
        assert first["hedge"]["offline"] is True
        assert set(first["hedge"]["provenance"]) == {"offline"}
        start_cloud("--listen", f"127.0.0.1:{port}", "--threads", "1")
        while True:
            later: Any = client.chat.completions.create(**asked).choices[0].model_extra
            if not later["hedge"]["offline"]:
                break
        assert later["hedge"]["exact"] is True
