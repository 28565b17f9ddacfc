"""Links that fail between a real device and a real cloud: with `wait` nothing is lost and nothing
changes.
"""

import asyncio
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hedge.common.errors import Disconnected
from hedge.common.loading import load
from hedge.common.model import BUNDLED
from hedge.edge_client.engine.session import Session
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.v1 import hedge_pb2 as pb
from tests.configs import config_of
from tests.integration.conftest import BIN, ENVIRONMENT, Cloud, Run, StartCloud, StartCloudProcess

ASK = (
    "--insecure",
    "--seed",
    "6",
    "--prompt",
    "Tell me a tale about a fox.",
    "--max-new-tokens",
    "120",
)


@contextmanager
def relay(to: str, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`hedge link` in front of a cloud."""
    command = [str(BIN / "hedge"), "link", "--listen", "127.0.0.1:0", "--to", to, *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stderr
    try:
        found = next(
            found for line in process.stderr if (found := re.search(r"listening on (\S+)", line))
        )
        yield found[1], process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.communicate(timeout=20)


def asking(address: str, *options: str) -> "subprocess.Popen[bytes]":
    command = [str(BIN / "hedge"), "generate", "--cloud", address, *ASK, *options]
    return subprocess.Popen(
        command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


def finished(process: "subprocess.Popen[bytes]", begun: bytes) -> tuple[str, str]:
    rest, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return (begun + rest).decode(), said.decode()


@pytest.mark.process
def test_a_half_open_connection_is_left_for_another_server(
    cloud: Cloud, start_cloud: StartCloud, here: Run
) -> None:
    """The way to the first server swallows everything, without a word: after `--patience` the
    device turns to the second.
    """
    whole = here("generate", "--cloud", cloud.address, *ASK).stdout
    other = start_cloud("--threads", "1")
    with relay(cloud.address) as (address, process):
        device = asking(f"{address},{other.address}", "--patience", "2")
        assert device.stdout
        begun = device.stdout.read(30)
        process.send_signal(signal.SIGSTOP)
        text, said = finished(device, begun)
    assert text == whole
    assert "has not answered for 2 s" in said
    assert "the cloud is back" in said


@pytest.mark.process
def test_a_link_that_is_cut_for_ten_seconds_changes_nothing(cloud: Cloud, here: Run) -> None:
    whole = here("generate", "--cloud", cloud.address, *ASK).stdout
    with relay(cloud.address, "--delay", "0.02", "--outage", "0.5:10") as (address, _):
        text, _ = finished(asking(address, "--patience", "3"), b"")
    assert text == whole


@pytest.mark.process
def test_alone_the_device_finishes_what_the_cloud_began(
    start_cloud_process: StartCloudProcess,
) -> None:
    """`continue`: the server dies for good, the answer goes on at once, and says which words nobody
    checked.
    """
    server = start_cloud_process("--threads", "1")
    device = asking(server.address, "--on-disconnect", "continue")
    assert device.stdout
    begun = device.stdout.read(30)
    server.process.kill()
    text, said = finished(device, begun)
    assert len(text) > len(begun)
    assert re.search(r"\d+ offline", said)


def test_one_answer_that_connects_anew_does_not_cut_another_short(cloud: Cloud) -> None:
    slm = load(BUNDLED, "slm")
    settings = config_of(system="llm", policy="stream", max_new_tokens=24, on_disconnect="fail")

    async def both() -> tuple[list[int], list[int], int]:
        async with GrpcLink(cloud.address) as link:
            plain = Session(slm, [1, 2, 3], settings, link)
            whole = [emitted.token async for emitted in plain.tokens()]
            session = Session(slm, [1, 2, 3], settings, link)
            async for _ in session.tokens():
                if len(session.token_ids) == 1:
                    await asyncio.gather(link.reach(1), link.reach(1), link.probe())
            return session.token_ids, whole, link.connection

    found, whole, connections = asyncio.run(both())
    assert found == whole
    assert connections == 2


def test_a_connection_that_was_not_asked_to_the_end_is_none() -> None:
    """Behind the address somebody listens and says nothing; whoever asks goes away."""

    async def leave(address: str) -> None:
        link = GrpcLink(address)
        reaching = asyncio.create_task(link.reach(0))
        while not link.connection:  # noqa: ASYNC110
            await asyncio.sleep(0)
        reaching.cancel()
        await asyncio.gather(reaching, return_exceptions=True)
        with pytest.raises(Disconnected):
            await link.open(pb.Open())

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(leave(f"127.0.0.1:{silent.getsockname()[1]}"))
