"""hedge doctor: what is needed for an answer, looked at one after the other, and what to do where
it is missing.
"""

import argparse
import asyncio
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hedge.common.command import command_parser, model_options, parse, say
from hedge.common.errors import BadInput, Denied, Disconnected, HedgeError, Incompatible
from hedge.common.model import LanguageModel
from hedge.common.model_options import is_gguf
from hedge.common.probe import WIDE, Measured, measure
from hedge.common.rpc import PROTOCOL_VERSION
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import Pair, find_calibration
from hedge.edge_client.cli.connect import connected, load_slm
from hedge.edge_client.cli.options import add_models
from hedge.edge_client.cli.prompts import from_text, read_prompts
from hedge.edge_client.cli.settings import check_connection
from hedge.edge_client.config import TEMPERATURE, SamplingParams
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.edge_client.transport.messages import engine_of, id_codec_of
from hedge.edge_client.transport.sockets import bytes_with
from hedge.evaluation.break_even import LONGEST, PairSample, no_overlap, sample_pair

PACKAGES = ("grpcio", "protobuf", "numpy", "uvicorn", "torch", "transformers", "llama-cpp-python")
EXTRAS = {
    "torch": "torch (model folders, and the bundled pair)",
    "llama-cpp-python": "llama (.gguf files)",
    "matplotlib": "bench (hedge plot)",
    "ray": "ray (hedge-cloud deploy)",
}
CALLS = 5
# Prompts that are asked, and those of nobody's own.
MOST = 5
PROMPTS = (
    "What is 47 + 38?",
    "Sort these numbers: 52, 7, 31, 18.",
    "Tell me a short story about a fox and a well.",
)
# What builds llama.cpp for any processor of the last ten years.
REBUILD = (
    "CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --no-cache-dir --force-reinstall --no-deps "
    "llama-cpp-python"
)
EXAMPLES = """  hedge doctor --insecure
  hedge doctor --slm ./small --cloud cloud.example.org:7411 --tls-ca ca.pem --token-file token"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, whether it will do, what was found, and what to do about it."""

    what: str
    well: bool
    found: str
    advice: str = ""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge doctor", "Checks model, cloud, versions and link, and says what to do.", EXAMPLES
    )
    add_models(parser)
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=f"JSONL; the first {MOST} are asked to find the speed (default: three of ours)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=TEMPERATURE,
        help=f"of their answers (default {TEMPERATURE:g})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per finding on stdout")
    args = parse(parser, arguments)
    args.asked = (
        read_prompts(args.prompts)[:MOST] if args.prompts else [from_text(text) for text in PROMPTS]
    )
    args.sampling = SamplingParams(Warp(args.temperature), seed=1)
    findings = list(_examined(args))
    for finding in findings:
        if args.json:
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
        else:
            advice = f"\n      -> {finding.advice}" if finding.advice else ""
            sys.stdout.write(
                f"{'ok   ' if finding.well else 'WRONG'} {finding.what}: {finding.found}{advice}\n"
            )
    if wrong := sum(not finding.well for finding in findings):
        raise HedgeError(f"{wrong} of {len(findings)} findings are wrong")


def _examined(args: argparse.Namespace) -> Iterator[Finding]:
    yield from versions()
    try:
        cost = probe(args) if is_gguf(args.slm) else None
        slm = load_slm(args)
    except HedgeError as error:
        advice = "give a model folder or a .gguf file with --slm, or leave it out"
        advice = REBUILD if isinstance(error, Crashed) else advice
        yield Finding("the device's model", well=False, found=str(error), advice=advice)
        return
    cost = cost or measure(slm)
    yield from device(slm, cost)
    try:
        check_connection(args)
    except BadInput as error:
        yield Finding(
            "the connection",
            well=False,
            found=str(error),
            advice="model slm needs no cloud: --system slm",
        )
        return
    findings, sample, round_trip = asyncio.run(_cloud(args, slm, cost))
    yield from findings
    if sample and sample.traces:
        yield from _speed(sample, round_trip)


class Crashed(HedgeError):
    """A runtime that killed its process."""


def probe(args: argparse.Namespace) -> Measured:
    """What the model costs, found out in a process of its own. Crashed when that died."""
    options = json.dumps(asdict(model_options(args, args.slm)))
    command = [sys.executable, "-m", "hedge.common.probe", args.slm, options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise Crashed(
            f"llama.cpp dies of {name} in its first passes over {args.slm}: this build is not for "
            "this processor"
        )
    if done.returncode:
        raise BadInput(done.stderr.strip().rpartition("\n")[2])
    return Measured(**json.loads(done.stdout))


def installed(name: str) -> str | None:
    """The version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    packages = ", ".join(f"{name} {number}" for name in PACKAGES if (number := installed(name)))
    yield Finding(
        "versions",
        well=True,
        found=f"hedge {version('hedge-hlm')}, Python {platform.python_version()}, {packages}",
    )
    for name, extra in EXTRAS.items():
        if installed(name) is None:
            yield Finding(
                "extra", well=True, found=f"{name} is not installed", advice=f"only for {extra}"
            )
    if bytes_with(()) is None:
        yield Finding(
            "socket bytes",
            well=True,
            found="not counted on this system",
            advice="statistics have payload bytes only",
        )


def device(slm: LanguageModel, cost: Measured) -> Iterator[Finding]:
    found = f"{slm.name}, vocabulary {slm.vocab_size}, context {slm.context}"
    advice = ""
    if slm.context < slm.identity.trained_context:
        advice = (
            f"the model knows {slm.identity.trained_context} tokens: more with --context, or "
            "with more free memory"
        )
    yield Finding("the device's model", well=True, found=found, advice=advice)
    yield Finding(
        "its runtime",
        well=True,
        found=f"{cost.runtime}; {cost.one_ms:.1f} ms a step, {cost.eight_ms:.1f} ms for 8 rows, "
        f"{cost.memory_mb} MB",
    )


async def _cloud(
    args: argparse.Namespace, slm: LanguageModel, cost: Measured
) -> tuple[list[Finding], PairSample | None, float]:
    """What is known of the cloud, and of the link; the last two for what to expect of both."""
    advice = {
        Disconnected: f"is hedge-cloud serve running at {args.cloud}, the way open, and TLS the "
        "same on both sides?",
        Denied: "ask the operator for a token (hedge-cloud token NAME), and give its file with "
        "--token-file",
        Incompatible: "device and cloud need models with the same tokenizer, and the same version "
        "of hedge",
        BadInput: "see hedge doctor --help",
    }
    try:
        async with connected(args, slm, cloud=True) as (link, pair):
            assert link
            trip = await _trip(link)
            found = [*_known(link, slm), _link(trip), _calibrated(pair)]
            return found, await _sampled(args, slm, cost, link), min(trip)
    except HedgeError as error:
        known = next((words for kind, words in advice.items() if isinstance(error, kind)), "")
        return [Finding("the cloud", well=False, found=str(error), advice=known)], None, 0.0


def _known(link: GrpcLink, slm: LanguageModel) -> Iterator[Finding]:
    info = link.info
    codec = id_codec_of(info, slm)
    engine = engine_of(info)
    yield Finding(
        "the cloud",
        well=True,
        found=f"{info.model_name} at {link.address}, protocol {PROTOCOL_VERSION}, context "
        f"{info.context_limit}, "
        f"{info.open_sessions} sessions open, ids by codec {codec}",
    )
    found = {
        "bitwise": "bitwise: exact is token for token",
        "rounding": f"rounding: logits move by up to {info.exactness.difference:.2g} with what "
        "else is in a pass",
    }.get(engine or "", "it does not say")
    advice = (
        "exact is up to near ties, which are counted; in torch or llama.cpp, hedge-cloud "
        "serve --reproducible has none"
    )
    yield Finding(
        "its engine", well=True, found=found, advice=advice if engine == "rounding" else ""
    )


async def _trip(link: GrpcLink) -> list[float]:
    """Seconds there and back, several times."""
    trips = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await link.probe()
        trips.append(time.perf_counter() - started)
    return trips


def _link(trips: Sequence[float]) -> Finding:
    found = f"{1e3 * min(trips):.1f} ms there and back at best, {1e3 * max(trips):.1f} at worst"
    return Finding("the link", well=True, found=found)


async def _sampled(
    args: argparse.Namespace, slm: LanguageModel, cost: Measured, link: GrpcLink
) -> PairSample:
    prompts = [slm.encode_chat(prompt.messages) for prompt in args.asked]
    step_s = cost.one_ms / 1e3
    eight_s = cost.eight_ms / 1e3
    say(f"hedge doctor: asking the cloud for {len(prompts)} short answers, streamed and in blocks")
    return await sample_pair(
        slm, link, prompts, args.sampling, step_s, max(0.0, eight_s - step_s) / (WIDE - 1)
    )


def _speed(sample: PairSample, round_trip: float) -> list[Finding]:
    """What to expect of hedge here, and where it would begin to lose."""
    counts = sample.over(round_trip)
    profile = sample.profile
    passes, steps, positions = counts.per_token()
    stream_s = profile.llm_s + profile.llm_position_s
    verify_s = profile.llm_s + profile.llm_position_s * positions / passes
    alone = no_overlap(steps, passes, profile.slm_s, stream_s, verify_s)
    trip = sample.break_even()
    at = {None: "at no round trip", float("inf"): f"at every round trip up to {LONGEST:g} s"}.get(
        trip, f"below {1e3 * (trip or 0):.0f} ms there and back"
    )
    advice = (
        ""
        if counts.speed > 1
        else "for speed alone take --system llm; hedge still saves passes of the LLM"
    )
    return [
        Finding(
            "expected here",
            well=True,
            found=f"hedge {counts.tokens / counts.seconds:.1f} tokens/s, the LLM's stream "
            f"{1 / stream_s:.1f}; of the LLM "
            f"{passes:.2f} passes a token, of the SLM {steps:.2f} steps ({counts.tokens} tokens "
            "looked at)",
            advice=advice,
        ),
        Finding(
            "break-even",
            well=True,
            found=f"hedge is faster than the LLM's stream {at} (without overlap: "
            + ("never)" if alone <= 0 else f"below {1e3 * alone:.0f} ms)"),
        ),
    ]


def _calibrated(pair: Pair) -> Finding:
    from hedge.common.sampling import Warp

    try:
        find_calibration(None, pair, Warp())
    except HedgeError as error:
        advice = (
            "hedge works without; cu-hlm and the like need hedge calibrate --prompts FILE "
            "--out FILE"
        )
        return Finding("calibration", well=True, found=str(error), advice=advice)
    return Finding("calibration", well=True, found="this pair has one")
