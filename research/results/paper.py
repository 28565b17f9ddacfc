"""python -m research.results.paper: tables and plots of the bundled pair in docs/results/paper.md.

Goes on where it ended.
"""

import sys
import time

from hedge.common.loading import load
from hedge.common.model import BUNDLED, bundled_folder
from hedge.common.sampling import Warp
from hedge.common.torch_model import use_threads
from hedge.edge_client.calibrations import load_calibration
from hedge.evaluation.record import Journal, parse_answers, read_journal
from research.harness import show_progress
from research.results.pages import RESULTS, write_parts
from research.results.paper_tables import (
    tabulate_frontier,
    tabulate_measures,
    tabulate_risk,
    tabulate_speeds,
    tabulate_systems,
)
from research.results.real_rows import PROPOSED, quantile
from research.results.runs import RUNS, plot, run_hedge
from research.study import KS, Context, study

GRID = "--vocab 32000 --bandwidth 1e6 5e6 10e6 --snr -10 -5 0 5 10 20".split()
SHARES = (0.3, 0.5, 0.76, 0.85, 0.95)
FRONTIER_MEASURES = ("perturbation", "expected_perturbation", "margin")
SPEEDS = ("headline", "paper")
STILL = (
    (-10.0, 1e6, "none"),
    (0.0, 1e6, "none"),
    (10.0, 1e6, "none"),
    (0.0, 10e6, "none"),
    (0.0, 1e6, "token"),
)
SEED = 1
MEASURE = "perturbation"
TRUNCATED = 150
LOSSLESS = "hedge:max-in-flight=1"

# Each folder one pass of the models; the frontier needs fewer questions a point.
SIMULATIONS = {
    "headline": [
        *"--temperature 0 --questions 1000 --systems slm llm hlm cu-hlm".split(),
        PROPOSED,
        LOSSLESS,
    ],
    "paper": [
        *"--temperature 1 --questions 200 --systems slm llm hlm rand-hlm u-hlm".split(),
        *"u-hlm:threshold-rule=risk-prone cu-hlm cu-hlm:truncation=offline".split(),
        "cu-hlm:truncation=online",
        PROPOSED,
        LOSSLESS,
    ],
    "tokens": "--temperature 1 --questions 600 --question-seed 1 --systems llm".split(),
    "frontier": [
        *"--temperature 0 --questions 200 --systems llm".split(),
        *(quantile(measure, share) for measure in FRONTIER_MEASURES for share in SHARES),
    ],
}


def simulate(name: str, *options: str) -> None:
    out = RUNS / name
    run_hedge("simulate", "--out", out, "--resume", "--seed", SEED, *GRID, *options)


def study_tokens() -> None:
    """Both models on the LLM's answers, into runs/tokens.jsonl, whole or not at all."""
    use_threads(1)
    path = RUNS / "tokens.jsonl"
    header, entries = read_journal(RUNS / "tokens" / "answers-llm_1.jsonl", "answers")
    fit = load_calibration(bundled_folder() / "calibration.json").fits[MEASURE]
    context = Context(load(BUNDLED, "slm"), load(BUNDLED, "llm"), Warp(), SEED, MEASURE, fit)
    answers = parse_answers(path, entries)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    head = {"kind": "tokens", "slm": header["slm"], "llm": header["llm"], "ks": KS}
    journal = Journal(partial, head, resume=False)
    for entry in show_progress(study(context, answers, TRUNCATED), len(answers), "study"):
        journal.append(entry)
    partial.replace(path)


def draw_plots() -> None:
    for kind in ("uncertainty", "roc", "truncation"):
        plot(kind, RUNS / "tokens.jsonl")
    plot("frontier", RUNS / "frontier" / "rows.jsonl")
    for kind in ("throughput", "payload"):
        plot(kind, RUNS / "paper" / "rows.jsonl")
    plot("skips", *sorted((RUNS / "headline").glob("answers-cu-hlm*.jsonl")))


def write_tables() -> None:
    parts = {name: tabulate_systems(RUNS / name) for name in SPEEDS}
    parts |= {f"{name} speed": tabulate_speeds(RUNS / name, STILL) for name in SPEEDS}
    parts["frontier"] = tabulate_frontier(RUNS / "frontier")
    parts["measures"] = tabulate_measures(RUNS / "tokens.jsonl")
    parts["risk"] = tabulate_risk(RUNS / "tokens.jsonl")
    write_parts(RESULTS / "paper.md", parts)


def main() -> None:
    started = time.monotonic()
    for name, options in SIMULATIONS.items():
        simulate(name, *options)
        if name in SPEEDS:
            simulate(name, *options, "--fading", "token")
            simulate(name, *options, "--account", "payload")
    if not (RUNS / "tokens.jsonl").exists():
        study_tokens()
    draw_plots()
    write_tables()
    took = time.monotonic() - started
    sys.stderr.write(f"docs/results/paper.md and docs/plots are up to date: {took:.0f} s\n")


if __name__ == "__main__":
    main()
