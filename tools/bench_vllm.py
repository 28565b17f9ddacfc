"""python -m tools.bench_vllm PAIR TASKS: the real pair, the SLM in torch on the device, the LLM in
vLLM on the CPU in float32.

PAIR holds q05 and q15 as safetensors; TASKS holds gsm8k-dev.jsonl and humaneval-dev.jsonl. What a
verdict costs beside a step of the same engine, what eight sessions at once get, then whether
`hedge` gives token for token what `llm` streams. Answers are kept in docs/results/vllm.jsonl, where
it goes on. In the environment of `make test-vllm`.
"""

import argparse
import asyncio
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from statistics import median

import grpc.aio

from hedge.common.model import LanguageModel, load
from hedge.common.model_options import ModelOptions
from hedge.edge_client.cli.prompts import Prompt
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS as KNOWN
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.processes import free_port, local_cloud
from hedge.evaluation.record import Journal
from tools.bench_real import QUESTIONS, SEED, answers, questions, report
from tools.raw_session import RawSession

OUT = Path(__file__).parents[1] / "docs" / "results" / "vllm.jsonl"
CPU = ("--engine", "vllm", "--engine-option", "enforce_eager=true", "--dtype", "float32")
HISTORY = 1000
DRAFTS = 8
ROUNDS = 12
TOKENS = 96
TOGETHER = 8
VERDICTS = 6
SYSTEMS = (("llm", 10), ("hedge", 2))
SHARES = (0.7, 1.0)
ASKED = 10
COUNTERS = ("hedge_second_questions", "hedge_certified_positions")


def text_of(slm: LanguageModel, tasks: Path) -> list[int]:
    """Ids of all questions in a row."""
    return [token for prompt in questions(tasks) for token in slm.encode_text(prompt.text)]


async def verdicts(
    slm: LanguageModel, address: str, ids: list[int], start: int, temperature: float
) -> list[float]:
    """Seconds of verdicts on drafts that are the text's own next ids, behind a history of `start`
    ids.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        times = []
        for number in range(ROUNDS):
            # Behind each another text, so that no draft has been scored before.
            session = RawSession(channel, slm)
            await session.open(ids[:start], temperature)
            begun = time.perf_counter()
            await session.draft(ids[start + 7 * number : start + 7 * number + DRAFTS])
            times.append(time.perf_counter() - begun)
            await session.close()
        return times[2:]


async def rate(slm: LanguageModel, address: str, ids: list[int], together: int) -> float:
    """Verdicts/s of sessions that are open, each on 8 drafts at a time, the next when the one
    before is judged.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        sessions = [RawSession(channel, slm) for _ in range(together)]
        for number, session in enumerate(sessions):
            await session.open(ids[100 * number : 100 * number + 60], 0.7)

        async def drafting(number: int) -> None:
            for sent in range(100 * number + 60, 100 * number + 60 + DRAFTS * VERDICTS, DRAFTS):
                await sessions[number].draft(ids[sent : sent + DRAFTS])

        begun = time.perf_counter()
        await asyncio.gather(*(drafting(number) for number in range(together)))
        seconds = time.perf_counter() - begun
        for session in sessions:
            await session.close()
        return together * VERDICTS / seconds


async def steps(slm: LanguageModel, address: str, ids: list[int]) -> list[float]:
    """Seconds of the engine's own next tokens behind as many ids."""
    async with grpc.aio.insecure_channel(address) as channel:
        session = RawSession(channel, slm)
        times = []
        await session.open(ids[:HISTORY], 0.0, stream=ROUNDS)
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await session.verdict()
            times.append(time.perf_counter() - begun)
        await session.close()
        return times[2:]


async def costs(slm: LanguageModel, address: str, ids: list[int]) -> None:
    step = median(await steps(slm, address, ids))
    print(
        "| temperature | a step of the engine, s | a verdict on 8 drafts, s | ratio |\n|---:|---:|---:|---:|"
    )
    for temperature in (0.0, 0.7, 1.0):
        verdict = median(await verdicts(slm, address, ids, HISTORY, temperature))
        print(f"| {temperature:g} | {step:.3f} | {verdict:.3f} | {verdict / step:.2f} |")
    rates = [await rate(slm, address, ids, together) for together in (1, TOGETHER)]
    print(
        f"\nverdicts/s, one session {rates[0]:.2f}, {TOGETHER} at once {rates[1]:.2f}: {rates[1] / rates[0]:.2f} times\n"
    )


def counted(http: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{http}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def shares(slm: LanguageModel, address: str, http: str, asked: list[Prompt]) -> None:
    """How often the likeliest tokens of a position were not enough to say what is drawn there."""
    async with GrpcLink(address) as link:
        for temperature in SHARES:
            before = [counted(http, name) for name in COUNTERS]
            config = replace(
                KNOWN["hedge"],
                sampling=SamplingParams(temperature, seed=SEED, max_new_tokens=TOKENS),
            )
            for prompt in asked[:: len(asked) // ASKED]:
                async for _ in Session(
                    slm, slm.encode_chat(prompt.messages), config, link
                ).tokens():
                    pass
            again, of = (
                counted(http, name) - old for name, old in zip(COUNTERS, before, strict=True)
            )
            print(
                f"temperature {temperature:g}: a second question at {again:.0f} of {of:.0f} positions: {again / of:.2%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--only", choices=("costs", "shares", "answers"))
    args = parser.parse_args()
    slm = load(str(args.pair / "q05"), "slm", ModelOptions(threads=1))
    asked = questions(args.tasks)
    http = f"127.0.0.1:{free_port()}"
    with local_cloud(
        *CPU, "--llm", str(args.pair / "q15"), "--context", "2048", "--http", http
    ) as cloud:
        if args.only in (None, "costs"):
            asyncio.run(costs(slm, cloud, text_of(slm, args.tasks)))
        if args.only in (None, "shares"):
            asyncio.run(shares(slm, cloud, http, asked))
        if args.only in ("costs", "shares"):
            return
        header = {"kind": "bench-vllm", "questions": QUESTIONS, "tokens": TOKENS, "seed": SEED}
        journal = Journal(OUT, header, resume=OUT.exists())
        asyncio.run(answers(slm, cloud, asked, journal, TOKENS, SYSTEMS))
        report(journal.entries)


if __name__ == "__main__":
    main()
