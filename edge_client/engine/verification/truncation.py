"""Truncate, then quantise (docs/algorithms.md, section 2.3): from x in float64 to integers that sum to 2^bits."""

import numpy as np

from common.distribution import Quantised
from common.sampling import largest


def truncate(law: np.ndarray, kept: int | None, bits: int) -> Quantised:
    """The `kept` largest entries of x [V] (all for None) and a tail bucket, rounded by largest remainder.

    Entries that round to 0 join the tail; the largest entry keeps at least 1, since a message names at least one token.
    """
    ids = np.flatnonzero(law) if kept is None or kept >= len(law) else largest(law, kept)
    ids = ids[law[ids] > 0]
    masses = law[ids]
    tail = 0.0 if len(ids) == len(law) else max(0.0, 1.0 - float(masses.sum()))
    scaled = np.append(masses, tail) / (float(masses.sum()) + tail) * (1 << bits)
    counts = np.floor(scaled).astype(np.int64)
    missing = (1 << bits) - int(counts.sum())
    counts[np.argsort(counts - scaled, kind="stable")[:missing]] += 1
    counts = counts[:-1]
    if not counts.any():
        counts[int(np.argmax(masses))] = 1
    positive = counts > 0
    return Quantised(len(law), bits, ids[positive], counts[positive])
