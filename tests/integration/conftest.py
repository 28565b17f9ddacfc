"""Real processes on 127.0.0.1, on ports the system picks, ended by their fixtures."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from hedge.edge_client.cli.main import main

BIN = Path(sys.executable).parent
TIMEOUT = 240
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Cloud:
    address: str
    process: subprocess.Popen[str]
    http: str = ""


StartCloud = Callable[..., Cloud]
Run = Callable[..., "subprocess.CompletedProcess[str] | Done"]


@pytest.fixture(scope="session")
def start_cloud() -> Iterator[StartCloud]:
    """start_cloud(*arguments): a running hedge-cloud serve."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> Cloud:
        plain = () if "--tls-cert" in arguments else ("--insecure",)
        command = [str(BIN / "hedge-cloud"), "serve", *plain, "--listen", "127.0.0.1:0", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        started.append(process)
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"(?:HTTP on (\S+), )?listening on (\S+)", line):
                return Cloud(found[2], process, found[1] or "")
        raise AssertionError("the server ended before it listened")

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.fixture(scope="session")
def cloud(start_cloud: StartCloud) -> Cloud:
    """The bundled LLM."""
    return start_cloud("--threads", "1")


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """`hedge serve`; yields HOST:PORT."""
    command = [
        str(BIN / "hedge"),
        "serve",
        "--insecure",
        "--http",
        "127.0.0.1:0",
        "--threads",
        "1",
        *options,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr
    try:
        yield next(
            found[1] for line in process.stderr if (found := re.search(r"listening on (\S+)", line))
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def address(cloud: Cloud) -> Iterator[str]:
    with serving("--cloud", cloud.address) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0) as made:
        yield made


def hedge(
    *arguments: str, stdin: str = "", program: str = "hedge"
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    command = [str(BIN / program), *arguments]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=ENVIRONMENT,
        check=False,
    )


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """here(*arguments): `hedge` inside this process: a new one takes seconds to import torch."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["hedge", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, *capsys.readouterr())

    return call


def one_line(done: subprocess.CompletedProcess[str] | Done, status: int, *words: str) -> None:
    """The program failed as promised: the status, and one line on stderr that names what is wrong."""
    said = [line for line in done.stderr.splitlines() if not line.startswith("seed ")]
    assert done.returncode == status, done.stderr
    assert len(said) == 1, done.stderr
    for word in words:
        assert word in said[0]
