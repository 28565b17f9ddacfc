"""What the edge does with a cloud that does not keep to the contract, and how it accounts for what
it sent.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from hedge.common import codec
from hedge.common.errors import BadInput, Incompatible, Unreachable
from hedge.common.ids import ADAPTIVE, FIXED, AdaptiveIds
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.edge_client.engine.flight import Flight, InFlight
from hedge.edge_client.engine.gates.adaptive import Adaptive
from hedge.edge_client.engine.loop import Loop
from hedge.edge_client.engine.sequence import Provenance, Token
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink, LocalStream
from hedge.v1 import hedge_pb2 as pb
from tests.configs import changed, config_of
from tests.conftest import CONTEXT, run_session
from tests.effort import scaled

PROMPT = [1, 2, 3]
ALWAYS = config_of(policy="always", draft_from="sent", max_new_tokens=4, k=3)


@dataclass
class Tampered:
    """A link whose verdicts pass through `change`; None ends the stream."""

    link: LocalLink
    change: Callable[[pb.Verdict], pb.Verdict | None]
    drafts: list[pb.Draft] = field(default_factory=list)
    closed: int = 0
    connection: int = 1

    @property
    def info(self) -> pb.ServerInfo:
        return self.link.info

    async def open(self, request: pb.Open) -> "TamperedStream":
        return TamperedStream(self, await self.link.open(request))

    async def reach(self, after: int) -> None: ...

    def socket_bytes(self) -> tuple[int, int] | None:
        return None


@dataclass
class TamperedStream:
    owner: Tampered
    stream: LocalStream

    @property
    def opened(self) -> pb.Opened:
        return self.stream.opened

    async def send(self, draft: pb.Draft) -> None:
        self.owner.drafts.append(draft)
        await self.stream.send(draft)

    async def receive(self) -> pb.Verdict | None:
        verdict = await self.stream.receive()
        return self.owner.change(verdict) if verdict is not None else None

    def arrived(self) -> bool:
        return self.stream.arrived()

    async def close(self) -> None:
        self.owner.closed += 1


@pytest.fixture(scope="module")
def pair(make_lm: Callable[..., LanguageModel]) -> tuple[LanguageModel, LanguageModel]:
    return make_lm(seed=1), make_lm(seed=2)


def altered(**changes: object) -> Callable[[pb.Verdict], pb.Verdict]:
    def change(verdict: pb.Verdict) -> pb.Verdict:
        copy = pb.Verdict()
        copy.CopyFrom(verdict)
        for name, value in changes.items():
            if value is None:
                copy.ClearField(name)  # type: ignore[arg-type]
            elif isinstance(value, pb.Probs):
                copy.probs.CopyFrom(value)
            else:
                setattr(copy, name, value)
        return copy

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: None, "without a verdict on step 0"),
        (altered(step_id=7), "without a verdict on step 0"),
        (altered(accepted=0, correction=4096), "id 4096"),
        (altered(accepted=0, correction=None), "lacks its correction"),
        (altered(accepted=2), "accepted 2 of 1"),
        (altered(audit=b""), "audited 0 of 1"),
        (altered(audit=b"abcd"), "audited 4 of 1"),
    ],
)
def test_a_lying_server_is_named_and_the_stream_is_closed(
    change: Callable[[pb.Verdict], pb.Verdict | None],
    words: str,
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    link = Tampered(LocalLink(pair[1]), change)
    with pytest.raises(Unreachable, match=words):
        run_session(pair[0], PROMPT, ALWAYS, link)
    assert link.closed == 1


EXACT = changed(
    ALWAYS,
    policy="threshold",
    measure="margin",
    threshold=0.9,
    verification="coupled",
    exact=True,
    max_new_tokens=12,
)


@pytest.mark.parametrize(
    ("settings", "change", "words"),
    [
        (
            changed(EXACT, max_in_flight=3),
            altered(accepted=0, correction=None, bonus=1),
            "lacks its correction",
        ),
        (
            changed(EXACT, policy="always", max_in_flight=3),
            altered(accepted=1, bonus=1),
            "a bonus that was not wanted",
        ),
        (
            changed(EXACT, policy="always", max_in_flight=3),
            altered(step_id=99),
            "without a verdict on step 0",
        ),
        (changed(EXACT, policy="always"), altered(accepted=9), "accepted 9 of 1"),
        (changed(EXACT, policy="always"), altered(accepted=1, bonus=77), "id 77"),
        (
            changed(EXACT, verification="split"),
            altered(accepted=0, probs=pb.Probs(probabilities=b"abc")),
            "no distribution",
        ),
        (
            changed(EXACT, verification="split"),
            altered(accepted=0, probs=pb.Probs(probabilities=bytes(48))),
            "no distribution",
        ),
        (changed(EXACT, verification="split"), altered(accepted=0, probs=None), "no distribution"),
    ],
)
def test_lies_about_blocks_are_named(
    settings: GenerationConfig,
    change: Callable[[pb.Verdict], pb.Verdict | None],
    words: str,
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    link = Tampered(LocalLink(pair[1], 1), change)
    with pytest.raises(Unreachable, match=words):
        run_session(pair[0], PROMPT, settings, link)
    assert link.closed == 1


def test_verdicts_out_of_order_are_named(pair: tuple[LanguageModel, LanguageModel]) -> None:
    """A verdict that was given before, and two that changed places."""
    settings = changed(EXACT, policy="always", max_in_flight=4, max_new_tokens=30)
    first: list[pb.Verdict] = []

    def repeated(verdict: pb.Verdict) -> pb.Verdict:
        first.append(verdict)
        return first[0]

    with pytest.raises(Unreachable, match=r"without a verdict on step [1-9]"):
        run_session(pair[0], PROMPT, settings, Tampered(LocalLink(pair[1], 2), repeated))


def test_a_server_that_reads_another_codec_than_agreed_is_named(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    class Turncoat(LocalLink):
        async def open(self, request: pb.Open) -> LocalStream:
            stream = await super().open(request)
            stream.opened.id_codec = FIXED
            return stream

    with pytest.raises(
        Unreachable,
        match=f"reads codecs {codec.VERSION} and {FIXED}, not {codec.VERSION} and {ADAPTIVE}",
    ):
        run_session(pair[0], PROMPT, EXACT, Turncoat(pair[1]))


@pytest.mark.parametrize("policy", ["adaptive", "survival"])
def test_a_bonus_for_a_position_drafted_meanwhile_is_its_early_verdict(
    policy: str, pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It confirms the first draft of the next block or takes its place, sent or not, and the tokens
    stay the LLM's.
    """
    monkeypatch.setattr(Adaptive, "in_flight", 1)
    met: list[tuple[bool, bool]] = []
    plain = Loop._take_bonus

    def spied(
        loop: Loop, flight: Flight, message: InFlight, verdict: pb.Verdict
    ) -> tuple[Token | None, bool]:
        drafted, stays = plain(loop, flight, message, verdict)
        if drafted:
            met.append((stays, flight.messages > 0))
        return drafted, stays

    monkeypatch.setattr(Loop, "_take_bonus", spied)
    threshold = 0.3 if policy == "survival" else 0.9
    settings = changed(
        EXACT, policy=policy, threshold=threshold, max_in_flight=3, max_new_tokens=40
    )
    for seed in range(20):
        alone = run_session(
            pair[0],
            PROMPT,
            config_of(policy="stream", max_new_tokens=40, seed=seed),
            LocalLink(pair[1]),
        ).token_ids
        assert (
            run_session(
                pair[0], PROMPT, changed(settings, seed=seed), LocalLink(pair[1], 3)
            ).token_ids
            == alone
        )
    # A wrong draft that was sent leaves no message in flight.
    assert set(met) == {
        (True, False),
        (False, False),
        *([(True, True)] if policy == "survival" else []),
    }


def test_two_turns_with_one_seed_do_not_share_their_noise(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    first = Noise(5, PROMPT).uniforms(Purpose.TARGET, 0, count=64)
    assert not np.intersect1d(
        first, Noise(5, [*PROMPT, 4, 2]).uniforms(Purpose.TARGET, 0, count=64)
    ).size


def test_no_released_token_is_withdrawn(pair: tuple[LanguageModel, LanguageModel]) -> None:
    """What comes out while drafts are rolled back underneath is the answer, in order."""
    session = Session(
        pair[0], PROMPT, changed(EXACT, max_in_flight=4, max_new_tokens=40), LocalLink(pair[1], 3)
    )
    released: list[int] = []

    async def drain() -> None:
        async for emitted in session.tokens():
            released.append(emitted.token)
            assert session.token_ids == released

    asyncio.run(drain())
    assert session.statistics.rolled_back > 10
    assert len(released) == 40


CUT = changed(ALWAYS, verification="split", probs_entries=1, bits=12, max_new_tokens=1)


def test_the_rest_of_a_cut_distribution_is_asked_for_where_nothing_is_left_to_draw(
    make_lm: Callable[..., LanguageModel],
) -> None:
    """Here the SLM gives the LLM's first choice more than the LLM does: no residual is left in that
    entry.
    """
    slm = make_lm(seed=1)
    llm = make_lm(seed=4)
    asked = 0
    for seed in range(scaled(40, 20)):
        link = Tampered(LocalLink(llm), lambda verdict: verdict)
        cut = run_session(slm, PROMPT, changed(CUT, seed=seed), link)
        whole = run_session(slm, PROMPT, changed(CUT, seed=seed, probs_entries=0), LocalLink(llm))
        assert cut.token_ids == whole.token_ids
        assert cut.statistics.cut_mass == 0
        wanted = [draft for draft in link.drafts if draft.whole_probs]
        assert len(wanted) == cut.statistics.count(Provenance.CORRECTED)
        sent = cut.statistics.uplink_payload_bytes - cut.statistics.open_bytes
        assert sent == sum(pb.ClientMessage(draft=draft).ByteSize() for draft in link.drafts)
        asked += len(wanted)
    assert 5 < asked < 40


def test_a_server_that_does_not_send_the_rest_is_named(
    make_lm: Callable[..., LanguageModel],
) -> None:
    slm = make_lm(seed=1)
    llm = make_lm(seed=4)
    first = iter([lambda verdict: verdict])
    link = Tampered(LocalLink(llm), lambda verdict: next(first, altered(step_id=7))(verdict))
    seed = next(seed for seed in range(40) if _corrected(slm, llm, seed))
    with pytest.raises(Unreachable, match="did not repeat its verdict on step 0"):
        run_session(slm, PROMPT, changed(CUT, seed=seed), link)


def _corrected(slm: LanguageModel, llm: LanguageModel, seed: int) -> bool:
    return bool(
        run_session(slm, PROMPT, changed(CUT, seed=seed), LocalLink(llm)).statistics.count(
            Provenance.CORRECTED
        )
    )


def test_a_ctrl_c_that_comes_with_a_verdict_is_not_lost(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    """However late it is on the way to the device, the answer ends there."""

    async def cancelled_after(turns: int) -> bool:
        session = Session(
            pair[0],
            PROMPT,
            config_of(policy="stream", max_new_tokens=8),
            Delayed(LocalLink(pair[1])),
        )

        async def drain() -> None:
            await session.run()

        answering = asyncio.create_task(drain())
        for _ in range(turns):
            await asyncio.sleep(0)
        if answering.done():
            return False
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        assert answering.cancelled()
        return True

    assert sum([asyncio.run(cancelled_after(turns)) for turns in range(1, 60)]) > 20


class Delayed(Tampered):
    """A link whose verdicts come a few turns of the loop after they are waited for, from a task of
    their own.
    """

    def __init__(self, link: LocalLink) -> None:
        super().__init__(link, lambda verdict: verdict)

    async def open(self, request: pb.Open) -> "DelayedStream":
        return DelayedStream(self, await self.link.open(request))


class DelayedStream(TamperedStream):
    async def receive(self) -> pb.Verdict | None:
        async def later() -> pb.Verdict | None:
            for _ in range(3):
                await asyncio.sleep(0)
            return await super(DelayedStream, self).receive()

        return await asyncio.ensure_future(later())


@pytest.mark.statistics
@pytest.mark.parametrize("verification", ["sparse", "split"])
def test_no_draw_of_a_discarded_draft_is_used_again(
    verification: str, pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback the same positions are drafted anew: under other step ids."""
    drawn: list[tuple[int, int]] = []
    plain = Noise.uniforms

    def spied(
        noise: Noise, purpose: Purpose, position: int, step: int = 0, count: int = 1
    ) -> np.ndarray:
        if purpose is Purpose.DRAFT:
            drawn.append((position, step))
        return plain(noise, purpose, position, step, count)

    monkeypatch.setattr(Noise, "uniforms", spied)
    settings = changed(EXACT, verification=verification, max_in_flight=4, max_new_tokens=40)
    for seed in range(scaled(20, 5)):
        drawn.clear()
        session = run_session(pair[0], PROMPT, changed(settings, seed=seed), LocalLink(pair[1], 3))
        assert session.statistics.rolled_back
        assert len(set(drawn)) == len(drawn) > len({position for position, _ in drawn})


def test_skipped_ids_ride_on_the_next_message_and_bytes_are_counted(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    link = Tampered(LocalLink(pair[1]), lambda verdict: verdict)
    settings = changed(ALWAYS, policy="random", verify_rate=0.3, max_new_tokens=40, seed=2)
    session = run_session(pair[0], PROMPT, settings, link)
    kinds = session.provenance
    asked = [i for i, kind in enumerate(kinds) if kind is not Provenance.LOCAL]
    reader = AdaptiveIds(12)
    history = list(PROMPT)
    carried = list[list[int]]()
    for draft, position in zip(link.drafts, asked, strict=True):
        ids = reader.decode(history, draft.ids, 40)
        carried.append(ids[: draft.untested])
        assert len(ids) == draft.untested + 1
        history = [*PROMPT, *session.token_ids[: position + 1]]
    starts = [0, *(i + 1 for i in asked)]
    assert carried == [session.token_ids[a:b] for a, b in zip(starts, asked, strict=False)]
    # In order, one at a time, a message says nothing of steps, positions and corrections.
    assert not any(draft.HasField("verdicts_seen") for draft in link.drafts)
    assert not any(draft.HasField("step_id") or draft.HasField("position") for draft in link.drafts)
    stats = session.statistics
    assert stats.asked == stats.rounds == len(link.drafts)
    assert stats.uplink_codec_bytes == sum(len(d.ids) + len(d.proposals[0]) for d in link.drafts)
    assert stats.uplink_paper_bits == stats.asked * codec.paper_bits(12, 3)
    # One forward per message, over everything since the last one.
    assert stats.llm_positions == asked[-1] + 1


def test_the_end_token_ends_the_answer(make_lm: Callable[..., LanguageModel]) -> None:
    slm = make_lm(seed=1, eos=4)
    llm = make_lm(seed=2, eos=4)
    ended = [
        run_session(slm, PROMPT, changed(ALWAYS, max_new_tokens=50, seed=seed), LocalLink(llm))
        for seed in range(10)
    ]
    for session in ended:
        assert (session.finish_reason == "stop") == (session.token_ids[-1] == 4)
        assert 4 not in session.token_ids[:-1]
    assert any(session.finish_reason == "stop" for session in ended)


def test_the_context_ends_the_answer(pair: tuple[LanguageModel, LanguageModel]) -> None:
    for settings in (ALWAYS, config_of(policy="never"), config_of(policy="stream")):
        session = run_session(
            pair[0], [1] * (CONTEXT - 3), changed(settings, max_new_tokens=50), LocalLink(pair[1])
        )
        assert len(session.token_ids) == 3
        assert session.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "settings", "words"),
    [
        ([], ALWAYS, "empty"),
        ([1] * CONTEXT, ALWAYS, f"context of {CONTEXT}"),
        ([1], changed(ALWAYS, k=13), "k 13"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_sent(
    prompt: list[int],
    settings: GenerationConfig,
    words: str,
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    with pytest.raises(BadInput, match=words):
        Session(pair[0], prompt, settings, LocalLink(pair[1]))


def test_a_system_that_asks_needs_a_cloud(pair: tuple[LanguageModel, LanguageModel]) -> None:
    with pytest.raises(BadInput, match="--cloud"):
        Session(pair[0], PROMPT, ALWAYS)


def test_another_tokenizer_is_refused(
    pair: tuple[LanguageModel, LanguageModel], make_lm: Callable[..., LanguageModel]
) -> None:
    with pytest.raises(Incompatible, match="tokenizer"):
        Session(pair[0], PROMPT, ALWAYS, LocalLink(make_lm(vocab=13)))


def test_what_is_drafted_and_not_final_can_be_looked_at(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    """A verdict comes two looks late: drafts run ahead of it, and are the answer unless it changes
    them.
    """
    settings = config_of(
        policy="always",
        verification="coupled",
        exact=True,
        max_in_flight=4,
        max_new_tokens=12,
        seed=2,
    )
    session = Session(pair[0], PROMPT, settings, LocalLink(pair[0], lag=2))
    seen: list[tuple[str, str]] = []

    async def watched() -> None:
        async for _ in session.tokens():
            seen.append((session.text, session.provisional))

    asyncio.run(watched())
    assert any(provisional for _, provisional in seen)
    # The same model on both sides: every draft becomes final.
    assert all(session.text.startswith(text + provisional) for text, provisional in seen)


def test_a_new_stream_has_one_message_before_its_first_verdict(
    pair: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones run ahead: what is written to a call that fails would hide why it fails."""
    said: list[str] = []
    send = LocalStream.send
    receive = LocalStream.receive

    async def sending(stream: LocalStream, draft: pb.Draft) -> None:
        said.append("draft")
        await send(stream, draft)

    async def receiving(stream: LocalStream) -> pb.Verdict | None:
        said.append("verdict")
        return await receive(stream)

    monkeypatch.setattr(LocalStream, "send", sending)
    monkeypatch.setattr(LocalStream, "receive", receiving)
    settings = changed(EXACT, policy="survival", threshold=0.05, max_in_flight=8, max_new_tokens=40)
    run_session(pair[0], PROMPT, settings, LocalLink(pair[0], 10**6))
    assert said[:2] == ["draft", "verdict"]
    assert ("draft", "draft") in pairwise(said)
