"""python -m tools.bench_blocks [PAIR TASKS]: how long blocks are, and what they bring, replayed
over the real pair's answers.

With PAIR and TASKS the traces are made: the LLM's answers are those of docs/results/exact.jsonl
(bfloat16), and q05.gguf reads them, one thread, minutes. They are kept in
docs/results/traces.jsonl. Without, the tables alone are made anew from there.
"""

import argparse
from pathlib import Path
from typing import Any

from hedge.common.model import load
from hedge.common.model_options import ModelOptions
from hedge.common.sampling import Warp
from hedge.edge_client.config import PREFERENCES
from hedge.evaluation.break_even import traced
from hedge.evaluation.profile import Profile, read_profile
from hedge.evaluation.record import Journal, read_journal
from hedge.evaluation.replay import Trace, foresight, replayed
from research.links import configure_hedge, select_traces
from tools.bench_exact import OUT as ANSWERS
from tools.bench_real import SEED, TEMPERATURES, questions

OUT = ANSWERS.parent / "traces.jsonl"
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
PROFILES = ("phone", "laptop")
ROUND_TRIPS = (0.005, 0.05, 0.1)


def record(pair: Path, tasks: Path) -> None:
    slm = load(str(pair / "q05.gguf"), "slm", ModelOptions(threads=1))
    asked = questions(tasks)
    journal = Journal(
        OUT,
        {"kind": "traces", "slm": slm.fingerprint, "llm": "q15 bfloat16", "seed": SEED},
        resume=OUT.exists(),
    )
    done = {(entry["temperature"], entry["question"]) for entry in journal.entries}
    for entry in read_journal(ANSWERS, "exact")[1]:
        key = (entry["temperature"], entry["question"])
        if (entry["system"], entry["dtype"]) == ("llm", "bfloat16") and key not in done:
            prompt = slm.encode_chat(asked[entry["question"]].messages)
            trace = traced(slm, prompt, entry["token_ids"], Warp(entry["temperature"]), SEED)
            journal.append({"temperature": key[0], "question": key[1]} | trace)


def table(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---:|' * len(columns)}")


def line(*cells: Any) -> None:
    print(
        f"| {' | '.join(f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in cells)} |"
    )


def waiting(traces: list[Trace], temperature: float) -> None:
    """One message at a time: no network, and nothing drafted meanwhile."""
    here = Profile("here", slm_s=0.02, llm_s=0.04)
    for threshold in THRESHOLDS:
        config = configure_hedge("balanced", threshold, max_in_flight=1)
        counts = replayed(traces, config, here, 0.0).per_token()
        line(
            f"{temperature:g}",
            f"{threshold:g}",
            *counts,
            replayed(traces, config, here, 0.0, carried=False).per_token()[0],
        )
    line(f"{temperature:g}", "perfect foresight", foresight(traces), "", "", "")


def over_links(traces: list[Trace], temperature: float) -> None:
    for profile in map(read_profile, PROFILES):
        for round_trip in ROUND_TRIPS:
            for prefer in PREFERENCES:
                counts = replayed(traces, configure_hedge(prefer), profile, round_trip)
                line(
                    f"{temperature:g}",
                    profile.name,
                    f"{1e3 * round_trip:g} ms",
                    prefer,
                    counts.speed,
                    *counts.per_token(),
                )


def report() -> None:
    entries = read_journal(OUT, "traces")[1]
    every = {temperature: select_traces(entries, temperature) for temperature in TEMPERATURES}
    per_token = ("passes/token", "SLM steps/token", "LLM positions/token")
    table("temperature", "threshold", *per_token, "nothing carried, passes/token")
    for temperature, traces in every.items():
        waiting(traces, temperature)
    print()
    table("temperature", "device", "round trip", "prefer", "over the LLM streaming", *per_token)
    for temperature, traces in every.items():
        over_links(traces, temperature)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path, nargs="?")
    parser.add_argument("tasks", type=Path, nargs="?")
    args = parser.parse_args()
    if args.pair and args.tasks:
        record(args.pair, args.tasks)
    report()


if __name__ == "__main__":
    main()
