"""The Python API: a device's model and a cloud behind it, asked for answers.

with Hedge(CloudConfig(insecure=True)) as hedge:
    print(hedge.generate("What is 47 + 38?").text)
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.config import CloudConfig, SamplingParams
from hedge.edge_client.engine.gates.recalibration import Recalibrated, recalibration_of
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Emitted, Session
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.resolve import resolve
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.edge_client.transport.connect import reached
from hedge.edge_client.transport.link import Link

# A question, or a conversation of `role` and `content`.
Prompt = str | Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `provenance` is of each token."""

    text: str
    token_ids: list[int]
    provenance: list[Provenance]
    finish_reason: str
    guarantee: str
    statistics: Statistics


def _quiet(line: str) -> None:
    """What is said of the link when nobody listens."""


class _Asked:
    """What both faces have in common: a model, a system, and the way to a cloud."""

    def __init__(
        self,
        cloud: CloudConfig | None = None,
        *,
        slm: str | LanguageModel = BUNDLED,
        system: str | GenerationConfig = "hedge",
        calibration: Path | None = None,
        notify: Callable[[str], None] = _quiet,
    ) -> None:
        if isinstance(system, str) and system not in SYSTEMS:
            raise BadInput(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
        self.system = SYSTEMS[system] if isinstance(system, str) else system
        if self.system.needs_cloud and cloud is None:
            raise BadInput(f"system {self.system.system} needs a cloud: give CloudConfig(...)")
        self._cloud = cloud
        self._calibration = calibration
        self._notify = notify
        self.slm = load(slm, "slm") if isinstance(slm, str) else slm
        self._stack = AsyncExitStack()
        self._link: Link | None = None
        self._recalibrated: Recalibrated | None = None
        self._survival = Survival()

    async def _open(self) -> None:
        if self._cloud:
            self._link = await self._stack.enter_async_context(
                reached(self._cloud, self.slm, self._notify)
            )

    def session(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Session:
        """An answer to come, token by token, with its statistics. `sampling` takes the place of the
        system's own.
        """
        messages = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        config = self.system if sampling is None else replace(self.system, sampling=sampling)
        config = resolve(
            config,
            Pair(self.slm, self._link.info if self._link else None),
            self._calibration,
            self._notify,
        )
        self._recalibrated = self._recalibrated or recalibration_of(config)
        link = self._link if config.needs_cloud else None
        ids = self.slm.encode_chat(messages)
        return Session(
            self.slm,
            ids,
            config,
            link,
            recalibrated=self._recalibrated,
            survival=self._survival,
            notify=lambda event: self._notify(str(event)),
        )


class AsyncHedge(_Asked):
    """Answers by a system, with a cloud or, for `slm`, without. Use as an async context manager;
    answers may run at once.

    `slm` is a model or its name, `calibration` a file where it is not a bundled one. `notify` is
    told, a line each, what is to be said of the link and of the threshold. BadInput for a system
    there is not, or one that needs a cloud and has none.
    """

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None
    ) -> AsyncIterator[Emitted]:
        """The tokens as they become final."""
        async with aclosing(self.session(prompt, sampling).tokens()) as tokens:
            async for emitted in tokens:
                yield emitted

    async def generate(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Answer:
        """The whole answer."""
        return await _whole(self.session(prompt, sampling))


class Hedge(_Asked):
    """`AsyncHedge` for programs without an event loop; use as a context manager."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        try:
            self._runner.run(self._open())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Emitted]:
        """The tokens as they become final."""
        tokens = self.session(prompt, sampling).tokens()
        try:
            while (emitted := self._runner.run(_next(tokens))) is not None:
                yield emitted
        finally:
            self._runner.run(tokens.aclose())

    def generate(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Answer:
        """The whole answer."""
        return self._runner.run(_whole(self.session(prompt, sampling)))


async def _next(tokens: AsyncIterator[Emitted]) -> Emitted | None:
    return await anext(tokens, None)


async def _whole(session: Session) -> Answer:
    await session.run()
    return Answer(
        session.text,
        session.token_ids,
        session.provenance,
        session.finish_reason,
        session.guarantee,
        session.statistics,
    )
