"""Rows that are bitwise the same in any company, and the self-check of that."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from hedge.cloud_server.engines.base import Engine
from hedge.cloud_server.engines.block_manager import BLOCK_SIZE
from hedge.cloud_server.engines.loading import build_engine
from hedge.cloud_server.engines.row_sizes import find_row_sizes
from hedge.cloud_server.engines.scheduler import BlockTable, ScheduledChunk, Scheduler, Work
from hedge.cloud_server.engines.self_check import Exactness, run_self_check
from hedge.cloud_server.engines.torch_engine import TorchEngine
from hedge.common.errors import Incompatible
from hedge.common.loading import load
from hedge.common.torch_model import TorchModel
from tests.cloud_server.test_batcher import KINDS
from tests.conftest import _tokenizer
from tests.effort import scaled

WIDTH = 128
VOCAB = 300
# In the middle of a test: prompts of one token more than a tile of keys, and blocks of a few
# drafts.
LENGTHS = (40, 70, 513, 530, 90, 17)


PLAIN = {"vocab_size": 64, "eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
}


def random_ways(
    engine: Engine, texts: Sequence[Sequence[int]], positions: int
) -> dict[tuple[int, int], np.ndarray]:
    """Sessions over `texts` that grow, roll back and are evicted at random. Each row of text
    `number` after id `at`, and equal rows once only: a second one that differs is kept under -1 -
    `at`.
    """
    rng = np.random.default_rng(1)
    scheduler = Scheduler(engine.block_manager, positions, engine.most_sessions)
    tables = [BlockTable() for _ in texts]
    rows: dict[tuple[int, int], np.ndarray] = {}
    for _ in range(scaled(30, 20)):
        works: dict[BlockTable, int] = {}
        for number, (one, text) in enumerate(zip(tables, texts, strict=True)):
            if one.length and rng.random() < 0.3:
                scheduler.rollback(one, max(0, one.length - int(rng.integers(0, 80))))
            end = min(len(text), one.length + int(rng.integers(1, 90)))
            if end > one.length and rng.random() < 0.7:
                scheduler.add(Work(one, text[:end], end - one.length))
                works[one] = number
        while batch := scheduler.batch():
            for chunk, found in zip(batch, engine.forward(batch), strict=True):
                for at, row in enumerate(found, chunk.end - chunk.rows):
                    known = rows.setdefault((works[chunk.work.table], at), row)
                    if not np.array_equal(known, row):
                        rows[works[chunk.work.table], -1 - at] = row
                scheduler.done(chunk)
    assert scheduler.evicted > 3
    for one in tables:
        scheduler.release(one)
    return rows


def singly(engine: Engine, text: Sequence[int]) -> np.ndarray:
    """The rows of a text that is fed id by id, alone."""
    table = BlockTable(
        blocks=engine.block_manager.allocate(engine.block_manager.needed(len(text))) or []
    )
    found = []
    for end in range(1, len(text) + 1):
        found += engine.forward([ScheduledChunk(Work(table, text[:end], 1), end - 1, end)])
        table.length = end
    engine.block_manager.free(table.blocks)
    table.length = 0
    return np.concatenate(found)


def same_bits(engine: Engine, texts: Sequence[Sequence[int]], positions: int) -> int:
    """Every row of `random_ways` has the bits of one by one; how many there were."""
    rows = random_ways(engine, texts, positions)
    alone = [singly(engine, text) for text in texts]
    for (number, at), row in rows.items():
        assert at >= 0, f"id {-1 - at} of text {number} came out in two ways"
        assert np.array_equal(row, alone[number][at]), f"id {at} of text {number}"
    return len(rows)


def texts_of(lengths: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [[int(token) for token in rng.integers(0, VOCAB, length)] for length in lengths]


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, dtype) for kind in KINDS for dtype in ("float32", "bfloat16")), ("llama", "float16")],
)
def test_rows_are_the_same_bits_in_any_company(
    kind: str, dtype: str, make_lm: Callable[..., TorchModel]
) -> None:
    lm = make_lm(kind=kind, seed=3, width=WIDTH, vocab=VOCAB, context=640, dtype=dtype)
    lengths = LENGTHS if kind == "llama" else [min(length, 100) for length in LENGTHS]
    # Not enough for all of them.
    engine = TorchEngine(lm, sum(lengths) * 2 // 3 * lm.token_bytes, reproducible=True)
    assert engine.sizes
    assert same_bits(engine, texts_of(lengths), 150) > 200


def test_a_bucket_that_does_not_agree_is_seen(make_lm: Callable[..., TorchModel]) -> None:
    """The same test with sizes of other kernels among the engine's own: it does see what it looks
    for.
    """
    lm = make_lm(seed=3, width=WIDTH, vocab=VOCAB, dtype="float32")
    engine = TorchEngine(lm, 16 * BLOCK_SIZE * lm.token_bytes, reproducible=True)
    missing = [size for size in range(1, 64) if size not in engine.sizes]
    engine.sizes = tuple(sorted({*engine.sizes, *missing}))
    texts = texts_of([60] * 6)
    rows = random_ways(engine, texts, 64)
    alone = [singly(engine, text) for text in texts]
    same = all(
        at >= 0 and np.array_equal(row, alone[number][at]) for (number, at), row in rows.items()
    )
    # Where every number of rows has the same kernel there is nothing to see.
    assert same == (set(range(1, 8)) <= set(find_row_sizes(lm.model)))


# What some sessions do at once: each rolls back by so many ids, and then says so many times a word.
Round = dict[int, tuple[int, int, int]]
ROUND = st.dictionaries(
    st.integers(0, 3),
    st.tuples(st.integers(0, 40), st.integers(1, 60), st.integers(0, 1)),
    min_size=1,
)
# The first one is found by two others, of which one rolls back into what it shares; then one by one
# is evicted.
SHARING: list[Round] = [
    {0: (0, 60, 1)},
    {1: (0, 60, 1), 2: (0, 80, 1)},
    {2: (70, 9, 0)},
    {0: (0, 90, 0), 1: (20, 60, 0)},
]


def played(
    scheduler: Scheduler, engine: TorchEngine, rounds: Sequence[Round]
) -> Iterator[tuple[ScheduledChunk, np.ndarray]]:
    """Every chunk and its rows."""
    tables = [BlockTable() for _ in range(4)]
    texts: list[list[int]] = [[] for _ in tables]
    for one in rounds:
        for number, (back, more, word) in one.items():
            table = tables[number]
            kept = texts[number][: max(0, len(texts[number]) - back)]
            texts[number] = [*kept, *[word] * more][:120]
            scheduler.rollback(table, min(table.length, len(kept)))
            if (missing := len(texts[number]) - table.length) > 0:
                scheduler.add(Work(table, texts[number], min(9, missing)))
        while batch := scheduler.batch():
            yield from zip(batch, engine.forward(batch), strict=True)
            for chunk in batch:
                scheduler.done(chunk)
    for table in tables:
        scheduler.release(table)


@pytest.fixture(scope="module")
def sharing(
    make_lm: Callable[..., TorchModel],
) -> tuple[TorchEngine, Callable[[tuple[int, ...]], np.ndarray]]:
    """An engine whose memory holds two of four sessions, and all rows of a text, from one that
    shares nothing.
    """
    lm = make_lm(seed=3, width=WIDTH, vocab=VOCAB, context=128, dtype="float32")
    engine, other = (
        TorchEngine(lm, blocks * BLOCK_SIZE * lm.token_bytes, reproducible=True)
        for blocks in (14, 9)
    )
    assert engine.sizes

    @cache
    def alone(text: tuple[int, ...]) -> np.ndarray:
        scheduler = Scheduler(other.block_manager)
        table = BlockTable()
        scheduler.add(Work(table, text, len(text)))
        found = []
        while batch := scheduler.batch():
            found += other.forward(batch)
            scheduler.done(batch[0])
        scheduler.release(table)
        return np.concatenate(found)

    return engine, alone


# Minutes: on a slow machine, beside other work, more than the five that other tests have.
@pytest.mark.timeout(900)
@settings(max_examples=25)
@example(SHARING)
@given(st.lists(ROUND, min_size=2, max_size=8))
def test_rows_behind_shared_blocks_are_the_same_bits(
    sharing: tuple[TorchEngine, Callable[[tuple[int, ...]], np.ndarray]], rounds: list[Round]
) -> None:
    engine, alone = sharing
    scheduler = Scheduler(engine.block_manager, 100, sharing=True)
    found = 0
    for chunk, rows in played(scheduler, engine, rounds):
        expected = alone(tuple(chunk.work.ids))
        assert np.array_equal(rows, expected[chunk.end - chunk.rows : chunk.end])
        found += chunk.found
    assert rounds != SHARING or (found >= 2 * 48 and scheduler.evicted)
    assert engine.block_manager.used == 0


@pytest.mark.statistics
@pytest.mark.parametrize("threads", [3, 4])
def test_rows_are_the_same_bits_with_several_threads(threads: int, tmp_path: Path) -> None:
    """A width that torch cuts between its threads: what is over a whole vector would go through
    other code.
    """
    torch.manual_seed(0)
    shape = SHAPE | {"intermediate_size": 8960, "hidden_size": 256}
    LlamaForCausalLM(LlamaConfig(initializer_range=0.08, **shape, **PLAIN)).save_pretrained(
        tmp_path / "wide"
    )  # type: ignore[operator]
    _tokenizer(64).save_pretrained(tmp_path / "wide")
    lm = load(str(tmp_path / "wide"), "llm")
    assert isinstance(lm, TorchModel)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = TorchEngine(lm, 12 * BLOCK_SIZE * lm.token_bytes, reproducible=True)
        assert engine.sizes
        texts = [[token % 64 for token in text] for text in texts_of([60] * 4)]
        rows = random_ways(engine, texts, 64)
        alone = [singly(engine, text) for text in texts]
    finally:
        torch.set_num_threads(before)
    assert all(
        at >= 0 and np.array_equal(row, alone[number][at]) for (number, at), row in rows.items()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_self_check_says_what_the_engine_does(
    dtype: str, make_lm: Callable[..., TorchModel]
) -> None:
    lm = make_lm(seed=3, width=WIDTH, vocab=VOCAB, dtype=dtype)
    engine = build_engine(lm, 60 * BLOCK_SIZE * lm.token_bytes, reproducible=True)
    found = run_self_check(engine, lm)
    assert found.bitwise
    assert found.rows > 20
    assert engine.block_manager.used == 0
    plain = run_self_check(
        build_engine(lm, 60 * BLOCK_SIZE * lm.token_bytes, reproducible=False), lm
    )
    assert plain.difference < (1e-3 if dtype == "float32" else 2.0)
    assert dtype == "bfloat16" or not plain.bitwise
    assert ("bitwise" if plain.bitwise else "rounding") in str(plain)


def test_half_precision_is_reproducible_unless_told_otherwise(
    make_lm: Callable[..., TorchModel],
) -> None:
    for dtype, expected in (("bfloat16", True), ("float16", True), ("float32", False)):
        lm = make_lm(width=64, dtype=dtype)
        for wanted in (None, True, False):
            engine = build_engine(lm, 8 * BLOCK_SIZE * lm.token_bytes, reproducible=wanted)
            assert isinstance(engine, TorchEngine)
            assert bool(engine.sizes) == (expected if wanted is None else wanted)


def test_little_memory_short_passes_and_short_contexts_can_be_checked(
    make_lm: Callable[..., TorchModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm()
    assert run_self_check(build_engine(lm, 2 * BLOCK_SIZE * lm.token_bytes), lm).rows > 10
    assert run_self_check(build_engine(lm, 20 * BLOCK_SIZE * lm.token_bytes, 8), lm, 8).rows > 10
    short = make_lm(context=2)
    with monkeypatch.context() as hurried:
        hurried.setattr("hedge.cloud_server.engines.self_check.SECONDS", -1)
        engine = build_engine(lm, 20 * BLOCK_SIZE * lm.token_bytes)
        assert 0 < run_self_check(engine, lm).rows < 10
        assert engine.block_manager.used == 0
    monkeypatch.setattr("hedge.cloud_server.engines.self_check.IDS", 3)
    assert 0 < run_self_check(engine, lm).rows < 10
    assert run_self_check(build_engine(short, 20 * BLOCK_SIZE * lm.token_bytes), short).rows == 0


class Meddling:
    """An engine whose sessions change each other's rows by a little."""

    def __init__(self, engine: TorchEngine, by: float) -> None:
        self._engine = engine
        self._by = by
        self.block_manager = engine.block_manager
        self.most_sessions = None
        self.token_bytes = engine.token_bytes
        self.prefix_sharing = engine.prefix_sharing

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        return [
            rows + np.float32(self._by * (len(batch) - 1)) for rows in self._engine.forward(batch)
        ]


@pytest.mark.parametrize("by", [1e-3, 100.0])
def test_rounding_is_measured_and_more_than_rounding_refused(
    by: float, make_lm: Callable[..., TorchModel]
) -> None:
    lm = make_lm(width=64, vocab=VOCAB)
    meddling = Meddling(TorchEngine(lm, 60 * BLOCK_SIZE * lm.token_bytes), by)
    if by < 1:
        found = run_self_check(meddling, lm)
        assert 1e-3 < found.difference < 3e-3
        with pytest.raises(Incompatible, match="--reproducible cannot be had with"):
            run_self_check(meddling, lm, 256, reproducible=True)
    else:
        with pytest.raises(
            Incompatible, match="change by more than rounding beside other sessions"
        ):
            run_self_check(meddling, lm)


def rotary(kind: str, **more: object) -> torch.nn.Module:
    turned = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0, **more}
    return LlamaForCausalLM(LlamaConfig(rope_parameters=turned, **SHAPE, **PLAIN))


ODD: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "ALiBi": (
        lambda: BloomForCausalLM(BloomConfig(hidden_size=64, n_layer=2, n_head=2, **PLAIN)),
        "a pass over several sessions fails, ValueError",
    ),
    "dynamic": (lambda: rotary("dynamic"), r"rotary embeddings \(dynamic\) change with the length"),
    "longrope": (
        lambda: rotary(
            "longrope",
            short_factor=[1.0] * 8,
            long_factor=[2.0] * 8,
            original_max_position_embeddings=64,
        ),
        r"rotary embeddings \(longrope\) change with the length",
    ),
    "soft caps": (
        lambda: Gemma2ForCausalLM(
            Gemma2Config(head_dim=16, layer_types=["full_attention"] * 2, **SHAPE, **PLAIN)
        ),
        "its attention takes softcap",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_models_whose_sessions_would_change_each_other_are_refused_by_name(
    kind: str, tmp_path: Path
) -> None:
    build, line = ODD[kind]
    torch.manual_seed(0)
    build().save_pretrained(tmp_path / "odd")  # type: ignore[operator]
    _tokenizer(64).save_pretrained(tmp_path / "odd")
    lm = load(str(tmp_path / "odd"), "llm")
    with pytest.raises(Incompatible, match=line):
        run_self_check(build_engine(lm, 60 * BLOCK_SIZE * lm.token_bytes), lm)  # type: ignore[attr-defined]


def test_an_engine_that_was_not_bitwise_says_by_how_much() -> None:
    exactness = Exactness(0.25, 30)
    assert str(exactness) == "rounding: logits differ by up to 0.25 with what else is in a pass"
    assert replace(exactness, difference=0.0).bitwise
