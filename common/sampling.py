"""The warp, and speculative accept / resample (Leviathan 2023; docs/algorithms.md, sections 1 and
2).
"""

from dataclasses import dataclass

import numpy as np

from hedge.common.errors import BadInput

_COLDEST = 1e-300


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [V]; the largest logit is subtracted first."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum()
    return shifted


def sort_descending(values: np.ndarray) -> np.ndarray:
    """Indices from the largest value down, ties to the lowest index."""
    return np.argsort(-values, kind="stable")


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """The indices of the `count` largest values, ties to the lowest index, ascending."""
    if count >= len(values):
        return np.arange(len(values))
    bound = np.partition(values, len(values) - count)[len(values) - count]
    chosen = np.flatnonzero(values > bound)
    return np.sort(np.concatenate([chosen, np.flatnonzero(values == bound)[: count - len(chosen)]]))


def gap(logits: np.ndarray) -> float:
    """By how much the largest of [V] exceeds the second; inf where there is one alone."""
    first = int(logits.argmax())
    others = [part.max() for part in (logits[:first], logits[first + 1 :]) if len(part)]
    return float(logits[first] - max(others)) if others else float("inf")


@dataclass(frozen=True, slots=True)
class Warp:
    """W: temperature, then top-k (0 keeps all), then top-p, then min-p, renormalised. Temperature 0
    is the argmax.

    `min_p` leaves out what has less than that share of the largest probability.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise BadInput(f"temperature {self.temperature:g} is not a number of at least 0")
        if not 0 <= self.top_k < 2**31:
            raise BadInput(f"top-k {self.top_k} is not 0 (off) or a positive count")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top-p {self.top_p:g} is not in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise BadInput(f"min-p {self.min_p:g} is not in 0..1")

    @property
    def greedy(self) -> bool:
        """Whether the distribution is the argmax alone."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def cuts(self) -> bool:
        """Whether tokens may be left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """The sampled distribution of raw logits [V]: float64 [V], summing to 1."""
        if self.greedy:
            probs = np.zeros(len(logits))
            probs[int(np.argmax(logits))] = 1.0
            return probs
        # Subtracting first, and the floor, keep tiny temperatures from overflowing.
        probs = softmax(
            (logits.astype(np.float64) - logits.max()) / max(self.temperature, _COLDEST)
        )
        if 0 < self.top_k < len(probs):
            kept = largest(logits, self.top_k)
            probs = _only(probs, kept)
        if self.top_p < 1:
            order = sort_descending(logits)
            needed = int(np.searchsorted(np.cumsum(probs[order]), self.top_p)) + 1
            probs = _only(probs, order[:needed])
        if self.min_p > 0:
            probs = _only(probs, np.flatnonzero(probs >= self.min_p * probs.max()))
        return probs


def _only(probs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    rest = np.zeros_like(probs)
    rest[kept] = probs[kept]
    rest /= rest.sum()
    return rest


def draw(weights: np.ndarray, uniform: float) -> int:
    """Inverse-CDF draw from non-negative weights [V] of any positive sum, clamped to the last
    positive entry.
    """
    edges = np.cumsum(weights)
    index = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    return index if index < len(weights) else int(np.flatnonzero(weights)[-1])


def accepts(proposed: float, target: float, uniform: float) -> bool:
    """Whether a draft of proposal probability `proposed` and target probability `target` stays: r
    x_hat_d < y_d.
    """
    return uniform * proposed < target


def residual(target: np.ndarray, proposal: np.ndarray) -> np.ndarray:
    """Weights of (y - x_hat)+; y itself when rounding leaves nothing."""
    weights = np.maximum(target - proposal, 0.0)
    return weights if weights.any() else target
