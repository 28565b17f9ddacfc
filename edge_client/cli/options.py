"""The options that every generating command shares, and how they become Settings."""

import argparse
import contextlib
import math
import secrets
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hedge.v1 import hedge_pb2 as pb

from common.command import MODEL_HELP, Parser, add_runtime
from common.errors import BadInput, Incompatible
from common.model import BUNDLED, LanguageModel, bundled_folder
from common.sampling import Warp
from edge_client.config import GUARANTEES, ON_DISCONNECT, PATIENCE, POLICIES, SYSTEMS, TRUNCATIONS, VERIFICATIONS, Settings
from edge_client.engine.gates.calibration import RULES, Calibration, load_calibration
from edge_client.engine.gates.gelato import MARGINAL_BUDGET_J, GelatoOptions
from edge_client.engine.gates.measures import MEASURES
from edge_client.engine.verification.bound import ETA, THETA

DEFAULT_CLOUD = "127.0.0.1:7411"
SHORT_PATIENCE = 5.0
# Asks about a sixth of the bundled pair's tokens.
DEFAULT_THRESHOLD = 0.15


def add_slm(parser: Parser) -> None:
    group = parser.add_argument_group("the device's model")
    group.add_argument("--slm", default=BUNDLED, help=MODEL_HELP)
    add_runtime(parser)


def add_models(parser: Parser) -> None:
    add_slm(parser)
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--cloud",
        default=DEFAULT_CLOUD,
        metavar="HOST:PORT[,...]",
        help=f"the verifying server, or several to turn to when one is gone (default {DEFAULT_CLOUD})",
    )
    group.add_argument("--insecure", action="store_true", help="plaintext to the cloud: has to be asked for")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="PEM of the authority that vouches for the cloud")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM of this device, where the cloud asks for one")
    group.add_argument("--tls-key", type=Path, metavar="FILE")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that the cloud knows this device by")


def add_warp(parser: Parser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    group.add_argument("--top-k", type=int, default=0, help="0 is off (default)")
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--seed", type=int, default=None, help="default: random, printed")
    group.add_argument("--max-new-tokens", type=int, default=256)


def add_generation(parser: Parser) -> None:
    add_models(parser)
    add_system(parser)
    add_warp(parser)


def add_system(parser: Parser) -> None:
    group = parser.add_argument_group("what goes to the cloud")
    group.add_argument(
        "--system", choices=tuple(SYSTEMS), default="hedge", help="a whole system; options below override it (default hedge)"
    )
    group.add_argument("--policy", choices=POLICIES)
    group.add_argument("--measure", choices=tuple(MEASURES))
    group.add_argument("--threshold", type=float, help="ask iff the uncertainty is above this")
    group.add_argument("--calibration", type=Path, metavar="FILE", help="thresholds from hedge calibrate")
    group.add_argument("--threshold-rule", choices=RULES)
    group.add_argument(
        "--max-risk", type=float, default=0.05, metavar="E", help="rule max-risk: largest joint risk (default 0.05)"
    )
    group.add_argument("--delta", type=float, default=0.1, metavar="D", help="rule max-risk: at level 1 - D (default 0.1)")
    group.add_argument("--recalibrate", action="store_true", help="move the threshold by the audit so that --max-risk is held")
    group.add_argument("--skip-rate", type=float, metavar="Q", help="rule quantile: share to skip (default 0.5; hedge 0.85)")
    group.add_argument("--verify-rate", type=float, metavar="P", help="policy random: share to ask")
    group.add_argument("--verification", choices=VERIFICATIONS)
    group.add_argument("--truncation", choices=TRUNCATIONS)
    group.add_argument("--k", type=int, help="entries kept by truncation fixed (default 30)")
    group.add_argument("--theta", type=float, help="truncation offline and online: bound on U_TV (default 0.1)")
    group.add_argument("--eta", type=float, help="sharpness of U_TV (default 1)")
    group.add_argument("--bits", type=int, help="probabilities are integers that sum to 2^BITS")
    group.add_argument(
        "--law-entries",
        type=int,
        metavar="N",
        help="split: most entries of the LLM's law that come back after a rejection; cheaper, not exact (default: all)",
    )
    group.add_argument(
        "--draft-from", choices=("sent", "full"), help="draw drafts from the law that is sent, or from the full one"
    )
    group.add_argument(
        "--guarantee", choices=GUARANTEES, help="exact: every token is tested before it is shown; the gate only ends blocks"
    )
    group.add_argument("--max-in-flight", type=int, metavar="N", help="messages sent ahead of their verdicts; 1 waits for each")
    group.add_argument(
        "--on-disconnect",
        choices=ON_DISCONNECT,
        help="when the link dies: go on alone, wait for it (same tokens), or fail (default: wait if exact, else continue)",
    )
    group.add_argument(
        "--patience",
        type=float,
        metavar="S",
        help="seconds without an answer after which the link counts as dead (default 60; going on alone 5)",
    )
    group.add_argument(
        "--gelato",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="system gelato: variant=tripping (or published, marginal), weight=10 (V_L), budget_j=1.2 (J a round; "
        f"marginal: {MARGINAL_BUDGET_J} J a token), longest=15 (drafts), acceptance=0.9 (rho_0), bucket=1.2 (theta), "
        "decay=0.35 (kappa; the calibration's where there is one), device_w=12, radio_w=0.2, uplink_bps=0 (bit/s; 0: uploads "
        "take no time)",
    )
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end the answer before TEXT (repeatable)")


def check_connection(args: argparse.Namespace, needed: bool = True) -> None:
    """BadInput for a connection that is neither encrypted nor asked to be plain."""
    if needed and args.insecure == (args.tls_ca is not None):
        raise BadInput(
            "--insecure and --tls-ca exclude each other"
            if args.insecure
            else "the connection to the cloud is plaintext: say so with --insecure, or give --tls-ca"
        )
    if args.insecure and (args.tls_cert or args.tls_key):
        raise BadInput("--tls-cert and --tls-key need --tls-ca")


def needs_cloud(args: argparse.Namespace) -> bool:
    return (args.policy or str(SYSTEMS[args.system]["policy"])) != "never"


def warp_of(args: argparse.Namespace) -> Warp:
    return Warp(args.temperature, args.top_k, args.top_p)


def choose_seed(args: argparse.Namespace) -> int:
    """The given seed, or a random one that is printed."""
    if args.seed is None:
        args.seed = secrets.randbits(32)
        sys.stderr.write(f"seed {args.seed}\n")
    return int(args.seed)


@dataclass(slots=True)
class Pair:
    """The two models as far as the device knows them."""

    slm: LanguageModel
    info: pb.ServerInfo | None


def find_calibration(path: Path | None, pair: Pair, warp: Warp) -> Calibration:
    """The given calibration, or the bundled one for this warp. Incompatible when it was made for something else."""
    llm = pair.info.model_fingerprint if pair.info else ""
    prints = (pair.slm.fingerprint, llm, pair.slm.tokenizer_fingerprint, warp)
    if path is not None:
        found = load_calibration(path)
        found.check(*prints)
        return found
    shipped = [load_calibration(file) for file in sorted(bundled_folder().glob("calibration*.json"))]
    for calibration in shipped:
        if calibration.warp == warp and (calibration.slm, calibration.llm) == prints[:2]:
            return calibration
    raise Incompatible(
        f"no calibration of this pair for temperature {warp.temperature:g}, top-k {warp.top_k}, top-p {warp.top_p:g}: "
        "run hedge calibrate and give --calibration, or give --threshold"
    )


def settings_from(args: argparse.Namespace, pair: Pair, system: str | None = None) -> Settings:
    """The preset of the system, overridden by every option that was given."""
    name = system or args.system
    preset = dict(SYSTEMS[name])
    check_rates(args)
    if args.threshold is not None and args.policy is None and preset["policy"] == "always":
        preset["policy"] = "threshold"
    for option in (
        "policy",
        "measure",
        "threshold_rule",
        "verification",
        "truncation",
        "k",
        "bits",
        "draft_from",
        "threshold",
        "theta",
        "eta",
        "max_in_flight",
        "law_entries",
        "skip_rate",
    ):
        if (value := getattr(args, option, None)) is not None:
            preset[option] = value
    if args.guarantee is not None:
        preset["exact"] = args.guarantee == "exact"
    if preset.get("verification") == "coupled" and preset["policy"] not in ("never", "stream"):
        for option in ("truncation", "k", "bits", "draft_from", "theta", "eta"):
            if getattr(args, option, None) is not None:
                raise BadInput(f"--{option.replace('_', '-')} does not apply to verification coupled, which sends ids alone")
    preset.setdefault("measure", "perturbation")
    rule = str(preset.pop("threshold_rule", "risk-averse"))
    warp = warp_of(args)
    if args.recalibrate:
        preset["recalibrate"] = args.max_risk
    skip_rate = float(preset.pop("skip_rate", 0.5))  # type: ignore[arg-type]
    if preset["policy"] in ("threshold", "adaptive") and "threshold" not in preset:
        preset |= _threshold(args, pair, warp, preset, rule, skip_rate)
    if preset.get("truncation") in ("offline", "online"):
        preset |= _truncation(args, pair, warp, preset)
    if preset["policy"] == "random":
        preset["verify_rate"] = args.verify_rate if args.verify_rate is not None else _cu_hlm_rate(args, pair, warp)
    if preset["policy"] == "gelato":
        preset["gelato"] = _gelato(args, pair, warp)
    elif args.gelato:
        raise BadInput(f"--gelato {' '.join(args.gelato)} is for policy gelato, not {preset['policy']}")
    made = Settings(
        system=name,
        warp=warp,
        seed=choose_seed(args),
        max_new_tokens=args.max_new_tokens,
        stop=tuple(args.stop),
        **_typed(preset),
    )
    on_disconnect = args.on_disconnect or ("wait" if made.guarantee == "exact" else "continue")
    patience = args.patience if args.patience is not None else SHORT_PATIENCE if on_disconnect == "continue" else PATIENCE
    return replace(made, on_disconnect=on_disconnect, patience=patience)


def _threshold(
    args: argparse.Namespace, pair: Pair, warp: Warp, preset: dict[str, object], rule: str, skip_rate: float
) -> dict[str, object]:
    try:
        calibration = find_calibration(args.calibration, pair, warp)
    except Incompatible:
        if not preset.get("exact") or args.calibration is not None:
            raise
        # Here the gate sets only the pace: an uncalibrated one is no less exact.
        return {"threshold": DEFAULT_THRESHOLD}
    found = calibration.threshold(str(preset["measure"]), rule, max_risk=args.max_risk, delta=args.delta, skip_rate=skip_rate)
    if found is None:
        sys.stderr.write(f"rule {rule}: no threshold keeps the risk, asking always\n")
        return {"policy": "always"}
    return {"threshold": found}


def _gelato(args: argparse.Namespace, pair: Pair, warp: Warp) -> GelatoOptions:
    """Its options; kappa by the calibration of this pair where there is one."""
    known: dict[str, Any] = asdict(GelatoOptions())
    given: dict[str, Any] = {}
    for word in args.gelato:
        name, mark, value = word.partition("=")
        if not mark or name not in known:
            raise BadInput(f"gelato {word!r} is not OPTION=VALUE with one of {', '.join(known)}")
        try:
            given[name] = type(known[name])(value)
        except ValueError:
            whole = "a whole number" if isinstance(known[name], int) else "a number"
            raise BadInput(f"gelato {name} {value!r} is not {whole}") from None
    if "decay" not in given:
        with contextlib.suppress(*(() if args.calibration else (Incompatible,))):
            if decay := find_calibration(args.calibration, pair, warp).fits["entropy"].decay:
                given["decay"] = decay / math.log(pair.slm.vocab_size)
    if given.get("variant") == "marginal":
        given.setdefault("budget_j", MARGINAL_BUDGET_J)
    return GelatoOptions(**given)


def _truncation(args: argparse.Namespace, pair: Pair, warp: Warp, preset: dict[str, Any]) -> dict[str, object]:
    """What the calibration says about k: k* once and for all, or the fit that sets it token by token."""
    calibration = find_calibration(args.calibration, pair, warp)
    if preset["truncation"] == "online":
        fit = calibration.fits[preset["measure"]]
        return {"slope": fit.a, "intercept": fit.b}
    return {"k": calibration.smallest_k(preset["measure"], preset.get("theta", THETA), preset.get("eta", ETA))}


def _typed(preset: dict[str, object]) -> dict[str, Any]:
    if preset["policy"] == "never":
        return {name: preset[name] for name in ("policy", "exact", "recalibrate") if name in preset}
    if preset["policy"] == "stream":
        return {name: preset[name] for name in ("policy", "recalibrate") if name in preset}
    return preset


def _cu_hlm_rate(args: argparse.Namespace, pair: Pair, warp: Warp) -> float:
    """Share of positions at which cu-hlm would ask, by its calibration."""
    calibration = find_calibration(args.calibration, pair, warp)
    limit = calibration.threshold("perturbation", "risk-averse", max_risk=0, delta=0, skip_rate=0)
    return 1.0 - calibration.fits["perturbation"].skip_rate(-1.0 if limit is None else limit)


def check_rates(args: argparse.Namespace) -> None:
    """BadInput for a risk, level or share that is none."""
    for name in ("max_risk", "delta"):
        if not 0 < getattr(args, name) < 1:
            raise BadInput(f"{name.replace('_', '-')} {getattr(args, name):g} is not in (0, 1)")
    if getattr(args, "skip_rate", None) is not None and not 0 <= args.skip_rate <= 1:
        raise BadInput(f"skip-rate {args.skip_rate:g} is not in 0..1")
