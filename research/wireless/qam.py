"""Tokens on square QAM (docs/algorithms.md, section 5): labels, likelihoods, the error rate."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hedge.common.errors import BadInput

ORDERS = (4, 16)
_erfc = np.vectorize(math.erfc, otypes=[float])


@dataclass(frozen=True, slots=True)
class Qam:
    """2^m points; a token is `symbols` of them: its id, highest bit first, zeros behind it."""

    order: int
    vocab_size: int

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise BadInput(f"qam {self.order} is not one of {', '.join(map(str, ORDERS))}")

    @property
    def m(self) -> int:
        return self.order.bit_length() - 1

    @property
    def bits(self) -> int:
        """Of a token: ceil(log2 |V|), padded to a multiple of m."""
        return self.symbols * self.m

    @property
    def symbols(self) -> int:
        return -(-max(1, math.ceil(math.log2(self.vocab_size))) // self.m)

    @property
    def points(self) -> NDArray[np.complex128]:
        """[2^m], E|s|^2 = 1. The first half of the bits, Gray-coded, is the real axis, the second
        the imaginary one.
        """
        half = self.m // 2
        levels = np.arange(1 << half)
        gray = levels ^ (levels >> 1)
        axis = np.empty(1 << half)
        axis[gray] = 2.0 * levels - ((1 << half) - 1)
        label = np.arange(self.order)
        points = axis[label >> half] + 1j * axis[label & ((1 << half) - 1)]
        return np.asarray(points / math.sqrt(float((np.abs(points) ** 2).mean())))

    def labels(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """[..., symbols] labels of ids [...]."""
        used = max(1, math.ceil(math.log2(self.vocab_size)))
        padded = np.asarray(ids) << (self.bits - used)
        shifts = np.arange(self.symbols - 1, -1, -1) * self.m
        return np.asarray((padded[..., None] >> shifts) & (self.order - 1))

    def modulate(self, ids: NDArray[np.int64]) -> NDArray[np.complex128]:
        return np.asarray(self.points[self.labels(ids)])

    def log_likelihood(
        self, received: NDArray[np.complex128], amplitude: complex, noise: float
    ) -> NDArray[np.float64]:
        """ln p(received | w) up to a constant, [n, |V|], of received [n, symbols]; `noise` is the
        total variance s2.
        """
        away = -(np.abs(received[:, :, None] - amplitude * self.points) ** 2) / noise
        return np.asarray(away.reshape(len(received), self.symbols * self.order) @ _members(self))

    def bit_error(self, power: NDArray[np.float64] | float, gain: float) -> NDArray[np.float64]:
        """Pb(p) = (R-1)/(R log2 R) erfc(s) + (R-2)/(R log2 R) erfc(3 s), s = sqrt(3 p g / (2 (2^m -
        1))), R = sqrt(2^m).
        """
        root = math.isqrt(self.order)
        s = np.sqrt(3.0 * np.asarray(power) * gain / (2.0 * (self.order - 1)))
        share = root * math.log2(root)
        return np.asarray((root - 1) / share * _erfc(s) + (root - 2) / share * _erfc(3 * s))


@cache
def _members(qam: Qam) -> NDArray[np.float64]:
    """[symbols 2^m, |V|]: 1 where an id has a label at a symbol."""
    labels = qam.labels(np.arange(qam.vocab_size))
    found = np.zeros((qam.symbols, qam.order, qam.vocab_size))
    found[np.arange(qam.symbols)[:, None], labels.T, np.arange(qam.vocab_size)] = 1.0
    return found.reshape(-1, qam.vocab_size)


@dataclass(frozen=True, slots=True)
class Fade:
    """A packet's channel: h, known at both ends; total noise variance; mean power of a token."""

    h: complex
    noise: float = 1.0
    power: float = 1.0

    @property
    def gain(self) -> float:
        """g = |h|^2 / s2."""
        return abs(self.h) ** 2 / self.noise


def rayleigh(snr_db: float, rng: np.random.Generator) -> Fade:
    """One block: E|h|^2 = 1, s2 = 1, and P / T so that SNR = P E|h|^2 / (T s2)."""
    if not math.isfinite(snr_db) or not -200 <= snr_db <= 200:
        raise BadInput(f"SNR {snr_db:g} dB is not in -200..200")
    h = complex(*rng.normal(scale=math.sqrt(0.5), size=2))
    return Fade(h, 1.0, 10 ** (snr_db / 10))


def transmit(
    symbols: NDArray[np.complex128], fade: Fade, power: float, rng: np.random.Generator
) -> tuple[NDArray[np.complex128], complex]:
    """What arrives of `symbols` sent with `power` each, and its amplitude h sqrt(p)."""
    amplitude = fade.h * math.sqrt(power)
    noise = rng.normal(scale=math.sqrt(fade.noise / 2), size=(*symbols.shape, 2))
    return amplitude * symbols + noise[..., 0] + 1j * noise[..., 1], amplitude
