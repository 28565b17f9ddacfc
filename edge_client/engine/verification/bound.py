"""How many entries a message needs: the paper's bound on what truncation does (docs/algorithms.md,
section 2.3, eq. 26).

With eta = 1 it is a heuristic: it can fall below the distance it is meant to bound. What holds
behind a draft-independent gate is that the tested token is drawn within half of `flattening` of the
LLM's. `tests/edge_client/test_bound.py` shows both.
"""

import numpy as np


def flattening(probs: np.ndarray, ks: np.ndarray | None = None) -> np.ndarray:
    """sum_i |x_i - x_hat_i| when the k largest of x [V] stay and the others share the rest equally;
    for k = 1..V, or `ks`.
    """
    falling = np.sort(probs)[::-1]
    size = len(probs)
    ks = np.arange(1, size + 1) if ks is None else ks
    rest = np.append(np.cumsum(falling[::-1])[::-1], 0.0)
    share = rest[ks] / np.maximum(size - ks, 1)
    # Sorted, the entries above their share are those from k up to `above`.
    above = np.maximum(np.searchsorted(-falling, -share, side="left"), ks)
    return np.asarray(np.maximum(2.0 * (rest[ks] - rest[above] - (above - ks) * share), 0.0))


def softplus(s: float | np.ndarray, eta: float) -> np.ndarray:
    """l(s) = ln(1 + e^(eta s)) / eta."""
    return np.asarray(np.logaddexp(0.0, eta * np.asarray(s)) / eta)


def strictness(drafted: float | np.ndarray, beta: float | np.ndarray, eta: float) -> np.ndarray:
    """(1 - x_d) l(-1) + x_d l(-beta_d), the denominator of U_TV; at least l(-1), its value at x_d =
    0.
    """
    drafted = np.asarray(drafted)
    return np.asarray(
        (1.0 - drafted) * softplus(-1.0, eta) + drafted * softplus(-np.asarray(beta), eta)
    )


def smallest_k(probs: np.ndarray, allowed: float) -> int:
    """The smallest k whose `flattening` is at most `allowed` = theta times the strictness."""
    return int(np.argmax(flattening(probs) <= max(allowed, 0.0))) + 1


def grid(vocab_size: int) -> np.ndarray:
    """The k of an offline curve: every one up to 64, then eight an octave."""
    steps = 64 * 2.0 ** (np.arange(1, 8 * max(0, vocab_size.bit_length() - 6) + 1) / 8)
    ks = np.unique(np.append(np.arange(1, 65), np.ceil(steps).astype(np.int64)))
    return np.append(ks[ks < vocab_size], vocab_size)
