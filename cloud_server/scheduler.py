"""Which work the next forward pass does, and in whose memory. Knows no tensors, threads or clocks.

Work is served in order of arrival, a chunk at a time: work that is longer than a chunk goes back to the end of the queue, so
that it delays nobody by more than one chunk.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloud_server.pages import Pages

CHUNK = 64


@dataclass(eq=False, slots=True)
class Held:
    """The KV memory of one session: `length` tokens in `pages`."""

    length: int = 0
    pages: list[int] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Work:
    """All of `ids` is to be in the memory of `held`; after that many of it, from its last `rows` on, logits are wanted."""

    held: Held
    ids: Sequence[int]
    rows: int

    @property
    def remaining(self) -> int:
        return len(self.ids) - self.held.length


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of some work that is in a pass: the ids from `start` to `end`, and how many of its last rows are wanted."""

    work: Work
    start: int
    end: int

    @property
    def rows(self) -> int:
        return min(self.end - self.start, max(0, self.work.rows - (len(self.work.ids) - self.end)))


class Scheduler:
    """Queue and memory. `positions` is the most that go through a pass, `most_sessions` the most that are in memory."""

    def __init__(self, pages: Pages, positions: int = 256, most_sessions: int | None = None) -> None:
        self._pages, self._positions, self._most_sessions = pages, positions, most_sessions
        self._queue: deque[Work] = deque()
        # From the least to the most recently used.
        self._holders: OrderedDict[int, Held] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, work: Work) -> None:
        """Takes work on. ValueError for work that could never be done."""
        if len(work.ids) > self._pages.capacity:
            raise ValueError(f"{len(work.ids)} tokens in a memory of {self._pages.capacity}")
        self._queue.append(work)

    def cancel(self, held: Held) -> None:
        """Drops what is queued for a session, and its memory."""
        self._queue = deque(work for work in self._queue if work.held is not held)
        self.release(held)

    def release(self, held: Held) -> None:
        """Takes a session's memory; should it come back, everything is fed again."""
        self._pages.give(held.pages)
        held.pages, held.length = [], 0
        self._holders.pop(id(held), None)

    def shrink(self, held: Held, length: int) -> None:
        """Rolls a session back to its first `length` tokens."""
        if not 0 <= length <= held.length:
            raise ValueError(f"cannot roll {held.length} tokens back to {length}")
        keep = self._pages.needed(length)
        self._pages.give(held.pages[keep:])
        del held.pages[keep:]
        held.length = length

    def batch(self) -> list[Slice]:
        """The next pass, memory reserved; its work is out of the queue until `done`."""
        chosen: list[Slice] = []
        passed: deque[Work] = deque()
        left = self._positions
        while self._queue and left:
            work = self._queue.popleft()
            count = min(work.remaining, CHUNK, left)
            if not self._reserve(work.held, work.held.length + count, chosen):
                passed.append(work)
                continue
            chosen.append(Slice(work, work.held.length, work.held.length + count))
            left -= count
        self._queue = passed + self._queue
        return chosen

    def done(self, part: Slice) -> bool:
        """The slice has been computed. Whether all of its work has; otherwise the rest queues again."""
        part.work.held.length = part.end
        if part.work.remaining:
            # What only the pass cut short has not had its turn.
            whole = part.end - part.start == CHUNK
            (self._queue.append if whole else self._queue.appendleft)(part.work)
        return not part.work.remaining

    def _reserve(self, held: Held, length: int, chosen: Sequence[Slice]) -> bool:
        """Pages for `length` tokens, if need be those of the session that was used longest ago."""
        more = self._pages.needed(length) - len(held.pages)
        while self._crowded(held) or (taken := self._pages.take(max(0, more))) is None:
            busy = {id(held), *(id(part.work.held) for part in chosen)}
            idle = (one for key, one in self._holders.items() if key not in busy)
            oldest = next((one for one in idle if one.pages or self._crowded(held)), None)
            if oldest is None:
                return False
            self.release(oldest)
            self.evicted += 1
        held.pages += taken
        self._holders[id(held)] = held
        self._holders.move_to_end(id(held))
        return True

    def _crowded(self, held: Held) -> bool:
        """Whether another session has to leave before this one comes in."""
        return self._most_sessions is not None and id(held) not in self._holders and len(self._holders) >= self._most_sessions
