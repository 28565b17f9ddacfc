"""Drafter-invariant coupling (Daliri, Musco, Suresh 2024; docs/algorithms.md, section 3): both
sides draw with the same noise.

With Gumbel noise g[v] = -ln(-ln U[v]), argmax over v of ln x[v] + g[v] is distributed as x. It is
the winner of a race, the argmin of E[v] / x[v] with E = -ln U, and that is how it is computed. The
noise is addressed by (key, position, token), so that a winner depends on the LLM's distribution and
the position alone: what the other side drafted, and how, cannot change it.
"""

import numpy as np

from hedge.common.noise import Noise, Purpose

# A runner whose time is bounded from below within rounding of the best is looked at exactly.
_ROUNDING = 1 + 1e-12


def race_times(probs: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """E[v] / probs[v], float64 [V], inf where probs is 0; E = -ln U with U = (n + 1/2) / 2^52, n <
    2^52.
    """
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(-np.log((integers + 0.5) * 2.0**-52) / probs)


def winner(probs: np.ndarray, integers: np.ndarray) -> int:
    """The token that wins under `probs` [V], ties to the lowest id."""
    return int(contenders(probs, integers)[0])


def contenders(probs: np.ndarray, integers: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """The tokens whose time is at most `factor` times the winner's, ascending.

    -ln U is at least 1 - U: a token whose (1 - U) / probs is behind another's exact time needs no
    logarithm.
    """
    with np.errstate(divide="ignore", over="ignore"):
        earliest = (1.0 - (integers + 0.5) * 2.0**-52) / probs
    leader = earliest.argmin(keepdims=True)
    bound = race_times(probs[leader], integers[leader])[0] * factor * _ROUNDING
    runners = np.flatnonzero(earliest <= bound)
    times = race_times(probs[runners], integers[runners])
    return np.asarray(runners[times <= times.min() * factor])


def decide_race(probs: np.ndarray, integers: np.ndarray) -> tuple[int, float]:
    """The winner under `probs` [V], and its margin: ln of the runner-up's time over its own, inf
    where nobody else can win.

    That is by how much ln x[v] + g[v], logits over the temperature with their noise, of the two are
    apart.
    """
    with np.errstate(divide="ignore", over="ignore"):
        earliest = (1.0 - (integers + 0.5) * 2.0**-52) / probs
    first = int(earliest.argmin())
    kept = earliest[first]
    earliest[first] = np.inf
    leaders = [first, int(earliest.argmin())]
    earliest[first] = kept
    # Nobody whose time is later than both of theirs is one of the two best.
    bound = race_times(probs[leaders], integers[leaders]).max() * _ROUNDING
    runners = np.flatnonzero(earliest <= bound)
    times = race_times(probs[runners], integers[runners])
    best = np.argsort(times, kind="stable")[:2]
    margin = float(np.log(times[best[1]] / times[best[0]])) if len(best) > 1 else np.inf
    return int(runners[best[0]]), margin


def race_noise(noise: Noise, position: int, count: int) -> np.ndarray:
    """uint64 [count], below 2^52: the noise of every token at a generated position."""
    return noise.integers(Purpose.TARGET, position, 0, count)


def decide_coupled(noise: Noise, position: int, probs: np.ndarray) -> tuple[int, float]:
    """`decide_race` at a generated position under the request's shared noise."""
    if probs[sure := int(probs.argmax())] == 1.0:
        return sure, np.inf
    return decide_race(probs, race_noise(noise, position, len(probs)))


def draw_coupled(noise: Noise, position: int, probs: np.ndarray) -> int:
    """The token of `probs` [V] at a generated position under the request's shared noise."""
    if probs[sure := int(probs.argmax())] == 1.0:
        return sure
    return winner(probs, race_noise(noise, position, len(probs)))
