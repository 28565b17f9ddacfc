"""hedge-cloud loadtest: many devices as real gRPC clients that play recorded drafts, without a
small model.
"""

import argparse
import asyncio
import http.client
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from hedge.common import codec, ids
from hedge.common.command import command_parser, parse
from hedge.common.errors import BadInput, HedgeError, Unreachable
from hedge.common.files import TEXT
from hedge.common.ids import ADAPTIVE
from hedge.common.rpc import LOOPBACK, PROTOCOL_VERSION, open_channel, split_address
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub

MAX_DEVICES = 2000
MAX_SECONDS = 3600.0
EXAMPLES = """  hedge-cloud loadtest --devices 32 --seconds 20
  hedge-cloud loadtest --devices 200 --seconds 60 --think 0.2 --http 127.0.0.1:9100
  hedge-cloud loadtest --devices 50 --tokens-per-s 10        # each reads at that pace
  hedge-cloud loadtest --devices 50 --stream                 # without drafts: the llm system"""


@dataclass(frozen=True, slots=True)
class Recording:
    """One answer of a device: its prompt, and the ids of every draft it sent, in order.
    Verification is coupled, greedy.
    """

    prompt: tuple[int, ...]
    drafts: tuple[tuple[int, ...], ...]


def read_recordings(path: Path) -> list[Recording]:
    try:
        entries = [json.loads(line) for line in path.read_text(TEXT).splitlines() if line.strip()]
        found = [
            Recording(tuple(e["prompt"]), tuple(tuple(d) for d in e["drafts"])) for e in entries
        ]
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no recording: {error}") from None
    if not found:
        raise BadInput(f"{path} holds no recording")
    for one in found:
        for tokens in (one.prompt, *one.drafts):
            if not all(isinstance(token, int) and token >= 0 for token in tokens) or not one.prompt:
                raise BadInput(f"{path} is no recording: {list(tokens)} are no token ids")
    return found


@dataclass(slots=True)
class Tally:
    """What all devices together have seen; `latencies` are seconds from a draft to its verdict,
    `rates` tokens/s of answers.
    """

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    tokens: int = 0
    positions: int = 0
    sessions: int = 0
    throttled: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DevicePace:
    """How devices ask: a pause before each draft, tokens/s that their users read (0: any number),
    or no drafts at all.
    """

    think: float = 0.0
    tokens_per_s: float = 0.0
    streams: bool = False


async def device(
    stub: Any,
    info: pb.ServerInfo,
    recordings: Sequence[Recording],
    number: int,
    until: float,
    pace: DevicePace,
    tally: Tally,
) -> None:
    """Answers until the time is over, one recording after the other, each device beginning with
    another.
    """
    while time.perf_counter() < until:
        recording = recordings[number % len(recordings)]
        number += 1
        try:
            await _answer(stub, info, recording, until, pace, tally)
        except grpc.aio.AioRpcError as error:
            tally.errors.append(f"{error.code().name} {error.details()}")
            return
        except HedgeError as error:
            tally.errors.append(str(error))
            return


async def _answer(
    stub: Any,
    info: pb.ServerInfo,
    recording: Recording,
    until: float,
    pace: DevicePace,
    tally: Tally,
) -> None:
    call = stub.Generate()
    started = time.perf_counter()
    await call.write(pb.ClientMessage(open=_opening(info, recording, streams=pace.streams)))
    first = await call.read()
    if isinstance(first, pb.ServerMessage) and first.WhichOneof("kind") == "throttle":
        tally.throttled += 1
        await asyncio.sleep(
            min(first.throttle.retry_after_ms / 1e3, max(0.0, until - time.perf_counter()))
        )
        return
    if not isinstance(first, pb.ServerMessage) or first.WhichOneof("kind") != "opened":
        raise Unreachable(
            f"the server did not open a session: {await call.code()} {await call.details()}"
        )
    tally.opened.append(time.perf_counter() - started)
    got = await (
        _streamed(call, until, tally)
        if pace.streams
        else _drafted(call, info, recording, until, pace, tally)
    )
    if got and time.perf_counter() < until:
        tally.rates.append(got / (time.perf_counter() - started))
    tally.sessions += 1


async def _streamed(call: Any, until: float, tally: Tally) -> int:
    """The tokens of the llm system, counted."""
    got = 0
    while (answer := await call.read()) is not grpc.aio.EOF:
        if answer.WhichOneof("kind") != "verdict":
            raise Unreachable(f"no verdict came: {await call.code()} {await call.details()}")
        got += 1
        tally.tokens += 1
        tally.positions += answer.verdict.timings.positions
        if time.perf_counter() >= until:
            call.cancel()
            break
    return got


async def _drafted(
    call: Any,
    info: pb.ServerInfo,
    recording: Recording,
    until: float,
    pace: DevicePace,
    tally: Tally,
) -> int:
    """Plays the drafts of a recording. The tokens that came of it."""
    started = time.perf_counter()
    read = 0
    history = list(recording.prompt)
    coder = ids.id_codec(ADAPTIVE, info.vocab_size)
    for drafted in recording.drafts:
        if pace.think:
            await asyncio.sleep(pace.think)
        if time.perf_counter() >= until:
            break
        draft = pb.Draft(ids=coder.encode(history, drafted))
        sent = time.perf_counter()
        await call.write(pb.ClientMessage(draft=draft))
        answer = await call.read()
        if not isinstance(answer, pb.ServerMessage) or answer.WhichOneof("kind") != "verdict":
            raise Unreachable(f"no verdict came: {await call.code()} {await call.details()}")
        verdict = answer.verdict
        tally.latencies.append(time.perf_counter() - sent)
        own = (
            [verdict.correction]
            if verdict.HasField("correction")
            else [verdict.bonus]
            if verdict.HasField("bonus")
            else []
        )
        history += [*drafted[: verdict.accepted], *own]
        tally.tokens += verdict.accepted + len(own)
        read += verdict.accepted + len(own)
        tally.positions += verdict.timings.positions
        if pace.tokens_per_s:
            # The next words are needed when those that came have been read.
            await asyncio.sleep(max(0.0, started + read / pace.tokens_per_s - time.perf_counter()))
    await call.write(pb.ClientMessage(close=pb.Close()))
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass
    return read


def _opening(info: pb.ServerInfo, recording: Recording, *, streams: bool) -> pb.Open:
    return pb.Open(
        protocol_version=PROTOCOL_VERSION,
        prompt_ids=recording.prompt,
        warp=pb.Warp(temperature=0, top_p=1),
        verification=pb.VERIFICATION_STREAM if streams else pb.VERIFICATION_COUPLED,
        max_new_tokens=sum(map(len, recording.drafts)) if streams else 0,
        guarantee=pb.GUARANTEE_EXACT,
        bonus=True,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        vocab_size=info.vocab_size,
        codecs=codec.VERSIONS,
        id_codecs=[ADAPTIVE],
    )


def batches(address: str | None) -> dict[str, float]:
    """The server's histogram of sessions in a forward pass, by upper bound, and its sums; empty
    without an address.
    """
    if not address:
        return {}
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise Unreachable(f"no metrics at {address}: {error}") from None
    found = dict(
        re.findall(r'^hedge_cloud_batch_sessions_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    )
    found |= dict(
        re.findall(
            r"^(hedge_cloud_(?:\w+_(?:sum|count)|positions_total|evictions)"
            r"|process_resident_memory_bytes) (\S+)$",
            text,
            re.MULTILINE,
        )
    )
    return {name: float(value) for name, value in found.items()}


def summary(
    tally: Tally, seconds: float, before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    """The JSON of a run: milliseconds, and the server's own account where --http was given."""
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    rates = np.percentile(np.array(tally.rates or [0.0]), [10, 50])
    quantiles = np.percentile(np.array(tally.latencies or [0.0]) * 1e3, [50, 90, 99, 100])
    result: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "sessions": tally.sessions,
        "verdicts": len(tally.latencies),
        "tokens": tally.tokens,
        "positions": tally.positions,
        "tokens_per_s": round(tally.tokens / seconds, 1),
        "positions_per_s": round(tally.positions / seconds, 1),
        "throttled": tally.throttled,
        "errors": len(tally.errors),
        "verdict_ms": dict(
            zip(("p50", "p90", "p99", "max"), (round(float(q), 2) for q in quantiles), strict=True)
        ),
        "answer_tokens_per_s": dict(
            zip(("p10", "p50"), (round(float(r), 2) for r in rates), strict=True)
        ),
        "open_ms_p50": round(float(np.median(tally.opened or [0.0])) * 1e3, 2),
    }
    if grown:
        passes = grown["hedge_cloud_batch_sessions_count"]
        result["passes"] = passes
        # Prompts included.
        result["positions_per_s"] = round(grown["hedge_cloud_positions_total"] / seconds, 1)
        result["sessions_per_pass"] = round(
            grown["hedge_cloud_batch_sessions_sum"] / max(1.0, passes), 2
        )
        result["positions_per_pass"] = round(
            grown["hedge_cloud_positions_total"] / max(1.0, passes), 2
        )
        result["forward_share"] = round(grown["hedge_cloud_forward_seconds_sum"] / seconds, 3)
        levels = [
            (name, value) for name, value in grown.items() if name[0].isdigit() or name == "+Inf"
        ]
        counts = np.diff([0.0, *(value for _, value in levels)])
        result["batches"] = {
            f"<= {name}": int(n) for (name, _), n in zip(levels, counts, strict=True) if n
        }
    return result


async def play(args: argparse.Namespace, recordings: Sequence[Recording]) -> dict[str, Any]:
    tally = Tally()
    pace = DevicePace(args.think, args.tokens_per_s, args.stream)
    async with open_channel(args.cloud) as channel:
        stub: Any = HedgeStub(channel)
        try:
            info = await stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            raise Unreachable(
                f"no Hedge cloud answers at {args.cloud}: {error.details()}"
            ) from None
        if (largest := max(max(r.prompt) for r in recordings)) >= info.vocab_size:
            raise BadInput(f"id {largest} of the recording in a vocabulary of {info.vocab_size}")
        before = batches(args.http)
        started = time.perf_counter()
        until = started + args.seconds
        await asyncio.gather(
            *(
                device(stub, info, recordings, number, until, pace, tally)
                for number in range(args.devices)
            )
        )
        seconds = time.perf_counter() - started
    for line in sorted(set(tally.errors))[:5]:
        sys.stderr.write(f"hedge-cloud loadtest: {line}\n")
    return summary(tally, seconds, before, batches(args.http))


def loadtest(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge-cloud loadtest", "Plays recorded drafts of many devices against a server.", EXAMPLES
    )
    parser.add_argument(
        "--cloud", default="127.0.0.1:7411", metavar="HOST:PORT", help="plaintext, on this machine"
    )
    parser.add_argument(
        "--http", metavar="HOST:PORT", help="the server's metrics: adds the sizes of its batches"
    )
    parser.add_argument("--devices", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--think", type=float, default=0.0, metavar="S", help="pause before each draft (default 0)"
    )
    parser.add_argument(
        "--tokens-per-s",
        type=float,
        default=0.0,
        metavar="R",
        help="of each device, at most (default: as fast as it goes)",
    )
    parser.add_argument(
        "--stream", action="store_true", help="no drafts: the server streams its own tokens"
    )
    parser.add_argument(
        "--drafts",
        type=Path,
        metavar="FILE",
        help="JSONL: prompt and drafts, ids (default: the bundled pair's)",
    )
    args = parse(parser, arguments)
    host, _ = split_address(args.cloud)
    if host not in LOOPBACK:
        raise BadInput(f"a load test aims at this machine only, not at {host}")
    if not 1 <= args.devices <= MAX_DEVICES:
        raise BadInput(f"devices {args.devices} is not in 1..{MAX_DEVICES}")
    if not 0 < args.seconds <= MAX_SECONDS:
        raise BadInput(f"seconds {args.seconds:g} is not in (0, {MAX_SECONDS:g}]")
    if not 0 <= args.think < MAX_SECONDS:
        raise BadInput(f"think {args.think:g} is not in [0, {MAX_SECONDS:g})")
    if not 0 <= args.tokens_per_s < float("inf"):
        raise BadInput(f"tokens-per-s {args.tokens_per_s:g} is not a number of at least 0")
    if args.drafts is None:
        from hedge.common.model import bundled_folder

        args.drafts = bundled_folder() / "drafts.jsonl"
    recordings = read_recordings(args.drafts)
    result = asyncio.run(play(args, recordings))
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if result["errors"]:
        raise HedgeError(f"{result['errors']} of {args.devices} devices ended with an error")
