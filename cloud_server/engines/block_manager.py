"""Accounting of KV memory in blocks of a few tokens. Knows no tensors."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from hedge.common.errors import BadInput

DEFAULT_KV_BYTES = 1 << 30
# Tokens of a block.
BLOCK_SIZE = 16
# A pool is not made for more contexts than this.
CONTEXTS = 4096
# Its place is for padding; what comes behind it in a chain of names is the first block of a text.
NOBODYS = 0


class BlockManager:
    """`total` blocks of `size` tokens each, one of them nobody's.

    A full block may have a name, the hash of its ids and of the name before it: two blocks of one
    name hold the same, and so does everything before them. Several tables may use a named block,
    and none writes to it. When nobody uses it any longer it is kept until its memory is needed.
    """

    def __init__(self, total: int, size: int) -> None:
        if total < 2 or size < 1:
            raise ValueError(f"{total} blocks of {size} tokens")
        self.total = total
        self.size = size
        self._free = list(range(total - 1, NOBODYS, -1))
        # Tables that use a block.
        self._users = [0] * total
        self._names = {NOBODYS: b""}
        self._named: dict[bytes, int] = {}
        # Named blocks that nobody uses, the one freed longest ago first.
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def used(self) -> int:
        """Blocks of tables; one of several tables counts once."""
        return self.total - 1 - len(self._free) - len(self._kept)

    @property
    def capacity(self) -> int:
        """Tokens that all blocks together hold."""
        return (self.total - 1) * self.size

    def needed(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks to write to, or None when there are not so many."""
        if count > len(self._free) + len(self._kept):
            return None
        while len(self._free) < count:
            block, _ = self._kept.popitem(last=False)
            self._forget(block)
            self._free.append(block)
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        for block in taken:
            self._users[block] = 1
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        """One table less uses them."""
        # Without the blocks before it a block is never found: the last ones go first.
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._names:
                self._kept[block] = None
            else:
                self._free.append(block)

    def find(self, ids: Sequence[int]) -> list[int]:
        """The full blocks that hold the beginning of `ids`, as far as there are any: one table more
        uses them.
        """
        found: list[int] = []
        name = b""
        for end in range(self.size, len(ids) + 1, self.size):
            name = _name(name, ids[end - self.size : end])
            if name not in self._named:
                break
            found.append(self._use(self._named[name]))
        return found

    def share(self, before: int, block: int, ids: Sequence[int]) -> int:
        """Names a full block that holds `ids` behind those of `before`. The block to use: where one
        has that name, that one.
        """
        name = _name(self._names[before], ids)
        if name in self._named:
            self.free([block])
            return self._use(self._named[name])
        self._names[block], self._named[name] = name, block
        return block

    def own(self, block: int) -> bool:
        """Whether a table that uses a block may write to it: then it has no name any longer. Not
        where others use it.
        """
        if self._users[block] > 1:
            return False
        self._forget(block)
        return True

    def _use(self, block: int) -> int:
        self._users[block] += 1
        self._kept.pop(block, None)
        return block

    def _forget(self, block: int) -> None:
        if block in self._names:
            del self._named[self._names.pop(block)]


def _name(before: bytes, ids: Sequence[int]) -> bytes:
    """32 bytes: no two texts have the same, not even on purpose."""
    return blake2b(before + array("q", ids).tobytes(), digest_size=32).digest()


def make_block_manager(kv_bytes: int, token_bytes: int, context: int) -> BlockManager:
    """The blocks that `kv_bytes` hold. BadInput for less than two."""
    block_bytes = token_bytes * BLOCK_SIZE
    total = kv_bytes // block_bytes
    # One block of the pool is nobody's.
    if total < 2:
        raise BadInput(
            f"kv-bytes {kv_bytes} is less than {2 * block_bytes}, two blocks of {BLOCK_SIZE} tokens"
        )
    return BlockManager(min(total, 1 + CONTEXTS * -(-context // BLOCK_SIZE)), BLOCK_SIZE)
