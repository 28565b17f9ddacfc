"""python -m research.results.real PAIR TASKS [STAGE ...]: the systems on a real pair, in stages that
go on where they ended.

PAIR holds q05.gguf and q15.gguf, TASKS gsm8k-dev.jsonl and humaneval-dev.jsonl. Every stage ends
within --minutes; what it has found stands in docs/results/real, one line an answer.

    calibrate      fits and thresholds at each temperature, on the prompts of research/results/real_prompts.jsonl
    gsm8k-0, ...   the answers of every system to a task at a temperature, judged
    strip          one answer over a link of 50 ms, token by token
    traces         what the SLM makes of the LLM's answers: measures of uncertainty, and the traces of `hedge simulate links`
"""

import argparse
import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from hedge.common.command import run, say
from hedge.common.errors import BadInput
from hedge.common.model import LanguageModel, digest, load
from hedge.common.model_options import ModelOptions
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import load_calibration
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.break_even import traced
from hedge.evaluation.processes import BIN, listening, local_cloud
from hedge.evaluation.record import AnswerRecord, Journal, only_writer, read_journal
from hedge.evaluation.tasks import judged_tasks
from research import batched, simulate
from research.clock import bits_of
from research.findings import predictors
from research.results.paper_tables import PROPOSED, quantile
from research.results.real_tables import HEDGE, PAPER_SHARE, TASKS, TEMPERATURES
from research.study import Context, study

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "real"
PROMPTS = ROOT / "research" / "results" / "real_prompts.jsonl"
SEED = 1
MAX_NEW_TOKENS = 400
# Of the servers of `calibrate` and `strip`, whose answers are short.
CONTEXT = 1024
CALIBRATED_TOKENS = 64
# By how much a logit of q15.gguf moved with what else was in a pass: the largest that hedge-cloud
# found at its start.
DIFFERENCE = 0.36
WORKERS = 16
# Answers whose tokens are looked at by every measure, of each task.
STUDIED = 8
MEASURE = "perturbation"
SHOWN = "Write a Python function that returns the middle word of a sentence. Code only."

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


class Answer(NamedTuple):
    task: int
    prompt_ids: list[int]
    token_ids: list[int]


def main() -> None:
    stages: dict[str, Callable[[argparse.Namespace], None]] = {"calibrate": calibrate}
    stages |= {
        f"{task}-{t}": partial(answer, task=task, temperature=t)
        for t in TEMPERATURES
        for task in TASKS
    }
    stages |= {"traces": trace, "strip": strip}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path)
    parser.add_argument("tasks", type=Path)
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"all by default, or some of {', '.join(stages)}"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=25.0,
        help="after which a stage of answers begins no more of them",
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=0,
        help="the first so many of each task; 0, the default, for all",
    )
    parser.add_argument(
        "--workers", type=int, default=WORKERS, help=f"answers at once (default {WORKERS})"
    )
    parser.add_argument(
        "--leading",
        type=int,
        default=0,
        help="only the first so many systems; 0, the default, for all",
    )
    args = parser.parse_args()
    for name in args.stages:
        if name not in stages:
            parser.error(f"no stage {name!r}; there are {', '.join(stages)}")
    for name in args.stages or stages:
        started = time.monotonic()
        stages[name](args)
        say(f"{name}: {time.monotonic() - started:.0f} s")


def models(args: argparse.Namespace) -> tuple[str, str]:
    return str(args.pair / "q05.gguf"), str(args.pair / "q15.gguf")


def calibration_of(temperature: str) -> Path:
    return OUT / f"calibration-{temperature}.json"


def calibrate(args: argparse.Namespace) -> None:
    slm, llm = models(args)
    OUT.mkdir(parents=True, exist_ok=True)
    for temperature in TEMPERATURES:
        if calibration_of(temperature).exists():
            continue
        with local_cloud("--llm", llm, "--threads", "1", "--context", str(CONTEXT)) as address:
            command = [
                str(BIN / "hedge"),
                "calibrate",
                "--cloud",
                address,
                "--insecure",
                "--slm",
                slm,
                "--threads",
                "1",
            ]
            command += [
                "--seed",
                str(SEED),
                "--prompts",
                str(PROMPTS),
                "--temperature",
                temperature,
            ]
            command += [
                "--max-new-tokens",
                str(CALIBRATED_TOKENS),
                "--out",
                str(calibration_of(temperature)),
            ]
            subprocess.run(command, check=True)


def answer(args: argparse.Namespace, task: str, temperature: str) -> None:
    """Every system's answers to one task. A file that is whole is left as it is."""
    slm, llm = models(args)
    if not calibration_of(temperature).exists():
        raise BadInput(f"no {calibration_of(temperature)}: the stage calibrate makes it")
    systems = (COMPARED + (FRONTIER if temperature == "0" else ()))[: args.leading or None]
    options = simulate.options(
        [
            "--slm",
            slm,
            "--llm",
            llm,
            "--task",
            task,
            "--task-folder",
            str(args.tasks),
            "--run-code",
            "--questions",
            str(args.questions),
        ]
        + [
            "--temperature",
            temperature,
            "--max-new-tokens",
            str(MAX_NEW_TOKENS),
            "--calibration",
            str(calibration_of(temperature)),
        ]
        + ["--seed", str(SEED), "--out", str(OUT), "--systems", *systems]
    )
    asked = judged_tasks(options)
    runs, header = simulate.plan(options)
    path = OUT / f"{task}-{temperature}.jsonl"
    with only_writer(ROOT / "runs" / path.stem):
        journal = Journal(
            path,
            {"kind": "real"} | header | {"prompts": "", "questions": 0, "temperature": temperature},
            resume=True,
        )
        done = {(entry["run"], entry["task"]) for entry in journal.entries}
        left = [
            (index, one, lacking)
            for index, one in enumerate(asked)
            if (lacking := tuple(name for name in runs if (name, index) not in done))
        ]
        if not left:
            return
        pair = simulate.pair_of(options).load()
        context = MAX_NEW_TOKENS + max(
            len(pair[0].encode_chat(one.prompt.messages)) for _, one, _ in left
        )
        end = time.monotonic() + 60 * args.minutes
        total = sum(len(names) for _, _, names in left)
        with tqdm(total=total, desc=path.stem, unit="answer", disable=None) as bar:
            for run, found in batched.answers(
                *pair, runs, left, args.workers, context, DIFFERENCE, end
            ):
                journal.append(
                    {"run": run} | kept(found, pair[0].vocab_size, whole=run.startswith("llm "))
                )
                bar.update()


def kept(answer: AnswerRecord, vocab_size: int, *, whole: bool) -> dict[str, Any]:
    """A line of docs/results/real: sums over the answer's rounds, and a digest of the tokens; the
    ids where `whole`.
    """
    entry: dict[str, Any] = {
        "task": answer.task,
        "correct": answer.correct,
        "tokens": len(answer.token_ids),
        "digest": digest(json.dumps(answer.token_ids).encode()),
        "skipped": answer.skipped,
        "audited": answer.audited,
        "risk": round(answer.risk, 6),
        "near_ties": answer.near_ties,
        "steps": answer.steps,
        "rounds": len(answer.log),
        "positions": sum(round_.positions for round_ in answer.log),
        "paper_bytes": sum(
            bits_of(round_, "paper", vocab_size, vocab_size) for round_ in answer.log
        )
        / 8,
        "messages": sum(round_.uplink_bytes for round_ in answer.log),
        "up": answer.payload_bytes[0],
        "down": answer.payload_bytes[1],
    }
    return entry | ({"ids": answer.token_ids, "prompt": answer.prompt_ids} if whole else {})


def llm_answers(task: str, temperature: str) -> list[dict[str, Any]]:
    path = OUT / f"{task}-{temperature}.jsonl"
    if not path.exists():
        return []
    return sorted(
        (entry for entry in read_journal(path, "real")[1] if entry["run"].startswith("llm ")),
        key=lambda entry: int(entry["task"]),
    )


def trace(args: argparse.Namespace) -> None:
    """The SLM on the LLM's answers: margins and acceptances of all, every measure of the first
    ones.
    """
    paths = models(args)
    wanted = [(task, t) for t in TEMPERATURES for task in TASKS if llm_answers(task, t)]
    slm, llm = (
        load(path, side, ModelOptions(threads=1))
        for path, side in zip(paths, ("slm", "llm"), strict=True)
    )
    header = {
        "kind": "traces",
        "slm": slm.fingerprint,
        "llm": llm.fingerprint,
        "seed": SEED,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    traces = Journal(OUT / "traces.jsonl", header, resume=True)
    found = Journal(
        OUT / "measures.jsonl", header | {"kind": "measures", "studied": STUDIED}, resume=True
    )
    done = {(entry["task"], entry["temperature"], entry["question"]) for entry in traces.entries}
    measured = {(entry["task"], entry["temperature"]) for entry in found.entries}
    end = time.monotonic() + 60 * args.minutes
    for task, t in wanted:
        for entry in tqdm(
            llm_answers(task, t), desc=f"traces {task} {t}", unit="answer", disable=None
        ):
            if time.monotonic() > end:
                return
            where = {"task": task, "temperature": float(t), "question": entry["task"]}
            if tuple(where.values()) not in done:
                traces.append(
                    where | traced(slm, entry["prompt"], entry["ids"], Warp(float(t)), SEED)
                )
        if (task, float(t)) not in measured and len(llm_answers(task, t)) >= STUDIED:
            found.append({"task": task, "temperature": float(t)} | measures(slm, llm, task, t))


def measures(slm: LanguageModel, llm: LanguageModel, task: str, temperature: str) -> dict[str, Any]:
    """How each measure of uncertainty predicts rejection on the first answers."""
    calibration = load_calibration(calibration_of(temperature))
    context = Context(slm, llm, Warp(float(temperature)), SEED, MEASURE, calibration.fits[MEASURE])
    answers = [
        Answer(entry["task"], entry["prompt"], entry["ids"])
        for entry in llm_answers(task, temperature)[:STUDIED]
    ]
    entries = list(
        tqdm(
            study(context, answers, 0),
            total=len(answers),
            desc=f"measures {task} {temperature}",
            disable=None,
        )
    )
    return {"tokens": sum(len(entry["beta"]) for entry in entries), "measures": predictors(entries)}


def strip(args: argparse.Namespace) -> None:
    """One answer of hedge over gRPC and the link emulator: who wrote each token, and which verdict
    verified it.
    """
    slm_path, llm = models(args)
    slm = load(slm_path, "slm", ModelOptions(threads=1))
    config = replace(
        SYSTEMS["hedge"], sampling=SamplingParams(temperature=0.7, seed=SEED, max_new_tokens=120)
    )

    async def answered(address: str) -> dict[str, Any]:
        async with GrpcLink(address) as link:
            session = Session(
                slm, slm.encode_chat([{"role": "user", "content": SHOWN}]), config, link
            )
            tokens = [
                {
                    "text": slm.token_text(emitted.token).decode("utf-8", "replace"),
                    "provenance": str(emitted.provenance),
                    "verdict": session.statistics.rounds,
                }
                async for emitted in session.tokens()
            ]
            count = len(session.token_ids)
            return {
                "prompt": SHOWN,
                "temperature": 0.7,
                "rounds": session.statistics.rounds,
                "tokens": tokens[:count],
            }

    with (
        local_cloud("--llm", llm, "--threads", "1", "--context", str(CONTEXT)) as cloud,
        listening(
            "hedge", "link", "--listen", "127.0.0.1:0", "--to", cloud, "--delay", "0.025"
        ) as relay,
    ):
        found = asyncio.run(answered(relay))
    (OUT / "strip.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    run("results_real", main)
