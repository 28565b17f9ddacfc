"""One draft's share of the proposal, as `split` verification sends it (DSSD; docs/algorithms.md,
section 3).

A kept token: n_d - 1 shifted left by one. A token of the tail: n_tail - 1 shifted left by one, plus
1, then the number m of kept tokens - 1. Little-endian, as many bytes as `bits` and the vocabulary
need.
"""

from dataclasses import dataclass

from hedge.common.distribution import MAX_BITS, Quantised
from hedge.common.errors import BadInput, CodecError


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of 2^bits for the token itself, or, where `kept` is given, for the tail bucket beside
    `kept` tokens.
    """

    vocab_size: int
    bits: int
    count: int
    kept: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise BadInput(f"{self.bits} bits per share, not 1..{MAX_BITS}")
        if not 1 <= self.count <= 1 << self.bits or (
            self.kept is not None and not 1 <= self.kept < self.vocab_size
        ):
            raise BadInput(f"a share of {self.count} beside {self.kept} tokens in {self.bits} bits")

    @property
    def probability(self) -> float:
        """x_hat_d."""
        return (
            self.count
            / (1 << self.bits)
            / (1 if self.kept is None else self.vocab_size - self.kept)
        )


def compute_share(quantised: Quantised, token: int) -> Share:
    """What `split` says of a draft from `quantised`."""
    at = int(quantised.ids.searchsorted(token))
    if at < len(quantised.ids) and quantised.ids[at] == token:
        return Share(quantised.vocab_size, quantised.bits, int(quantised.counts[at]))
    return Share(quantised.vocab_size, quantised.bits, quantised.tail, len(quantised.ids))


def _bytes(below: int) -> int:
    return ((below - 1).bit_length() + 7) // 8


def encode_share(share: Share) -> bytes:
    head = (share.count - 1 << 1 | (share.kept is not None)).to_bytes(
        _bytes(2 << share.bits), "little"
    )
    return (
        head
        if share.kept is None
        else head + (share.kept - 1).to_bytes(_bytes(share.vocab_size), "little")
    )


def decode_share(data: bytes, vocab_size: int, bits: int) -> Share:
    """CodecError for bytes that `encode_share` would not have written."""
    width = _bytes(2 << bits)
    head = int.from_bytes(data[:width], "little")
    rest = data[width:]
    kept = int.from_bytes(rest, "little") + 1 if head & 1 else None
    try:
        share = Share(vocab_size, bits, (head >> 1) + 1, kept)
    except BadInput as error:
        raise CodecError(str(error)) from None
    if encode_share(share) != data:
        raise CodecError(f"{len(data)} bytes that are no share")
    return share
