"""The server as an operator runs it: who gets in, what it says of itself, how it stops."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hedge.cloud_server.serving.access import entry, new_token
from hedge.common.loading import load
from hedge.common.rpc import split_address
from hedge.evaluation.processes import free_port, run_program
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub
from tests.cloud_server.test_session import drafting, opening
from tests.conftest import MakeFolder
from tests.integration.conftest import (
    BIN,
    ENVIRONMENT,
    Run,
    StartCloud,
    StartCloudProcess,
    one_line,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(make_folder: MakeFolder) -> tuple[str, str]:
    return str(make_folder(seed=1)), str(make_folder(seed=2))


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs") / "made"
    subprocess.run(
        ["sh", "tools/certs.sh", str(folder), "127.0.0.1"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def expired(certs: Path, name: str, usage: str, folder: Path) -> str:
    """A certificate of the authority for the key of `name` that ended long ago."""
    folder.mkdir()
    (folder / "index").touch()
    (folder / "usage").write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=own\n[own]\npolicy=any\ndefault_md=sha256\nrand_serial=yes\n[any]\ncommonName=supplied\n"
        f"[own]\ndatabase={folder}/index\nnew_certs_dir={folder}\n"
    )
    request = folder / "request"
    made = folder / f"{name}.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-key",
            certs / f"{name}.key",
            "-subj",
            f"/CN={name}",
            "-out",
            request,
        ],
        check=True,
    )
    subprocess.run(
        [
            "openssl",
            "ca",
            "-batch",
            "-notext",
            "-config",
            folder / "ca.cnf",
            "-cert",
            certs / "ca.pem",
            "-keyfile",
            certs / "ca.key",
            "-in",
            request,
            "-out",
            made,
            "-extfile",
            folder / "usage",
            "-startdate",
            "20240101000000Z",
            "-enddate",
            "20240201000000Z",
        ],
        check=True,
        capture_output=True,
    )
    return str(made)


def asking(folders: tuple[str, str], address: str) -> tuple[str, ...]:
    return (
        "generate",
        "--slm",
        folders[0],
        "--cloud",
        address,
        "--prompt",
        "w1 w2",
        *"--threshold 0.5 --max-new-tokens 8 --seed 1".split(),
    )


@pytest.mark.process
def test_only_known_devices_are_let_in(
    folders: tuple[str, str],
    certs: Path,
    start_cloud_process: StartCloudProcess,
    here: Run,
    tmp_path: Path,
) -> None:
    tokens = tmp_path / "tokens"
    mine = tmp_path / "mine"
    wrong = tmp_path / "wrong"
    first = new_token()
    second = new_token()
    tokens.write_text(entry("phone", first))
    mine.write_text(first + "\n")
    wrong.write_text(second)
    secured = ("--tls-cert", str(certs / "server.pem"), "--tls-key", str(certs / "server.key"))
    operator = ("--http", "127.0.0.1:0", "--threads", "1", "--verbose")
    cloud = start_cloud_process("--llm", folders[1], *secured, "--tokens", str(tokens), *operator)
    ask = asking(folders, cloud.address)
    trust = ("--tls-ca", str(certs / "ca.pem"))
    assert here(*ask, *trust, "--token-file", str(mine)).returncode == 0
    one_line(here(*ask, *trust), 1, "no token: give --token-file")
    one_line(here(*ask, *trust, "--token-file", str(wrong)), 1, "not known")
    one_line(here(*ask, "--insecure", "--token-file", str(mine)), 1, "no Hedge cloud answers")
    one_line(
        here(*ask, "--tls-ca", str(certs / "device.pem"), "--token-file", str(mine)),
        1,
        "no Hedge cloud answers",
    )
    tokens.write_text(entry("robot", second))
    cloud.process.send_signal(signal.SIGHUP)
    # The server says when it has read them.
    assert cloud.process.stderr
    log = ""
    while "1 tokens" not in log:
        log += cloud.process.stderr.readline()
    one_line(here(*ask, *trust, "--token-file", str(mine)), 1, "not known")
    assert here(*ask, *trust, "--token-file", str(wrong)).returncode == 0
    assert (
        'hedge_cloud_refusals_total{reason="unauthenticated"} 3.0'
        in get(f"http://{cloud.http}/metrics")[1].splitlines()
    )
    cloud.process.send_signal(signal.SIGTERM)
    log += cloud.process.stderr.read()
    assert "session=" in log
    assert "client=robot" in log
    assert not [secret for secret in (first, second, "w1 w2") if secret in log]


def test_mutual_tls_asks_for_a_certificate_of_the_device(
    folders: tuple[str, str], certs: Path, start_cloud: StartCloud, here: Run, tmp_path: Path
) -> None:
    cloud = start_cloud(
        "--llm",
        folders[1],
        "--tls-cert",
        str(certs / "server.pem"),
        "--tls-key",
        str(certs / "server.key"),
        "--client-ca",
        str(certs / "ca.pem"),
        "--threads",
        "1",
    )
    ask = (*asking(folders, cloud.address), "--tls-ca", str(certs / "ca.pem"))
    assert (
        here(
            *ask, "--tls-cert", str(certs / "device.pem"), "--tls-key", str(certs / "device.key")
        ).returncode
        == 0
    )
    one_line(here(*ask), 1, "no Hedge cloud answers")
    old = expired(certs, "device", "clientAuth", tmp_path / "device")
    one_line(
        here(*ask, "--tls-cert", old, "--tls-key", str(certs / "device.key")),
        1,
        "no Hedge cloud answers",
    )


def test_a_server_whose_certificate_has_expired_is_not_believed(
    folders: tuple[str, str], certs: Path, start_cloud: StartCloud, here: Run, tmp_path: Path
) -> None:
    old = expired(certs, "server", "serverAuth", tmp_path / "server")
    cloud = start_cloud(
        "--llm",
        folders[1],
        "--tls-cert",
        old,
        "--tls-key",
        str(certs / "server.key"),
        "--threads",
        "1",
    )
    one_line(
        here(*asking(folders, cloud.address), "--tls-ca", str(certs / "ca.pem")),
        1,
        "no Hedge cloud answers",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--insecure"),
        (("--insecure", "--tls-ca", "x"), "exclude each other"),
        (("--insecure", "--tls-cert", "x"), "need --tls-ca"),
        (("--tls-ca", "/nowhere.pem"), "/nowhere.pem"),
        (("--tls-ca", __file__), "not PEM"),
        (("--insecure", "--token-file", "/nowhere"), "/nowhere"),
        (
            ("--insecure", "--cloud", "192.0.2.1:7", "--token-file", __file__),
            "readable on the way to 192.0.2.1:7",
        ),
        (("--insecure", "--token-file", __file__), "does not hold one token"),
    ],
)
def test_bad_connections_are_refused_in_one_line(
    arguments: tuple[str, ...], words: str, folders: tuple[str, str], here: Run
) -> None:
    one_line(here(*asking(folders, "127.0.0.1:9"), *arguments), 2, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--insecure"),
        (("--insecure", "--tls-cert", "a", "--tls-key", "b"), "exclude"),
        (("--tls-cert", "a"), "belong together"),
        (("--insecure", "--client-ca", "a"), "--client-ca needs"),
        (("--insecure", "--listen", "0.0.0.0:0", "--tokens", "a"), "readable on the way"),
        (("--insecure", "--tokens", "/nowhere"), "/nowhere"),
        (("--insecure", "--max-streams", "-1"), "streams -1"),
        (("--insecure", "--batch-positions", "1"), "batch-positions 1"),
        (("--insecure", "--http", "nonsense"), "nonsense"),
    ],
)
def test_bad_server_options_are_refused_in_one_line(
    arguments: tuple[str, ...], words: str, here: Run
) -> None:
    one_line(here("serve", *arguments, program="hedge-cloud"), 2, words)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (("--max-streams", "1"), "1 streams"),
        (("--max-kv-bytes", "3500"), "bytes of keys and values"),
    ],
)
def test_a_full_server_says_when_to_come_back(
    limit: tuple[str, str], words: str, folders: tuple[str, str], start_cloud: StartCloud, here: Run
) -> None:
    """An id takes 256 bytes of keys and values here (2 x 2 layers x 2 heads x 8 x 4): a session of
    8 ids fits, or an answer.
    """
    cloud = start_cloud("--llm", folders[1], *limit, "--threads", "1")
    lm = load(folders[1], "llm")

    async def second_stream() -> pb.ServerMessage:
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            streams = [HedgeStub(channel).Generate() for _ in range(2)]
            answers = []
            # A grammar takes time to read, and this one is none: a full server does not look at it.
            for stream, processors in zip(
                streams, ({}, {"processors": pb.LogitsProcessors(grammar="none")}), strict=True
            ):
                await stream.write(
                    pb.ClientMessage(open=opening(lm, prompt_ids=[1] * 8, **processors))
                )
                answers.append(await stream.read())
            assert answers[0].WhichOneof("kind") == "opened"
            return answers[1]

    throttle = asyncio.run(second_stream()).throttle
    assert throttle.retry_after_ms > 0
    assert words in throttle.reason
    assert here(*asking(folders, cloud.address), "--insecure").returncode == 0


@pytest.mark.parametrize(
    ("limit", "opens", "words"),
    [
        ("--max-open-s", False, "the opening took longer than 0.2 s"),
        ("--max-idle-s", True, "the next message took longer than 0.2 s"),
    ],
)
def test_a_client_that_says_nothing_is_not_waited_for(
    limit: str, opens: bool, words: str, folders: tuple[str, str], start_cloud: StartCloud
) -> None:
    cloud = start_cloud("--llm", folders[1], limit, "0.2", "--threads", "1")
    lm = load(folders[1], "llm")

    async def silent() -> tuple[grpc.StatusCode, str, pb.ServerInfo]:
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            stub = HedgeStub(channel)
            call = stub.Generate()
            if opens:
                await call.write(pb.ClientMessage(open=opening(lm)))
                # The status comes after what was not read.
                assert isinstance(await call.read(), pb.ServerMessage)
            return (
                await call.code(),
                str(await call.details()),
                await stub.GetServerInfo(pb.GetServerInfoRequest()),
            )

    code, details, info = asyncio.run(silent())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details == words
    assert info.open_sessions == 0


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("--max-step-s", "the verdict took longer than 1e-06 s"),
        ("--max-session-s", "the session took longer than 1e-06 s"),
    ],
)
def test_what_takes_too_long_is_ended(
    limit: str, words: str, folders: tuple[str, str], start_cloud: StartCloud
) -> None:
    cloud = start_cloud("--llm", folders[1], limit, "1e-6", "--threads", "1")
    lm = load(folders[1], "llm")

    async def ended() -> tuple[grpc.StatusCode, str, int]:
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            stub = HedgeStub(channel)
            call = stub.Generate()
            await call.write(pb.ClientMessage(open=opening(lm)))
            if limit == "--max-session-s":
                # The other limit ends the opening already, and a write on a call that has ended is
                # an error of its own.
                await call.write(pb.ClientMessage(draft=drafting([1])))
            # The status comes after what was not read.
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
            return await call.code(), str(await call.details()), info.open_sessions

    assert asyncio.run(ended()) == (grpc.StatusCode.UNAVAILABLE, words, 0)


@pytest.mark.process
def test_a_disk_that_is_full_of_logs_stops_nothing(folders: tuple[str, str], here: Run) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(BIN / "hedge-cloud"),
        "serve",
        "--llm",
        folders[1],
        "--insecure",
        "--listen",
        address,
        "--verbose",
    ]
    with Path("/dev/full").open("w") as full:
        server = subprocess.Popen(command, stderr=full, env=ENVIRONMENT)

    async def up() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            await HedgeStub(channel).GetServerInfo(
                pb.GetServerInfoRequest(), wait_for_ready=True, timeout=60
            )

    try:
        asyncio.run(up())
        assert here(*asking(folders, address), "--insecure").returncode == 0
    finally:
        server.terminate()
    assert server.wait(20) == 0


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.process
def test_health_reflection_metrics_and_a_drain(
    folders: tuple[str, str], start_cloud_process: StartCloudProcess, here: Run
) -> None:
    """SIGTERM: what is open finishes, nothing new is taken, and the exit status is 0."""
    cloud = start_cloud_process("--llm", folders[1], "--http", "127.0.0.1:0", "--threads", "1")
    lm = load(folders[1], "llm")
    assert here(*asking(folders, cloud.address), "--insecure").returncode == 0
    assert get(f"http://{cloud.http}/healthz") == (200, "ok\n")
    assert get(f"http://{cloud.http}/readyz") == (200, "ready\n")
    status, text = get(f"http://{cloud.http}/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["hedge_cloud_positions_total"]) > 0
    assert float(values["hedge_cloud_verdict_seconds_count"]) > 0
    assert float(values["hedge_cloud_kv_bytes"]) == 0 < float(values["hedge_cloud_kv_budget_bytes"])

    async def drained() -> None:
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="hedge.v1.Hedge"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            named = {
                service.name
                async for one in listing
                for service in one.list_services_response.service
            }
            assert "hedge.v1.Hedge" in named
            stream = HedgeStub(channel).Generate()
            await stream.write(pb.ClientMessage(open=opening(lm)))
            assert (await stream.read()).WhichOneof("kind") == "opened"
            changes = health.Watch(health_pb2.HealthCheckRequest())
            assert (await changes.read()).status == health_pb2.HealthCheckResponse.SERVING
            cloud.process.send_signal(signal.SIGTERM)
            assert (await changes.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            changes.cancel()
            await stream.write(pb.ClientMessage(draft=drafting([1])))
            assert (await stream.read()).WhichOneof("kind") == "verdict"
            await stream.write(pb.ClientMessage(close=pb.Close()))
            assert await stream.read() is grpc.aio.EOF

    asyncio.run(drained())
    assert cloud.process.wait(20) == 0


@pytest.mark.parametrize(("options", "found"), [((), 32), (("--no-prefix-sharing",), 0)])
def test_a_prompt_that_was_seen_is_found_unless_told_otherwise(
    options: tuple[str, ...], found: int, folders: tuple[str, str], start_cloud: StartCloud
) -> None:
    cloud = start_cloud("--llm", folders[1], "--http", "127.0.0.1:0", "--threads", "1", *options)
    request = pb.ClientMessage(open=opening(load(folders[1], "llm"), prompt_ids=[1, 2, 3, 4] * 10))

    async def opened() -> None:
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            stream = HedgeStub(channel).Generate()
            await stream.write(request)
            assert (await stream.read()).opened.cached_length == 39
            await stream.write(pb.ClientMessage(close=pb.Close()))
            assert await stream.read() is grpc.aio.EOF

    for _ in range(2):
        asyncio.run(opened())
    assert (
        f"hedge_cloud_found_tokens_total {found:.1f}"
        in get(f"http://{cloud.http}/metrics")[1].splitlines()
    )


def test_a_load_test_tells_latencies_and_batches(start_cloud: StartCloud, here: Run) -> None:
    cloud = start_cloud("--threads", "1", "--http", "127.0.0.1:0")
    done = here(
        "loadtest",
        "--cloud",
        cloud.address,
        "--http",
        cloud.http,
        "--devices",
        "6",
        "--seconds",
        "5",
        program="hedge-cloud",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["errors"] == found["throttled"] == 0
    # How many depends on the machine.
    assert found["verdicts"] > 0
    assert found["sessions_per_pass"] >= 1
    assert found["positions_per_pass"] >= found["sessions_per_pass"]
    assert sum(found["batches"].values()) == found["passes"]
    assert (
        0 < found["verdict_ms"]["p50"] <= found["verdict_ms"]["p99"] <= found["verdict_ms"]["max"]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("loadtest", "--cloud", "192.0.2.1:7"), "this machine only"),
        (("loadtest", "--devices", "0"), "devices 0"),
        (("loadtest", "--seconds", "inf"), "seconds inf"),
        (("loadtest", "--drafts", "/nowhere"), "/nowhere"),
        (("loadtest", "--drafts", __file__), "no recording"),
        (
            ("loadtest", "--drafts", str(Path(__file__).parent / "empty_prompt.jsonl")),
            "no token ids",
        ),
        (("deploy",), "--insecure"),
        (("deploy", "--insecure", "--replicas", "0"), "replicas 0"),
        (("deploy", "--insecure", "--streams-per-replica", "0"), "streams-per-replica 0"),
        (("deploy", "--insecure", "--replicas", "3", "--max-replicas", "2"), "max-replicas 2"),
        (("token", "a b"), "'a b'"),
    ],
)
def test_bad_use_of_the_other_commands_is_one_line(
    arguments: tuple[str, ...], words: str, here: Run
) -> None:
    one_line(here(*arguments, program="hedge-cloud"), 2, words)


SAYS_MUCH = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print("listening on 127.0.0.1:%d" % server.getsockname()[1], file=sys.stderr, flush=True)
    sys.stderr.write("a line that nobody asked for\\n" * 20_000)
    server.accept()[0].sendall(b"here")
"""


def test_a_program_that_says_much_is_not_held_up() -> None:
    """More than a pipe holds (64 KiB)."""
    with run_program("python", "-c", SAYS_MUCH) as address:
        host, port = split_address(address)
        with socket.create_connection((host, port), 20) as connection:
            connection.settimeout(20)
            assert connection.recv(4) == b"here"
