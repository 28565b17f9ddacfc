"""Scheduling and memory accounting, against every interleaving that hypothesis thinks of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_server.pages import Pages
from cloud_server.scheduler import CHUNK, Held, Scheduler, Work

PAGE, TOTAL, POSITIONS, MOST = 4, 33, 128, 5


class Server(RuleBasedStateMachine):
    """Sessions that come, want work, roll back and leave, under a memory that does not hold all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = Pages(TOTAL, PAGE)
        self.scheduler = Scheduler(self.pages, POSITIONS, MOST)
        self.sessions: list[Held] = []
        self.pending: dict[int, Work] = {}
        self.rows: dict[int, int] = {}

    @rule()
    def come(self) -> None:
        self.sessions.append(Held())

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 10**6), more=st.integers(1, 90), rows=st.integers(0, 12))
    def want(self, which: int, more: int, rows: int) -> None:
        held = self.sessions[which % len(self.sessions)]
        length = min(held.length + more, self.pages.capacity)
        if id(held) in self.pending or length <= held.length:
            return
        work = Work(held, range(length), min(rows, length - held.length))
        self.pending[id(held)] = work
        self.rows[id(held)] = 0
        self.scheduler.add(work)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 10**6), keep=st.integers(0, 100))
    def roll_back(self, which: int, keep: int) -> None:
        held = self.sessions[which % len(self.sessions)]
        if id(held) not in self.pending:
            self.scheduler.shrink(held, min(held.length, keep))

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 10**6))
    def leave(self, which: int) -> None:
        held = self.sessions.pop(which % len(self.sessions))
        self.scheduler.cancel(held)
        self.pending.pop(id(held), None)
        assert held.pages == []

    @precondition(lambda self: self.pending)
    @rule()
    def serve(self) -> None:
        batch = self.scheduler.batch()
        # Whatever the memory, somebody is served.
        assert batch
        widths = [part.end - part.start for part in batch]
        assert sum(widths) <= POSITIONS
        assert max(widths) <= CHUNK
        assert len({id(part.work.held) for part in batch}) == len(batch)
        for part in batch:
            held = part.work.held
            assert self.pending[id(held)] is part.work
            assert part.start == held.length
            assert len(held.pages) * PAGE >= part.end
            self.rows[id(held)] = part.rows + (self.rows[id(held)] if part.start else 0)
            if self.scheduler.done(part):
                assert self.rows[id(held)] == part.work.rows
                assert held.length == len(part.work.ids)
                del self.pending[id(held)]

    @invariant()
    def no_page_is_lost_or_held_twice(self) -> None:
        held = [page for session in self.sessions for page in session.pages]
        assert len(held) == len(set(held)) == self.pages.used <= TOTAL - 1
        assert 0 not in held
        assert sum(bool(session.pages) for session in self.sessions) <= MOST
        for session in self.sessions:
            assert len(session.pages) == self.pages.needed(session.length) or id(session) in self.pending


TestServer = Server.TestCase


def test_a_long_prompt_delays_nobody_by_more_than_a_chunk() -> None:
    scheduler = Scheduler(Pages(1000, PAGE), POSITIONS)
    scheduler.add(Work(Held(), range(1000), 0))
    short = [Work(Held(), range(3), 1) for _ in range(5)]
    served: list[list[Work]] = []
    for work in short:
        scheduler.add(work)
    while len(scheduler):
        batch = scheduler.batch()
        served.append([part.work for part in batch])
        for part in batch:
            scheduler.done(part)
    assert served[0][1:] == short


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_work_that_fits_a_chunk_is_served_in_order(lengths: list[int]) -> None:
    scheduler = Scheduler(Pages(10_000, PAGE), POSITIONS)
    works = [Work(Held(), range(length), 0) for length in lengths]
    for work in works:
        scheduler.add(work)
    finished: list[Work] = []
    while len(scheduler):
        for part in scheduler.batch():
            if scheduler.done(part):
                finished.append(part.work)
    assert sorted(map(id, finished)) == sorted(map(id, works))
    if max(lengths) <= CHUNK // 2:
        assert finished == works


def test_the_session_used_longest_ago_makes_room() -> None:
    scheduler = Scheduler(Pages(9, PAGE), POSITIONS)
    sessions = [Held() for _ in range(3)]
    for held in sessions[:2]:
        scheduler.add(Work(held, range(16), 0))
        scheduler.done(scheduler.batch()[0])
    scheduler.add(Work(sessions[0], range(17), 0))
    scheduler.done(scheduler.batch()[0])
    assert [held.length for held in sessions] == [17, 0, 0]
    scheduler.add(Work(sessions[2], range(16), 0))
    assert not scheduler.done(scheduler.batch()[0]) or sessions[0].length == 0
    assert scheduler.evicted == 2


def test_using_a_session_again_makes_it_the_last_to_go() -> None:
    scheduler = Scheduler(Pages(9, PAGE), POSITIONS)
    sessions = [Held() for _ in range(4)]
    for held, length in ((sessions[0], 8), (sessions[1], 8), (sessions[2], 8), (sessions[0], 9), (sessions[3], 16)):
        scheduler.add(Work(held, range(length), 0))
        scheduler.done(scheduler.batch()[0])
    assert [held.length for held in sessions] == [9, 0, 0, 16]


def test_work_that_no_memory_holds_is_refused() -> None:
    scheduler = Scheduler(Pages(3, PAGE), POSITIONS)
    with pytest.raises(ValueError, match="9 tokens in a memory of 8"):
        scheduler.add(Work(Held(), range(9), 0))
