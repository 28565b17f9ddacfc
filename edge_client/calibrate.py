"""hedge calibrate: learns, against a live cloud, how uncertainty predicts rejection."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hedge.v1 import hedge_pb2 as pb
from tqdm import tqdm

from common.command import command_parser, parse
from common.errors import BadInput, HedgeError
from common.model import CausalLM
from common.noise import Noise, Purpose
from edge_client.calibration import Calibration, fit_measure
from edge_client.connect import connected, load_slm
from edge_client.link import Link
from edge_client.measures import DRAWS, MEASURES
from edge_client.options import add_models, add_warp, check_connection, choose_seed, warp_of
from edge_client.prompts import Prompt, read_prompts
from edge_client.session import Session
from edge_client.settings import Settings

EXAMPLES = "  hedge calibrate --insecure --prompts prompts.jsonl --out calibration.json"
BITS = 16


class Sample:
    """(u by every measure, beta) of each token, prompt by prompt, all tokens asked."""

    def __init__(self) -> None:
        self.uncertainty: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
        self.rejection: list[np.ndarray] = []

    async def add(self, slm: CausalLM, prompt: Prompt, settings: Settings, link: Link) -> None:
        ids = slm.encode_chat(prompt.messages)
        noise = Noise(settings.seed, ids)
        seen: list[list[float]] = []

        def watch(position: int, logits: np.ndarray, law: np.ndarray, token: int) -> None:
            coins = noise.uniforms(Purpose.GATE, position, count=2 * DRAWS)
            seen.append([measure.of(logits, law, token, coins) for measure in MEASURES.values()])

        session = Session(slm, ids, settings, link, audit=pb.AUDIT_FLOAT32, watch=watch)
        async for _ in session.tokens():
            pass
        columns = np.array(seen).T
        for name, column in zip(MEASURES, columns, strict=True):
            self.uncertainty[name].append(column)
        self.rejection.append(np.array(session.rejections))


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge calibrate", "Fits uncertainty to rejection against a live cloud, and sets thresholds.", EXAMPLES
    )
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="JSONL of prompts like those to come")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    add_models(parser)
    add_warp(parser)
    parser.add_argument("--max-risk", type=float, default=0.05, metavar="E", help="risk of the threshold that is printed")
    parser.add_argument("--delta", type=float, default=0.1, metavar="D", help="its level is 1 - D")
    args = parse(parser, arguments)
    prompts = read_prompts(args.prompts)
    if not args.out.parent.is_dir():
        raise BadInput(f"no folder {args.out.parent} for --out")
    warp_of(args)
    check_connection(args)
    slm = load_slm(args)
    calibration = asyncio.run(_calibrate(args, slm, prompts))
    learned = summary(calibration, args.max_risk, args.delta)
    calibration.save(args.out, learned)
    sys.stdout.write(json.dumps(learned, indent=1) + "\n")


async def _calibrate(args: argparse.Namespace, slm: CausalLM, prompts: list[Prompt]) -> Calibration:
    settings = Settings(
        system="calibrate", policy="always", verification="full", truncation="none", bits=BITS, draft_from="full",
        warp=warp_of(args), seed=choose_seed(args), max_new_tokens=args.max_new_tokens,
    )  # fmt: skip
    sample = Sample()
    async with connected(args, slm, cloud=True) as (link, _):
        assert link is not None
        for prompt in tqdm(prompts, desc="calibrating", unit="prompt", disable=None):
            await sample.add(slm, prompt, settings, link)
        llm = link.info.model_fingerprint
    every = np.concatenate(sample.rejection)
    fits = {name: fit_measure(found, sample.rejection) for name, found in sample.uncertainty.items()}
    if all(fit.a <= 0 for fit in fits.values()):
        raise HedgeError(f"no measure predicts rejection on these {len(prompts)} prompts: every slope is 0 or below")
    return Calibration(
        slm=slm.fingerprint, llm=llm, tokenizer=slm.tokenizer_fingerprint, warp=settings.warp, prompts=len(prompts),
        tokens=len(every), overshoot=float(np.mean(every > 0)), fits=fits,
    )  # fmt: skip


def summary(calibration: Calibration, max_risk: float, delta: float) -> dict[str, object]:
    """What was learned, with sample sizes: the fit and every rule's threshold per measure."""
    measures: dict[str, object] = {}
    for name, fit in calibration.fits.items():
        thresholds: dict[str, object] = {}
        for rule in ("risk-averse", "risk-prone", "max-risk", "quantile"):
            try:
                found = calibration.threshold(name, rule, max_risk=max_risk, delta=delta, skip_rate=0.5)
            except HedgeError as error:
                thresholds[rule] = str(error)
                continue
            thresholds[rule] = (
                "ask always" if found is None else {"u_th": round(found, 4), "skips": round(fit.skip_rate(found), 3)}
            )
        measures[name] = {key: round(getattr(fit, key), 4) for key in ("a", "b", "r2", "pearson")} | thresholds
    return {
        "prompts": calibration.prompts,
        "tokens": calibration.tokens,
        "max_risk": max_risk,
        "delta": delta,
        "mean_rejection": round(next(iter(calibration.fits.values())).joint_risk[-1], 4),
        "measures": measures,
    }
