"""Truncate, then quantise (docs/algorithms.md, section 2.3): from x in float64 to integers that sum
to 2^bits.
"""

import numpy as np

from hedge.common.distribution import Quantised
from hedge.common.sampling import largest


def truncate(probs: np.ndarray, kept: int | None, bits: int) -> Quantised:
    """The `kept` largest entries of x [V] (all for None) and a tail bucket, rounded by largest
    remainder.

    Entries that round to 0 join the tail; the largest entry keeps at least 1, since a message names
    at least one token.
    """
    ids = np.flatnonzero(probs) if kept is None or kept >= len(probs) else largest(probs, kept)
    ids = ids[probs[ids] > 0]
    masses = probs[ids]
    tail = 0.0 if len(ids) == len(probs) else max(0.0, 1.0 - float(masses.sum()))
    scaled = np.append(masses, tail) / (float(masses.sum()) + tail) * (1 << bits)
    counts = np.floor(scaled).astype(np.int64)
    missing = (1 << bits) - int(counts.sum())
    counts[np.argsort(counts - scaled, kind="stable")[:missing]] += 1
    counts = counts[:-1]
    if not counts.any():
        counts[int(np.argmax(masses))] = 1
    positive = counts > 0
    return Quantised(len(probs), bits, ids[positive], counts[positive])
