"""What the programs of this folder run: `hedge` itself, as a user types it."""

import subprocess
import sys
from pathlib import Path

from hedge.evaluation.processes import BIN
from research.results.pages import ROOT

RUNS = ROOT / "runs"
PLOTS = ROOT / "docs" / "plots"


def run_hedge(*words: object) -> None:
    """Ends this program with the status of one that fails."""
    command = ["hedge", *map(str, words)]
    sys.stderr.write(f"{' '.join(command)}\n")
    if code := subprocess.run([BIN / "hedge", *command[1:]], stdout=subprocess.DEVNULL).returncode:
        sys.exit(code)


def plot(kind: str, *files: Path, out: Path = PLOTS) -> None:
    run_hedge("plot", kind, *files, "--out", out)
