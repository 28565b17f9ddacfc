"""What a measurement ran on."""

import contextlib
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine(threads: int) -> dict[str, Any]:
    names = re.findall(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "python": platform.python_version(),
        "torch": version("torch"),
        "threads": threads,
    }


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""


def read_joules() -> float | None:
    """What the processor's packages have drawn so far (RAPL), where the machine tells."""
    found = [
        _read(str(path / "energy_uj")) for path in Path("/sys/class/powercap").glob("intel-rapl:?")
    ]
    return sum(map(float, found)) / 1e6 if found and all(found) else None
