"""What a model costs on this machine. `python -m hedge.common.probe MODEL` does it in its own
process: a wrong build crashes.
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass

from hedge.common.errors import HedgeError
from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.model_options import ModelOptions

ROUNDS = 6
WIDE = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of a forward pass over one id and over eight, and the process's memory at its
    peak, in MB.
    """

    runtime: str
    one_ms: float
    eight_ms: float
    memory_mb: int


def measure(lm: LanguageModel) -> Measured:
    lm.warm_up()
    cache = lm.kv_cache()
    cache.forward([0] * min(WIDE, lm.context - WIDE), 1)
    held = cache.length
    medians = []
    for count in (1, WIDE):
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            cache.forward([0] * count)
            times.append(1e3 * (time.perf_counter() - started))
            cache.rollback(held)
        medians.append(statistics.median(times))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return Measured(
        lm.describe(),
        medians[0],
        medians[1],
        memory // (1024 if sys.platform == "linux" else 1 << 20),
    )


def main() -> None:
    try:
        options = ModelOptions(**json.loads(sys.argv[2]))
        sys.stdout.write(json.dumps(asdict(measure(load(sys.argv[1], "slm", options)))) + "\n")
    except HedgeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
