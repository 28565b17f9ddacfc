"""What verdicts have taught about a pair (policy survival), kept from command to command, one file
a pair.

Only this user's commands read it: it lies with the history of the chat, by the XDG convention.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from hedge.common.command import say
from hedge.common.files import write_whole
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.engine.gates.survival import Survival


def state_folder() -> Path:
    """Of what is remembered between commands."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "hedge"


@contextlib.contextmanager
def remembered(pair: Pair, *, keep: bool) -> Iterator[Survival]:
    """What is known of the pair, and at the end what is known by then; without a cloud, or `keep`,
    it is not kept.
    """
    if pair.info is None or not keep:
        yield Survival()
        return
    path = (
        state_folder() / "survival" / f"{pair.slm.fingerprint}-{pair.info.model_fingerprint}.json"
    )
    survival = _read(path)
    try:
        yield survival
    finally:
        # A device that cannot keep it answers all the same.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(asdict(survival)) + "\n")


def _read(path: Path) -> Survival:
    try:
        return _checked(json.loads(path.read_text("utf-8")))
    except OSError:
        return Survival()
    except (ValueError, TypeError, RecursionError):
        say(f"hedge: {path} is not what verdicts have taught; starting without")
        return Survival()


def _checked(numbers: object) -> Survival:
    """ValueError or TypeError for what no verdicts lead to."""
    if not isinstance(numbers, dict):
        raise TypeError(numbers)
    found = Survival(**{name: float(value) for name, value in numbers.items()})
    curved = (
        found.aa >= 0 and found.bb >= 0 and found.aa * found.bb >= found.ab * found.ab * (1 - 1e-6)
    )
    if not (all(map(math.isfinite, asdict(found).values())) and found.b > 0 and curved):
        raise ValueError(numbers)
    return found
