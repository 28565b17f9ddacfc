"""python -m research.benches.real PAIR TASKS: the real pair, in GGUF on the device and in torch in
the cloud.

PAIR holds q05.gguf and, with safetensors, q05 and q15; TASKS holds gsm8k-dev.jsonl and
humaneval-dev.jsonl. First what a step, the memory and the start cost, each in processes of its own
with one thread; then whether `hedge` on q05.gguf gives token for token what `llm` gives, against a
float32 cloud of one thread. Answers are kept in docs/results/real.jsonl, where it goes on.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.model_options import ModelOptions
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cli.prompts import Prompt, read_prompts
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.harness import ask_all, configure, count_answer
from hedge.evaluation.processes import BIN, run_cloud
from hedge.evaluation.record import Journal, read_journal
from hedge.evaluation.tables import Column, first, markdown, middle, ratio, tabulate, total

OUT = Path(__file__).parents[2] / "docs" / "results" / "real.jsonl"
TEMPERATURES = (0.0, 0.7)
QUESTIONS = 20
TOKENS = 128
SEED = 0
# llm streams share passes; hedge's SLM steps run on one core.
TOGETHER = {"llm": 10, "hedge": 2}
ROUNDS = 3


def probe(model: Path, options: ModelOptions) -> dict[str, Any]:
    command = [sys.executable, "-m", "hedge.common.probe", str(model), json.dumps(asdict(options))]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return found


def start(model: Path, *options: str) -> dict[str, float]:
    """Seconds from the start of `hedge generate` to its first token, and its MB at the peak."""
    words = f"generate --system slm --slm {model} --threads 1 --seed 0 --temperature 0"
    ask = ("--max-new-tokens", "64", "--prompt", "Write a Python function that adds two numbers.")
    command = [str(BIN / "hedge"), *words.split(), *options, *ask]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout
        running.stdout.read(1)
        seconds = time.perf_counter() - begun
        running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = status
    return {"first_s": seconds, "memory_mb": usage.ru_maxrss // 1024}


def costs(pair: Path) -> None:
    """A table in Markdown: medians of rounds in turn, and ratios of one round's."""
    half = ModelOptions(threads=1, dtype="bfloat16")
    kinds = {
        "llama.cpp Q4_K_M": (pair / "q05.gguf", ModelOptions(threads=1), ()),
        "torch bf16": (pair / "q05", half, ("--dtype", "bfloat16")),
        "torch float32": (pair / "q05", ModelOptions(threads=1), ()),
    }
    rows = [
        {"kind": kind} | probe(model, options) | start(model, *words)
        for _ in range(ROUNDS)
        for kind, (model, options, words) in kinds.items()
    ]
    columns = (
        Column("q05, one thread", first("kind")),
        Column("ms a step", middle("one_ms"), ".1f"),
        Column("ms for 8 rows", middle("eight_ms"), ".1f"),
        Column("first token after, s", middle("first_s"), ".2f"),
        Column("memory of `hedge generate`, MB", middle("memory_mb"), ".0f"),
    )
    print(markdown(tabulate(rows, ("kind",), columns)))
    ours, theirs = (rows[at :: len(kinds)] for at in (0, 1))
    step, memory = (
        median(a[name] / b[name] for a, b in zip(ours, theirs, strict=True))
        for name in ("one_ms", "memory_mb")
    )
    wide = median(row["eight_ms"] / row["one_ms"] for row in ours)
    print(f"\nllama.cpp over torch bf16: step {step:.2f}, memory {memory:.2f}; ", end="")
    print(f"8 rows over one row in llama.cpp {wide:.2f}\n")


def questions(folder: Path) -> list[Prompt]:
    """As many of each kind."""
    files = (folder / "gsm8k-dev.jsonl", folder / "humaneval-dev.jsonl")
    return [prompt for file in files for prompt in read_prompts(file)[: QUESTIONS // len(files)]]


async def answer(
    slm: LanguageModel, prompt: Prompt, config: GenerationConfig, link: GrpcLink
) -> dict[str, Any]:
    session = Session(slm, slm.encode_chat(prompt.messages), config, link)
    await session.run()
    return count_answer(session)


async def ask_systems(
    slm: LanguageModel,
    address: str,
    asked: list[Prompt],
    journal: Journal,
    tokens: int = TOKENS,
    runs: Sequence[tuple[str, int]] = tuple(TOGETHER.items()),
    dtype: str | None = None,
) -> None:
    """Every question at every temperature, by each of `runs`: a system, and how many at once."""
    fields = ("temperature", "system", "question")
    async with GrpcLink(address) as link:
        pair = Pair(slm, link.info)
        for (system, together), temperature in product(runs, TEMPERATURES):
            # Several prompts in bfloat16 take a processor without such products minutes.
            words = f"--temperature {temperature} --seed {SEED} --max-new-tokens {tokens}".split()
            config = configure(system, pair, *words, "--patience", "3600")
            tag = () if dtype is None else (dtype, together)
            wanted = {
                (*tag, temperature, system, number): partial(answer, slm, prompt, config, link)
                for number, prompt in enumerate(asked)
            }
            names = (*("dtype", "together")[: len(tag)], *fields)
            await ask_all(journal, names, wanted, f"{system}, T {temperature:g}", together)


def compare(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of hedge to what llm answered too, each with whether it is the `same`."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry.get("dtype"), entry["temperature"], entry["question"]

    theirs = {key(entry): entry["token_ids"] for entry in entries if entry["system"] == "llm"}
    mine = [entry for entry in entries if entry["system"] == "hedge" and key(entry) in theirs]
    return [entry | {"same": entry["token_ids"] == theirs[key(entry)]} for entry in mine]


TEMPERATURE = Column("temperature", first("temperature"), "g")
SAME = (
    Column(
        "answers of `hedge` that are `llm`'s", lambda rows: f"{total('same')(rows)} of {len(rows)}"
    ),
    Column("tokens", total("tokens")),
)
PASSES = Column("passes/token", ratio("rounds", "tokens"), ".3f")


def report(entries: Sequence[dict[str, Any]]) -> None:
    steps = Column("SLM steps/token", ratio("slm_steps", "tokens"), ".2f")
    columns = (TEMPERATURE, *SAME, PASSES, steps)
    rows = sorted(compare(entries), key=lambda entry: float(entry["temperature"]))
    print(markdown(tabulate(rows, ("temperature",), columns)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--only", choices=("costs", "answers"))
    args = parser.parse_args()
    if args.only != "answers":
        costs(args.pair)
    if args.only != "costs":
        slm = load(str(args.pair / "q05.gguf"), "slm", ModelOptions(threads=1))
        header = {
            "kind": "real",
            "slm": slm.fingerprint,
            "llm": "q15 float32",
            "tokens": TOKENS,
            "seed": SEED,
        }
        journal = Journal(OUT, header, resume=OUT.exists())
        options = ("--threads", "1", "--max-step-s", "0", "--no-prefix-sharing")
        with run_cloud("--llm", str(args.pair / "q15"), *options) as address:
            asyncio.run(ask_systems(slm, address, questions(args.tasks), journal))
        report(read_journal(OUT, "real")[1])


if __name__ == "__main__":
    main()
