"""Receipts by real processes: the same record in every face, a cloud that was gone, and a device
that reaches for nobody.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.conftest import ENVIRONMENT, Cloud, Run, hedge, serving, serving_process
from tests.integration.test_serve import MESSAGES

KEYS = {
    "answers",
    "prompt_tokens",
    "tokens",
    "llm",
    "bytes",
    "sent",
    "seconds",
    "waited_s",
    "near_ties",
    "cost",
}
PRICES = ("--prices", "prompt=0.2", "position=0.6")


@pytest.mark.process
def test_every_face_gives_the_same_record(cloud: Cloud, here: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    common = (
        "--insecure",
        "--cloud",
        cloud.address,
        "--threads",
        "1",
        "--receipts",
        str(log),
        *PRICES,
        "--no-memory",
    )
    told = json.loads(
        here("generate", *common, "--prompt", MESSAGES[0]["content"], "--json").stdout
    )["receipt"]
    with (
        serving(
            "--cloud", cloud.address, "--receipts", str(log), *PRICES, "--no-memory"
        ) as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as client,
    ):
        raw = client.chat.completions.with_raw_response.create(model="hedge", messages=MESSAGES)
        usage: Any = raw.parse().usage
        chunks = client.chat.completions.create(
            model="hedge", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        last: Any = list(chunks)[-1].usage
    chatted = hedge("chat", *common, "--plain", stdin=f"{MESSAGES[0]['content']}\n/receipt\n")
    assert "left this device: prompt ids, draft ids" in chatted.stdout
    assert f"at {cloud.address}" in chatted.stdout
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(kept) == 4
    for one in (told, usage.hedge, last.hedge, *kept):
        assert set(one) >= KEYS
        # How a block is cut depends on the time that verdicts take.
        for name in ("prompt_tokens", "sent", "cloud", "guarantee", "near_ties"):
            assert one[name] == told[name]
        assert one["tokens"]["all"] == told["tokens"]["all"]
        assert one["bytes"]["socket_up"] > one["bytes"]["up"] > 0
    assert raw.headers["x-hedge-sent"] == "prompt ids, draft ids"
    assert int(raw.headers["x-hedge-llm-passes"]) == usage.hedge["llm"]["passes"]
    total = json.loads(here("receipts", str(log), "--json").stdout)
    assert total["answers"] == 4
    assert total["bytes"]["up"] == sum(one["bytes"]["up"] for one in kept)
    assert "4 answers (4 hedge)" in here("receipts", str(log)).stdout


# Fails at any connection, Python's or gRPC's, and says what Python's auditors heard of sockets.
WATCHED = """
import sys, grpc, grpc.aio
def refuse(*_, **__):
    raise AssertionError("a channel was made")
for module in (grpc, grpc.aio):
    module.insecure_channel = module.secure_channel = refuse
heard = []
sys.addaudithook(lambda event, _: heard.append(event) if event.startswith("socket.") else None)
from hedge.edge_client.cli.main import main
sys.argv = ["hedge", *sys.argv[1:]]
try:
    main()
finally:
    sys.stderr.write("heard " + ",".join(sorted(set(heard) - {"socket.__new__"})) + "\\n")
"""


@pytest.mark.process
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_local_only_reaches_for_nobody(command: str) -> None:
    words = ("--prompt", "hi", "--json") if command == "generate" else ("--plain",)
    line = [sys.executable, "-c", WATCHED, command, "--local-only", "--max-new-tokens", "5", *words]
    done = subprocess.run(
        line,
        input="hi\n",
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A library binds one to see whether there is IPv6.
    assert done.stderr.splitlines()[-1] in ("heard ", "heard socket.bind")
    if command == "generate":
        told = json.loads(done.stdout)["receipt"]
        assert (told["sent"], told["cloud"], told["bytes"]["up"]) == ([], None, 0)


def test_local_only_refuses_what_reaches_out() -> None:
    code = "import argparse, socket; from hedge.edge_client.cli.local_only import stay_local as s; "
    code += "s(argparse.Namespace(local_only=True, system='hedge', policy=None)); "
    code += "socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
    )
    assert "--local-only: something tried socket.connect" in done.stderr
    assert (
        "--local-only is system slm, not system llm"
        in hedge("generate", "--local-only", "--system", "llm", "--prompt", "x").stderr
    )


@pytest.mark.process
def test_serve_answers_alone_where_it_was_asked_to() -> None:
    with (
        serving_process("--local-only") as address,
        openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as client,
    ):
        usage: Any = client.chat.completions.create(
            model="slm", messages=MESSAGES, max_tokens=5
        ).usage
        assert usage.hedge["sent"] == []
        with pytest.raises(openai.BadRequestError, match="this device answers alone"):
            client.chat.completions.create(model="hedge", messages=MESSAGES)
