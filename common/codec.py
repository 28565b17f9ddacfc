"""Distributions as bytes: one version byte, then one range-coded stream under integer models.

The stream holds bits, the number m of kept tokens, the gaps between their ids (geometric at rate
m/|V|: within about four bits of log2 C(|V|, m)) and their counts (a geometric distribution of the
bit length, then the mantissa). The tail bucket is what is missing to 2^bits. Trailing zero bytes of
the stream are cut. Every value is checked on the way in, and only the bytes that `encode` would
have written are taken, so that nothing has two encodings.
"""

from functools import cache, lru_cache
from typing import Any

import constriction
import numpy as np

from hedge.common.distribution import MAX_BITS, Quantised
from hedge.common.errors import BadInput, CodecError

VERSION = 1
VERSIONS = (VERSION,)

_ONE = 1 << 30
_WORD = 1 << 32
_SYMBOLS = 32
_SLOPES = 16
_Categorical: Any = constriction.stream.model.Categorical
_Uniform: Any = constriction.stream.model.Uniform


def paper_bits(vocab_size: int, kept: int, probability_bits: int = 8) -> int:
    """The paper's own price of a distribution: k (b_prob + b_index), b_index = ceil(log2 |V|)."""
    return kept * (probability_bits + (vocab_size - 1).bit_length())


def _geometric(stay: int, symbols: int) -> Any:
    """P(q) ~ (stay/2^30)^q on 0..symbols-1, the last one taking all that is left. Integers until
    the coder's own table.
    """
    weights = []
    left = _ONE
    for _ in range(symbols - 1):
        rest = left * stay >> 30
        weights.append(max(1, left - rest))
        left = rest
    table = np.array([*weights, max(1, left)], dtype=np.float64)
    return _Categorical(table / table.sum(), perfect=False)


@lru_cache(maxsize=4096)
def _gap_model(vocab_size: int, kept: int) -> tuple[Any, int]:
    """The model of gap >> shift, and the shift; what a gap has beyond the last symbol follows as
    further symbols.
    """
    shift = max(0, (vocab_size // kept).bit_length() - 3)
    stay = ((vocab_size - kept) << 30) // vocab_size
    for _ in range(shift):
        stay = stay * stay >> 30
    return _geometric(stay, _SYMBOLS), shift


@cache
def _length_model(bits: int, slope: int) -> Any:
    return _geometric((slope << 30) // _SLOPES, bits + 1)


def _slope_for(lengths: np.ndarray) -> int:
    """The slope whose geometric distribution has about the mean of `lengths`."""
    total = int(lengths.sum())
    return min(
        _SLOPES - 1, (_SLOPES * total + (total + len(lengths)) // 2) // (total + len(lengths))
    )


class _Writer:
    def __init__(self) -> None:
        self.coder = constriction.stream.queue.RangeEncoder()

    def number(self, value: int, below: int) -> None:
        if below > 1:
            self.coder.encode(value, _Uniform(below))

    def numbers(self, values: np.ndarray, below: int) -> None:
        if below > 1 and len(values):
            self.coder.encode(values.astype(np.int32), _Uniform(below))

    def mantissas(self, values: np.ndarray, lengths: np.ndarray) -> None:
        longer = lengths > 0
        if longer.any():
            sizes = np.left_shift(1, lengths[longer])
            self.coder.encode(
                (values[longer] - sizes).astype(np.int32), _Uniform(), sizes.astype(np.int32)
            )

    def symbols(self, values: np.ndarray, model: Any) -> None:
        if len(values):
            self.coder.encode(values.astype(np.int32), model)

    def to_bytes(self) -> bytes:
        """The roundest number in the coder's interval; trailing zeros are implied."""
        fixed, (lower, width) = self.coder.pos()
        # What is sealed here lies at the low end of the interval, and may have carried into the
        # words before it.
        carried = lower + _WORD > 1 << 64
        head = (
            int.from_bytes(self.coder.get_compressed()[:fixed].astype(">u4").tobytes(), "big")
            - carried
        )
        lowest = head << 64 | lower
        for zeros in range(64, -1, -8):
            point = -(-lowest >> zeros) << zeros
            if point < lowest + width:
                break
        return bytes(point.to_bytes(4 * fixed + 8, "big").rstrip(b"\0"))


class _Reader:
    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), dtype=">u4").astype(np.uint32)
        self.coder = constriction.stream.queue.RangeDecoder(words)

    def number(self, below: int) -> int:
        return int(self.coder.decode(_Uniform(below))) if below > 1 else 0

    def numbers(self, below: int, count: int) -> np.ndarray:
        if below <= 1 or not count:
            return np.zeros(count, np.int64)
        return np.asarray(self.coder.decode(_Uniform(below), count), dtype=np.int64)

    def mantissas(self, lengths: np.ndarray) -> np.ndarray:
        sizes = np.left_shift(1, lengths)
        longer = lengths > 0
        values: np.ndarray = sizes.copy()
        if longer.any():
            values[longer] += self.coder.decode(_Uniform(), sizes[longer].astype(np.int32))
        return values

    def symbols(self, model: Any, count: int) -> np.ndarray:
        return np.asarray(self.coder.decode(model, count) if count else [], dtype=np.int64)


def _write_gaps(writer: _Writer, gaps: np.ndarray, vocab_size: int) -> None:
    model, shift = _gap_model(vocab_size, len(gaps))
    writer.numbers(gaps & ((1 << shift) - 1), 1 << shift)
    high = gaps >> shift
    last = _SYMBOLS - 1
    while len(high):
        writer.symbols(np.minimum(high, last), model)
        high = high[high >= last] - last


def _read_gaps(reader: _Reader, kept: int, vocab_size: int) -> np.ndarray:
    model, shift = _gap_model(vocab_size, kept)
    gaps = reader.numbers(1 << shift, kept)
    open_ = np.arange(kept)
    last = _SYMBOLS - 1
    while len(open_):
        high = reader.symbols(model, len(open_))
        gaps[open_] += high << shift
        open_ = open_[high == last]
        if gaps.sum() >= vocab_size:
            raise CodecError(f"ids beyond a vocabulary of {vocab_size}")
    return gaps


def encode(quantised: Quantised) -> bytes:
    """The canonical bytes of a distribution."""
    writer = _Writer()
    kept = len(quantised.ids)
    writer.number(quantised.bits - 1, MAX_BITS)
    writer.number(kept - 1, quantised.vocab_size)
    gaps = quantised.ids.copy()
    gaps[1:] -= quantised.ids[:-1] + 1
    _write_gaps(writer, gaps, quantised.vocab_size)
    lengths = np.frexp(quantised.counts)[1].astype(np.int64) - 1
    slope = _slope_for(lengths)
    writer.number(slope, _SLOPES)
    writer.symbols(lengths, _length_model(quantised.bits, slope))
    writer.mantissas(quantised.counts, lengths)
    return bytes([VERSION]) + writer.to_bytes()


def largest_message(vocab_size: int) -> int:
    """No honest payload is longer, in bytes; a longer one is refused unread."""
    return 64 + vocab_size * 8


def decode(data: bytes, vocab_size: int) -> Quantised:
    """The distribution behind `data`. CodecError for bytes that `encode` would not have written for
    `vocab_size`.
    """
    if not data or data[0] != VERSION:
        raise CodecError(f"codec version {data[0] if data else 'missing'}, not {VERSION}")
    if len(data) > largest_message(vocab_size):
        raise CodecError(
            f"{len(data)} bytes for a distribution, at most {largest_message(vocab_size)}"
        )
    try:
        quantised = _read(_Reader(data[1:]), vocab_size)
    except CodecError:
        raise
    except (ValueError, AssertionError, BadInput) as error:
        raise CodecError(f"not a distribution: {error}") from None
    if encode(quantised) != data:
        raise CodecError(f"{len(data)} bytes that encode no distribution")
    return quantised


def _read(reader: _Reader, vocab_size: int) -> Quantised:
    bits = reader.number(MAX_BITS) + 1
    kept = reader.number(vocab_size) + 1
    ids = np.cumsum(_read_gaps(reader, kept, vocab_size) + 1) - 1
    slope = reader.number(_SLOPES)
    lengths = reader.symbols(_length_model(bits, slope), kept)
    if int(np.left_shift(1, lengths).sum()) > 1 << bits:
        raise CodecError(f"counts beyond a total of 2^{bits}")
    return Quantised(vocab_size, bits, ids, reader.mantissas(lengths))
