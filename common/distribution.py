"""The proposal as both sides hold it: integers that sum to 2^bits over the kept tokens and one tail
bucket.
"""

from dataclasses import dataclass

import numpy as np

from hedge.common.errors import BadInput

MAX_BITS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """The distribution x_hat of docs/algorithms.md, section 2.3.

    `ids` (int64 [m], ascending) are the kept tokens, `counts` (int64 [m], each at least 1) their
    integers; what is missing to 2^bits is the tail bucket, spread evenly over the vocab_size - m
    other tokens. BadInput when that does not hold.
    """

    vocab_size: int
    bits: int
    ids: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        kept = len(self.ids)
        if not 1 <= self.bits <= MAX_BITS:
            raise BadInput(f"{self.bits} bits per distribution, not 1..{MAX_BITS}")
        if not 1 <= kept <= self.vocab_size or len(self.counts) != kept:
            raise BadInput(
                f"{kept} ids with {len(self.counts)} counts in a vocabulary of {self.vocab_size}"
            )
        if (
            self.ids[0] < 0
            or self.ids[-1] >= self.vocab_size
            or (kept > 1 and (self.ids[1:] <= self.ids[:-1]).any())
        ):
            raise BadInput(f"ids are not ascending in 0..{self.vocab_size - 1}")
        if (
            (self.counts < 1).any()
            or not 0 <= self.tail < 2**self.bits
            or (self.tail and kept == self.vocab_size)
        ):
            raise BadInput(f"counts do not fit a total of 2^{self.bits}")

    @property
    def total(self) -> int:
        return 1 << self.bits

    @property
    def tail(self) -> int:
        """The integer of the tail bucket."""
        return self.total - int(self.counts.sum())

    @property
    def tail_share(self) -> float:
        """Probability of one token of the tail."""
        others = self.vocab_size - len(self.ids)
        return self.tail / (self.total * others) if others else 0.0

    def probability(self, token: int) -> float:
        index = int(np.searchsorted(self.ids, token))
        if index < len(self.ids) and self.ids[index] == token:
            return float(self.counts[index]) / self.total
        return self.tail_share

    def dense(self) -> np.ndarray:
        """float64 [vocab_size], summing to 1."""
        probs = np.full(self.vocab_size, self.tail_share)
        probs[self.ids] = self.counts / self.total
        return probs

    def draw(self, bucket: float, within: float) -> int:
        """A token of this distribution from two uniforms in [0, 1): the bucket, then the token
        within the tail.
        """
        edges = np.cumsum(self.counts)
        index = int(np.searchsorted(edges, int(bucket * self.total), side="right"))
        if index < len(self.ids):
            return int(self.ids[index])
        rank = int(within * (self.vocab_size - len(self.ids)))
        kept_before = np.searchsorted(self.ids - np.arange(len(self.ids)), rank, side="right")
        return rank + int(kept_before)
