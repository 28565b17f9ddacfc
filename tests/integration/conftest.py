"""A cloud and a `hedge serve` on 127.0.0.1, in threads of this process; in processes of their own
where the process is the point (marker `process`).
"""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from hedge.cloud_server.cli import main as cloud_main
from hedge.cloud_server.cli import serve as serve_cloud
from hedge.common import signals
from hedge.edge_client.cli.main import main
from hedge.edge_client.cli.serve import command as serve_device
from hedge.evaluation.processes import free_port

BIN = Path(sys.executable).parent
TIMEOUT = 240
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "OMP_NUM_THREADS": "1",
}


_wait_for_signal = signals.wait_for_stop


async def _wait_for_stop(hangup: Callable[[], None] | None = None) -> None:
    """Signals reach the main thread alone: a server in another one is stopped by its thread."""
    thread = threading.current_thread()
    if isinstance(thread, ServerThread):
        await thread.wait_for_stop()
    else:
        await _wait_for_signal(hangup)


class ServerThread(threading.Thread):
    """A program that serves, in a thread in place of a process; `stop` is its SIGTERM."""

    def __init__(self, program: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._arguments = arguments
        self._listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    def run(self) -> None:
        try:
            self._program(self._arguments)
        finally:
            self._loop = None
            self._listening.set()

    async def wait_for_stop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening.set()
        await self._stopped.wait()

    def start_serving(self) -> None:
        signals.wait_for_stop = _wait_for_stop
        self.start()
        assert self._listening.wait(TIMEOUT)
        assert self._loop, "the server ended before it listened"

    def stop(self) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self.join(TIMEOUT)
        assert not self.is_alive()


@dataclass
class Cloud:
    """hedge-cloud serve in a thread."""

    address: str
    http: str
    thread: ServerThread


@dataclass
class CloudProcess:
    """hedge-cloud serve in a process."""

    address: str
    http: str
    process: "subprocess.Popen[str]"


StartCloud = Callable[..., Cloud]
StartCloudProcess = Callable[..., CloudProcess]
Run = Callable[..., "subprocess.CompletedProcess[str] | Done"]


def _transport(arguments: Sequence[str]) -> tuple[str, ...]:
    return () if "--tls-cert" in arguments else ("--insecure",)


@pytest.fixture(scope="session")
def start_cloud() -> Iterator[StartCloud]:
    """start_cloud(*arguments): a running hedge-cloud serve."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Cloud:
            address = f"127.0.0.1:{free_port()}"
            http = ""
            if "--http" in arguments:
                http = f"127.0.0.1:{free_port()}"
                arguments = (*arguments, "--http", http)
            listen = () if "--listen" in arguments else ("--listen", address)
            thread = ServerThread(serve_cloud, [*_transport(arguments), *arguments, *listen])
            thread.start_serving()
            stack.callback(thread.stop)
            return Cloud(address, http, thread)

        yield start


@pytest.fixture(scope="session")
def start_cloud_process() -> Iterator[StartCloudProcess]:
    """start_cloud_process(*arguments): the same in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> CloudProcess:
        command = [str(BIN / "hedge-cloud"), "serve", "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(
            [*command, *_transport(arguments), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        started.append(process)
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"(?:HTTP on (\S+), )?listening on (\S+)", line):
                return CloudProcess(found[2], found[1] or "", process)
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
    """`hedge serve` in a thread; yields HOST:PORT."""
    address = f"127.0.0.1:{free_port()}"
    common = ("--insecure", "--http", address, "--threads", "1")
    thread = ServerThread(serve_device, [*common, *options])
    thread.start_serving()
    try:
        yield address
    finally:
        thread.stop()


@contextmanager
def serving_process(*options: str) -> Iterator[str]:
    """`hedge serve` in a process of its own; yields HOST:PORT."""
    common = ("serve", "--insecure", "--http", "127.0.0.1:0", "--threads", "1")
    process = subprocess.Popen(
        [str(BIN / "hedge"), *common, *options], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
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
    """here(*arguments): a program inside this process: a new one takes seconds to import torch."""

    def call(*arguments: str, stdin: str = "", program: str = "hedge") -> Done:
        monkeypatch.setattr("sys.argv", [program, *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        # What servers in threads have said.
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            (main if program == "hedge" else cloud_main)()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, *capsys.readouterr())

    return call


def one_line(done: subprocess.CompletedProcess[str] | Done, status: int, *words: str) -> None:
    """The program failed with this status and one line on stderr that names what is wrong."""
    said = [line for line in done.stderr.splitlines() if not line.startswith("seed ")]
    assert done.returncode == status, done.stderr
    assert len(said) == 1, done.stderr
    for word in words:
        assert word in said[0]
