"""python -m tools.bench_blocks [PAIR TASKS]: how long blocks are, replayed over the real pair's answers.

With PAIR and TASKS the traces are made: the LLM's answers are those of docs/results/exact.jsonl (bfloat16), and q05.gguf reads
them, one thread, minutes. They are kept in docs/results/traces.jsonl. Without, the table alone is made anew from there.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.coupling import decided
from common.model import LanguageModel, load
from common.model_options import ModelOptions
from common.noise import Noise, Purpose
from common.sampling import Warp
from edge_client.engine.gates.survival import Survival
from evaluation.record import Journal, read_journal
from evaluation.replay import SurvivalRule, Trace, foresight, over
from tools.bench_exact import OUT as ANSWERS
from tools.bench_real import SEED, TEMPERATURES, questions

OUT = ANSWERS.parent / "traces.jsonl"
ROWS = 64
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)


def traced(slm: LanguageModel, prompt: list[int], answer: list[int], warp: Warp) -> dict[str, Any]:
    """What the SLM makes of the LLM's answer."""
    noise, cache, fed = Noise(SEED, prompt), slm.kv_cache(), [*prompt, *answer[:-1]]
    cache.forward(fed[: len(prompt) - 1], 0)
    accepted: list[int] = []
    margins: list[float] = []
    for first in range(0, len(answer), ROWS):
        rows = cache.forward(fed[len(prompt) - 1 + first : len(prompt) - 1 + first + ROWS])
        for position, logits in enumerate(rows, first):
            if warp.greedy:
                second, largest = np.partition(logits, -2)[-2:]
                draft, margin = int(logits.argmax()), float(largest - second)
            else:
                draft, margin = decided(warp(logits), noise.integers(Purpose.TARGET, position, 0, len(logits)))
            accepted.append(int(draft == answer[position]))
            margins.append(round(min(margin, 50.0), 3))
    return {"accepted": accepted, "margin": margins}


def record(pair: Path, tasks: Path) -> None:
    slm = load(str(pair / "q05.gguf"), "slm", ModelOptions(threads=1))
    asked = questions(tasks)
    journal = Journal(OUT, {"kind": "traces", "slm": slm.fingerprint, "llm": "q15 bfloat16", "seed": SEED}, resume=OUT.exists())
    done = {(entry["temperature"], entry["question"]) for entry in journal.entries}
    for entry in read_journal(ANSWERS, "exact")[1]:
        key = (entry["temperature"], entry["question"])
        if (entry["system"], entry["dtype"]) == ("llm", "bfloat16") and key not in done:
            prompt = slm.encode_chat(asked[entry["question"]].messages)
            trace = traced(slm, prompt, entry["token_ids"], Warp(entry["temperature"]))
            journal.append({"temperature": key[0], "question": key[1]} | trace)


def fresh(threshold: float) -> SurvivalRule:
    return SurvivalRule(Survival(), threshold)


def report() -> None:
    entries = read_journal(OUT, "traces")[1]
    print("| temperature | threshold | passes/token | SLM steps/token | LLM positions/token | nothing carried, passes/token |")
    print("|---:|---:|---:|---:|---:|---:|")
    for temperature in TEMPERATURES:
        mine = [
            Trace(tuple(map(bool, e["accepted"])), tuple(e["margin"]))
            for e in sorted(entries, key=lambda e: int(e["question"]))
            if e["temperature"] == temperature
        ]
        for threshold in THRESHOLDS:
            rule = partial(fresh, threshold)
            numbers = (*over(mine, rule).per_token(), over(mine, rule, carried=False).per_token()[0])
            print(f"| {temperature:g} | {threshold:g} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
        print(f"| {temperature:g} | perfect foresight | {foresight(mine):.3f} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", type=Path, nargs="?")
    parser.add_argument("tasks", type=Path, nargs="?")
    args = parser.parse_args()
    if args.pair and args.tasks:
        record(args.pair, args.tasks)
    report()


if __name__ == "__main__":
    main()
