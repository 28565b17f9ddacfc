"""Time of the parts, by vocabulary: `make bench-micro` runs it, not `make test`. One core; probs as
sharp as a model's.
"""

import asyncio
import math
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hedge.common import codec
from hedge.common.coupling import draw_coupled
from hedge.common.distribution import Quantised
from hedge.common.ids import PRIMED, id_codec
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp
from hedge.edge_client.engine.gates.measures import MEASURES
from hedge.edge_client.engine.session import Session
from hedge.edge_client.engine.verification.truncation import truncate
from hedge.evaluation.local import LocalLink
from hedge.evaluation.tasks import read_tasks
from tests.configs import config_of
from tests.conftest import RememberingLM

SIZES = (4096, 32_000, 152_000)
NONE = np.empty(0)
NOISE = Noise(1, [1])


def logits(size: int) -> np.ndarray:
    """A few dozen likely tokens above a broad floor."""
    found = (np.random.default_rng(0).normal(size=size) * 3).astype(np.float32)
    found[:40] += np.linspace(18, 8, 40, dtype=np.float32)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "part",
    ["warp", "top1, truncate, encode", "decode", "expected_perturbation", "noise", "coupled draw"],
)
def test_part(benchmark: BenchmarkFixture, part: str, size: int) -> None:
    z = logits(size)
    x = Warp()(z)
    payload = codec.encode(truncate(x, 30, 12))

    def asked() -> bytes:
        MEASURES["top1"].of(z, x, -1, NONE)
        return codec.encode(truncate(x, 30, 12))

    parts: dict[str, Callable[[], object]] = {
        "warp": lambda: Warp()(z),
        "top1, truncate, encode": asked,
        "decode": lambda: codec.decode(payload, size),
        "expected_perturbation": lambda: MEASURES["expected_perturbation"].of(z, x, -1, NONE),
        "noise": lambda: NOISE.integers(Purpose.TARGET, 7, 0, size),
        "coupled draw": lambda: draw_coupled(NOISE, 7, x),
    }
    benchmark.group = f"|V| = {size}"
    benchmark(parts[part])


def floor(probs: Quantised) -> float:
    """Bytes that name the support, and its counts by their own entropy (docs/algorithms.md, section
    3).
    """
    kept = len(probs.ids)
    support = (
        math.lgamma(probs.vocab_size + 1)
        - math.lgamma(kept + 1)
        - math.lgamma(probs.vocab_size - kept + 1)
    )
    # Every way to write 2^bits as so many counts and a tail is as likely as any other.
    total = 1 << probs.bits
    values = math.lgamma(total + 1) - math.lgamma(kept + 1) - math.lgamma(total - kept + 1)
    return (support + values) / math.log(2) / 8


@pytest.mark.parametrize("size", SIZES)
def test_payload_against_its_entropy(benchmark: BenchmarkFixture, size: int) -> None:
    rng = np.random.default_rng(1)
    targets = []
    for _ in range(50):
        z = logits(size)
        targets.append(truncate(Warp()(rng.permutation(z)), 30, 12))
    sizes = [len(codec.encode(probs)) for probs in targets]
    benchmark.group = f"|V| = {size}"
    benchmark.extra_info["bytes"] = float(np.mean(sizes))
    benchmark.extra_info["floor"] = float(np.mean([floor(probs) for probs in targets]))
    benchmark(codec.encode, targets[0])


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, LanguageModel]:
    return RememberingLM(load(BUNDLED, "slm")), RememberingLM(load(BUNDLED, "llm"))


@pytest.mark.parametrize("system", ["slm", "hedge", "cu-hlm"])
def test_session_without_its_models(
    benchmark: BenchmarkFixture, system: str, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    """Both sides of an answer whose logits are remembered: what is left is ours. Microseconds a
    token are in extra_info.
    """
    settings = {
        "slm": config_of(policy="never", seed=1),
        "hedge": config_of(
            policy="threshold",
            measure="expected_perturbation",
            threshold=0.15,
            verification="coupled",
            exact=True,
        ),
        "cu-hlm": config_of(
            policy="threshold", measure="perturbation", threshold=0.3, truncation="fixed"
        ),
    }[system]
    slm, llm = pair
    prompt = slm.encode_chat(read_tasks(None, 1, 0)[0].prompt.messages)
    link = LocalLink(llm)

    def answer() -> int:
        session = Session(slm, prompt, settings, link)

        async def drain() -> None:
            await session.run()

        asyncio.run(drain())
        return session.statistics.tokens

    tokens = answer()
    benchmark.group = "an answer without its models"
    benchmark.extra_info["tokens"] = tokens
    benchmark(answer)


def test_ids(benchmark: BenchmarkFixture, pair: tuple[LanguageModel, LanguageModel]) -> None:
    """A message of six ids, written and read."""
    lm = pair[0]
    writer, reader = (id_codec(PRIMED, lm.vocab_size, lm.primer) for _ in range(2))
    history = list(lm.primer[:60])
    ids = list(lm.primer[60:66])
    benchmark.group = "ids"
    benchmark(lambda: reader.decode(history, writer.encode(history, ids), 64))
