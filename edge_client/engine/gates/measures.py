"""Uncertainty of a position in [0, 1] (docs/algorithms.md, section 2.1), from raw logits [V].

`draft_independent` measures are functions of logits and probs alone: gating by them leaves the
distribution of asked positions untouched. `perturbation`, the paper's own, looks at the drawn token
and does not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hedge.common.sampling import gap, softmax
from hedge.edge_client.config import LOOK_AT_DRAFT

DRAWS = 20
NODES = 8


@dataclass(frozen=True, slots=True)
class Measure:
    """`of(logits, probs, draft, uniforms)`: probs are the warped x, float64 [V]; uniforms are 2 *
    DRAWS numbers in [0, 1).
    """

    name: str
    draft_independent: bool
    of: Callable[[np.ndarray, np.ndarray, int, np.ndarray], float]


def _perturbation(logits: np.ndarray, probs: np.ndarray, draft: int, uniforms: np.ndarray) -> float:  # noqa: ARG001
    """Mean over m of 1[d_m != d], d_m ~ softmax(z / theta_m), theta_m ~ U(0, 2] (U-HLM, M = 20).

    Whether d_m equals d is all that is read of it, so that one coin of probability softmax(z /
    theta_m)_d is drawn.
    """
    inverse = (1.0 / (2.0 * (1.0 - uniforms[:DRAWS]))).astype(np.float32)[:, None]
    weights = _tempered(logits, inverse)
    chances = weights[:, draft] / weights.sum(axis=1)
    return float(np.mean(uniforms[DRAWS:] >= chances))


def _tempered(logits: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """softmax(z / theta_m) before its division, float32 [M, V]: float64 would be three times the
    cost of the whole gate.
    """
    weights: np.ndarray = inverse * (logits - logits.max()).astype(np.float32)
    np.exp(weights, out=weights)
    return weights


@lru_cache(maxsize=8)
def _inverse_temperatures(nodes: int) -> np.ndarray:
    return (1.0 / (2.0 * (np.arange(nodes) + 0.5) / nodes)).astype(np.float32)[:, None]


def expected_perturbation(logits: np.ndarray, probs: np.ndarray, nodes: int = NODES) -> float:
    """u(x) = 1 - (1/M) sum_m sum_v x_v softmax(z / theta_m)_v at the midpoints theta_m = 2 (m -
    1/2) / M.
    """
    weights = _tempered(logits, _inverse_temperatures(nodes))
    agreement = (weights @ probs.astype(np.float32)) / weights.sum(axis=1)
    return min(1.0, max(0.0, 1.0 - float(agreement.mean())))


def _expected(logits: np.ndarray, probs: np.ndarray, draft: int, uniforms: np.ndarray) -> float:  # noqa: ARG001
    return expected_perturbation(logits, probs)


def _entropy(logits: np.ndarray, probs: np.ndarray, draft: int, uniforms: np.ndarray) -> float:  # noqa: ARG001
    """Nats over ln |V|, before the warp."""
    if len(logits) < 2:
        return 0.0
    shifted = (logits - logits.max()).astype(np.float64)
    weights = np.exp(shifted)
    total = float(weights.sum())
    return max(0.0, (math.log(total) - float(weights @ shifted) / total) / math.log(len(logits)))


def _margin(logits: np.ndarray, probs: np.ndarray, draft: int, uniforms: np.ndarray) -> float:  # noqa: ARG001
    """1 - (p1 - p2), before the warp."""
    if len(logits) < 2:
        return 0.0
    return 1.0 - gap(softmax(logits))


def _top1(logits: np.ndarray, probs: np.ndarray, draft: int, uniforms: np.ndarray) -> float:  # noqa: ARG001
    """1 - p1, before the warp."""
    return float(1.0 - 1.0 / np.exp((logits - logits.max()).astype(np.float64)).sum())


MEASURES = {
    name: Measure(name, name not in LOOK_AT_DRAFT, of)
    for name, of in (
        ("perturbation", _perturbation),
        ("expected_perturbation", _expected),
        ("entropy", _entropy),
        ("margin", _margin),
        ("top1", _top1),
    )
}
