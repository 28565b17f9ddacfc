"""Two replicas behind Ray Serve's proxy, one of them killed in the middle: needs hedge-hlm[ray],
`make test-ray` runs it.
"""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest

from hedge.evaluation.processes import free_port
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub
from tests.integration.conftest import BIN, ENVIRONMENT

CLIENTS = 4


@contextmanager
def deployed(*options: str) -> Iterator[str]:
    command = [
        str(BIN / "hedge-cloud"),
        "deploy",
        *options,
        *f"--insecure --threads 1 --cpus 0.5 --port {free_port()}".split(),
        *f"--http-port {free_port()}".split(),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr
    try:
        found = next(
            found for line in process.stderr if (found := re.search(r"listening on (\S+)", line))
        )
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with deployed("--replicas", "2") as found:
        yield found


def replicas() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and b"ServeReplica:hedge:verifier" in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def asking(address: str, number: int) -> subprocess.Popen[bytes]:
    prompt = f"Tell me a tale about {('a fox', 'a king', 'the sea', 'a wolf')[number]}."
    command = [
        str(BIN / "hedge"),
        "generate",
        "--cloud",
        address,
        "--insecure",
        "--seed",
        str(number),
        "--prompt",
        prompt,
        "--threads",
        "1",
        "--max-new-tokens",
        "200",
    ]
    return subprocess.Popen(
        command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


def test_every_client_finishes_with_the_tokens_it_would_have_had(address: str) -> None:
    whole = [
        client.communicate(timeout=240)[0]
        for client in [asking(address, number) for number in range(CLIENTS)]
    ]
    assert all(len(answer) > 100 for answer in whole)
    clients = [asking(address, number) for number in range(CLIENTS)]
    begun = [client.stdout.read(20) if client.stdout else b"" for client in clients]
    assert len(replicas()) == 2
    os.kill(replicas()[0], signal.SIGKILL)
    done = [client.communicate(timeout=240) for client in clients]
    assert [first + rest for first, (rest, _) in zip(begun, done, strict=True)] == whole
    assert [client.returncode for client in clients] == [0] * CLIENTS
    # Some of them were on the replica that died.
    assert any(b"The actor died" in said and b"the cloud is back" in said for _, said in done)


def test_what_the_servicer_refuses_keeps_its_status(address: str) -> None:
    async def refused() -> tuple[grpc.StatusCode, str]:
        async with grpc.aio.insecure_channel(address) as channel:
            call = HedgeStub(channel).Generate()
            await call.write(pb.ClientMessage(draft=pb.Draft()))
            return await call.code(), str(await call.details())

    code, details = asyncio.run(refused())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "a stream begins with open, not draft" in details
