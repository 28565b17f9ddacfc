"""The running of a bench: one answer after the other, all systems in turn, through a link of every
kind.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from hedge.common.model import LanguageModel
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cli.connect import connected
from hedge.edge_client.cli.settings import resolved, sampling_of
from hedge.edge_client.config import GateConfig, SamplingParams, VerificationConfig
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.bench_rows import link_name
from hedge.evaluation.link import Pipe, parse_outages
from hedge.evaluation.machine import read_joules
from hedge.evaluation.paced import PacedLM, Timeline, TracedLink
from hedge.evaluation.processes import run_program
from hedge.evaluation.profile import Profile
from hedge.evaluation.record import Journal, record_answer
from hedge.evaluation.systems import parse_system
from hedge.evaluation.tasks import Task

COLOCATED = "colocated"
ASSISTED = "assisted"
MEASURED = "measured"
# What a streamed token weighs on the way down: its frames.
TOKEN_BYTES = 31
WARM_UP = GenerationConfig(
    "warm-up",
    SamplingParams(max_new_tokens=16),
    GateConfig("always"),
    VerificationConfig("coupled", exact=True),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One link: bit/s up (0 for no limit), seconds there and back, and outages (start, end) of
    every period.
    """

    rate: float
    round_trip: float
    outage: str

    def __str__(self) -> str:
        return link_name(self.rate, self.round_trip, self.outage)

    def outages(self, seconds: float = 36000.0) -> list[str]:
        """The schedule in the words of `hedge link`, for so long."""
        if self.outage == "none":
            return []
        period, _, length = self.outage.partition(":")
        return [f"{start:g}:{length}" for start in _steps(float(period), seconds)]


def _steps(period: float, seconds: float) -> Iterator[float]:
    at = period
    while at < seconds:
        yield at
        at += period


class Bench:
    """One profile over all cells: question by question, all systems in turn, each question
    beginning with another one.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        slm: LanguageModel,
        llm: LanguageModel,
        profile: Profile | None,
        journal: Journal,
    ) -> None:
        self._args = args
        self._profile = profile
        self._journal = journal
        self._llm = llm
        self._plain = slm
        steps = (profile.slm_s, profile.slm_position_s) if profile else (0.0, 0.0)
        beside = (profile.colocated_slm_s, 0.0) if profile else (0.0, 0.0)
        self._timeline = Timeline()
        self._slm = PacedLM(slm, *steps, self._timeline)
        self._beside = PacedLM(slm, *beside)
        self._name = profile.name if profile else MEASURED
        self._done = {
            (
                e["profile"],
                e["rate"],
                e["round_trip"],
                e["outage"],
                e["system"],
                e["answer"]["task"],
            )
            for e in journal.entries
        }

    async def run(self, address: str, cells: Sequence[Cell], asked: Sequence[Task]) -> None:
        async with AsyncExitStack() as stack:
            if self._args.cloud:
                direct, _ = await stack.enter_async_context(
                    connected(self._args, self._slm, cloud=True)
                )
                assert direct
                await self._cell(cells[0], direct, direct, asked)
                return
            direct = await stack.enter_async_context(GrpcLink(address))
            # The first passes of a fresh server are slower than all others.
            async for _ in Session(
                self._plain, self._plain.encode_chat(asked[0].prompt.messages), WARM_UP, direct
            ).tokens():
                pass
            for cell in cells:
                options = ["--rate", str(cell.rate), "--delay", str(cell.round_trip / 2)]
                options += ["--outage", *cell.outages()] if cell.outages() else []
                with run_program(
                    "hedge", "link", "--listen", "127.0.0.1:0", "--to", address, *options
                ) as relay:
                    up_since = time.perf_counter()
                    async with GrpcLink(relay) as link:
                        await self._cell(cell, link, direct, asked, up_since)

    async def _cell(
        self,
        cell: Cell,
        link: GrpcLink,
        direct: GrpcLink,
        asked: Sequence[Task],
        up_since: float = 0.0,
    ) -> None:
        systems = self._args.systems
        for number, task in enumerate(
            tqdm(asked, desc=f"{self._name}: {cell}", unit="question", disable=None)
        ):
            turn = number % len(systems)
            for system in (*systems[turn:], *systems[:turn]):
                key = (self._name, *asdict(cell).values(), system, number)
                if key in self._done:
                    continue
                entry = await self._entry(system, cell, link, direct, number, task, up_since)
                self._journal.append(
                    dict(zip(("profile", "rate", "round_trip", "outage"), key, strict=False))
                    | entry
                )
                if entry["partial"] and link is not direct:
                    # What is still queued in the link would delay the next answer.
                    await link.reach(link.connection)

    async def _entry(
        self,
        system: str,
        cell: Cell,
        link: GrpcLink,
        direct: GrpcLink,
        number: int,
        task: Task,
        up_since: float,
    ) -> dict[str, Any]:
        if system == ASSISTED:
            return self._assisted(cell, number, task, time.perf_counter() - up_since)
        if system == COLOCATED:
            # The tokens come from the machine beside the LLM, and go through the link as a stream.
            config = resolved(
                parse_system("hedge:max-in-flight=1", self._args), Pair(self._plain, direct.info)
            )
            since = time.perf_counter() - up_since
            entry = await self._answer(system, self._beside, config, direct, cell, number, task)
            return entry | {
                "released": send_through(cell, since, entry["released"]),
                "sockets": None,
                "payload": [0, 0],
                "joules": None,
            }
        config = resolved(parse_system(system, self._args), Pair(self._plain, link.info))
        return await self._answer(system, self._slm, config, link, cell, number, task)

    async def _answer(
        self,
        system: str,
        slm: LanguageModel,
        config: GenerationConfig,
        link: GrpcLink,
        cell: Cell,
        number: int,
        task: Task,
    ) -> dict[str, Any]:
        prompt = slm.encode_chat(task.prompt.messages)
        self._timeline.events.clear()
        session = Session(
            slm, prompt, config, TracedLink(link, self._timeline) if config.needs_cloud else None
        )
        released: list[float] = []
        before = read_joules()
        started = time.perf_counter()
        partial = False
        try:
            async with (
                asyncio.timeout(self._args.seconds),
                contextlib.aclosing(session.tokens()) as tokens,
            ):
                async for _ in tokens:
                    # The last characters of a text may come after its last token.
                    released += [time.perf_counter() - started] * (
                        len(session.token_ids) - len(released)
                    )
        except TimeoutError:
            partial = True
        after = read_joules()
        statistics = session.statistics
        sockets = (statistics.uplink_socket_bytes, statistics.downlink_socket_bytes)
        steps = statistics.steps if slm is self._slm else 0
        modelled = self._profile and self._profile.energy(steps, sockets[0] or 0, cell.rate)
        measured = None if before is None or after is None else after - before
        beside = (
            statistics.steps * self._profile.colocated_slm_s
            if self._profile and slm is self._beside
            else 0.0
        )
        return {
            "system": system,
            "partial": partial,
            "released": [round(at, 5) for at in released],
            "answer": record_answer(number, task, prompt, session).to_json(),
            "cloud_s": statistics.cloud_s + beside,
            "payload": [statistics.uplink_payload_bytes, statistics.downlink_payload_bytes],
            "sockets": None if None in sockets else list(sockets),
            "joules": modelled,
            "rapl_joules": measured,
            "timeline": self._timeline.since(started) if number == 0 else [],
        }

    def _assisted(self, cell: Cell, number: int, task: Task, since: float) -> dict[str, Any]:
        """Computed from counted passes where a profile sets their times, measured otherwise;
        streamed evenly.
        """
        from hedge.evaluation.assisted import generate_assisted

        prompt = self._plain.encode_chat(task.prompt.messages)
        args = self._args
        found = generate_assisted(
            self._plain, self._llm, prompt, sampling_of(args).warp, args.seed, args.max_new_tokens
        )
        profile = self._profile
        seconds = found.seconds
        passes = [
            profile.llm_s + profile.llm_position_s * count if profile else 0.0
            for count in found.llm
        ]
        if profile:
            seconds = sum(passes) + profile.colocated_slm_s * len(found.slm)
        text = self._plain.decode(found.token_ids)
        log = [[0, 0, 0, count, took] for count, took in zip(found.llm, passes, strict=True)]
        # Its tokens were tested by the LLM, by rules of its own.
        answer = {
            "task": number,
            "family": task.family,
            "prompt": task.prompt.text,
            "reference": task.reference,
            "text": text,
            "correct": task.is_correct(text),
            "prompt_ids": prompt,
            "token_ids": found.token_ids,
            "provenance": ["accepted"] * len(found.token_ids),
            "log": log,
            "steps": len(found.slm),
            "audited": 0,
            "risk": 0.0,
            "slm_s": 0.0,
            "wall_s": seconds,
            "codec_bytes": 0,
            "payload_bytes": (0, 0),
            "socket_bytes": None,
        }
        even = [seconds * (at + 1) / len(found.token_ids) for at in range(len(found.token_ids))]
        return {
            "system": ASSISTED,
            "partial": False,
            "released": send_through(cell, since, even),
            "answer": answer,
            "cloud_s": seconds,
            "payload": [0, 0],
            "sockets": None,
            "joules": None,
            "rapl_joules": None,
            "timeline": [],
        }


def send_through(cell: Cell, since: float, released: Sequence[float]) -> list[float]:
    """When a user who asks `since` seconds after the link came up has the tokens that a cloud gives
    at `released`.
    """
    outages = parse_outages(cell.outages())
    up = Pipe(cell.rate, cell.round_trip / 2, outages=outages)
    down = Pipe(0.0, cell.round_trip / 2, outages=outages)
    asked = up.arrival(TOKEN_BYTES, since)
    return [round(down.arrival(TOKEN_BYTES, asked + at) - since, 5) for at in released]
