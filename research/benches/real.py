"""python -m research.benches.real PAIR TASKS: the real pair, in GGUF on the device and in torch in the
cloud.

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
from pathlib import Path
from statistics import median
from typing import Any

from hedge.common.command import command_parser
from hedge.common.model import LanguageModel, load
from hedge.common.model_options import ModelOptions
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cli.options import add_system, add_warp, resolved
from hedge.edge_client.cli.prompts import Prompt, read_prompts
from hedge.edge_client.engine.session import Session
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.processes import BIN, local_cloud
from hedge.evaluation.record import Journal, read_journal

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


def started(model: Path, *options: str) -> tuple[float, int]:
    """Seconds from the start of `hedge generate` to its first token, and the MB it had at its peak
    after 64 tokens.
    """
    command = [
        str(BIN / "hedge"),
        *f"generate --system slm --slm {model} --threads 1 --seed 0".split(),
        *options,
        "--temperature",
        "0",
        "--max-new-tokens",
        "64",
        "--prompt",
        "Write a Python function that adds two numbers.",
    ]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout
        running.stdout.read(1)
        first = time.perf_counter() - begun
        running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = status
    return first, usage.ru_maxrss // 1024


def costs(pair: Path) -> None:
    """A table in Markdown: medians of rounds in turn."""
    kinds = {
        "llama.cpp Q4_K_M": (pair / "q05.gguf", ModelOptions(threads=1), ()),
        "torch bf16": (
            pair / "q05",
            ModelOptions(threads=1, dtype="bfloat16"),
            ("--dtype", "bfloat16"),
        ),
        "torch float32": (pair / "q05", ModelOptions(threads=1), ()),
    }
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    starts: dict[str, list[tuple[float, int]]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, (model, options, words) in kinds.items():
            steps[name].append(probe(model, options))
            starts[name].append(started(model, *words))
    print(
        "| q05, one thread | ms a step | ms for 8 rows | first token after, s | memory of `hedge generate`, MB |"
    )
    print("|---|---:|---:|---:|---:|")
    for name in kinds:
        one, eight = (median(found[key] for found in steps[name]) for key in ("one_ms", "eight_ms"))
        first, memory = (median(column) for column in zip(*starts[name], strict=True))
        print(f"| {name} | {one:.1f} | {eight:.1f} | {first:.2f} | {memory:.0f} |")
    ours = steps["llama.cpp Q4_K_M"]
    theirs = steps["torch bf16"]
    step = median(a["one_ms"] / b["one_ms"] for a, b in zip(ours, theirs, strict=True))
    wide = median(found["eight_ms"] / found["one_ms"] for found in ours)
    memory = median(
        a[1] / b[1] for a, b in zip(starts["llama.cpp Q4_K_M"], starts["torch bf16"], strict=True)
    )
    print(
        f"\nllama.cpp over torch bf16: step {step:.2f}, memory {memory:.2f}; 8 rows over one row in llama.cpp {wide:.2f}\n"
    )


def questions(folder: Path) -> list[Prompt]:
    """As many of each kind."""
    files = (folder / "gsm8k-dev.jsonl", folder / "humaneval-dev.jsonl")
    return [prompt for file in files for prompt in read_prompts(file)[: QUESTIONS // len(files)]]


async def answers(
    slm: LanguageModel,
    address: str,
    asked: list[Prompt],
    journal: Journal,
    tokens: int = TOKENS,
    runs: Sequence[tuple[str, int]] = tuple(TOGETHER.items()),
    **tag: Any,
) -> None:
    """Every question at every temperature, by each of `runs`: a system, and how many of its answers
    go on at once.
    """
    async with GrpcLink(address) as link:
        pair = Pair(slm, link.info)
        for system, together in runs:
            for temperature in TEMPERATURES:
                about = (
                    tag
                    | {"temperature": temperature, "system": system}
                    | ({"together": together} if tag else {})
                )
                done = {
                    entry["question"] for entry in journal.entries if about.items() <= entry.items()
                }
                parser = command_parser("bench-real", "", "")
                add_system(parser)
                add_warp(parser)
                args = parser.parse_args(
                    # Several prompts in bfloat16 take a processor without such products minutes.
                    [
                        *f"--temperature {temperature} --seed {SEED} --max-new-tokens {tokens} --patience 3600".split()
                    ]
                )
                settings = resolved(args, pair, system)
                free = asyncio.Semaphore(together)

                async def answer(
                    number: int,
                    prompt: Prompt,
                    settings: Any = settings,
                    free: asyncio.Semaphore = free,
                    about: dict[str, Any] = about,
                    done: set[int] = done,
                ) -> None:
                    if number in done:
                        return
                    async with free:
                        session = Session(slm, slm.encode_chat(prompt.messages), settings, link)
                        await session.run()
                    s = session.statistics
                    journal.append(
                        about
                        | {
                            "question": number,
                            "token_ids": session.token_ids,
                            "tokens": s.tokens,
                            "rounds": s.rounds,
                            "slm_steps": s.steps,
                            "llm_positions": s.llm_positions,
                            "near_ties": s.near_ties,
                            "wall_s": round(s.wall_s, 3),
                        }
                    )
                    print(
                        *about.values(),
                        f"question {number}: {s.tokens} tokens, {s.rounds} rounds",
                        file=sys.stderr,
                    )

                await asyncio.gather(
                    *(answer(number, prompt) for number, prompt in enumerate(asked))
                )


def report(entries: list[dict[str, Any]]) -> None:
    print(
        "| temperature | answers of `hedge` that are `llm`'s | tokens | passes/token | SLM steps/token |"
    )
    print("|---|---:|---:|---:|---:|")
    for temperature in TEMPERATURES:
        mine = [e for e in entries if e["temperature"] == temperature]
        theirs = {e["question"]: e["token_ids"] for e in mine if e["system"] == "llm"}
        rows = [e for e in mine if e["system"] == "hedge" and e["question"] in theirs]
        same = sum(e["token_ids"] == theirs[e["question"]] for e in rows)
        tokens = sum(e["tokens"] for e in rows) or 1
        per = [sum(e[key] for e in rows) / tokens for key in ("rounds", "slm_steps")]
        print(
            f"| {temperature:g} | {same} of {len(rows)} | {tokens} | {per[0]:.3f} | {per[1]:.2f} |"
        )


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
        with local_cloud("--llm", str(args.pair / "q15"), *options) as address:
            asyncio.run(answers(slm, address, questions(args.tasks), journal))
        report(read_journal(OUT, "real")[1])


if __name__ == "__main__":
    main()
