"""The uplink of the papers: Shannon's rate under fading (docs/algorithms.md, section 2)."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hedge.common.errors import BadInput

FADINGS = ("none", "token", "block")
NOISE_DBM_PER_HZ = -174.0
_BLOCKS = 256
_PATIENCE = 1 << 20


def path_loss_db(distance_m: float) -> float:
    """The urban macro cell of 3GPP TR 36.814: 128.1 + 37.6 log10(distance in km), dB."""
    if not 0 < distance_m < math.inf:
        raise BadInput(f"distance {distance_m:g} m is not above 0")
    return 128.1 + 37.6 * math.log10(distance_m / 1000)


def snr_at(distance_m: float, bandwidth_hz: float, power_dbm: float = 23.0) -> float:
    """Mean SNR in dB of a device at `distance_m`, over thermal noise of -174 dBm/Hz."""
    return power_dbm - path_loss_db(distance_m) - NOISE_DBM_PER_HZ - 10 * math.log10(bandwidth_hz)


@dataclass(frozen=True, slots=True)
class Channel:
    """B in Hz, the mean SNR in dB, and how it fades.

    Rayleigh fading multiplies the SNR by Exp(1): once per message (`token`, the paper's) or once
    per `coherence_s` (`block`). Below `outage` bit/s/Hz nothing is carried until the next draw.
    """

    bandwidth_hz: float
    snr_db: float
    fading: str = "none"
    coherence_s: float = 0.01
    outage: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth_hz < math.inf:
            raise BadInput(f"bandwidth {self.bandwidth_hz:g} Hz is not above 0")
        if not -200 <= self.snr_db <= 200:
            raise BadInput(f"SNR {self.snr_db:g} dB is not in -200..200")
        if self.fading not in FADINGS:
            raise BadInput(f"fading {self.fading!r} is not one of {', '.join(FADINGS)}")
        if not 0 < self.coherence_s < math.inf:
            raise BadInput(f"coherence {self.coherence_s:g} s is not above 0")
        if not 0 <= self.outage < math.inf:
            raise BadInput(f"outage rate {self.outage:g} bit/s/Hz is not at least 0")
        if self.fading == "none" and not self.rate(1.0):
            raise BadInput(
                f"SNR {self.snr_db:g} dB without fading is below "
                f"the outage rate of {self.outage:g} bit/s/Hz"
            )
        if self.outage_probability > 1 - 1 / _PATIENCE:
            raise BadInput(
                f"SNR {self.snr_db:g} dB is nearly always below "
                f"the outage rate of {self.outage:g} bit/s/Hz"
            )

    def rate(self, gain: float | np.ndarray) -> np.ndarray:
        """C = B log2(1 + gain SNR), bit/s; 0 in outage."""
        efficiency = np.log1p(np.asarray(gain) * 10 ** (self.snr_db / 10)) / math.log(2)
        return np.asarray(np.where(efficiency >= self.outage, self.bandwidth_hz * efficiency, 0.0))

    @property
    def outage_probability(self) -> float:
        """Pr(log2(1 + gain SNR) < outage) for gain ~ Exp(1)."""
        return -math.expm1(-(2**self.outage - 1) / 10 ** (self.snr_db / 10))


class Uplink(Protocol):
    """Carries messages one after the other."""

    def send(self, bits: float, at: float) -> float:
        """Seconds until `bits` that start at time `at` have arrived."""
        ...


@dataclass(slots=True)
class _Still:
    rate: float

    def send(self, bits: float, at: float) -> float:
        return bits / self.rate


@dataclass(slots=True)
class _PerMessage:
    channel: Channel
    rng: np.random.Generator

    def send(self, bits: float, at: float) -> float:
        waited = 0.0
        while not (rate := float(self.channel.rate(self.rng.exponential()))):
            waited += self.channel.coherence_s
        return waited + bits / rate


class _Blocks:
    """Blocks lie on a fixed clock, so that two messages of one block see one gain."""

    def __init__(self, channel: Channel, rng: np.random.Generator) -> None:
        self._channel = channel
        self._rng = rng
        self._carried = np.zeros(1)

    def _extend(self) -> None:
        bits = self._channel.rate(self._rng.exponential(size=_BLOCKS)) * self._channel.coherence_s
        self._carried = np.append(self._carried, self._carried[-1] + np.cumsum(bits))

    def send(self, bits: float, at: float) -> float:
        block, into = divmod(at / self._channel.coherence_s, 1.0)
        while len(self._carried) < block + 2:
            self._extend()
        first = int(block)
        target = (
            self._carried[first] + into * (self._carried[first + 1] - self._carried[first]) + bits
        )
        while self._carried[-1] < target:
            self._extend()
        last = max(1, int(np.searchsorted(self._carried, target)))
        share = (target - self._carried[last - 1]) / (self._carried[last] - self._carried[last - 1])
        return max(0.0, float((last - 1 + share) * self._channel.coherence_s - at))


def open_uplink(channel: Channel, rng: np.random.Generator) -> Uplink:
    """A link at time 0 whose fading is drawn from `rng`."""
    if channel.fading == "none":
        return _Still(float(channel.rate(1.0)))
    return _PerMessage(channel, rng) if channel.fading == "token" else _Blocks(channel, rng)
