"""docs/architecture.md, "How to add": each of the four, really added."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from common.model import Identity, LanguageModel
from common.noise import Noise
from edge_client import config as parts
from edge_client.config import GateConfig
from edge_client.engine.gates.policy import POLICIES, Policy
from edge_client.engine.session import Session
from edge_client.engine.verification import WAYS
from edge_client.engine.verification.coupled import Coupled
from edge_client.transport.link import Link
from evaluation.local import LocalLink
from tests.configs import config_of
from tests.conftest import run_session

PROMPT = [1, 2, 3]


class Stubborn(Coupled):
    """A verification: drafts the likeliest token, whatever the noise says; the cloud's half is that of `coupled`."""

    def sample(self, probs: np.ndarray, position: int, step: int) -> int:
        return int(probs.argmax())


def test_a_verification(monkeypatch: pytest.MonkeyPatch, make_lm: Callable[..., LanguageModel]) -> None:
    monkeypatch.setitem(WAYS, "stubborn", Stubborn)
    monkeypatch.setattr(parts, "KINDS", (*parts.KINDS, "stubborn"))
    slm, llm = make_lm(seed=1), make_lm(seed=2)
    options = {"seed": 3, "max_new_tokens": 20}
    alone = run_session(slm, PROMPT, config_of(policy="stream", **options), LocalLink(llm))
    found = run_session(slm, PROMPT, config_of(policy="always", verification="stubborn", **options), LocalLink(llm))
    assert found.token_ids == alone.token_ids
    assert len(set(found.provenance)) > 1


class EveryThird:
    """A gate: asks at every third position."""

    def asks(self, uncertainty: float, position: int) -> bool:
        return position % 3 == 2


def test_a_gate(monkeypatch: pytest.MonkeyPatch, make_lm: Callable[..., LanguageModel]) -> None:
    def made(config: GateConfig, noise: Noise, vocab_size: int) -> Policy:
        return EveryThird()

    monkeypatch.setitem(POLICIES, "third", made)
    monkeypatch.setattr(parts, "POLICIES", (*parts.POLICIES, "third"))
    slm, llm = make_lm(seed=1), make_lm(seed=2)
    found = run_session(slm, PROMPT, config_of(policy="third", verification="coupled", max_new_tokens=21), LocalLink(llm))
    assert (found.statistics.asked, found.statistics.rounds) == (7, 7)
    assert [kind.value for kind in found.provenance[:2]] == ["local", "local"]


class Counting(LanguageModel):
    """A model runtime: the next number is likely."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(Identity("counting", "counting", "numbers", vocab_size, 64, 64, end_ids=()))

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
        logits[np.arange(wanted), [(i + 1) % self._vocab_size for i in self._ids[len(self._ids) - wanted :]]] = 5.0
        return logits

    def rollback(self, length: int) -> None:
        del self._ids[length:]


def test_a_model_runtime() -> None:
    lm = Counting(9)
    greedy = config_of(policy="always", verification="coupled", temperature=0.0, max_new_tokens=6)
    assert run_session(lm, PROMPT, greedy, LocalLink(lm)).token_ids == [4, 5, 6, 7, 8, 0]


async def shouted(slm: LanguageModel, link: Link, text: str) -> str:
    """A face: reads words, gives capitals."""
    session = Session(slm, slm.encode_text(text), config_of(policy="always", verification="coupled", max_new_tokens=4), link)
    return "".join([emitted.text async for emitted in session.tokens()]).upper()


def test_a_face(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm(seed=1)
    words = asyncio.run(shouted(lm, LocalLink(lm), "w1 w2"))
    assert words.startswith("W")
    assert words == words.upper()
