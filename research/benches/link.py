"""python -m research.benches.link: hedge, cu-hlm and plain streaming over real gRPC, direct and through
the link emulator.

Every question is answered by all systems in turn before the next one, so that all see the same
machine. Answers are appended to docs/results/link.jsonl; a second run goes on where the first
ended.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from hedge.common.command import command_parser
from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.common.torch_model import use_threads
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cli.options import add_system, add_warp, resolved
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.edge_client.transport.messages import opening
from hedge.evaluation.processes import listening, local_cloud
from hedge.evaluation.record import Journal, read_journal
from hedge.evaluation.systems import options_of
from hedge.evaluation.tasks import Task, tasks
from hedge.v1 import hedge_pb2 as pb

OUT = Path(__file__).parents[2] / "docs" / "results" / "link.jsonl"
RIVAL = "cu-hlm"
GATE = "hedge, cu-hlm's gate"
WAITING = "hedge, waiting"
OURS = "hedge"
CHEAP = "hedge, prefer cloud"
SAME = "skip-rate=0.748"
SYSTEMS = {
    "llm": "llm",
    RIVAL: f"cu-hlm:threshold-rule=quantile,{SAME}",
    "cu-hlm, offline k": f"cu-hlm:threshold-rule=quantile,{SAME},truncation=offline",
    GATE: f"hedge:{SAME}",
    WAITING: "hedge:max-in-flight=1",
    OURS: "hedge",
    CHEAP: "hedge:prefer=cloud",
}
# Round trip in seconds, rate up in bit/s, questions; no relay for the first.
LINKS: dict[str, tuple[float, float, int]] = {
    "direct": (0.0, 0.0, 100),
    "5 ms, 1 Mbit/s": (0.005, 1e6, 48),
    "100 ms, 1 Mbit/s": (0.1, 1e6, 48),
}
TEMPERATURES = (1.0, 0.0)
SEED = 1


async def setup_bytes(
    slm: LanguageModel, prompt: Sequence[int], config: GenerationConfig, link: GrpcLink
) -> int:
    """Bytes both ways of a session that is opened and closed without a draft."""
    before = link.socket_bytes()
    request = opening(slm, config, pb.AUDIT_NONE)
    request.verification = pb.VERIFICATION_COUPLED
    request.prompt_ids.extend(prompt)
    stream = await link.open(request)
    while stream.opened is None:
        if stream.arrived():
            await stream.receive()
        await asyncio.sleep(0.001)
    await stream.close()
    after = link.socket_bytes()
    return sum(after) - sum(before) if before and after else 0


def settings_of(temperature: float, pair: Pair) -> dict[str, GenerationConfig]:
    parser = command_parser("bench-link", "", "")
    add_system(parser)
    add_warp(parser)
    args = parser.parse_args(["--temperature", str(temperature), "--seed", str(SEED)])
    return {name: resolved(options_of(spec, args), pair) for name, spec in SYSTEMS.items()}


async def answer(
    slm: LanguageModel, task: Task, config: GenerationConfig, link: GrpcLink
) -> dict[str, Any]:
    prompt = slm.encode_chat(task.prompt.messages)
    setup = await setup_bytes(slm, prompt, config, link)
    session = Session(slm, prompt, config, link)
    await session.run()
    s = session.statistics
    sockets = (s.uplink_socket_bytes or 0) + (s.downlink_socket_bytes or 0) - setup
    return {
        "tokens": s.tokens,
        "token_ids": session.token_ids,
        "correct": task.is_correct(session.text),
        "wall_s": round(s.wall_s, 6),
        "rounds": s.rounds,
        "llm_positions": s.llm_positions,
        "slm_steps": s.steps,
        "uplink_payload": s.uplink_payload_bytes - s.open_bytes,
        "uplink_paper": s.uplink_paper_bits / 8,
        "sockets": sockets,
    }


async def run(slm: LanguageModel, address: str, link_name: str, journal: Journal) -> None:
    done = {(e["link"], e["temperature"], e["system"], e["question"]) for e in journal.entries}
    questions = tasks(None, LINKS[link_name][2], 0)
    async with GrpcLink(address) as link:
        pair = Pair(slm, link.info)
        for temperature in TEMPERATURES:
            systems = settings_of(temperature, pair)
            for number, task in enumerate(
                tqdm(questions, desc=f"{link_name}, T {temperature:g}", disable=None)
            ):
                for name in systems:
                    key = (link_name, temperature, name, number)
                    if key in done:
                        continue
                    found = await answer(slm, task, systems[name], link)
                    journal.append(
                        dict(zip(("link", "temperature", "system", "question"), key, strict=True))
                        | found
                    )


def ratio(entries: Sequence[dict[str, Any]], one: str, other: str) -> float:
    """Median over questions of tokens/s of `one` over those of `other`."""
    speed = {(e["system"], e["question"]): e["tokens"] / e["wall_s"] for e in entries}
    numbers = {e["question"] for e in entries}
    return float(median(speed[one, n] / speed[other, n] for n in numbers))


def report(entries: Sequence[dict[str, Any]]) -> None:
    """Tables in Markdown on stdout."""
    heads = (
        "system",
        "tokens/s",
        "exact match",
        "passes/token",
        "positions/token",
        "SLM steps/token",
        "uplink B/token",
        "paper B/token",
        "socket B/token, both ways",
        "answers as llm's",
    )
    for link in LINKS:
        for temperature in TEMPERATURES:
            mine = [e for e in entries if (e["link"], e["temperature"]) == (link, temperature)]
            print(
                f"**{link}, temperature {temperature:g}**, {len({e['question'] for e in mine})} questions\n"
            )
            print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
            theirs = {e["question"]: e["token_ids"] for e in mine if e["system"] == "llm"}
            for name in SYSTEMS:
                rows = [e for e in mine if e["system"] == name]
                tokens = sum(e["tokens"] for e in rows)
                per = [
                    sum(e[key] for e in rows) / tokens
                    for key in (
                        "rounds",
                        "llm_positions",
                        "slm_steps",
                        "uplink_payload",
                        "uplink_paper",
                        "sockets",
                    )
                ]
                same = sum(e["token_ids"] == theirs[e["question"]] for e in rows)
                cells = (
                    name,
                    f"{median(e['tokens'] / e['wall_s'] for e in rows):.1f}",
                    f"{sum(e['correct'] for e in rows) / len(rows):.1%}",
                    *(f"{value:.3f}" for value in per[:3]),
                    *(f"{value:.2f}" for value in per[3:]),
                    f"{same} of {len(rows)}",
                )
                print(f"| {' | '.join(cells)} |")
            pairs = (
                (OURS, WAITING),
                (OURS, GATE),
                (OURS, RIVAL),
                (OURS, "llm"),
                (CHEAP, RIVAL),
                (CHEAP, "llm"),
            )
            ratios = "; ".join(f"{a} over {b} {ratio(mine, a, b):.2f}" for a, b in pairs)
            print(f"\ntokens/s, median of pairs: {ratios}\n")


def main() -> None:
    use_threads(1)
    slm = load(BUNDLED, "slm")
    header = {
        "kind": "bench-link",
        "slm": slm.fingerprint,
        "systems": SYSTEMS,
        "links": LINKS,
        "seed": SEED,
    }
    journal = Journal(OUT, header, resume=OUT.exists())
    with local_cloud("--threads", "1", "--no-prefix-sharing") as cloud:
        for name, (round_trip, rate, _) in LINKS.items():
            if not round_trip:
                asyncio.run(run(slm, cloud, name, journal))
                continue
            options = (
                "--listen",
                "127.0.0.1:0",
                "--to",
                cloud,
                "--rate",
                str(rate),
                "--delay",
                str(round_trip / 2),
            )
            with listening("hedge", "link", *options) as relay:
                asyncio.run(run(slm, relay, name, journal))
    report(read_journal(OUT, "bench-link")[1])


if __name__ == "__main__":
    main()
