"""Token ids as bytes, under a model that both sides keep: what was said before predicts what is
sent next.

FIXED writes every id in as many bytes as the vocabulary needs. ADAPTIVE is prediction by partial
matching (Cleary and Witten 1984, escapes by method C) over the ids both sides hold, with exact
arithmetic coding: the message is one fraction, computed in integers, and its shortest bytes. PRIMED
is ADAPTIVE after a text that comes with the tokenizer on both sides. Floats occur nowhere, so that
the two sides cannot disagree.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol

from hedge.common.errors import CodecError

FIXED = 1
ADAPTIVE = 2
PRIMED = 3
VERSIONS = (PRIMED, ADAPTIVE, FIXED)
ORDERS = (2, 1, 0)
# Ids of one message that were released without a test. Reading an id takes as long as the history
# has different ids.
MAX_UNTESTED = 128
# Pr(one more id) in a message is (_LONGER - 1) / _LONGER.
_LONGER = 5

# An interval of a total: (first, size, total).
Share = tuple[int, int, int]


class IdCodec(Protocol):
    """Writes and reads the ids that follow a history both sides hold."""

    def encode(self, history: Sequence[int], ids: Sequence[int]) -> bytes: ...

    def decode(self, history: Sequence[int], data: bytes, most: int) -> list[int]:
        """At most `most` ids. CodecError for bytes that `encode` would not have written."""
        ...


class FixedIds:
    """Little-endian, as many bytes per id as the vocabulary needs."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._width = max(1, ((vocab_size - 1).bit_length() + 7) // 8)

    def encode(self, history: Sequence[int], ids: Sequence[int]) -> bytes:
        return b"".join(token.to_bytes(self._width, "little") for token in ids)

    def decode(self, history: Sequence[int], data: bytes, most: int) -> list[int]:
        if len(data) % self._width:
            raise CodecError(f"{len(data)} bytes of ids, not a multiple of {self._width}")
        if len(data) // self._width > most:
            raise CodecError(f"{len(data) // self._width} ids in a message, at most {most}")
        ids = [
            int.from_bytes(data[i : i + self._width], "little")
            for i in range(0, len(data), self._width)
        ]
        if ids and max(ids) >= self._vocab_size:
            raise CodecError(f"id {max(ids)} in a vocabulary of {self._vocab_size}")
        return ids


class _Contexts:
    """How often each id followed each context of 2, 1 and 0 ids; what was learned last can be
    unlearned.

    What `base` has learned is shared, not copied, and never unlearned.
    """

    def __init__(self, base: "_Contexts | None" = None) -> None:
        self.history: list[int] = list(base.history) if base else []
        self._learned_before = len(self.history)
        self._base: Mapping[tuple[int, ...], Counter[int]] = base._counts if base else {}
        self._counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)

    def _last(self, order: int) -> tuple[int, ...]:
        return tuple(self.history[len(self.history) - order :])

    def seen(self) -> Iterator[Counter[int]]:
        """What followed the present context, the longest first."""
        for order in ORDERS:
            if len(self.history) < order:
                continue
            context = self._last(order)
            shared = self._base.get(context)
            own = self._counts.get(context)
            if found := shared + own if shared and own else shared or own:
                yield found

    def learn(self, token: int) -> None:
        for order in ORDERS:
            if len(self.history) >= order:
                self._counts[self._last(order)][token] += 1
        self.history.append(token)

    def unlearn(self) -> None:
        token = self.history.pop()
        for order in ORDERS:
            if len(self.history) >= order:
                found = self._counts[self._last(order)]
                found[token] -= 1
                if not found[token]:
                    del found[token]
                if not found:
                    del self._counts[self._last(order)]

    def follow(self, history: Sequence[int]) -> None:
        """Learns and unlearns until `history` is what has been learned on top of the base."""
        before = self._learned_before
        shared = min(len(history), len(self.history) - before)
        if self.history[before : before + shared] != list(history[:shared]):
            shared = next(i for i in range(shared) if self.history[before + i] != history[i])
        while len(self.history) > before + shared:
            self.unlearn()
        for token in history[shared:]:
            self.learn(token)


@cache
def _primed(primer: tuple[int, ...]) -> _Contexts:
    contexts = _Contexts()
    contexts.follow(primer)
    return contexts


class _Fraction:
    """A number in [0, 1) that is narrowed down share by share: [first, first + size) / total."""

    def __init__(self) -> None:
        self.first = 0
        self.size = 1
        self.total = 1

    def narrow(self, share: Share) -> None:
        first, size, total = share
        self.first = self.first * total + first * self.size
        self.size = self.size * size
        self.total = self.total * total

    def to_bytes(self) -> bytes:
        """The fewest bytes b1 b2 ... for which 0.b1b2... lies inside, and of those the smallest."""

        def point(length: int) -> int:
            """The first point of so many bytes that is not below the interval."""
            return -(-(self.first << 8 * length) // self.total)

        def inside(length: int) -> bool:
            return point(length) * self.total < (self.first + self.size) << 8 * length

        # A point of some bytes is one of more bytes too; where steps are as small as the interval,
        # one is inside.
        enough = (self.total.bit_length() - self.size.bit_length()) // 8 + 1
        length = bisect_left(range(enough), True, key=inside)
        return point(length).to_bytes(length, "big")

    def target(self, data: bytes, total: int) -> int:
        """Which of `total` equal parts of this interval the number behind `data` lies in."""
        unit = 1 << 8 * len(data)
        offset = int.from_bytes(data, "big") * self.total - self.first * unit
        return offset * total // (self.size * unit)


class AdaptiveIds:
    """Prediction by partial matching with exclusion, then arithmetic coding; the length is coded
    with the ids.
    """

    def __init__(self, vocab_size: int, primer: Sequence[int] = ()) -> None:
        self._vocab_size = vocab_size
        self._contexts = _Contexts(_primed(tuple(primer)))

    def encode(self, history: Sequence[int], ids: Sequence[int]) -> bytes:
        self._contexts.follow(history)
        fraction = _Fraction()
        for token in ids:
            fraction.narrow((0, _LONGER - 1, _LONGER))
            for share in self._shares(token):
                fraction.narrow(share)
            self._contexts.learn(token)
        fraction.narrow((_LONGER - 1, 1, _LONGER))
        return fraction.to_bytes()

    def decode(self, history: Sequence[int], data: bytes, most: int) -> list[int]:
        if len(data) > 8 + 4 * most:
            raise CodecError(f"{len(data)} bytes for at most {most} ids")
        self._contexts.follow(history)
        fraction = _Fraction()
        ids = list[int]()
        while fraction.target(data, _LONGER) < _LONGER - 1:
            if len(ids) == most:
                raise CodecError(f"more than {most} ids in a message")
            fraction.narrow((0, _LONGER - 1, _LONGER))
            ids.append(self._next(fraction, data))
            self._contexts.learn(ids[-1])
        if self.encode(history, ids) != data:
            raise CodecError(f"{len(data)} bytes that encode no ids")
        return ids

    def _tables(self) -> Iterator[list[tuple[int, int]]]:
        """(id, count) of every order, ascending ids, without those a longer context has already
        offered.
        """
        excluded: set[int] = set()
        for seen in self._contexts.seen():
            if table := sorted(
                (token, count) for token, count in seen.items() if token not in excluded
            ):
                yield table
                excluded.update(seen)

    def _shares(self, token: int) -> Iterator[Share]:
        """The escapes down to the first order that knows `token`, and its own share there."""
        for table in self._tables():
            counts = sum(count for _, count in table)
            total = counts + len(table)
            first = 0
            for known, count in table:
                if known == token:
                    yield first, count, total
                    return
                first += count
            yield counts, len(table), total
        yield token, 1, self._vocab_size

    def _next(self, fraction: _Fraction, data: bytes) -> int:
        for table in self._tables():
            counts = sum(count for _, count in table)
            total = counts + len(table)
            at = fraction.target(data, total)
            first = 0
            for known, count in table:
                if first <= at < first + count:
                    fraction.narrow((first, count, total))
                    return known
                first += count
            fraction.narrow((counts, len(table), total))
        token = fraction.target(data, self._vocab_size)
        fraction.narrow((token, 1, self._vocab_size))
        return token


def versions(primer: Sequence[int]) -> tuple[int, ...]:
    """What a side with this primer reads and writes, best first."""
    return VERSIONS if primer else (ADAPTIVE, FIXED)


def id_codec(version: int, vocab_size: int, primer: Sequence[int] = ()) -> IdCodec:
    """A fresh codec for one session."""
    if version == FIXED:
        return FixedIds(vocab_size)
    return AdaptiveIds(vocab_size, primer if version == PRIMED else ())
