"""python -m research.benches.micro: speed of the parts as ratios within one run, interleaved, on
the bundled pair.

Reports `hedge --system slm` against transformers' own generate, the cloud's time per asked token
against the bare LLM forward, and the gate and codec against an SLM step.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hedge.cloud_server.sessions.session import VerifierSession
from hedge.cloud_server.sessions.steps import run_alone
from hedge.common import codec
from hedge.common.ids import FIXED, FixedIds
from hedge.common.model import BUNDLED, bundled_folder
from hedge.common.model_options import ModelOptions
from hedge.common.noise import Noise, Purpose
from hedge.common.rpc import PROTOCOL_VERSION
from hedge.common.sampling import Warp
from hedge.common.torch_model import TorchModel, load_folder
from hedge.edge_client.calibrations import load_calibration
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.gates.measures import DRAWS, MEASURES
from hedge.edge_client.engine.session import Session
from hedge.edge_client.engine.verification.truncation import truncate
from hedge.edge_client.systems import SYSTEMS
from hedge.v1 import hedge_pb2 as pb

ROUNDS = 15
TOKENS = 96
PROMPT = "Tell me a tale about a king."


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def paired(*calls: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """The median seconds of each call, measured in turn so that all see the same machine."""
    for call in calls:
        call()
    samples = [[seconds(call) for call in calls] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def alone(slm: TorchModel, ids: list[int]) -> float:
    """Tokens/s of --system slm over tokens/s of transformers' generate, both sampling TOKENS tokens
    at temperature 1.
    """
    config = replace(SYSTEMS["slm"], sampling=SamplingParams(max_new_tokens=TOKENS, seed=1))
    endless = TorchModel(replace(slm.identity, end_ids=()), slm.model, slm.tokenizer)
    model: Any = slm.model
    fed = torch.tensor([ids])

    def ours() -> None:
        session = Session(endless, ids, config)

        async def drain() -> None:
            await session.run()

        asyncio.run(drain())
        assert len(session.token_ids) == TOKENS

    def theirs() -> None:
        out = model.generate(
            fed,
            attention_mask=torch.ones_like(fed),
            do_sample=True,
            top_k=0,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
        )
        assert out.shape[1] == len(ids) + TOKENS

    mine, other = paired(ours, theirs)
    return other / mine


def cloud(llm: TorchModel, ids: list[int]) -> float:
    """Seconds of verifying one asked token over those of the bare forward of the model, the same
    positions fed.
    """
    request = pb.Open(
        protocol_version=PROTOCOL_VERSION,
        prompt_ids=ids,
        warp=pb.Warp(temperature=1, top_p=1),
        verification=pb.VERIFICATION_SPARSE,
        audit=pb.AUDIT_BYTE,
        tokenizer_fingerprint=llm.tokenizer_fingerprint,
        vocab_size=llm.vocab_size,
        codecs=codec.VERSIONS,
        id_codecs=[FIXED],
    )
    prefix = llm.kv_cache()
    session = VerifierSession(llm, request, prefix)
    run_alone(session.prefill(), prefix)
    bare = llm.kv_cache()
    bare.forward(ids[:-1], 0)
    probs = Warp()(llm.kv_cache().forward(ids, 1)[0])
    sent = truncate(probs, 30, 12)
    coded = FixedIds(llm.vocab_size).encode([], [int(sent.ids[0])])
    payload = codec.encode(sent)
    step = 0

    def verify() -> None:
        nonlocal step
        draft = pb.Draft(
            step_id=step, verdicts_seen=step, position=0, ids=coded, proposals=[payload]
        )
        run_alone(session.verify(draft), prefix)
        step += 1

    def forward() -> None:
        with torch.inference_mode():
            model: Any = llm.model
            model(input_ids=torch.tensor([ids[-1:]]), **bare._with_cache)
        bare._cache.crop(-1)

    mine, other = paired(verify, forward, rounds=200)
    return mine / other


def overhead(slm: TorchModel, ids: list[int]) -> dict[str, float]:
    """Gate every step + codec at the share of positions that cu-hlm asks (risk-averse threshold),
    over an SLM step.
    """
    calibration = load_calibration(bundled_folder() / "calibration.json")
    prefix = slm.kv_cache()
    logits = prefix.forward(ids, 1)[0]
    probs = Warp()(logits)
    noise = Noise(1, ids)
    found: dict[str, float] = {}
    for name, measure in MEASURES.items():

        def step() -> None:
            prefix.forward([int(ids[-1])], 1)
            prefix.rollback(len(ids))

        def gate(measure: Any = measure) -> None:
            coins = (
                np.empty(0)
                if measure.draft_independent
                else noise.uniforms(Purpose.GATE, 3, count=2 * DRAWS)
            )
            measure.of(logits, probs, 5, coins)

        def code() -> None:
            codec.encode(truncate(probs, 30, 12))

        slm_step, gated, coded = paired(step, gate, code, rounds=200)
        limit = calibration.threshold(name, "risk-averse", max_risk=1, delta=1, skip_rate=1)
        asked = 1 - calibration.fits[name].skip_rate(limit or 0.0)
        found[f"gate {name}"] = gated / slm_step
        found[f"gate {name} + codec x {asked:.2f} asked"] = (gated + coded * asked) / slm_step
    return found


def main() -> None:
    slm, llm = (load_folder(BUNDLED, side, ModelOptions(threads=1)) for side in ("slm", "llm"))
    ids = slm.encode_chat([{"role": "user", "content": PROMPT}])
    figures = {
        "slm alone, tokens/s over transformers generate (bar: at least 1)": alone(slm, ids),
        "cloud time per asked token over bare forward (bar: at most 1.25)": cloud(llm, ids),
        **{
            f"{name} over slm step (bar: at most 0.25)": value
            for name, value in overhead(slm, ids).items()
        },
    }
    sys.stdout.write(
        json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
