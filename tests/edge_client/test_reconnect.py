"""A link that dies, in every place it can: what is released afterwards is what would have been."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hedge.cloud_server.sessions.session as cloud_session
from hedge.common.errors import Disconnected, Incompatible, NotFinite, Unreachable
from hedge.common.ids import MAX_UNTESTED
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.cli.calibrate import CalibrationSample, asking_always
from hedge.edge_client.cli.prompts import Prompt
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine import loop
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Session
from hedge.edge_client.transport import connection
from hedge.edge_client.transport.connection import LONGEST_PAUSE, pause
from hedge.edge_client.transport.events import Event
from hedge.evaluation.local import LocalLink, LocalStream
from hedge.v1 import hedge_pb2 as pb
from tests.cloud_server.test_session import Broken
from tests.configs import changed, config_of
from tests.conftest import run_session
from tests.effort import scaled

PROMPT = [1, 2, 3]


@dataclass
class Frail:
    """A link that dies at some of its operations (opening, sending, receiving), counted from 0.

    What was sent may have been read; a verdict that dies with the link is lost.
    """

    link: LocalLink
    dies_at: frozenset[int]
    # Attempts to reach the server that fail after each death.
    away: int = 0
    operations: int = 0
    failures: int = 0
    opens: list[pb.Open] = field(default_factory=list)
    connection: int = 1

    @property
    def info(self) -> pb.ServerInfo:
        return self.link.info

    def step(self) -> bool:
        self.operations += 1
        return self.operations - 1 in self.dies_at

    def die(self) -> None:
        self.failures = self.away
        raise Disconnected("the link is down", 0.0)

    async def open(self, request: pb.Open) -> "FrailStream":
        self.opens.append(request)
        if self.step():
            self.die()
        return FrailStream(self, await self.link.open(request))

    async def reach(self, after: int) -> None:
        if self.failures:
            self.failures -= 1
            raise Disconnected("nobody answers")

    def socket_bytes(self) -> tuple[int, int] | None:
        return None


@dataclass
class FrailStream:
    owner: Frail
    stream: LocalStream

    @property
    def opened(self) -> pb.Opened | None:
        return self.stream.opened

    async def send(self, draft: pb.Draft) -> None:
        await self.stream.send(draft)
        if self.owner.step():
            self.owner.die()

    async def receive(self) -> pb.Verdict | None:
        verdict = await self.stream.receive()
        if self.owner.step():
            self.owner.die()
        return verdict

    def arrived(self) -> bool:
        return self.stream.arrived()

    async def close(self) -> None:
        await self.stream.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "pause", lambda *_: 0.0)


@pytest.fixture(scope="module")
def pair(make_lm: Callable[..., LanguageModel]) -> tuple[LanguageModel, LanguageModel]:
    return make_lm(seed=1, eos=11), make_lm(seed=2, eos=11)


EXACT = config_of(
    policy="threshold",
    measure="margin",
    threshold=0.9,
    exact=True,
    verification="coupled",
    max_new_tokens=24,
    on_disconnect="wait",
)
SENT = changed(EXACT, verification="sparse", draft_from="sent", k=3, bits=6)
WAYS = {
    "llm": config_of(policy="stream", max_new_tokens=24, on_disconnect="wait"),
    "hedge": changed(EXACT, policy="survival", max_in_flight=4),
    "hedge, waiting": changed(EXACT, policy="survival"),
    "adaptive": changed(EXACT, policy="adaptive", max_in_flight=4),
    "coupled": EXACT,
    "coupled, pipelined": changed(EXACT, max_in_flight=3),
    "sparse": SENT,
    "full": changed(SENT, verification="full", truncation="none"),
    "split": changed(SENT, verification="split"),
    "split, cut": changed(
        SENT, policy="always", verification="split", exact=False, probs_entries=1
    ),
    "cu-hlm": changed(SENT, exact=False, draft_from="full", measure="perturbation", threshold=0.4),
    "greedy": changed(EXACT, warp=Warp(0.0), max_in_flight=3),
}


@pytest.mark.statistics
@pytest.mark.parametrize("way", WAYS)
def test_after_any_fault_the_answer_is_the_one_without_faults(
    way: str, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    slm, llm = pair
    rng = np.random.default_rng(5)
    died = 0
    seeds = scaled(25, 5)
    for seed in range(seeds):
        settings = changed(WAYS[way], seed=seed)
        lag = 2 if settings.link.max_in_flight > 1 else 0
        whole = run_session(slm, PROMPT, settings, LocalLink(llm, lag))
        dies_at = frozenset(int(at) for at in rng.integers(0, 40, 5))
        frail = Frail(LocalLink(llm, lag), dies_at, away=int(rng.integers(3)))
        heard: list[Event] = []
        cut = run_session(slm, PROMPT, settings, frail, notify=heard.append)
        assert cut.token_ids == whole.token_ids
        assert cut.text == whole.text
        if settings.link.max_in_flight == 1:
            assert cut.provenance == whole.provenance
        died += cut.statistics.disconnects
        gaps = cut.statistics.gaps
        assert len(gaps) == cut.statistics.disconnects
        assert [at for gap in gaps for at in gap] == sorted(at for gap in gaps for at in gap)
        assert all(len(gap) == 2 for gap in gaps[:-1])
        assert bool(heard) == bool(cut.statistics.disconnects)
    assert died > seeds


def test_a_resumed_session_brings_what_was_generated_and_the_key_of_the_first(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    frail = Frail(LocalLink(pair[1]), frozenset({4, 9}))
    session = run_session(pair[0], PROMPT, EXACT, frail)
    assert len(frail.opens) == 3
    for request in frail.opens:
        held = list(request.prompt_ids)
        assert held[: len(held) - request.resume_position] == PROMPT
        assert held[len(PROMPT) :] == session.token_ids[: request.resume_position]
    assert frail.opens[-1].resume_position > 0


@pytest.mark.parametrize("most", [3, MAX_UNTESTED])
@pytest.mark.parametrize("exact", [True, False])
def test_alone_the_device_goes_on_says_so_and_comes_back(
    exact: bool, most: int, make_lm: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_UNTESTED", most)
    monkeypatch.setattr(cloud_session, "MAX_UNTESTED", most)
    settings = changed(
        EXACT if exact else WAYS["cu-hlm"], on_disconnect="continue", max_new_tokens=60, seed=3
    )
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    whole = run_session(slm, PROMPT, settings, LocalLink(llm))
    frail = Frail(LocalLink(llm), frozenset({6, 7}), away=4)
    heard: list[Event] = []
    session = run_session(slm, PROMPT, settings, frail, notify=heard.append)
    kinds = session.provenance
    offline = [at for at, kind in enumerate(kinds) if kind is Provenance.OFFLINE]
    assert 0 < len(offline) < len(kinds)
    assert any(kind in (Provenance.ACCEPTED, Provenance.CORRECTED) for kind in kinds[offline[-1] :])
    assert session.token_ids[: offline[0]] == whole.token_ids[: offline[0]]
    assert "the cloud is back" in map(str, heard)
    assert session.exact is False
    assert session.statistics.exact_until == (offline[0] if exact else None)
    # Read by the cloud later: the risk of going on alone is known too.
    assert session.statistics.audited >= len(offline)
    assert session.statistics.realised_risk
    assert frail.opens[-1].guarantee == pb.GUARANTEE_OPPORTUNISTIC


def test_what_was_released_is_history_for_the_next_server(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    """A bonus that is final before a message has it included: a server that rounds otherwise could
    take it back.
    """
    ahead = 0
    for dies_at in range(2, 20):
        for seed in range(8):
            frail = Frail(LocalLink(pair[1]), frozenset({dies_at}))
            settings = changed(WAYS["hedge"], threshold=0.05, seed=seed)
            session = Session(pair[0], PROMPT, settings, frail)

            async def read(session: Session = session, frail: Frail = frail) -> int:
                released = 0
                async for _ in session.tokens():
                    if len(frail.opens) == 1:
                        released = len(session.token_ids)
                return released

            released = asyncio.run(read())
            if len(frail.opens) == 2:
                assert frail.opens[1].resume_position >= released
                ahead += 1
    assert ahead > 50


@pytest.mark.statistics
@pytest.mark.parametrize("lag", [0, 2])
def test_alone_behind_a_bonus_that_is_still_to_be_sent(
    lag: int, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    """Wherever the link dies, what was final stays, and the cloud is told all of it later,
    untested.
    """
    # Short blocks, so that some are whole.
    settings = changed(WAYS["hedge"], threshold=0.05, on_disconnect="continue", max_new_tokens=40)
    went_on = 0
    for dies_at in range(1, 16):
        for seed in range(scaled(4, 2)):
            whole = run_session(
                pair[0], PROMPT, changed(settings, seed=seed), LocalLink(pair[1], lag)
            )
            frail = Frail(LocalLink(pair[1], lag), frozenset({dies_at}), away=2)
            session = run_session(pair[0], PROMPT, changed(settings, seed=seed), frail)
            until = session.statistics.exact_until
            assert session.token_ids[:until] == whole.token_ids[:until]
            if until is None:
                continue
            assert session.provenance[until] is Provenance.OFFLINE
            went_on += any(kind is not Provenance.OFFLINE for kind in session.provenance[until:])
            assert frail.opens[-1].bonus_ahead is (len(frail.opens) == 1)
    assert went_on > 5


def test_an_answer_whose_link_dies_for_good_is_finished_alone(
    make_lm: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ATTEMPTS", 3)
    rule = {"policy": "random", "verify_rate": 0.5}
    settings = changed(WAYS["cu-hlm"], on_disconnect="continue", max_new_tokens=40, seed=3, **rule)
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    session = run_session(slm, PROMPT, settings, Frail(LocalLink(llm), frozenset({5}), away=10**9))
    kinds = session.provenance
    # Of those the gate would have skipped, too: nobody could be asked.
    assert set(kinds[kinds.index(Provenance.OFFLINE) :]) == {Provenance.OFFLINE}
    assert len(session.token_ids) == 40


def test_fail_fails_and_wait_gives_up_in_the_end(
    pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Disconnected, match="the link is down"):
        run_session(
            pair[0],
            PROMPT,
            changed(EXACT, on_disconnect="fail"),
            Frail(LocalLink(pair[1]), frozenset({3})),
        )
    monkeypatch.setattr(connection, "ATTEMPTS", 3)
    with pytest.raises(Unreachable, match="given up after 3 attempts: nobody answers"):
        run_session(pair[0], PROMPT, EXACT, Frail(LocalLink(pair[1]), frozenset({3}), away=10**9))
    # Reaching it is not enough: without a verdict the attempts count on.
    with pytest.raises(Unreachable, match="given up after 3 attempts"):
        run_session(pair[0], PROMPT, EXACT, Frail(LocalLink(pair[1]), frozenset(range(3, 10**4))))


def test_another_model_does_not_finish_the_answer(
    pair: tuple[LanguageModel, LanguageModel], make_lm: Callable[..., LanguageModel]
) -> None:
    frail = Frail(LocalLink(pair[1]), frozenset({3}))

    async def elsewhere(_: int) -> None:
        frail.link = LocalLink(make_lm(seed=9, eos=11))

    frail.reach = elsewhere  # type: ignore[method-assign]
    with pytest.raises(Incompatible, match="the answer was begun with"):
        run_session(pair[0], PROMPT, EXACT, frail)


def test_a_server_that_says_nothing_counts_as_gone(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    class Silent(LocalLink):
        async def open(self, request: pb.Open) -> LocalStream:
            stream = await super().open(request)

            async def never() -> pb.Verdict | None:
                await asyncio.Event().wait()
                return None

            stream.receive = never  # type: ignore[method-assign]
            return stream

    settings = changed(EXACT, on_disconnect="fail", patience=0.01)
    with pytest.raises(Disconnected, match=r"has not answered for 0\.01 s"):
        run_session(pair[0], PROMPT, settings, Silent(pair[1]))


def test_an_answer_that_is_left_while_the_link_is_down_leaves_nothing_behind(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    settings = changed(WAYS["cu-hlm"], on_disconnect="continue", max_new_tokens=60)

    async def leave() -> set[asyncio.Task[object]]:
        session = Session(
            pair[0], PROMPT, settings, Frail(LocalLink(pair[1]), frozenset({5}), away=10**9)
        )
        tokens = session.tokens()
        async for emitted in tokens:
            if emitted.provenance is Provenance.OFFLINE:
                break
        await tokens.aclose()  # type: ignore[attr-defined]
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[return-value, arg-type]

    assert asyncio.run(leave()) == set()


@pytest.mark.parametrize("died", [1, 2, 4, 7])
@pytest.mark.parametrize("way", ["hedge", "cu-hlm"])
def test_a_guess_in_flight_is_not_kept_when_the_device_goes_on_alone(
    way: str, died: int, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    """The SLM says nothing finite anywhere: what it has drafted is only good for being tested."""
    slm = Broken(pair[0], None, np.nan)
    settings = changed(WAYS[way], on_disconnect="continue", max_new_tokens=30)

    async def run() -> list[Provenance]:
        session = Session(
            slm, PROMPT, settings, Frail(LocalLink(pair[1]), frozenset({died}), away=10**9)
        )
        with pytest.raises(NotFinite, match="the device's model gave no finite logits at position"):
            await session.run()
        return session.provenance

    assert Provenance.OFFLINE not in asyncio.run(run())


@pytest.mark.parametrize("died", [1, 2, 3, 8, 15])
def test_a_calibration_learns_the_same_over_a_link_that_dies(
    died: int, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    def learned(*dies_at: int) -> CalibrationSample:
        config = asking_always(SamplingParams(Warp(1.0), seed=3, max_new_tokens=12))
        link = Frail(LocalLink(pair[1]), frozenset(dies_at), away=2)
        sample = CalibrationSample()
        asyncio.run(
            sample.add(pair[0], Prompt(({"role": "user", "content": "w1 w2"},)), config, link)
        )
        return sample

    expected = learned()
    found = learned(died)
    # A cache that was built anew holds the same but for the last digits.
    assert found.rejection[0] == pytest.approx(expected.rejection[0], abs=1e-5)
    for name, values in expected.uncertainty.items():
        assert found.uncertainty[name][0] == pytest.approx(values[0], abs=1e-5)
    assert found.drafted == pytest.approx(expected.drafted, abs=1e-5)


@given(st.integers(0, 10**6), st.integers(0, 2**32))
def test_pauses_double_up_to_a_cap_and_are_spread(attempt: int, seed: int) -> None:
    found = pause(attempt, np.random.default_rng(seed))
    whole = min(LONGEST_PAUSE, 0.1 * 2.0 ** min(attempt, 20))
    assert whole / 2 <= found <= whole
