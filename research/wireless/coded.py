"""Coded links with as much energy: Huffman with LDPC, and range coding under the SLM."""

import heapq
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedge.common.errors import BadInput, HedgeError
from hedge.common.model import LanguageModel
from hedge.common.sampling import softmax
from research.wireless.qam import Fade, Qam, transmit

# Rate 4/5: 480 bits in blocks of 600.
_K = 480
_M = 120
_ITERATIONS = 50
# What a code falls short of capacity.
GAP_DB = 3.0


def huffman(probs: NDArray[np.float64]) -> list[str]:
    """The code word of every symbol of `probs` [V], as a string of 0 and 1."""
    heap: list[tuple[float, int, list[int]]] = [(float(p), i, [i]) for i, p in enumerate(probs)]
    heapq.heapify(heap)
    words = [""] * len(probs)
    number = len(probs)
    while len(heap) > 1:
        low = heapq.heappop(heap)
        high = heapq.heappop(heap)
        for bit, (_, _, symbols) in (("0", low), ("1", high)):
            for symbol in symbols:
                words[symbol] = bit + words[symbol]
        heapq.heappush(heap, (low[0] + high[0], number, low[2] + high[2]))
        number += 1
    return words


@cache
def _checks() -> NDArray[np.uint8]:
    """[120, 600]: three ones in every column of the message, a staircase for the parity bits."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((_M, _K + _M), np.uint8)
    # Every row of the message part has twelve ones.
    slots = np.concatenate([rng.permutation(_M) for _ in range(3 * _K // _M)]).reshape(_K, 3)
    for column, rows in enumerate(slots):
        matrix[rows, column] = 1
    for row in range(_M):
        matrix[row, _K + row] = 1
        if row:
            matrix[row, _K + row - 1] = 1
    return matrix


def encode_blocks(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[blocks, 600] of bits and zeros; a parity bit adds its row's and the parity bit before."""
    blocks = max(1, -(-len(bits) // _K))
    message = np.zeros((blocks, _K), np.uint8)
    message.reshape(-1)[: len(bits)] = bits
    parity = np.cumsum(message @ _checks()[:, :_K].T.astype(np.int64), axis=1) % 2
    return np.concatenate([message, parity.astype(np.uint8)], axis=1)


def bp_decoder() -> Any:
    """ldpc's belief propagation; HedgeError where it is not installed."""
    try:
        from ldpc.bp_decoder import BpDecoder
    except ImportError:
        raise HedgeError("LDPC codes need ldpc: pip install 'hedge-hlm[bench]'") from None
    return BpDecoder


def decode_blocks(ratios: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The message bits of [blocks, 600] ratios ln p(0) / p(1), by belief propagation."""
    decoder_class = bp_decoder()
    matrix = _checks()
    decoder = decoder_class(matrix, error_rate=0.1, max_iter=_ITERATIONS, bp_method="product_sum")
    found = []
    for row in ratios:
        hard = (row < 0).astype(np.uint8)
        decoder.update_channel_probs(
            np.clip(1 / (1 + np.exp(np.minimum(np.abs(row), 50.0))), 1e-12, 0.5 - 1e-12)
        )
        syndrome = (matrix @ hard % 2).astype(np.uint8)
        found.append((hard ^ np.asarray(decoder.decode(syndrome), np.uint8))[:_K])
    return np.concatenate(found)


def bit_ratios(
    qam: Qam, received: NDArray[np.complex128], amplitude: complex, noise: float
) -> NDArray[np.float64]:
    """[n m] ratios ln p(0) / p(1) of the bits of n symbols, highest bit first."""
    away = -(np.abs(received[:, None] - amplitude * qam.points) ** 2) / noise
    labels = np.arange(qam.order)
    found = np.empty((len(received), qam.m))
    for bit in range(qam.m):
        one = (labels >> (qam.m - 1 - bit)) & 1 == 1
        found[:, bit] = np.logaddexp.reduce(away[:, ~one], axis=1) - np.logaddexp.reduce(
            away[:, one], axis=1
        )
    return found.reshape(-1)


@dataclass(frozen=True, slots=True)
class HuffmanLdpc:
    """Ids under the Huffman code of `words`, an LDPC code of rate 4/5, QAM; no length field."""

    qam: Qam
    words: list[str]

    def sent(self, ids: NDArray[np.int64]) -> int:
        """Symbols of the channel that a packet takes."""
        bits = sum(len(self.words[i]) for i in ids)
        return -(-(bits + max(1, -(-bits // _K)) * _M) // self.qam.m)

    def carry(
        self, ids: NDArray[np.int64], fade: Fade, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """What arrives of a packet that has the energy of an uncoded one."""
        bits = np.array([int(bit) for i in ids for bit in self.words[i]], np.uint8)
        coded = encode_blocks(bits)
        # The zeros behind the message are known at both ends and not sent.
        known = np.zeros(coded.shape, bool)
        known[-1, len(bits) - (len(coded) - 1) * _K : _K] = True
        sent = np.zeros(self.sent(ids) * self.qam.m, np.uint8)
        sent[: int((~known).sum())] = coded[~known]
        labels = sent.reshape(-1, self.qam.m) @ (1 << np.arange(self.qam.m - 1, -1, -1))
        power = fade.power * len(ids) * self.qam.symbols / len(labels)
        received, amplitude = transmit(self.qam.points[labels], fade, power, rng)
        ratios = np.full(coded.shape, 50.0)
        ratios[~known] = bit_ratios(self.qam, received, amplitude, fade.noise)[
            : int((~known).sum())
        ]
        return self._read(decode_blocks(ratios), len(ids))

    def _read(self, bits: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
        known = {word: i for i, word in enumerate(self.words)}
        found = []
        word = ""
        for bit in bits:
            word += "01"[bit]
            if word in known:
                found.append(known[word])
                word = ""
                if len(found) == count:
                    break
        return np.array(found + [-1] * (count - len(found)), np.int64)


def range_bits(slm: LanguageModel, ids: NDArray[np.int64]) -> float:
    """Of range coding a packet under the SLM: -log2 p(ids), and two bits to end."""
    begin = slm.begin_id
    if begin is None:
        raise BadInput(
            f"{slm.name} has no token that begins a text: --slm none leaves range coding out"
        )
    history = [int(begin), *map(int, ids)]
    rows = slm.kv_cache().forward(history[:-1], len(ids))
    return 2.0 - sum(
        math.log2(max(float(softmax(z)[i]), 1e-12)) for z, i in zip(rows, ids, strict=True)
    )


def is_delivered(qam: Qam, fade: Fade, length: int, bits: float) -> bool:
    """Whether a code `GAP_DB` below capacity carries `bits` in the symbols of `length` tokens."""
    per_symbol = math.log2(1 + fade.gain * fade.power / 10 ** (GAP_DB / 10))
    return length * qam.symbols * per_symbol >= bits
