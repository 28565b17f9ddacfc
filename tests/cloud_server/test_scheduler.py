"""Scheduling and memory accounting, against every interleaving that hypothesis thinks of."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hedge.cloud_server.engines.block_manager import BlockManager
from hedge.cloud_server.engines.scheduler import CHUNK, BlockTable, ScheduledChunk, Scheduler, Work

BLOCK = 4
TOTAL = 33
POSITIONS = 128
MOST = 5


class Pool:
    """What the memory holds, in the place of tensors: of each place the text up to its id, as a
    pass would have read it.
    """

    def __init__(self) -> None:
        self._texts: dict[int, int] = {}

    def write(self, chunk: ScheduledChunk) -> None:
        places = _places(chunk.work.table)
        for place, text in list(zip(places, _texts(chunk.work.ids), strict=False))[
            chunk.start : chunk.end
        ]:
            self._texts[place] = text

    def holds(self, table: BlockTable, ids: Sequence[int]) -> bool:
        """Whether what a table holds is the beginning of a text."""
        return [self._texts[place] for place in _places(table)[: table.length]] == _texts(
            ids[: table.length]
        )


def _places(table: BlockTable) -> list[int]:
    return [block * BLOCK + place for block in table.blocks for place in range(BLOCK)]


def _texts(ids: Sequence[int]) -> list[int]:
    """A number for each beginning of a text."""
    return [
        text
        for text, _ in accumulate(
            ids, lambda before, token: (hash((before[0], token)), token), initial=(0, 0)
        )
    ][1:]


class Server(RuleBasedStateMachine):
    """Sessions that come, want work, roll back and leave, under a memory that does not hold all of
    them.
    """

    sharing = False

    def __init__(self) -> None:
        super().__init__()
        self.block_manager = BlockManager(TOTAL, BLOCK)
        self.scheduler = Scheduler(self.block_manager, POSITIONS, MOST, sharing=self.sharing)
        self.pool = Pool()
        self.sessions: list[BlockTable] = []
        self.texts: dict[int, list[int]] = {}
        self.wanted: set[tuple[int, ...]] = set()
        self.pending: dict[int, Work] = {}
        self.rows: dict[int, int] = {}

    @property
    def idle(self) -> list[BlockTable]:
        return [table for table in self.sessions if table.length and id(table) not in self.pending]

    @rule()
    def come(self) -> None:
        self.sessions.append(BlockTable())
        self.texts[id(self.sessions[-1])] = []

    @precondition(lambda self: self.sessions)
    @rule(
        which=st.integers(0, 10**6),
        more=st.integers(1, 90),
        token=st.integers(0, 1),
        rows=st.integers(0, 12),
    )
    def want(self, which: int, more: int, token: int, rows: int) -> None:
        table = self.sessions[which % len(self.sessions)]
        ids = [*self.texts[id(table)], *[token] * more][: self.block_manager.capacity]
        if id(table) in self.pending or len(ids) <= table.length:
            return
        work = Work(table, ids, min(rows, len(ids) - table.length))
        self.texts[id(table)] = ids
        self.wanted.add(tuple(ids))
        self.pending[id(table)] = work
        self.rows[id(table)] = 0
        self.scheduler.add(work)

    @precondition(lambda self: self.idle)
    @rule(which=st.integers(0, 10**6), back=st.integers(0, 9) | st.integers(0, 100))
    def roll_back(self, which: int, back: int) -> None:
        table = self.idle[which % len(self.idle)]
        keep = max(0, table.length - back)
        self.scheduler.rollback(table, keep)
        del self.texts[id(table)][keep:]
        assert keep - BLOCK < table.length <= keep

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 10**6))
    def leave(self, which: int) -> None:
        table = self.sessions.pop(which % len(self.sessions))
        self.scheduler.cancel(table)
        self.pending.pop(id(table), None)
        assert table.blocks == []

    @precondition(lambda self: self.pending)
    @rule()
    def serve(self) -> None:
        batch = self.scheduler.batch()
        # Whatever the memory, somebody is served.
        assert batch
        widths = [chunk.end - chunk.start for chunk in batch]
        assert sum(widths) <= POSITIONS
        assert max(widths) <= CHUNK
        assert len({id(chunk.work.table) for chunk in batch}) == len(batch)
        for chunk in batch:
            table = chunk.work.table
            assert self.pending[id(table)] is chunk.work
            assert chunk.start == table.length
            assert len(table.blocks) * BLOCK >= chunk.end
            assert chunk.found in (0, chunk.start)
            self.pool.write(chunk)
            self.rows[id(table)] = chunk.rows + (0 if chunk.is_first else self.rows[id(table)])
            if self.scheduler.done(chunk):
                assert self.rows[id(table)] == chunk.work.rows
                assert table.length == len(chunk.work.ids)
                del self.pending[id(table)]

    @invariant()
    def every_session_finds_what_it_had_computed(self) -> None:
        assert all(self.pool.holds(table, self.texts[id(table)]) for table in self.sessions)

    @invariant()
    def whoever_comes_finds_what_his_text_says(self) -> None:
        for ids in self.wanted:
            blocks = self.block_manager.find(ids)
            assert self.pool.holds(BlockTable(len(blocks) * BLOCK, blocks), ids)
            self.block_manager.free(blocks)

    @invariant()
    def no_block_is_lost(self) -> None:
        table = [block for session in self.sessions for block in session.blocks]
        assert len(set(table)) == self.block_manager.used <= TOTAL - 1
        assert self.sharing or len(table) == len(set(table))
        assert all(len(session.blocks) == len(set(session.blocks)) for session in self.sessions)
        assert 0 not in table
        assert sum(bool(session.blocks) for session in self.sessions) <= MOST
        for session in self.sessions:
            assert (
                len(session.blocks) == self.block_manager.needed(session.length)
                or id(session) in self.pending
            )

    @invariant()
    def texts_that_begin_alike_have_the_same_blocks(self) -> None:
        for one, other in pairwise(self.sessions):
            same = (
                alike(self.texts[id(one)][: one.length], self.texts[id(other)][: other.length])
                // BLOCK
            )
            assert not self.sharing or one.blocks[:same] == other.blocks[:same]
            assert set(one.blocks[same:]).isdisjoint(other.blocks[same:])

    def teardown(self) -> None:
        for table in self.sessions:
            self.scheduler.cancel(table)
        assert self.block_manager.used == 0
        assert sorted(self.block_manager.allocate(TOTAL - 1) or []) == list(range(1, TOTAL))


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


class SharingServer(Server):
    sharing = True


TestServer = Server.TestCase
TestSharingServer = SharingServer.TestCase


def test_a_long_prompt_delays_nobody_by_more_than_a_chunk() -> None:
    scheduler = Scheduler(BlockManager(1000, BLOCK), POSITIONS)
    scheduler.add(Work(BlockTable(), range(1000), 0))
    short = [Work(BlockTable(), range(3), 1) for _ in range(5)]
    served: list[list[Work]] = []
    for work in short:
        scheduler.add(work)
    while len(scheduler):
        batch = scheduler.batch()
        served.append([chunk.work for chunk in batch])
        for chunk in batch:
            scheduler.done(chunk)
    assert served[0][1:] == short


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_work_that_fits_a_chunk_is_served_in_order(lengths: list[int]) -> None:
    scheduler = Scheduler(BlockManager(10_000, BLOCK), POSITIONS)
    works = [Work(BlockTable(), range(length), 0) for length in lengths]
    for work in works:
        scheduler.add(work)
    finished: list[Work] = []
    while len(scheduler):
        for chunk in scheduler.batch():
            if scheduler.done(chunk):
                finished.append(chunk.work)
    assert sorted(map(id, finished)) == sorted(map(id, works))
    if max(lengths) <= CHUNK // 2:
        assert finished == works


def test_the_session_used_longest_ago_makes_room() -> None:
    scheduler = Scheduler(BlockManager(9, BLOCK), POSITIONS)
    sessions = [BlockTable() for _ in range(3)]
    for table in sessions[:2]:
        scheduler.add(Work(table, range(16), 0))
        scheduler.done(scheduler.batch()[0])
    scheduler.add(Work(sessions[0], range(17), 0))
    scheduler.done(scheduler.batch()[0])
    assert [table.length for table in sessions] == [17, 0, 0]
    scheduler.add(Work(sessions[2], range(16), 0))
    assert not scheduler.done(scheduler.batch()[0]) or sessions[0].length == 0
    assert scheduler.evicted == 2


def test_using_a_session_again_makes_it_the_last_to_go() -> None:
    scheduler = Scheduler(BlockManager(9, BLOCK), POSITIONS)
    sessions = [BlockTable() for _ in range(4)]
    for table, length in (
        (sessions[0], 8),
        (sessions[1], 8),
        (sessions[2], 8),
        (sessions[0], 9),
        (sessions[3], 16),
    ):
        scheduler.add(Work(table, range(length), 0))
        scheduler.done(scheduler.batch()[0])
    assert [table.length for table in sessions] == [9, 0, 0, 16]


def test_work_that_no_memory_holds_is_refused() -> None:
    scheduler = Scheduler(BlockManager(3, BLOCK), POSITIONS)
    with pytest.raises(ValueError, match="9 tokens in a memory of 8"):
        scheduler.add(Work(BlockTable(), range(9), 0))


def sharing(blocks: int) -> Scheduler:
    return Scheduler(BlockManager(1 + blocks, BLOCK), POSITIONS, sharing=True)


def served(scheduler: Scheduler, *works: Work) -> list[ScheduledChunk]:
    """The chunks of works that come at once."""
    for work in works:
        scheduler.add(work)
    chunks: list[ScheduledChunk] = []
    while batch := scheduler.batch():
        chunks += batch
        for chunk in batch:
            scheduler.done(chunk)
    return chunks


def fed(chunks: Sequence[ScheduledChunk]) -> int:
    return sum(chunk.end - chunk.start for chunk in chunks)


def test_a_prompt_of_several_sessions_is_computed_once() -> None:
    scheduler = sharing(200)
    prompt = range(100)
    assert fed(served(scheduler, Work(BlockTable(), prompt, 0))) == 100
    chunks = served(scheduler, *(Work(BlockTable(), prompt, 0) for _ in range(7)))
    # All but the block that the last id is in.
    assert [(chunk.found, fed([chunk])) for chunk in chunks] == [(96, 4)] * 7


def test_without_sharing_everything_is_computed() -> None:
    block_manager = BlockManager(200, BLOCK)
    served(Scheduler(block_manager, POSITIONS, sharing=True), Work(BlockTable(), range(100), 0))
    chunks = served(
        Scheduler(block_manager, POSITIONS), *(Work(BlockTable(), range(100), 0) for _ in range(2))
    )
    assert fed(chunks) == 200


def test_equal_prompts_that_come_at_once_end_in_the_same_blocks() -> None:
    scheduler = sharing(40)
    tables = [BlockTable() for _ in range(3)]
    served(scheduler, *(Work(table, range(41), 0) for table in tables))
    assert tables[0].blocks[:10] == tables[1].blocks[:10] == tables[2].blocks[:10]
    assert len({table.blocks[10] for table in tables}) == 3
    assert scheduler._block_manager.used == 13


@given(st.integers(0, 39))
def test_nothing_behind_a_difference_is_shared(at: int) -> None:
    scheduler = sharing(40)
    other = [*range(40)]
    other[at] += 1
    served(scheduler, Work(BlockTable(), range(40), 0))
    assert served(scheduler, Work(BlockTable(), other, 0))[0].found == min(36, at // BLOCK * BLOCK)


def test_a_block_is_found_behind_its_own_beginning_alone() -> None:
    scheduler = sharing(40)
    for beginning, end in ((1, 2), (3, 4)):
        served(scheduler, Work(BlockTable(), [beginning] * BLOCK + [end] * BLOCK, 0))
    assert (
        served(scheduler, Work(BlockTable(), [3] * BLOCK + [2] * BLOCK + [0], 0))[0].found == BLOCK
    )


@given(st.integers(0, 40))
def test_rows_that_are_wanted_are_computed(rows: int) -> None:
    scheduler = sharing(40)
    served(scheduler, Work(BlockTable(), range(40), 0))
    chunks = served(scheduler, Work(BlockTable(), range(40), rows))
    assert sum(chunk.rows for chunk in chunks) == rows
    assert chunks[0].found == (40 - max(1, rows)) // BLOCK * BLOCK


def test_what_a_session_leaves_is_found_until_its_memory_is_needed() -> None:
    """The text left longest ago goes first, and of it the end."""
    scheduler = sharing(10)
    first = range(16)
    second = range(100, 116)
    for text in (first, second):
        table = BlockTable()
        served(scheduler, Work(table, text, 0))
        scheduler.release(table)
    assert scheduler._block_manager.used == 0
    served(scheduler, Work(BlockTable(), range(200, 216), 0))
    assert scheduler.evicted == 0
    table = BlockTable()
    assert served(scheduler, Work(table, [*second, 1], 0))[0].found == 16
    scheduler.release(table)
    assert served(scheduler, Work(BlockTable(), [*first, 1], 0))[0].found == 4


def test_a_session_that_rolls_back_into_a_shared_block_leaves_it_to_the_others() -> None:
    scheduler = sharing(40)
    tables = [BlockTable() for _ in range(2)]
    served(scheduler, *(Work(table, range(12), 0) for table in tables))
    scheduler.rollback(tables[0], 7)
    assert (tables[0].length, tables[0].blocks) == (4, tables[1].blocks[:1])
    # Now it is the other one's alone, and keeps what it holds; but not its name.
    scheduler.rollback(tables[1], 7)
    assert (tables[1].length, len(tables[1].blocks)) == (7, 2)
    assert served(scheduler, Work(BlockTable(), range(12), 0))[0].found == 4


def test_an_evicted_session_finds_what_is_left_of_its_memory() -> None:
    scheduler = sharing(10)
    table = BlockTable()
    served(scheduler, Work(table, range(20), 0))
    served(scheduler, Work(BlockTable(), range(100, 128), 0))
    assert (scheduler.evicted, table.blocks) == (1, [])
    assert served(scheduler, Work(table, range(21), 1))[0].found == 12


def test_work_that_has_to_wait_holds_nothing_that_it_found() -> None:
    """Nobody could take it from a session that is not served."""
    scheduler = sharing(10)
    table = BlockTable()
    served(scheduler, Work(table, range(16), 0))
    scheduler.release(table)
    scheduler.add(Work(BlockTable(), range(100, 132), 0))
    scheduler.add(Work(table, range(20), 0))
    (chunk,) = scheduler.batch()
    assert (scheduler._block_manager.used, table.length, table.blocks) == (8, 0, [])
    scheduler.done(chunk)
    assert [chunk.found for chunk in served(scheduler)] == [8]
