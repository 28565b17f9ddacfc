"""Numbers that are none, faults that would come again, and the files of two models that say
different things.
"""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hedge.cloud_server.engines.batcher import Batcher
from hedge.cloud_server.engines.self_check import Exactness
from hedge.cloud_server.engines.torch_engine import TorchEngine
from hedge.cloud_server.serving.limits import Limits
from hedge.cloud_server.serving.metrics import CloudMetrics
from hedge.cloud_server.serving.servicer import ErrorInterceptor, Servicer
from hedge.common.errors import BadInput, Disconnected, HedgeError, Incompatible
from hedge.common.model import LanguageModel, bundled_folder
from hedge.common.rpc import make_server
from hedge.edge_client.engine.session import Session
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeServicer, add_HedgeServicer_to_server
from tests.configs import config_of
from tests.conftest import MakeFolder
from tests.integration.conftest import Cloud, Run, StartCloud, one_line

SYSTEMS = ("llm", "hlm", "rand-hlm", "u-hlm", "cu-hlm", "gelato", "hedge")
# What calibrations would say.
GATES = {
    "rand-hlm": ("--verify-rate", "0.5"),
    "u-hlm": ("--threshold", "0.1"),
    "cu-hlm": ("--threshold", "0.1", "--k", "3"),
    "gelato": ("--gelato", "acceptance=0.9"),
}


def spoilt(source: Path, folder: Path) -> Path:
    """The same model with a final norm of numbers that are none."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("model.norm.weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folders(make_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    good = make_folder(seed=1)
    bad = make_folder(seed=2)
    root = tmp_path_factory.mktemp("spoilt")
    return {"slm": good, "llm": bad, "nan": spoilt(bad, root / "nan")}


def ask(
    slm: Path,
    cloud: Cloud,
    system: str,
    temperature: str = "0",
    prompt: str = "w1 w2",
    most: int = 12,
) -> tuple[str, ...]:
    where = f"--slm {slm} --cloud {cloud.address} --insecure"
    words = f"generate {where} --system {system} --seed 1".split()
    return (
        *words,
        "--prompt",
        prompt,
        *f"--temperature {temperature} --max-new-tokens {most}".split(),
        *GATES.get(system, ()),
    )


@pytest.fixture(scope="module")
def spoilt_cloud(folders: dict[str, Path], start_cloud: StartCloud) -> Cloud:
    return start_cloud("--llm", str(folders["nan"]), "--threads", "1")


@pytest.mark.parametrize(
    ("system", "temperature"), [*((s, "0") for s in SYSTEMS), ("hedge", "1"), ("cu-hlm", "1")]
)
def test_an_llm_without_numbers_ends_every_answer(
    system: str, temperature: str, spoilt_cloud: Cloud, folders: dict[str, Path], here: Run
) -> None:
    begun = time.monotonic()
    done = here(*ask(folders["slm"], spoilt_cloud, system, temperature))
    one_line(done, 1, "the model gave no finite logits at position ")
    assert time.monotonic() - begun < 20


@pytest.fixture(scope="module")
def sound_cloud(folders: dict[str, Path], start_cloud: StartCloud) -> Cloud:
    return start_cloud("--llm", str(folders["llm"]), "--threads", "1")


@pytest.mark.parametrize("system", [s for s in SYSTEMS if s != "llm"])
def test_an_slm_without_numbers_leaves_the_word_to_the_llm(
    system: str, folders: dict[str, Path], sound_cloud: Cloud, here: Run
) -> None:
    cloud = sound_cloud
    plain = json.loads(here(*ask(folders["slm"], cloud, "llm"), "--json").stdout)
    done = here(*ask(folders["nan"], cloud, system), "--json")
    assert done.returncode == 0
    assert "NaN" not in done.stdout
    answer = json.loads(done.stdout)
    assert answer["token_ids"] == plain["token_ids"]
    assert answer["stats"]["blind"] > 0
    assert [line for line in done.stderr.splitlines() if "finite" in line] == [
        "hedge: the device's model gave no finite logits at position 0: the cloud is asked"
    ]


def test_alone_an_slm_without_numbers_says_so(folders: dict[str, Path], here: Run) -> None:
    done = here(
        "generate", "--slm", str(folders["nan"]), "--system", "slm", "--seed", "1", "--prompt", "w1"
    )
    one_line(done, 1, "the device's model gave no finite logits at position 0")


class Failing(HedgeServicer):
    """A server that says what a real one would, and fails each session in one way. `calls` counts
    them.
    """

    def __init__(self, lm: LanguageModel, code: grpc.StatusCode, line: str) -> None:
        self.lm = lm
        self.code = code
        self.line = line
        self.calls = 0

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: object
    ) -> pb.ServerInfo:
        from hedge.cloud_server.sessions.opening import make_server_info

        return make_server_info(self.lm)

    async def Generate(
        self, requests: AsyncIterator[pb.ClientMessage], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ServerMessage]:  # type: ignore[type-arg]
        self.calls += 1
        yield pb.ServerMessage(opened=pb.Opened(cached_length=1, codec=1, id_codec=1))
        # The opening and a draft: what is written to a call that has ended fails in a way of its
        # own.
        await anext(requests)
        await anext(requests)
        await context.abort(self.code, self.line)


@asynccontextmanager
async def serving(servicer: HedgeServicer) -> AsyncIterator[str]:
    server = make_server(
        lambda made: add_HedgeServicer_to_server(servicer, made), [ErrorInterceptor(CloudMetrics())]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


async def answered(address: str, slm: LanguageModel, in_flight: int = 1) -> Session:
    settings = config_of(
        policy="always",
        verification="coupled",
        exact=True,
        max_new_tokens=8,
        on_disconnect="wait",
        max_in_flight=in_flight,
    )
    async with GrpcLink(address) as link:
        session = Session(slm, [1, 2], settings, link)
        await session.run()
    return session


FINAL = {
    grpc.StatusCode.INTERNAL: HedgeError,
    grpc.StatusCode.UNKNOWN: HedgeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HedgeError,
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.FAILED_PRECONDITION: Incompatible,
    grpc.StatusCode.DATA_LOSS: HedgeError,
    grpc.StatusCode.PERMISSION_DENIED: HedgeError,
}


@pytest.mark.parametrize("code", FINAL)
def test_a_fault_that_would_come_again_is_not_retried(
    code: grpc.StatusCode, make_lm: Callable[..., LanguageModel]
) -> None:
    lm = make_lm()
    servicer = Failing(lm, code, "what the server says")

    async def run() -> None:
        async with serving(servicer) as address:
            await answered(address, lm)

    with pytest.raises(FINAL[code], match="what the server says"):
        asyncio.run(run())
    assert servicer.calls == 1


def test_a_fault_behind_a_burst_of_messages_is_told(make_lm: Callable[..., LanguageModel]) -> None:
    """What is written to a call that has ended hides its status. Opened again, the first verdict is
    waited for.
    """
    lm = make_lm()
    for _ in range(20):
        servicer = Failing(lm, grpc.StatusCode.INTERNAL, "what the server says")

        async def run(servicer: Failing = servicer) -> None:
            async with serving(servicer) as address:
                await answered(address, lm, 8)

        with pytest.raises(HedgeError, match="what the server says"):
            asyncio.run(run())
        assert servicer.calls <= 3


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (grpc.StatusCode.UNAVAILABLE, "draining"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.INTERNAL, "Internal error from Core"),
        (grpc.StatusCode.INTERNAL, "The actor died unexpectedly before finishing this task."),
    ],
)
def test_a_dead_link_is_tried_again(
    code: grpc.StatusCode, line: str, make_lm: Callable[..., LanguageModel]
) -> None:
    lm = make_lm()
    servicer = Failing(lm, code, line)

    async def run() -> None:
        async with serving(servicer) as address:
            running = asyncio.create_task(answered(address, lm))
            while servicer.calls < 3 and not running.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())
    assert servicer.calls >= 3


def test_an_error_of_the_servers_own_code_is_one_line(
    make_lm: Callable[..., LanguageModel],
) -> None:
    """Passes fail with a ValueError: the client is told which, at once, and the next session finds
    the server alive.
    """
    lm = make_lm()

    class Broken(TorchEngine):
        broken = True

        def forward(self, batch: Sequence[object]) -> list[np.ndarray]:
            if self.broken:
                raise ValueError("shapes do not fit\nand more")
            return super().forward(batch)  # type: ignore[arg-type]

    async def run() -> tuple[str, Session]:
        engine = Broken(lm, 1 << 20)  # type: ignore[arg-type]
        batcher = Batcher(engine)
        try:
            async with serving(
                Servicer(lm, batcher, Limits(), exactness=Exactness(1e9, 10))
            ) as address:
                with pytest.raises(HedgeError) as failed:
                    await answered(address, lm)
                engine.broken = False
                return str(failed.value), await answered(address, lm)
        finally:
            batcher.close()

    line, session = asyncio.run(run())
    assert line.endswith("it failed: ValueError: shapes do not fit")
    assert not isinstance(line, Disconnected)
    # Where everything is a near tie, the guarantee says so.
    assert session.statistics.engine == "rounding"
    assert session.statistics.near_ties >= len(session.token_ids)
    assert session.guarantee == f"exact up to {session.statistics.near_ties} near ties"
    assert session.statistics.to_json()["near_ties"] == session.statistics.near_ties


@pytest.fixture
def other_ends(make_folder: MakeFolder) -> tuple[Path, Path]:
    return make_folder(seed=1), make_folder(seed=1, eos=4)


def test_the_llms_files_end_answers_and_a_line_says_so(
    other_ends: tuple[Path, Path], start_cloud: StartCloud, here: Run
) -> None:
    """The same weights on both sides, and only the LLM's files know that 4 ends an answer."""
    slm, llm = other_ends
    cloud = start_cloud("--llm", str(llm), "--threads", "1")
    ended = 0
    for prompt in ("w1 w2", "w3", "w9 w1"):
        for system in ("hedge", "llm"):
            done = here(*ask(slm, cloud, system, "1", prompt=prompt, most=40), "--json")
            assert (
                f"{llm.name} and {slm.name} end answers at different ids, and all of them count: 4 "
                "(the cloud)" in done.stderr
            )
            answer = json.loads(done.stdout)
            assert 4 not in answer["token_ids"][:-1]
            assert (answer["finish_reason"] == "stop") == (answer["token_ids"][-1] == 4)
            ended += answer["finish_reason"] == "stop"
    assert ended > 1


def test_another_chat_template_is_named(tmp_path: Path, cloud: Cloud, here: Run) -> None:
    shutil.copytree(bundled_folder() / "slm", tmp_path / "mine")
    template = tmp_path / "mine" / "chat_template.jinja"
    assert template.exists()
    template.write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")
    ask = (
        "generate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--seed",
        "1",
        "--prompt",
        "Hello",
        "--max-new-tokens",
        "2",
    )
    assert "chat template" not in here(*ask).stderr
    assert (
        "has another chat template than mine: prompts are written by the device's"
        in here(*ask, "--slm", str(tmp_path / "mine")).stderr
    )
