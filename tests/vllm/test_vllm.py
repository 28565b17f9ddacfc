"""Hedge on vLLM: the same answers, whatever its cache holds; faults that end in a line; an engine
that dies.
"""

import asyncio
import json
import os
import signal
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedge.common.loading import load
from hedge.common.model import BUNDLED
from hedge.common.model_options import ModelOptions
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS
from hedge.edge_client.transport.events import Event
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.questions import draw_held_out
from tests.integration.conftest import (
    BIN,
    ENVIRONMENT,
    CloudProcess,
    Run,
    StartCloudProcess,
    hedge,
    one_line,
)
from tests.vllm.conftest import CPU

pytestmark = pytest.mark.timeout(900)
WARPS = {"0": (), "0.7": (), "1": (), "0.9": ("--top-k", "20"), "0.8": ("--top-p", "0.9")}


def asked(run: Run, cloud: CloudProcess, *arguments: str) -> list[dict[str, Any]]:
    done = run(
        "generate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--threads",
        "1",
        "--json",
        "--seed",
        "5",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def metric(cloud: CloudProcess, name: str) -> float:
    with urllib.request.urlopen(f"http://{cloud.http}/metrics") as response:
        text = response.read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vllm") / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": q.text}) + "\n" for q in draw_held_out(4, seed=3))
    )
    return path


@pytest.mark.parametrize("temperature", WARPS)
def test_hedge_gives_the_tokens_that_llm_streams(
    here: Run, vllm: CloudProcess, questions: Path, temperature: str
) -> None:
    """Twice: the second time every draft is in the prefix cache, whose rows hold anything."""
    options = ("--prompts", str(questions), "--temperature", temperature, *WARPS[temperature])
    alone = asked(here, vllm, "--system", "llm", *options)
    for _ in range(2):
        found = asked(here, vllm, *options)
        for one, other in zip(alone, found, strict=True):
            assert (
                one["token_ids"] == other["token_ids"]
                or one["stats"]["near_ties"] + other["stats"]["near_ties"]
            )
        assert (
            sum(
                one["token_ids"] == other["token_ids"]
                for one, other in zip(alone, found, strict=True)
            )
            >= 3
        )
        stats = [record["stats"] for record in found]
        assert sum(s["rounds"] for s in stats) < 0.6 * sum(s["tokens"] for s in stats)


def test_the_answers_are_those_of_the_own_engine(
    here: Run, vllm: CloudProcess, start_cloud_process: StartCloudProcess, questions: Path
) -> None:
    own = start_cloud_process("--threads", "1")
    for temperature in ("0", "1"):
        options = ("--prompts", str(questions), "--temperature", temperature)
        pairs = list(zip(asked(here, own, *options), asked(here, vllm, *options), strict=True))
        assert sum(one["token_ids"] == other["token_ids"] for one, other in pairs) >= 3


@pytest.mark.parametrize("system", ["hlm", "u-hlm", "cu-hlm"])
def test_systems_that_need_whole_distributions_are_served(
    here: Run, vllm: CloudProcess, system: str
) -> None:
    (found,) = asked(
        here,
        vllm,
        "--prompt",
        "What is 47 + 38?",
        "--temperature",
        "0",
        "--system",
        system,
        "--threshold",
        "0.1",
    )
    assert found["text"].endswith("85")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--presence-penalty", "1"), "penalties, logit_bias and grammars need"),
        (("--logit-bias", "7=1"), "penalties, logit_bias and grammars need"),
        (("--regex", "[a-c]+"), "penalties, logit_bias and grammars need"),
    ],
)
@pytest.mark.parametrize("system", ["hedge", "llm"])
def test_what_needs_whole_rows_is_refused_by_name(
    system: str, options: tuple[str, str], words: str, here: Run, vllm: CloudProcess
) -> None:
    ask = (
        "generate",
        "--cloud",
        vllm.address,
        "--insecure",
        "--threads",
        "1",
        "--system",
        system,
        "--prompt",
        "hi",
    )
    done = here(*ask, *options)
    assert done.returncode
    assert words in done.stderr


def test_a_full_queue_is_waited_for(start_cloud_process: StartCloudProcess) -> None:
    """More answers at once than requests are taken: all of them end, and with the tokens that they
    have alone.
    """
    cloud = start_cloud_process(*CPU, "--engine-option", "max_num_queued_reqs=4")
    slm = load(BUNDLED, "slm", ModelOptions(threads=1))
    told = list[Event]()

    async def answers(most: int) -> list[list[int]]:
        free = asyncio.Semaphore(most)

        async def answer(link: GrpcLink, number: int) -> list[int]:
            config = replace(
                SYSTEMS["hedge"], sampling=SamplingParams(seed=number, max_new_tokens=24)
            )
            prompt = slm.encode_chat([{"role": "user", "content": f"Tell me tale {number}."}])
            async with free:
                session = Session(slm, prompt, config, link, notify=told.append)
                await session.run()
            return session.token_ids

        async with GrpcLink(cloud.address) as link:
            return await asyncio.gather(*(answer(link, number) for number in range(16)))

    assert asyncio.run(answers(16)) == asyncio.run(answers(1))
    assert any("is busy: vLLM's queue is full" in str(event) for event in told)


def test_long_prompts_and_full_contexts(here: Run, vllm: CloudProcess) -> None:
    (found,) = asked(
        here, vllm, "--prompt", "word " * 480, "--max-new-tokens", "600", "--temperature", "0"
    )
    (own,) = asked(
        here,
        vllm,
        "--prompt",
        "word " * 480,
        "--max-new-tokens",
        "600",
        "--temperature",
        "0",
        "--system",
        "llm",
    )
    assert found["token_ids"] == own["token_ids"]
    (short,) = asked(here, vllm, "--prompt", "a", "--max-new-tokens", "2")
    assert short["token_ids"]


def test_many_sessions_at_once(vllm: CloudProcess, questions: Path) -> None:
    command = [
        str(BIN / "hedge"),
        "generate",
        "--insecure",
        "--threads",
        "1",
        "--json",
        "--seed",
        "5",
        "--cloud",
        vllm.address,
    ]
    command += ["--prompts", str(questions), "--temperature", "0"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=600)[0] for process in running]
    assert (
        len(
            {
                json.dumps([json.loads(line)["token_ids"] for line in answer.splitlines()])
                for answer in answers
            }
        )
        == 1
    )
    assert metric(vllm, "hedge_cloud_certified_positions") > 0
    assert metric(vllm, "hedge_cloud_sessions") == 0
    assert metric(vllm, "vllm:prefix_cache_hits_total") > 0
    assert metric(vllm, "vllm:num_requests_running") == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--llm", "m.gguf"), "m.gguf runs in llama.cpp"),
        (("--engine-option", "nonsense=1"), "engine-option nonsense is none of vLLM's"),
        (("--engine-option", "model=x"), "engine-option model is Hedge's own"),
        (
            ("--engine-option", "speculative_config={}"),
            "speculative_config does not go with verifying",
        ),
        (("--context", "9999"), "context 9999 is more than the 1024"),
        (("--reproducible",), "--reproducible is not for --engine vllm"),
        (("--no-prefix-sharing",), "--no-prefix-sharing is not for --engine vllm"),
        (("--threads", "1"), "give --engine-option"),
        (("--llm", "/nowhere"), "no llm folder at /nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    one_line(
        hedge(
            "serve",
            "--insecure",
            "--listen",
            "127.0.0.1:0",
            *CPU,
            *arguments,
            program="hedge-cloud",
        ),
        2,
        line,
    )


def test_an_engine_that_dies_takes_its_server_along_and_no_token(
    start_cloud_process: StartCloudProcess,
) -> None:
    """kill -9 of vLLM's own process in mid-answer; a server that is started again goes on with the
    same tokens.
    """
    cloud = start_cloud_process(*CPU)
    ask = (
        "generate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--threads",
        "1",
        "--seed",
        "6",
        "--prompt",
        "Tell me a tale about a fox.",
    )
    whole = hedge(*ask)
    assert whole.returncode == 0, whole.stderr
    asking = subprocess.Popen(
        [str(BIN / "hedge"), *ask],
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert asking.stdout
    said = asking.stdout.read(40)
    children = (
        Path(f"/proc/{cloud.process.pid}/task/{cloud.process.pid}/children").read_text().split()
    )
    names = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes()
        for pid in children
    }
    (engine,) = (int(pid) for pid, name in names.items() if b"EngineCore" in name)
    os.kill(engine, signal.SIGKILL)
    assert cloud.process.wait(60) != 0
    start_cloud_process(*CPU, "--listen", cloud.address)
    rest, errors = asking.communicate(timeout=300)
    assert asking.returncode == 0, errors
    assert (said + rest).decode() == whole.stdout
