"""docs/architecture.md, "How to add": one of each, really added."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hedge.cloud_server.engines.batcher import Batcher
from hedge.cloud_server.engines.block_manager import BLOCK_SIZE, BlockManager
from hedge.cloud_server.engines.scheduler import ScheduledChunk
from hedge.cloud_server.sessions.session import VerifierSession
from hedge.cloud_server.verification import RULES, Rule
from hedge.cloud_server.verification.base import ClaimedDraft, Outcome
from hedge.common.model import Identity, LanguageModel
from hedge.common.noise import Noise
from hedge.edge_client import config as parts
from hedge.edge_client.engine.gates.gate import Gate
from hedge.edge_client.engine.gates.measures import MEASURES, Measure
from hedge.edge_client.engine.gates.policy import POLICIES
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Session
from hedge.edge_client.engine.verification import WAYS
from hedge.edge_client.engine.verification.coupled import Coupled
from hedge.edge_client.engine.verification.proposal import Proposal
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.link import Link
from hedge.evaluation.local import LocalLink
from hedge.v1 import hedge_pb2 as pb
from tests.cloud_server.test_session import PROMPT as OPENED
from tests.cloud_server.test_session import opening
from tests.configs import config_of
from tests.conftest import run_session

PROMPT = [1, 2, 3]


NUMBER = 77


class Stubborn(Coupled):
    """A verification, the device's half: drafts the likeliest token, whatever the noise says."""

    def sample(self, probs: np.ndarray, position: int, step: int) -> int:
        return int(probs.argmax())

    def propose(
        self, probs: np.ndarray, position: int, step: int, drawn: int | None, uncertainty: float
    ) -> Proposal:
        return Proposal(self.sample(probs, position, step))

    def announce(self, request: pb.Open) -> None:
        request.verification = NUMBER  # type: ignore[assignment]


class Trusting(Rule):
    """The cloud's half: an even token stays."""

    def claimed(self, token: int, payload: bytes, vocab_size: int) -> ClaimedDraft:
        return ClaimedDraft(token)

    def read(
        self, tokens: Sequence[int], payloads: Sequence[bytes], vocab_size: int
    ) -> list[ClaimedDraft]:
        return [self.claimed(token, b"", vocab_size) for token in tokens]

    def test(
        self, step: int, at: int, index: int, draft: ClaimedDraft, target: np.ndarray
    ) -> Outcome | None:
        return (
            None
            if draft.token % 2 == 0
            else Outcome(index, correction=self.bonus(step, at, target))
        )

    def bonus(self, step: int, at: int, target: np.ndarray) -> int:
        return int(target.argmax())


def test_a_verification(
    monkeypatch: pytest.MonkeyPatch, make_lm: Callable[..., LanguageModel]
) -> None:
    monkeypatch.setitem(WAYS, "stubborn", Stubborn)
    monkeypatch.setitem(RULES, NUMBER, lambda _, noise: Trusting(noise))
    monkeypatch.setattr(parts, "KINDS", (*parts.KINDS, "stubborn"))
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    options = config_of(policy="always", verification="stubborn", seed=3, max_new_tokens=20)
    found = run_session(slm, PROMPT, options, LocalLink(llm))
    history = list(PROMPT)
    for token, kind in zip(found.token_ids, found.provenance, strict=True):
        draft, own = (int(lm.kv_cache().forward(history, 1)[0].argmax()) for lm in (slm, llm))
        assert token == (draft if draft % 2 == 0 else own)
        assert kind is (Provenance.ACCEPTED if draft % 2 == 0 else Provenance.CORRECTED)
        history.append(token)
    assert len(set(found.provenance)) > 1


class EveryThird(Gate):
    """A gate: asks at every third position."""

    def asks(self, uncertainty: float, position: int) -> bool:
        return position % 3 == 2


def test_a_gate(monkeypatch: pytest.MonkeyPatch, make_lm: Callable[..., LanguageModel]) -> None:
    def made(config: GenerationConfig, noise: Noise, vocab_size: int) -> Gate:
        return EveryThird()

    monkeypatch.setitem(POLICIES, "third", made)
    monkeypatch.setattr(parts, "POLICIES", (*parts.POLICIES, "third"))
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    found = run_session(
        slm,
        PROMPT,
        config_of(policy="third", verification="coupled", max_new_tokens=21),
        LocalLink(llm),
    )
    assert (found.statistics.asked, found.statistics.rounds) == (7, 7)
    assert [kind.value for kind in found.provenance[:2]] == ["local", "local"]


def test_a_measure(monkeypatch: pytest.MonkeyPatch, make_lm: Callable[..., LanguageModel]) -> None:
    """Unsure where the likeliest token is odd."""

    def parity(logits: np.ndarray, probs: np.ndarray, draft: int, uniforms: np.ndarray) -> float:
        return float(logits.argmax() % 2)

    monkeypatch.setitem(MEASURES, "parity", Measure("parity", draft_independent=True, of=parity))
    monkeypatch.setattr(parts, "MEASURES", (*parts.MEASURES, "parity"))
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    options = {
        "policy": "threshold",
        "measure": "parity",
        "threshold": 0.5,
        "verification": "coupled",
        "max_new_tokens": 30,
    }
    found = run_session(slm, PROMPT, config_of(**options), LocalLink(llm))
    history = list(PROMPT)
    for token, kind in zip(found.token_ids, found.provenance, strict=True):
        assert (kind is Provenance.LOCAL) == (
            slm.kv_cache().forward(history, 1)[0].argmax() % 2 == 0
        )
        history.append(token)
    assert len(set(found.provenance)) > 1


class Counting(LanguageModel):
    """A model runtime: the next number is likely."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(
            Identity("counting", "counting", "numbers", vocab_size, 64, 64, end_ids=())
        )

    def describe(self) -> str:
        return "fingers"

    def kv_cache(self) -> "CountingCache":
        return CountingCache(self.vocab_size)

    def encode_chat(self, messages: object) -> list[int]:
        return PROMPT

    def encode_text(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: object) -> str:
        return " ".join(map(str, ids))  # type: ignore[call-overload]


class CountingCache:
    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._ids: list[int] = []

    @property
    def length(self) -> int:
        return len(self._ids)

    def forward(self, ids: list[int], rows: int | None = None) -> np.ndarray:
        self._ids += ids
        wanted = len(ids) if rows is None else rows
        logits = np.zeros((wanted, self._vocab_size), np.float32)
        logits[
            np.arange(wanted),
            [(i + 1) % self._vocab_size for i in self._ids[len(self._ids) - wanted :]],
        ] = 5.0
        return logits

    def rollback(self, length: int) -> None:
        del self._ids[length:]


def test_a_model_runtime() -> None:
    lm = Counting(9)
    greedy = config_of(policy="always", verification="coupled", temperature=0.0, max_new_tokens=6)
    assert run_session(lm, PROMPT, greedy, LocalLink(lm)).token_ids == [4, 5, 6, 7, 8, 0]


class Recounting:
    """An engine: no memory of its own, every chunk is fed from its beginning."""

    most_sessions = None
    token_bytes = 1
    prefix_sharing = False

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self.block_manager = BlockManager(20, BLOCK_SIZE)

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        return [
            self._lm.kv_cache().forward(list(chunk.work.ids[: chunk.end]), chunk.rows)
            for chunk in batch
        ]


def test_an_engine() -> None:
    lm = Counting(12)

    async def verdict() -> pb.Verdict | None:
        batcher = Batcher(Recounting(lm))
        try:
            prefix = batcher.prefix()
            session = VerifierSession(
                lm,
                opening(
                    lm, verification=pb.VERIFICATION_STREAM, warp=pb.Warp(top_p=1), max_new_tokens=5
                ),
                prefix,
            )
            await batcher.run(prefix, session.prefill())
            return (await batcher.run(prefix, session.next_token()))[0]
        finally:
            batcher.close()

    told = asyncio.run(verdict())
    assert told
    assert told.bonus == OPENED[-1] + 1


async def shouted(slm: LanguageModel, link: Link, text: str) -> str:
    """A face: reads words, gives capitals."""
    session = Session(
        slm,
        slm.encode_text(text),
        config_of(policy="always", verification="coupled", max_new_tokens=4),
        link,
    )
    return "".join([emitted.text async for emitted in session.tokens()]).upper()


def test_a_face(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm(seed=1)
    words = asyncio.run(shouted(lm, LocalLink(lm), "w1 w2"))
    assert words.startswith("W")
    assert words == words.upper()
