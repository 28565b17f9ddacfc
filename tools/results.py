"""python -m tools.results: every table and plot of docs/results.md from nothing; a second run goes on where the first ended."""

import subprocess
import sys
import time
from pathlib import Path

from tools.local_cloud import BIN

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs"
GRID = ("--vocab", "32000", "--bandwidth", "1e6", "5e6", "10e6", "--snr", "-10", "-5", "0", "5", "10", "20")
SHARES = (0.3, 0.5, 0.76, 0.85, 0.95)
FRONTIER_MEASURES = ("perturbation", "expected_perturbation", "margin")
PROPOSED = "cu-hlm:measure=margin,threshold-rule=quantile,skip-rate=0.76"


def quantile(measure: str, share: float) -> str:
    return f"cu-hlm:measure={measure},threshold-rule=quantile,skip-rate={share}"


# One process per core, each folder one pass of the models; the frontier needs fewer questions a point.
SIMULATIONS = {
    "headline": ("--temperature", "0", "--questions", "1000", "--systems", "slm", "llm", "hlm", "cu-hlm", PROPOSED),
    "paper": (
        "--temperature", "1", "--questions", "200", "--systems", "slm", "llm", "hlm", "rand-hlm", "u-hlm",
        "u-hlm:threshold-rule=risk-prone", "cu-hlm", "cu-hlm:truncation=offline", "cu-hlm:truncation=online", PROPOSED,
    ),
    "tokens": ("--temperature", "1", "--questions", "600", "--question-seed", "1", "--systems", "llm"),
    "frontier": (
        "--temperature", "0", "--questions", "200", "--systems", "llm",
        *(quantile(measure, share) for measure in FRONTIER_MEASURES for share in SHARES),
    ),
}  # fmt: skip


def simulate(name: str, *options: str) -> None:
    command = [str(BIN / "hedge"), "simulate", "--out", str(RUNS / name), "--resume", "--seed", "1", *GRID, *options]
    sys.stderr.write(f"{name}: {' '.join(command[1:])}\n")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    started = time.monotonic()
    for name, options in SIMULATIONS.items():
        simulate(name, *options)
        if name in ("headline", "paper"):
            simulate(name, *options, "--fading", "token")
            simulate(name, *options, "--account", "payload")
    sys.stderr.write(f"{time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
