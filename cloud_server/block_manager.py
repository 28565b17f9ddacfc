"""Accounting of KV memory in blocks of a few tokens. Knows no tensors."""


class BlockManager:
    """`total` blocks of `size` tokens each; block 0 is nobody's: padding is written there."""

    def __init__(self, total: int, size: int) -> None:
        if total < 2 or size < 1:
            raise ValueError(f"{total} blocks of {size} tokens")
        self.total, self.size = total, size
        self._free = list(range(total - 1, 0, -1))

    @property
    def used(self) -> int:
        return self.total - 1 - len(self._free)

    @property
    def capacity(self) -> int:
        """Tokens that all blocks together hold."""
        return (self.total - 1) * self.size

    def needed(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks, or None when there are not so many."""
        if count > len(self._free):
            return None
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken

    def free(self, blocks: list[int]) -> None:
        self._free += blocks
