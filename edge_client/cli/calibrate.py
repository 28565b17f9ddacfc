"""hedge calibrate: learns, against a live cloud, how uncertainty predicts rejection."""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hedge.common.command import command_parser, parse, say
from hedge.common.errors import BadInput, HedgeError
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.edge_client.calibrations import save_calibration
from hedge.edge_client.cli.connect import connected, load_slm
from hedge.edge_client.cli.options import add_models, add_warp
from hedge.edge_client.cli.prompts import Prompt, read_prompts
from hedge.edge_client.cli.settings import check_connection, choose_seed, sampling_of
from hedge.edge_client.config import (
    ETA,
    TEMPERATURE,
    THETA,
    GateConfig,
    LinkConfig,
    SamplingParams,
    ThresholdRule,
    VerificationConfig,
)
from hedge.edge_client.engine.gates.calibration import Calibration, fit_measure, with_bound
from hedge.edge_client.engine.gates.measures import DRAWS, MEASURES
from hedge.edge_client.engine.session import Session
from hedge.edge_client.engine.verification.bound import flattening, grid
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.link import Link
from hedge.v1 import hedge_pb2 as pb

EXAMPLES = "  hedge calibrate --insecure --prompts prompts.jsonl --out calibration.json"
BITS = 16
# With fewer prompts thresholds are guesses.
FEW = 20


class CalibrationSample:
    """(u by every measure, beta) of each token, prompt by prompt, all tokens asked."""

    def __init__(self) -> None:
        self.uncertainty: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
        self.rejection: list[np.ndarray] = []
        self.drafted: list[float] = []
        self.distances: list[np.ndarray] = []

    async def add(
        self, slm: LanguageModel, prompt: Prompt, config: GenerationConfig, link: Link
    ) -> None:
        ids = slm.encode_chat(prompt.messages)
        noise = Noise(config.sampling.seed, ids)
        seen: list[list[float]] = []
        ks = grid(slm.vocab_size)

        def watch(position: int, logits: np.ndarray, probs: np.ndarray, token: int) -> None:
            coins = noise.uniforms(Purpose.GATE, position, count=2 * DRAWS)
            self.drafted.append(float(probs[token]))
            self.distances.append(flattening(probs, ks).astype(np.float32))
            seen.append([measure.of(logits, probs, token, coins) for measure in MEASURES.values()])

        session = Session(slm, ids, config, link, audit=pb.AUDIT_FLOAT32, watch=watch)
        await session.run()
        columns = np.array(seen).T
        for name, column in zip(MEASURES, columns, strict=True):
            self.uncertainty[name].append(column)
        self.rejection.append(np.array(session.rejections))


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge calibrate",
        "Fits uncertainty to rejection against a live cloud, and sets thresholds.",
        EXAMPLES,
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSONL of prompts like those to come",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    add_models(parser)
    # Of a calibration that the other commands use as they are.
    add_warp(parser, TEMPERATURE)
    parser.add_argument(
        "--max-risk",
        type=float,
        default=0.05,
        metavar="E",
        help="risk of the threshold that is printed",
    )
    parser.add_argument("--delta", type=float, default=0.1, metavar="D", help="its level is 1 - D")
    parser.add_argument(
        "--theta",
        type=float,
        default=THETA,
        help="bound on the mean U_TV of the k* that is printed (default 0.1)",
    )
    parser.add_argument("--eta", type=float, default=ETA, help="eta of U_TV (default 1)")
    args = parse(parser, arguments)
    for name in ("theta", "eta"):
        if not 0 < getattr(args, name) < math.inf:
            raise BadInput(f"{name} {getattr(args, name):g} is not above 0")
    prompts = read_prompts(args.prompts)
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise BadInput(f"--out {args.out} is not a file in an existing folder")
    if len(prompts) < FEW:
        say(
            f"hedge calibrate: {len(prompts)} prompts tell little: the thresholds will be as "
            f"uncertain; give {FEW} or more"
        )
    ThresholdRule("max-risk", args.max_risk, args.delta)
    sampling_of(args)
    check_connection(args)
    slm = load_slm(args)
    calibration = asyncio.run(_calibrate(args, slm, prompts))
    learned = summary(calibration, args.max_risk, args.delta, args.theta)
    save_calibration(calibration, args.out, learned)
    sys.stdout.write(json.dumps(learned, indent=1) + "\n")


def asking_always(sampling: SamplingParams) -> GenerationConfig:
    return GenerationConfig(
        "calibrate",
        sampling,
        GateConfig("always"),
        VerificationConfig("full", truncation="none", bits=BITS),
        # A token that the device would draw alone has no verdict to learn from.
        LinkConfig(on_disconnect="wait"),
    )


async def _calibrate(
    args: argparse.Namespace, slm: LanguageModel, prompts: list[Prompt]
) -> Calibration:
    config = asking_always(replace(sampling_of(args), seed=choose_seed(args)))
    sample = CalibrationSample()
    async with connected(args, slm, cloud=True) as (link, _):
        assert link is not None
        for number, prompt in enumerate(prompts, 1):
            if (length := len(slm.encode_chat(prompt.messages))) >= min(
                slm.context, link.info.context_limit
            ):
                raise BadInput(
                    f"prompt {number} of {args.prompts} has {length} tokens, too many for the "
                    "context"
                )
        for prompt in tqdm(prompts, desc="calibrating", unit="prompt", disable=None):
            await sample.add(slm, prompt, config, link)
        llm = link.info.model_fingerprint
    every = np.concatenate(sample.rejection)
    fits = {
        name: fit_measure(values, sample.rejection) for name, values in sample.uncertainty.items()
    }
    drafted = np.array(sample.drafted)
    distances = np.array(sample.distances)
    fits = {
        name: with_bound(
            fit, np.concatenate(sample.uncertainty[name]), drafted, distances, args.eta
        )
        for name, fit in fits.items()
    }
    if all(fit.a <= 0 for fit in fits.values()):
        raise HedgeError(
            f"no measure predicts rejection on these {len(prompts)} prompts: every slope is 0 or "
            "below"
        )
    return Calibration(
        slm=slm.fingerprint,
        llm=llm,
        tokenizer=slm.tokenizer_fingerprint,
        warp=config.sampling.warp,
        prompts=len(prompts),
        tokens=len(every),
        overshoot=float(np.mean(every > 0)),
        eta=args.eta,
        vocab_size=slm.vocab_size,
        fits=fits,
    )


def summary(
    calibration: Calibration, max_risk: float, delta: float, theta: float
) -> dict[str, object]:
    """What was learned, with sample sizes: the fit and every rule's threshold per measure."""
    measures: dict[str, object] = {}
    for name, fit in calibration.fits.items():
        thresholds: dict[str, object] = {}
        for rule in ("risk-averse", "risk-prone", "max-risk", "quantile"):
            try:
                threshold = calibration.threshold(
                    name, rule, max_risk=max_risk, delta=delta, skip_rate=0.5
                )
            except HedgeError as error:
                thresholds[rule] = str(error)
                continue
            if threshold is None:
                thresholds[rule] = "ask always"
            else:
                thresholds[rule] = {
                    "u_th": round(threshold, 4),
                    "skips": round(fit.skip_rate(threshold), 3),
                }
        learned = {key: round(getattr(fit, key), 4) for key in ("a", "b", "r2", "pearson")}
        measures[name] = (
            learned | thresholds | {"k_star": calibration.smallest_k(name, theta, calibration.eta)}
        )
    return {
        "prompts": calibration.prompts,
        "tokens": calibration.tokens,
        "max_risk": max_risk,
        "delta": delta,
        "theta": theta,
        "eta": calibration.eta,
        "mean_rejection": round(next(iter(calibration.fits.values())).joint_risk[-1], 4),
        "measures": measures,
    }
