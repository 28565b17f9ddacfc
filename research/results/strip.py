"""The stage `strip` of the real pair: one answer of hedge over gRPC and the link emulator.

Who wrote each token, and which verdict verified it.
"""

import argparse
import asyncio
import json
from dataclasses import replace
from typing import Any

from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.model_options import ModelOptions
from hedge.common.sampling import Warp
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.processes import run_cloud, run_program
from research.results.real_rows import SEED
from research.results.real_traces import OUT

# Of the servers, whose answers are short.
CONTEXT = 1024
TEMPERATURE = 0.7
PROMPT = "Write a Python function that returns the middle word of a sentence. Code only."


async def answer(slm: LanguageModel, address: str) -> dict[str, Any]:
    sampling = SamplingParams(Warp(TEMPERATURE), seed=SEED, max_new_tokens=120)
    config = replace(SYSTEMS["hedge"], sampling=sampling)
    async with GrpcLink(address) as link:
        ids = slm.encode_chat([{"role": "user", "content": PROMPT}])
        session = Session(slm, ids, config, link)
        tokens = []
        async for emitted in session.tokens():
            token = {
                "text": slm.token_text(emitted.token).decode("utf-8", "replace"),
                "provenance": str(emitted.provenance),
                "verdict": session.statistics.rounds,
            }
            tokens.append(token)
        return {
            "prompt": PROMPT,
            "temperature": TEMPERATURE,
            "rounds": session.statistics.rounds,
            "tokens": tokens[: len(session.token_ids)],
        }


def record_strip(args: argparse.Namespace) -> None:
    slm = load(args.slm, "slm", ModelOptions(threads=1))
    delayed = "link --listen 127.0.0.1:0 --delay 0.025 --to".split()
    options = ("--llm", args.llm, "--threads", "1", "--context", str(CONTEXT))
    with run_cloud(*options) as cloud, run_program("hedge", *delayed, cloud) as relay:
        found = asyncio.run(answer(slm, relay))
    (OUT / "strip.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
