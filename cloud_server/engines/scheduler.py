"""Which work the next forward pass does, and in whose memory. Knows no tensors, threads or clocks.

Work is served in order of arrival, a chunk at a time: work that is longer than a chunk goes back to
the end of the queue, so that it delays nobody by more than one chunk.

With `sharing`, block tables of texts that begin alike have the same blocks there: an empty one
takes the blocks that hold the beginning of its work, and a block that has become full gives way to
an equal one.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hedge.cloud_server.engines.block_manager import NOBODYS, BlockManager

CHUNK = 64


@dataclass(eq=False, slots=True)
class BlockTable:
    """The KV memory of one session: `length` tokens in `blocks`."""

    length: int = 0
    blocks: list[int] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Work:
    """All of `ids` is to be in the memory of `table`; after that many of it, from its last `rows`
    on, logits are wanted.
    """

    table: BlockTable
    ids: Sequence[int]
    rows: int

    @property
    def remaining(self) -> int:
        return len(self.ids) - self.table.length


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """The part of some work that is in a pass: the ids from `start` to `end`, and how many of its
    last rows are wanted.

    `found`: how many of the ids before it were in memory already, computed for another session or
    before an eviction.
    """

    work: Work
    start: int
    end: int
    found: int = 0

    @property
    def rows(self) -> int:
        return min(self.end - self.start, max(0, self.work.rows - (len(self.work.ids) - self.end)))

    @property
    def is_first(self) -> bool:
        """Whether no row before it is wanted. Rows that came nevertheless are from before an
        eviction.
        """
        return self.start <= len(self.work.ids) - self.work.rows


class Scheduler:
    """Queue and memory. `positions` is the most that go through a pass, `most_sessions` the most
    that are in memory.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        positions: int = 256,
        most_sessions: int | None = None,
        *,
        sharing: bool = False,
    ) -> None:
        self._block_manager = block_manager
        self._positions = positions
        self._most_sessions = most_sessions
        self._sharing = sharing
        self._queue: deque[Work] = deque()
        # From the least to the most recently used.
        self._holders: OrderedDict[int, BlockTable] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, work: Work) -> None:
        """Takes work on. ValueError for work that could never be done."""
        if len(work.ids) > self._block_manager.capacity:
            raise ValueError(
                f"{len(work.ids)} tokens in a memory of {self._block_manager.capacity}"
            )
        self._queue.append(work)

    def cancel(self, table: BlockTable) -> None:
        """Drops what is queued for a session, and its memory."""
        self._queue = deque(work for work in self._queue if work.table is not table)
        self.release(table)

    def release(self, table: BlockTable) -> None:
        """Takes a session's memory; should it come back, everything is fed again."""
        self._block_manager.free(table.blocks)
        table.blocks = []
        table.length = 0
        self._holders.pop(id(table), None)

    def rollback(self, table: BlockTable, length: int) -> None:
        """Rolls a session back to its first `length` tokens, or to the end of a block before:
        others may use what is cut.
        """
        if not 0 <= length <= table.length:
            raise ValueError(f"cannot roll {table.length} tokens back to {length}")
        whole, rest = divmod(length, self._block_manager.size)
        if rest and not self._block_manager.own(table.blocks[whole]):
            length -= rest
        keep = self._block_manager.needed(length)
        self._block_manager.free(table.blocks[keep:])
        del table.blocks[keep:]
        table.length = length

    def batch(self) -> list[ScheduledChunk]:
        """The next pass, memory reserved; its work is out of the queue until `done`."""
        chosen: list[ScheduledChunk] = []
        passed: deque[Work] = deque()
        left = self._positions
        while self._queue and left:
            work = self._queue.popleft()
            table = work.table
            found = self._find(work)
            count = min(work.remaining, CHUNK, left)
            if not self._reserve(table, table.length + count, chosen):
                if found:
                    self.release(table)
                passed.append(work)
                continue
            chosen.append(ScheduledChunk(work, table.length, table.length + count, found))
            left -= count
        self._queue = passed + self._queue
        return chosen

    def done(self, chunk: ScheduledChunk) -> bool:
        """The chunk has been computed. Whether all of its work has; otherwise the rest queues
        again.
        """
        chunk.work.table.length = chunk.end
        if self._sharing:
            self._share(chunk)
        if chunk.work.remaining:
            # What only the pass cut short has not had its turn.
            whole = chunk.end - chunk.start == CHUNK
            (self._queue.append if whole else self._queue.appendleft)(chunk.work)
        return not chunk.work.remaining

    def _find(self, work: Work) -> int:
        """Gives an empty table what is in memory of the beginning of its work: so many tokens."""
        if not self._sharing or work.table.blocks:
            return 0
        # The rows that are wanted have to be computed, and one id at least.
        work.table.blocks = self._block_manager.find(work.ids[: len(work.ids) - max(1, work.rows)])
        work.table.length = len(work.table.blocks) * self._block_manager.size
        return work.table.length

    def _share(self, chunk: ScheduledChunk) -> None:
        """Lets others find the blocks that a chunk has filled."""
        size = self._block_manager.size
        blocks = chunk.work.table.blocks
        for number in range(chunk.start // size, chunk.end // size):
            before = blocks[number - 1] if number else NOBODYS
            ids = chunk.work.ids[number * size : (number + 1) * size]
            blocks[number] = self._block_manager.share(before, blocks[number], ids)

    def _reserve(self, table: BlockTable, length: int, chosen: Sequence[ScheduledChunk]) -> bool:
        """Blocks for `length` tokens, if need be those of the session that was used longest ago."""
        more = self._block_manager.needed(length) - len(table.blocks)
        while self._crowded(table) or (taken := self._block_manager.allocate(max(0, more))) is None:
            busy = {id(table), *(id(chunk.work.table) for chunk in chosen)}
            idle = (one for key, one in self._holders.items() if key not in busy)
            oldest = next((one for one in idle if one.blocks or self._crowded(table)), None)
            if oldest is None:
                return False
            self.release(oldest)
            self.evicted += 1
        table.blocks += taken
        self._holders[id(table)] = table
        self._holders.move_to_end(id(table))
        return True

    def _crowded(self, table: BlockTable) -> bool:
        """Whether another session has to leave before this one comes in."""
        return (
            self._most_sessions is not None
            and id(table) not in self._holders
            and len(self._holders) >= self._most_sessions
        )
