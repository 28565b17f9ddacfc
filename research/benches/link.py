"""python -m research.benches.link: hedge, cu-hlm and streaming, direct and over emulated links.

Every question is answered by all systems in turn before the next one, so that all see the same
machine. Answers are appended to docs/results/link.jsonl; a second run goes on where the first
ended.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.torch_model import use_threads
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.edge_client.transport.messages import build_opening
from hedge.evaluation.harness import ask_all, configure, count_answer
from hedge.evaluation.processes import run_cloud, run_program
from hedge.evaluation.record import Journal, read_journal
from hedge.evaluation.tables import (
    Column,
    first,
    group,
    markdown,
    mean,
    middle,
    ratio,
    tabulate,
    total,
)
from hedge.evaluation.tasks import Task, read_tasks
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
FIELDS = ("link", "temperature", "system", "question")
COLUMNS = (
    Column("system", first("system")),
    Column("tokens/s", middle(lambda row: row["tokens"] / row["wall_s"]), ".1f"),
    Column("exact match", mean("correct"), ".1%"),
    Column("passes/token", ratio("rounds", "tokens"), ".3f"),
    Column("positions/token", ratio("llm_positions", "tokens"), ".3f"),
    Column("SLM steps/token", ratio("slm_steps", "tokens"), ".3f"),
    Column("uplink B/token", ratio("uplink_payload", "tokens"), ".2f"),
    Column("paper B/token", ratio("uplink_paper", "tokens"), ".2f"),
    Column("socket B/token, both ways", ratio("sockets", "tokens"), ".2f"),
    Column("answers as llm's", lambda rows: f"{total('same')(rows)} of {len(rows)}"),
)
COMPARED = (
    (OURS, WAITING),
    (OURS, GATE),
    (OURS, RIVAL),
    (OURS, "llm"),
    (CHEAP, RIVAL),
    (CHEAP, "llm"),
)


async def setup_bytes(
    slm: LanguageModel, prompt: Sequence[int], config: GenerationConfig, link: GrpcLink
) -> int:
    """Bytes both ways of a session that is opened and closed without a draft."""
    before = link.socket_bytes()
    request = build_opening(slm, config, pb.AUDIT_NONE, config.sampling.max_new_tokens)
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


async def answer(
    slm: LanguageModel, task: Task, config: GenerationConfig, link: GrpcLink
) -> dict[str, Any]:
    prompt = slm.encode_chat(task.prompt.messages)
    setup = await setup_bytes(slm, prompt, config, link)
    session = Session(slm, prompt, config, link)
    await session.run()
    s = session.statistics
    return count_answer(session) | {
        "correct": task.is_correct(session.text),
        "uplink_payload": s.uplink_payload_bytes - s.open_bytes,
        "uplink_paper": s.uplink_paper_bits / 8,
        "sockets": (s.uplink_socket_bytes or 0) + (s.downlink_socket_bytes or 0) - setup,
    }


async def run(slm: LanguageModel, address: str, name: str, journal: Journal) -> None:
    questions = read_tasks(None, LINKS[name][2], 0)
    async with GrpcLink(address) as link:
        pair = Pair(slm, link.info)
        for temperature in TEMPERATURES:
            words = ("--temperature", str(temperature), "--seed", str(SEED))
            configs = {system: configure(spec, pair, *words) for system, spec in SYSTEMS.items()}
            wanted = {
                (name, temperature, system, number): partial(answer, slm, task, config, link)
                for number, task in enumerate(questions)
                for system, config in configs.items()
            }
            await ask_all(journal, FIELDS, wanted, f"{name}, T {temperature:g}")


def compare(rows: Sequence[dict[str, Any]], one: str, other: str) -> float:
    """Median over questions of tokens/s of `one` over those of `other`."""
    speed = {(row["system"], row["question"]): row["tokens"] / row["wall_s"] for row in rows}
    numbers = {row["question"] for row in rows}
    return float(median(speed[one, n] / speed[other, n] for n in numbers))


def report(entries: Sequence[dict[str, Any]]) -> None:
    """Tables in Markdown on stdout."""
    order = list(SYSTEMS)
    for (link, temperature), mine in group(entries, ("link", "temperature")).items():
        theirs = {row["question"]: row["token_ids"] for row in mine if row["system"] == "llm"}
        rows = [row | {"same": row["token_ids"] == theirs[row["question"]]} for row in mine]
        rows.sort(key=lambda row: order.index(row["system"]))
        print(f"**{link}, temperature {temperature:g}**, {len(theirs)} questions\n")
        print(markdown(tabulate(rows, ("system",), COLUMNS)))
        ratios = "; ".join(f"{a} over {b} {compare(mine, a, b):.2f}" for a, b in COMPARED)
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
    with run_cloud("--threads", "1", "--no-prefix-sharing") as cloud:
        for name, (round_trip, rate, _) in LINKS.items():
            if not round_trip:
                asyncio.run(run(slm, cloud, name, journal))
                continue
            to = ("--listen", "127.0.0.1:0", "--to", cloud)
            options = ("--rate", str(rate), "--delay", str(round_trip / 2))
            with run_program("hedge", "link", *to, *options) as relay:
                asyncio.run(run(slm, relay, name, journal))
    report(read_journal(OUT, "bench-link")[1])


if __name__ == "__main__":
    main()
