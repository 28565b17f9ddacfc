"""python -m research.results.real PAIR TASKS [STAGE ...]: the systems on a real pair, in stages.

PAIR holds q05.gguf and q15.gguf, TASKS gsm8k-dev.jsonl and humaneval-dev.jsonl. A stage goes on
where it ended; what it has found stands in docs/results/real, one line an answer.

    calibrate      fits and thresholds at each temperature, on real_prompts.jsonl
    gsm8k-0, ...   the answers of every system to a task at a temperature, judged
    strip          one answer over a link of 50 ms, token by token
    traces         what the SLM makes of the LLM's answers: measures of uncertainty, and the traces
                   of `hedge simulate links`
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hedge.common.command import run, say
from hedge.common.errors import BadInput
from hedge.evaluation.processes import run_cloud
from hedge.evaluation.record import Journal, lock_folder
from hedge.evaluation.tasks import read_judged_tasks
from research import simulate
from research.harness import Answering, find_missing
from research.results.pages import ROOT
from research.results.real_rows import (
    HEDGE,
    PAPER_SHARE,
    PROPOSED,
    SEED,
    TASKS,
    TEMPERATURES,
    condense,
    quantile,
)
from research.results.real_traces import MAX_NEW_TOKENS, MEASURE, OUT, calibration_path, trace
from research.results.runs import run_hedge
from research.results.strip import CONTEXT, record_strip

PROMPTS = ROOT / "research" / "results" / "real_prompts.jsonl"
CALIBRATED_TOKENS = 64
# By how much a logit of q15.gguf moved with what else was in a pass: the largest that hedge-cloud
# found at its start.
DIFFERENCE = 0.36
WORKERS = 16

# Those first that the claims are about (--leading 6), `llm` before all: the others find its rows.
COMPARED = (
    "llm",
    "cu-hlm",
    HEDGE,
    quantile("margin", 0.5),
    PROPOSED,
    PAPER_SHARE,
    "slm",
    "hlm",
    "gelato",
    "u-hlm",
    "cu-hlm:truncation=offline",
    "cu-hlm:truncation=online",
    "u-hlm:threshold-rule=risk-prone",
    "cu-hlm:threshold-rule=risk-prone",
    quantile("margin", 0.9),
    "rand-hlm",
)
# At temperature 0 the gate of the paper too, at the same shares.
FRONTIER = tuple(quantile(MEASURE, share) for share in (0.5, 0.76, 0.9))


def calibrate(args: argparse.Namespace) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for temperature in TEMPERATURES:
        path = calibration_path(temperature)
        if path.exists():
            continue
        options = ("--llm", args.llm, "--threads", "1", "--context", str(CONTEXT))
        with run_cloud(*options) as address:
            words = f"calibrate --cloud {address} --insecure --threads 1 --seed {SEED}".split()
            words += f"--temperature {temperature} --max-new-tokens {CALIBRATED_TOKENS}".split()
            run_hedge(*words, "--slm", args.slm, "--prompts", PROMPTS, "--out", path)


def answer(args: argparse.Namespace, task: str, temperature: str) -> None:
    """Every system's answers to one task. A file that is whole is left as it is."""
    calibration = calibration_path(temperature)
    if not calibration.exists():
        raise BadInput(f"no {calibration}: the stage calibrate makes it")
    systems = COMPARED + (FRONTIER if temperature == "0" else ())
    words = f"--task {task} --run-code --questions {args.questions} --seed {SEED}".split()
    words += f"--temperature {temperature} --max-new-tokens {MAX_NEW_TOKENS}".split()
    words += ["--slm", args.slm, "--llm", args.llm, "--task-folder", str(args.tasks)]
    words += ["--calibration", str(calibration), "--out", str(OUT)]
    options = simulate.parse_options([*words, "--systems", *systems[: args.leading or None]])
    asked = read_judged_tasks(options)
    runs, header = simulate.plan(options)
    path = OUT / f"{task}-{temperature}.jsonl"
    head = {"kind": "real"} | header | {"prompts": "", "questions": 0, "temperature": temperature}
    with lock_folder(ROOT / "runs" / path.stem):
        journal = Journal(path, head, resume=True)
        jobs = find_missing(runs, asked, {(row["run"], row["task"]) for row in journal.entries})
        end = time.monotonic() + 60 * args.minutes
        answering = Answering(batch=args.workers, difference=DIFFERENCE, end=end)
        for name, found in answering.run(simulate.make_pair(options), runs, jobs):
            with_ids = name.startswith("llm ")
            row = condense(found, header["vocab_size"], with_ids=with_ids)
            journal.append({"run": name} | row)


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "calibrate": calibrate,
    **{
        f"{task}-{t}": partial(answer, task=task, temperature=t)
        for t in TEMPERATURES
        for task in TASKS
    },
    "traces": trace,
    "strip": record_strip,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path)
    parser.add_argument("tasks", type=Path)
    names = ", ".join(STAGES)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {names}; default: all")
    parser.add_argument("--minutes", type=float, default=25.0, help="of a stage, to begin answers")
    parser.add_argument("--questions", type=int, default=0, help="of each task; 0: all (default)")
    parser.add_argument("--workers", type=int, default=WORKERS, help="answers at once (default 16)")
    parser.add_argument("--leading", type=int, default=0, help="first systems; 0: all (default)")
    args = parser.parse_args()
    for name in args.stages:
        if name not in STAGES:
            parser.error(f"no stage {name!r}; there are {names}")
    args.slm, args.llm = (str(args.pair / name) for name in ("q05.gguf", "q15.gguf"))
    return args


def main() -> None:
    args = parse_arguments()
    for name in args.stages or STAGES:
        started = time.monotonic()
        STAGES[name](args)
        say(f"{name}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run("results.real", main)
