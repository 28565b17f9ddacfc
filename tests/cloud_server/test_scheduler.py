"""Scheduling and memory accounting, against every interleaving that hypothesis thinks of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_server.block_manager import BlockManager
from cloud_server.scheduler import CHUNK, BlockTable, Scheduler, Work

BLOCK, TOTAL, POSITIONS, MOST = 4, 33, 128, 5


class Server(RuleBasedStateMachine):
    """Sessions that come, want work, roll back and leave, under a memory that does not hold all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.block_manager = BlockManager(TOTAL, BLOCK)
        self.scheduler = Scheduler(self.block_manager, POSITIONS, MOST)
        self.sessions: list[BlockTable] = []
        self.pending: dict[int, Work] = {}
        self.rows: dict[int, int] = {}

    @rule()
    def come(self) -> None:
        self.sessions.append(BlockTable())

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 10**6), more=st.integers(1, 90), rows=st.integers(0, 12))
    def want(self, which: int, more: int, rows: int) -> None:
        table = self.sessions[which % len(self.sessions)]
        length = min(table.length + more, self.block_manager.capacity)
        if id(table) in self.pending or length <= table.length:
            return
        work = Work(table, range(length), min(rows, length - table.length))
        self.pending[id(table)] = work
        self.rows[id(table)] = 0
        self.scheduler.add(work)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 10**6), keep=st.integers(0, 100))
    def roll_back(self, which: int, keep: int) -> None:
        table = self.sessions[which % len(self.sessions)]
        if id(table) not in self.pending:
            self.scheduler.shrink(table, min(table.length, keep))

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
            self.rows[id(table)] = chunk.rows + (self.rows[id(table)] if chunk.start else 0)
            if self.scheduler.done(chunk):
                assert self.rows[id(table)] == chunk.work.rows
                assert table.length == len(chunk.work.ids)
                del self.pending[id(table)]

    @invariant()
    def no_page_is_lost_or_held_twice(self) -> None:
        table = [block for session in self.sessions for block in session.blocks]
        assert len(table) == len(set(table)) == self.block_manager.used <= TOTAL - 1
        assert 0 not in table
        assert sum(bool(session.blocks) for session in self.sessions) <= MOST
        for session in self.sessions:
            assert len(session.blocks) == self.block_manager.needed(session.length) or id(session) in self.pending


TestServer = Server.TestCase


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
    for table, length in ((sessions[0], 8), (sessions[1], 8), (sessions[2], 8), (sessions[0], 9), (sessions[3], 16)):
        scheduler.add(Work(table, range(length), 0))
        scheduler.done(scheduler.batch()[0])
    assert [table.length for table in sessions] == [9, 0, 0, 16]


def test_work_that_no_memory_holds_is_refused() -> None:
    scheduler = Scheduler(BlockManager(3, BLOCK), POSITIONS)
    with pytest.raises(ValueError, match="9 tokens in a memory of 8"):
        scheduler.add(Work(BlockTable(), range(9), 0))
