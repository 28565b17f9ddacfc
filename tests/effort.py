"""How much work the tests do: HEDGE_RUNS is the runs of a chi-square case (`make test`: 500, `make
test-all`: 5,000), and other counts go with it.
"""

import os

FULL = 5000
RUNS = int(os.environ.get("HEDGE_RUNS", "500"))


def scaled(count: int, least: int = 1) -> int:
    """Of `count` prompts, seeds or examples, as many as these runs allow."""
    return max(least, count * RUNS // FULL)
