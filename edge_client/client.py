"""The one way to an answer, of the commands, the HTTP API and the Python API.

with Hedge(CloudConfig(insecure=True)) as hedge:
    print(hedge.generate("What is 47 + 38?").text)
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hedge.common.errors import BadInput
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cloud_watch import CloudWatch
from hedge.edge_client.config import CloudConfig, GateConfig, SamplingParams
from hedge.edge_client.engine.gates.recalibration import Recalibrated, recalibration_of
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Emitted, Session
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.memory import remembered
from hedge.edge_client.receipt import Prices
from hedge.edge_client.reply import Reply
from hedge.edge_client.resolve import resolve
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.edge_client.transport.events import Event, Notify
from hedge.edge_client.transport.grpc_link import GrpcLink

# A question, or a conversation of `role` and `content`.
Prompt = str | Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: `provenance` of each token, `receipt` as in `hedge generate --json`."""

    text: str
    token_ids: list[int]
    provenance: list[Provenance]
    finish_reason: str
    guarantee: str
    statistics: Statistics
    receipt: dict[str, Any]


def _ignore(_: object) -> None:
    """Stands where nobody listens."""


class AsyncHedge:
    """Answers by a system, with a cloud or, for `slm`, without. Use as an async context manager;
    answers may run at once.

    `slm` is a model or its name, `calibration` a file where it is not a bundled one. With
    `remember`, policy survival starts from what verdicts on this pair have taught this user's
    programs, and keeps what it learns. `prices` go into receipts; `on_receipt` is called with each.
    `notify` is told, a line each, what is to be said of the link and of the threshold. With
    `wait_for_cloud` a cloud that does not answer is looked for in the background, and so is one
    that is lost. BadInput for an unknown system, or one that needs a cloud and has none.
    """

    def __init__(
        self,
        cloud: CloudConfig | None = None,
        *,
        slm: str | LanguageModel = BUNDLED,
        system: str | GenerationConfig = "hedge",
        calibration: Path | None = None,
        remember: bool = False,
        prices: Prices | None = None,
        on_receipt: Callable[[dict[str, Any]], None] = _ignore,
        notify: Callable[[str], None] = _ignore,
        wait_for_cloud: bool = False,
    ) -> None:
        if isinstance(system, str) and system not in SYSTEMS:
            raise BadInput(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
        self.system = SYSTEMS[system] if isinstance(system, str) else system
        if self.system.needs_cloud and cloud is None:
            raise BadInput(f"system {self.system.system} needs a cloud: give CloudConfig(...)")
        self.slm = load(slm, "slm") if isinstance(slm, str) else slm
        self._calibration = calibration
        self._remember = remember
        self._prices = prices
        self._on_receipt = on_receipt
        self._notify = notify
        self.watch = CloudWatch(cloud, self.slm, notify, self._meet, patient=wait_for_cloud)
        self._stack = ExitStack()
        self._recalibrated: dict[tuple[GateConfig, Warp], Recalibrated | None] = {}
        self._survival = Survival()

    async def __aenter__(self) -> Self:
        await self.watch.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._stack:
            await self.watch.__aexit__()

    def _meet(self, link: GrpcLink) -> None:
        memory = remembered(Pair(self.slm, link.info), keep=self._remember)
        self._survival = self._stack.enter_context(memory)

    @property
    def link(self) -> GrpcLink | None:
        return self.watch.link

    @property
    def pair(self) -> Pair:
        return Pair(self.slm, self.link.info if self.link else None)

    def resolve(self, config: GenerationConfig) -> GenerationConfig:
        """The configuration with every threshold, rate and k a number."""
        return resolve(config, self.pair, self._calibration, self._notify)

    def open_session(
        self, ids: list[int], config: GenerationConfig, notify: Notify = _ignore
    ) -> Session:
        """A session over prompt ids; `notify` hears of the link."""
        config = self.resolve(config)

        def note(event: Event) -> None:
            self.watch.hear(event)
            notify(event)

        return Session(
            self.slm,
            ids,
            config,
            self.link if config.needs_cloud else None,
            recalibrated=self._recalibration(config),
            survival=self._survival,
            notify=note,
        )

    def _recalibration(self, config: GenerationConfig) -> Recalibrated | None:
        """One moving threshold for all answers of a gate under a warp."""
        if config.gate.recalibrate is None:
            return None
        key = (config.gate, config.sampling.warp)
        return self._recalibrated.setdefault(key, recalibration_of(config))

    def reply(
        self,
        ids: list[int],
        config: GenerationConfig,
        notify: Notify = _ignore,
        *,
        alone: bool = False,
    ) -> Reply:
        """An answer to prompt ids, with its receipt; `alone` marks it as the device's in the place
        of a cloud that is away.
        """
        session = self.open_session(ids, config, notify)
        return Reply(session, session.config, self._prices, self._on_receipt, alone)

    def ask(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Reply:
        """An answer to come, with its receipt. `sampling` takes the place of the system's own."""
        messages = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        config = self.system if sampling is None else replace(self.system, sampling=sampling)
        ids = self.slm.encode_chat(messages)
        return self.reply(ids, config, lambda event: self._notify(str(event)))

    def session(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Session:
        """An answer to come, token by token, with its statistics."""
        return self.ask(prompt, sampling).session

    async def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None
    ) -> AsyncIterator[Emitted]:
        """The tokens as they become final."""
        reply = self.ask(prompt, sampling)
        async with aclosing(reply.tokens()) as tokens:  # type: ignore[type-var]
            async for emitted in tokens:
                yield emitted

    async def generate(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Answer:
        """The whole answer."""
        reply = self.ask(prompt, sampling)
        await reply.run()
        session = reply.session
        return Answer(
            session.text,
            session.token_ids,
            session.provenance,
            session.finish_reason,
            session.guarantee,
            session.statistics,
            reply.receipt,
        )


class Hedge:
    """`AsyncHedge` for programs without an event loop; use as a context manager."""

    def __init__(self, cloud: CloudConfig | None = None, **options: Any) -> None:
        self._hedge = AsyncHedge(cloud, **options)

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        try:
            self._runner.run(self._hedge.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._hedge.__aexit__())
        self._runner.close()

    @property
    def slm(self) -> LanguageModel:
        return self._hedge.slm

    @property
    def system(self) -> GenerationConfig:
        return self._hedge.system

    def session(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Session:
        """An answer to come, token by token, with its statistics."""
        return self._hedge.session(prompt, sampling)

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Emitted]:
        """The tokens as they become final."""
        tokens = self._hedge.stream(prompt, sampling)
        try:
            while (emitted := self._runner.run(_next(tokens))) is not None:
                yield emitted
        finally:
            self._runner.run(tokens.aclose())  # type: ignore[attr-defined]

    def generate(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Answer:
        """The whole answer."""
        return self._runner.run(self._hedge.generate(prompt, sampling))


async def _next(tokens: AsyncIterator[Emitted]) -> Emitted | None:
    return await anext(tokens, None)
