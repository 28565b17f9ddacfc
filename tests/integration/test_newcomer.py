"""What a newcomer tries first, and what has to be said in one line."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.integration.conftest import ENVIRONMENT, Cloud, Run, StartCloudProcess, serving_process

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--system", "slm", "--threshold", "0.3"),
            "--threshold does not apply to system slm, which asks no cloud",
        ),
        (
            ("--system", "llm", "--insecure", "--k", "5"),
            "--k does not apply to system llm, which drafts nothing",
        ),
        (("--system", "slm", "--regex", "[a"), "the grammar cannot be followed"),
        (("--system", "slm", "--json-schema", "nowhere.json"), "cannot read nowhere.json"),
        (("--system", "slm", "--logit-bias", "5"), "logit-bias 5 is not ID=BIAS"),
        (("--system", "slm", "--min-p", "2"), "min-p 2 is not in 0..1"),
        (("--system", "slm", "--prices", "x=1"), "price 'x=1' is not NAME=VALUE"),
        (("--system", "slm", "--receipts", "/nowhere/log"), "cannot write /nowhere/log"),
        (("--system", "slm", "--threads", "100000"), "100000 threads, not 1.."),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    options: tuple[str, ...], words: str, here: Run
) -> None:
    done = here("generate", "--prompt", "hi", *options)
    assert done.returncode
    lines = [line for line in done.stderr.splitlines() if not line.startswith("seed ")]
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(shell: str, here: Run, tmp_path: Path) -> None:
    done = here("completion", shell)
    assert done.returncode == 0
    for word in ("generate", "receipts", "bench", "temperature", "gelato", "--local-only"):
        assert word.lstrip("-") in done.stdout
    if shell != "bash":
        return
    (tmp_path / "c").write_text(done.stdout)
    ask = (
        "source c; COMP_WORDS=(hedge {}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        '_shtab_hedge hedge "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"; echo "${{COMPREPLY[@]}}"'
    )
    for words, expected in (
        ("gen", "generate"),
        ("chat --sys", "--system"),
        ("chat --system ge", "gelato"),
        ("chat --prefer s", "speed"),
    ):
        found = subprocess.run(
            ["bash", "-c", ask.format(words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in found.stdout.split()


def test_a_system_prompt_comes_before_the_question(cloud: Cloud, here: Run) -> None:
    common = (
        "generate",
        "--insecure",
        "--cloud",
        cloud.address,
        "--threads",
        "1",
        "--json",
        "--prompt",
        "What is 4 + 5?",
    )
    plain, told = (
        json.loads(here(*common, *more).stdout)
        for more in ((), ("--system-prompt", "Answer in one word."))
    )
    assert told["receipt"]["prompt_tokens"] > plain["receipt"]["prompt_tokens"]


def test_both_programs_as_processes_listen_and_count(
    start_cloud_process: StartCloudProcess,
) -> None:
    cloud = start_cloud_process("--threads", "1")
    where = ("--cloud", cloud.address, "--host", "127.0.0.1", "--port", "0")
    with serving_process(*where) as address:
        body = json.dumps(
            {"model": "hedge", "messages": [{"role": "user", "content": "What is 4 + 5?"}]}
        ).encode()
        with urllib.request.urlopen(f"http://{address}/v1/chat/completions", data=body) as response:
            usage = json.load(response)["usage"]
        with urllib.request.urlopen(f"http://{address}/metrics") as response:
            lines = dict(
                line.rsplit(" ", 1)
                for line in response.read().decode().splitlines()
                if not line.startswith("#")
            )
    assert float(lines['hedge_device_answers_total{system="hedge"}']) == 1
    assert float(lines["hedge_device_llm_passes_total"]) == usage["hedge"]["llm"]["passes"]
    assert (
        float(lines['hedge_device_message_bytes_total{direction="up"}'])
        == usage["hedge"]["bytes"]["up"]
    )
    assert float(lines["hedge_device_cloud_up"]) == 1


@pytest.mark.process
def test_a_demo_that_is_ended_leaves_nothing_behind() -> None:
    """A supervisor's SIGTERM, while the chat waits for a question."""
    command = [sys.executable, "-m", "tools.demo"]
    demo = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    assert demo.stdout
    # The chat has said what it is.
    assert "verified by" in demo.stdout.readline()
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    assert len(children) == 2
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=60)
    assert not [child for child in children if os.path.exists(f"/proc/{child}")]


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_idle_cloud_with_the_bundled_pair_is_small(
    start_cloud_process: StartCloudProcess,
) -> None:
    cloud = start_cloud_process("--threads", "1")
    status = Path(f"/proc/{cloud.process.pid}/status").read_text()
    kilobytes = int(
        next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
    )
    assert kilobytes < 600_000


def test_few_prompts_to_calibrate_on_are_told(cloud: Cloud, here: Run, tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text(
        '{"prompt": "What is 4 + 5?"}\n{"prompt": "Tell me a tale."}\n'
    )
    out = (
        "--prompts",
        str(tmp_path / "two.jsonl"),
        "--out",
        str(tmp_path / "c.json"),
        "--max-new-tokens",
        "12",
    )
    done = here("calibrate", "--insecure", "--cloud", cloud.address, "--temperature", "1", *out)
    assert "2 prompts tell little" in done.stderr
