"""python -m research.results.paper: tables and plots of the bundled pair in docs/results/paper.md; goes on
where it ended.
"""

import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from hedge.common.model import BUNDLED, bundled_folder, load
from hedge.common.sampling import Warp
from hedge.common.torch_model import use_threads
from hedge.edge_client.calibrations import load_calibration
from hedge.evaluation.processes import BIN
from hedge.evaluation.record import Journal, answers_of, read_journal
from research.results import paper_tables
from research.results.paper_tables import PROPOSED, quantile
from research.study import KS, Context, study

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs"
GRID = (
    "--vocab",
    "32000",
    "--bandwidth",
    "1e6",
    "5e6",
    "10e6",
    "--snr",
    "-10",
    "-5",
    "0",
    "5",
    "10",
    "20",
)
SHARES = (0.3, 0.5, 0.76, 0.85, 0.95)
FRONTIER_MEASURES = ("perturbation", "expected_perturbation", "margin")
SPEEDS = ("headline", "paper")
MEASURE = "perturbation"
TRUNCATED = 150
LOSSLESS = "hedge:max-in-flight=1"

# One process per core, each folder one pass of the models; the frontier needs fewer questions a
# point.
SIMULATIONS = {
    "headline": (
        "--temperature",
        "0",
        "--questions",
        "1000",
        "--systems",
        "slm",
        "llm",
        "hlm",
        "cu-hlm",
        PROPOSED,
        LOSSLESS,
    ),
    "paper": (
        *"--temperature 1 --questions 200 --systems slm llm hlm rand-hlm u-hlm u-hlm:threshold-rule=risk-prone".split(),
        *"cu-hlm cu-hlm:truncation=offline cu-hlm:truncation=online".split(),
        PROPOSED,
        LOSSLESS,
    ),
    "tokens": (
        "--temperature",
        "1",
        "--questions",
        "600",
        "--question-seed",
        "1",
        "--systems",
        "llm",
    ),
    "frontier": (
        *"--temperature 0 --questions 200 --systems llm".split(),
        *(quantile(measure, share) for measure in FRONTIER_MEASURES for share in SHARES),
    ),
}


def simulate(name: str, *options: str) -> None:
    command = [
        str(BIN / "hedge"),
        "simulate",
        "--out",
        str(RUNS / name),
        "--resume",
        "--seed",
        "1",
        *GRID,
        *options,
    ]
    sys.stderr.write(f"{name}: {' '.join(command[1:])}\n")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    started = time.monotonic()
    for name, options in SIMULATIONS.items():
        simulate(name, *options)
        if name in SPEEDS:
            simulate(name, *options, "--fading", "token")
            simulate(name, *options, "--account", "payload")
    if not (RUNS / "tokens.jsonl").exists():
        study_tokens()
    plots()
    tables()
    sys.stderr.write(
        f"docs/results/paper.md and docs/plots are up to date: {time.monotonic() - started:.0f} s\n"
    )


def study_tokens() -> None:
    """Both models on the LLM's answers, into runs/tokens.jsonl, whole or not at all."""
    use_threads(1)
    path = RUNS / "tokens.jsonl"
    seed = 1
    header, entries = read_journal(RUNS / "tokens" / "answers-llm_1.jsonl", "answers")
    calibration = load_calibration(bundled_folder() / "calibration.json")
    slm = load(BUNDLED, "slm")
    llm = load(BUNDLED, "llm")
    context = Context(slm, llm, Warp(), seed, MEASURE, calibration.fits[MEASURE])
    answers = answers_of(path, entries)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    journal = Journal(
        partial,
        {"kind": "tokens", "slm": header["slm"], "llm": header["llm"], "ks": KS},
        resume=False,
    )
    for entry in tqdm(
        study(context, answers, TRUNCATED),
        total=len(answers),
        desc="study",
        unit="answer",
        disable=None,
    ):
        journal.append(entry)
    partial.replace(path)


def plots() -> None:
    for kind, files in {
        "uncertainty": ["tokens.jsonl"],
        "roc": ["tokens.jsonl"],
        "truncation": ["tokens.jsonl"],
        "frontier": ["frontier/rows.jsonl"],
        "throughput": ["paper/rows.jsonl"],
        "payload": ["paper/rows.jsonl"],
        "skips": [
            f"headline/{file.name}"
            for file in sorted((RUNS / "headline").glob("answers-cu-hlm*.jsonl"))
        ],
    }.items():
        command = [
            str(BIN / "hedge"),
            "plot",
            kind,
            *(str(RUNS / file) for file in files),
            "--out",
            str(ROOT / "docs" / "plots"),
        ]
        subprocess.run(command, check=True)


def tables() -> None:
    still = [
        (-10.0, 1e6, "none"),
        (0.0, 1e6, "none"),
        (10.0, 1e6, "none"),
        (0.0, 10e6, "none"),
        (0.0, 1e6, "token"),
    ]
    paper_tables.write(
        ROOT / "docs" / "results" / "paper.md",
        {
            **{name: paper_tables.systems(RUNS / name) for name in SPEEDS},
            **{f"{name} speed": paper_tables.speeds(RUNS / name, still) for name in SPEEDS},
            "frontier": paper_tables.frontier(RUNS / "frontier"),
            "measures": paper_tables.measures(RUNS / "tokens.jsonl"),
            "risk": paper_tables.risk(RUNS / "tokens.jsonl"),
        },
    )


if __name__ == "__main__":
    main()
