"""Keyed randomness (docs/algorithms.md, section 1): every draw is a pure function of (request,
purpose, position, step).
"""

import hashlib
import struct
import threading
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from hedge.common.errors import BadInput

SEED_LIMIT = 1 << 64
_LANES = 4


class Purpose(IntEnum):
    """What a number is drawn for. Two purposes never share a stream."""

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    BONUS = 3
    GATE = 4
    POLICY = 5
    TARGET = 6


class _Generator(threading.local):
    """One for each thread: to set its state costs a sixth of what a new one costs."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)
        self.fresh = self.philox.state


_GENERATOR = _Generator()


def _philox(key: np.ndarray, counter: tuple[int, int, int, int], count: int) -> np.ndarray:
    """`count` words (uint64) of Philox 4x64 with `key` (uint64 [2]) behind `counter`, lowest word
    first.
    """
    philox = _GENERATOR.philox
    philox.state = {
        **_GENERATOR.fresh,
        "state": {"counter": np.array(counter, dtype=np.uint64), "key": key},
    }
    return np.asarray(philox.random_raw(count), dtype=np.uint64)


class Noise:
    """The random numbers of one request, addressed by purpose, position and step id.

    The key is a hash of the seed and all prompt ids, so that two turns of a chat with one seed
    differ. The generator is Philox 4x64: the counter holds (block, position, step id, purpose).
    """

    def __init__(self, seed: int, prompt_ids: Sequence[int]) -> None:
        if not 0 <= seed < SEED_LIMIT:
            raise BadInput(f"seed {seed} is not in 0..2^64-1")
        message = struct.pack("<Q", seed) + np.asarray(prompt_ids, dtype="<u4").tobytes()
        digest = hashlib.blake2b(message, digest_size=16, person=b"hedge.noise.v1").digest()
        self._key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    @classmethod
    def of_key(cls, key: Sequence[int]) -> "Noise":
        """The noise of another Noise's `key`."""
        noise = cls.__new__(cls)
        noise._key = np.array(key, dtype=np.uint64)
        return noise

    @property
    def key(self) -> tuple[int, ...]:
        """Two numbers below 2^64 that all of it comes from."""
        return tuple(int(part) for part in self._key)

    def uniforms(
        self, purpose: Purpose, position: int, step: int = 0, count: int = 1
    ) -> np.ndarray:
        """`count` numbers in [0, 1), float64, multiples of 2^-53."""
        return (_philox(self._key, (0, position, step, purpose), count) >> np.uint64(11)) * 2.0**-53

    def integers(self, purpose: Purpose, position: int, start: int, count: int) -> np.ndarray:
        """Numbers `start` to `start + count` of a stream that can be entered anywhere: uint64 below
        2^52.
        """
        skipped = start % _LANES
        raw = _philox(self._key, (start // _LANES, position, 0, purpose), skipped + count)
        return raw[skipped:] >> np.uint64(12)

    def uniform(self, purpose: Purpose, position: int, step: int = 0) -> float:
        return float(self.uniforms(purpose, position, step)[0])
