"""Time to leave out and to detect a packet of 128 tokens, two threads: `make bench-micro` runs it.
Two seconds are the bar.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from research.wireless.masked import BUNDLED_MLM, MaskedLM
from research.wireless.packet import MaskOrder, adaptive_mask, detect, send
from research.wireless.qam import Fade, Qam
from research.wireless.rehearsal import rehearse_mask
from research.wireless.rules import RULES


@pytest.fixture(scope="module")
def lm() -> Iterator[MaskedLM]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield MaskedLM()
    torch.set_num_threads(before)


@pytest.mark.parametrize("snr_db", [0, 5, 10])
@pytest.mark.parametrize("part", [*RULES, "rehearsed", "detect"])
def test_a_packet(benchmark: BenchmarkFixture, lm: MaskedLM, part: str, snr_db: int) -> None:
    ids = lm.ids((BUNDLED_MLM / "held-out.txt").read_text())[1280:1408]
    qam = Qam(4, lm.vocab_size)
    fade = Fade(1.0, 1.0, 10 ** (snr_db / 10))
    masked = adaptive_mask(qam, fade, MaskOrder(lm, ids, "entropy"), len(ids))
    arrival = send(qam, fade, ids, masked, np.random.default_rng(0))
    parts: dict[str, Callable[[], object]] = {
        rule: lambda rule=rule: adaptive_mask(qam, fade, MaskOrder(lm, ids, rule), len(ids))  # type: ignore[misc]
        for rule in RULES
    }
    parts["rehearsed"] = lambda: rehearse_mask(lm, qam, fade, ids, np.random.default_rng(1))
    parts["detect"] = lambda: detect(lm, arrival)
    benchmark.group = f"a packet of 128 tokens, {snr_db} dB"
    benchmark.extra_info["masked"] = len(masked)
    benchmark.pedantic(parts[part], rounds=5, warmup_rounds=1)
