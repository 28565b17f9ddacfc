"""python -m tools.bench_break_even [PAIR PROMPTS]: what `hedge doctor` expects of a link, beside
what a run then measures.

Without PAIR the bundled pair with the times of a phone, and held-out questions; with it q05.gguf
and q15.gguf as fast as they are, and PROMPTS, a JSONL. Five prompts are looked at, as by the
doctor; others are answered. The rows are in docs/results/break-even.jsonl. Speeds are from when the
cloud has read the prompt, which takes both systems as long.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.common.model_options import ModelOptions
from hedge.common.probe import WIDE, measure
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.break_even import sampled
from hedge.evaluation.paced import PacedLM, Timeline
from hedge.evaluation.processes import listening, local_cloud
from hedge.evaluation.profile import read_profile
from hedge.evaluation.record import Journal
from hedge.evaluation.tasks import tasks

OUT = Path(__file__).parent.parent / "docs" / "results" / "break-even.jsonl"
ROUND_TRIPS = (0.01, 0.05, 0.1, 0.2)
LOOKED_AT = 5
ASKED = 15
TOKENS = 120
PROBES = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", nargs="?", type=Path)
    parser.add_argument("prompts", nargs="?", type=Path)
    parser.add_argument(
        "--asked", type=int, default=ASKED, help=f"answers that are measured (default {ASKED})"
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    args = parser.parse_args()
    journal = Journal(OUT, {"kind": "break-even"}, resume=OUT.exists())
    asked = [task.prompt for task in tasks(args.prompts, LOOKED_AT + args.asked, 3)]
    with ExitStack() as stack:
        if args.pair:
            one = ModelOptions(threads=1)
            slm: LanguageModel = load(str(args.pair / "q05.gguf"), "slm", one)
            options: tuple[str, ...] = (
                "--llm",
                str(args.pair / "q15.gguf"),
                "--threads",
                "1",
                "--context",
                "2048",
            )
        else:
            profile = read_profile("phone")
            slm = PacedLM(load(BUNDLED, "slm"), profile.slm_s, profile.slm_position_s, Timeline())
            options = ("--emulate", f"{profile.llm_s}:{profile.llm_position_s}")
        cloud = stack.enter_context(local_cloud(*options))
        for temperature in args.temperatures:
            for seconds in ROUND_TRIPS:
                delay = ("--delay", str(seconds / 2))
                with listening(
                    "hedge", "link", "--listen", "127.0.0.1:0", "--to", cloud, *delay
                ) as relay:
                    prompts = [slm.encode_chat(prompt.messages) for prompt in asked]
                    row = asyncio.run(compared(slm, relay, prompts, temperature))
                row = {
                    "pair": "real" if args.pair else "bundled",
                    "temperature": temperature,
                    "round_trip": seconds,
                } | row
                journal.append(row)
                sys.stdout.write(f"{row}\n")


async def compared(
    slm: LanguageModel, address: str, prompts: list[list[int]], temperature: float
) -> dict[str, Any]:
    cost = measure(slm)
    step = cost.one_ms / 1e3
    eight = cost.eight_ms / 1e3
    sampling = SamplingParams(temperature=temperature, seed=1, max_new_tokens=TOKENS)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(GrpcLink(address))
        trips = [await _probed(link) for _ in range(PROBES)]
        sample = await sampled(
            slm, link, prompts[:LOOKED_AT], sampling, step, max(0.0, eight - step) / (WIDE - 1)
        )
        found = {name: [0, 0.0, 0] for name in ("llm", "hedge")}
        survival = Survival()
        for prompt in prompts[LOOKED_AT:]:
            reading = 0.0
            for name, sums in found.items():
                session = Session(
                    slm, prompt, replace(SYSTEMS[name], sampling=sampling), link, survival=survival
                )
                started = time.perf_counter()
                arrived = [time.perf_counter() - started async for _ in session.tokens()]
                if name == "llm":
                    reading = max(
                        0.0, arrived[0] - min(trips) - median(b - a for a, b in pairwise(arrived))
                    )
                sums[0] += len(session.token_ids)
                sums[1] += arrived[-1] - reading
                sums[2] += session.statistics.rounds
    # Replayed where no event loop runs.
    counts = await asyncio.to_thread(sample.over, min(trips))
    passes, _, _ = counts.per_token()
    stream = counts.tokens / counts.streamed_s
    expected = {
        "tokens_per_s": counts.tokens / counts.seconds,
        "llm_tokens_per_s": stream,
        "passes": passes,
    }
    tokens, seconds, rounds = found["hedge"]
    measured = {
        "tokens_per_s": tokens / seconds,
        "llm_tokens_per_s": found["llm"][0] / found["llm"][1],
        "passes": rounds / tokens,
    }
    off = {f"{key}_off": expected[key] / measured[key] - 1 for key in expected}
    return {"probed": min(trips), "expected": expected, "measured": measured} | off


async def _probed(link: GrpcLink) -> float:
    started = time.perf_counter()
    await link.probe()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
