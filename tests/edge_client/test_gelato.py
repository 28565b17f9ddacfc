"""GELATO: its equations against values worked by hand; it never changes a token."""

import math
from collections.abc import Callable

import pytest

from hedge.common.errors import BadInput, Unreachable
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.cli.settings import gelato_config
from hedge.edge_client.config import GelatoConfig
from hedge.edge_client.engine.gates.gate import RoundTrip
from hedge.edge_client.engine.gates.gelato import Gelato, best_length, expected_tokens
from hedge.edge_client.engine.session import Session
from hedge.edge_client.engine.statistics import Provenance
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink, LocalStream
from hedge.v1 import hedge_pb2 as pb
from tests.configs import changed, config_of
from tests.conftest import run_session
from tests.edge_client.test_reconnect import Frail

PROMPT = [1, 2, 3]


def ask(gelato: Gelato, uncertainty: float, position: int) -> bool:
    """Whether the block ends with one more draft."""
    gelato.observe_draft(uncertainty)
    return gelato.asks(uncertainty, position)


def test_expected_tokens_of_a_round() -> None:
    assert expected_tokens(0.5, 3) == 1 + 0.5 + 0.25 + 0.125
    assert expected_tokens(1.0, 3) == 4
    assert expected_tokens(0.9, 1) == pytest.approx(1.9)


def test_the_outer_loop_is_throughput_at_first_and_saves_energy_when_the_queue_is_long() -> None:
    options = GelatoConfig(weight=10, longest=4, acceptance=0.5)

    def seconds(drafts: int) -> float:
        return 0.1 * drafts + 0.1

    # E[N]: 1.5, 1.75, 1.875, 1.9375 tokens in 0.2, 0.3, 0.4, 0.5 s: 7.5, 5.83, 4.69, 3.875 a
    # second.
    assert best_length(options, 0.0, seconds, lambda n: 1.2 * n) == 1
    # In 0.11, 0.12, 0.13, 0.14 s with a pass of 0.1 s: 13.6, 14.58, 14.42, 13.84; times 10, less
    # 1.2 n Q.
    quick = GelatoConfig(weight=10, longest=4, acceptance=0.5)
    assert best_length(quick, 0.0, lambda n: 0.01 * n + 0.1, lambda n: 1.2 * n) == 2
    # 145.83 - 2.4 Q against 136.36 - 1.2 Q: the shorter from Q = 7.89 on.
    assert best_length(quick, 7.8, lambda n: 0.01 * n + 0.1, lambda n: 1.2 * n) == 2
    assert best_length(quick, 8.0, lambda n: 0.01 * n + 0.1, lambda n: 1.2 * n) == 1


def test_the_bucket_fills_with_what_is_above_its_level() -> None:
    # H_th = -ln(0.9) / 0.35 = 0.30103; it overflows above 1.2 H_th = 0.36123.
    options = GelatoConfig(longest=15)
    assert options.level == pytest.approx(0.301030, abs=1e-6)
    gelato = Gelato(options)
    # 0.5 - 0.301 = 0.199; 0.1 takes it to 0; 0.6 - 0.301 = 0.299; 0.4 takes it to 0.398, over.
    assert [ask(gelato, entropy, 0) for entropy in (0.5, 0.1, 0.6, 0.4)] == [
        False,
        False,
        False,
        True,
    ]
    assert gelato.overflow == pytest.approx(0.5 * 0 + 0.6 + 0.4 - 2 * options.level)
    gelato.observe_verdict(RoundTrip(0.1, 0.0, 0.1), [False, False, False, True], None)
    assert (gelato.overflow, gelato.drafts) == (0.0, 0)


@pytest.mark.parametrize(
    ("variant", "queue"),
    # Two steps of 0.1 s at 12 W are 2.4 J, two tokens uploaded in 0.5 s each at 0.2 W another 0.2
    # J, whatever is kept of them.
    [("tripping", 2.6 - 1.2), ("marginal", 2.6 - 1.2)],
)
def test_the_queue_takes_what_was_spent_over_the_budget(variant: str, queue: float) -> None:
    gelato = Gelato(GelatoConfig(variant=variant, budget_j=1.2), upload_s=0.5)
    for position in range(2):
        gelato.observe_step(0.1)
        ask(gelato, 0.0, position)
    gelato.observe_verdict(RoundTrip(1.1, 0.0, 0.1), [], True)
    assert gelato.queue == pytest.approx(queue)
    assert gelato.round_s == pytest.approx(0.1)
    gelato.observe_verdict(RoundTrip(0.1, 0.0, 0.1), [], None)
    assert gelato.queue == pytest.approx(queue - 1.2)
    assert gelato.trace == pytest.approx([queue, queue - 1.2])


def test_marginal_allows_its_budget_for_every_token() -> None:
    gelato = Gelato(GelatoConfig(variant="marginal", budget_j=0.5))
    for position in range(2):
        gelato.observe_step(0.1)
        ask(gelato, 0.0, position)
    gelato.observe_verdict(RoundTrip(0.1, 0.0, 0.1), [True, True], None)
    assert gelato.queue == pytest.approx(2.4 - 3 * 0.5)


def test_what_is_kept_back_is_not_uploaded() -> None:
    gelato = Gelato(GelatoConfig(variant="published", budget_j=0.0), upload_s=0.5)
    gelato.observe_step(0.1)
    # -ln(0.9) / 0.35 x 2.2 = 0.66 nats fill the bucket.
    assert ask(gelato, 0.7, 0)
    assert gelato.holds_last
    gelato.observe_verdict(RoundTrip(0.1, 0.0, 0.1), [], None)
    assert gelato.queue == pytest.approx(1.2)
    assert gelato.round_s == pytest.approx(0.1)


def test_drafts_that_nobody_is_asked_about_are_no_round() -> None:
    gelato = Gelato(GelatoConfig(longest=3, budget_j=0.0))
    for _ in range(31):
        ask(gelato, 0.0, 0)
        gelato.observe_step(0.1)
    gelato.observe_verdict(RoundTrip(0.1, 0.0, 0.1), [True], None)
    # Not 31 steps: the one after the last three.
    assert gelato.queue == pytest.approx(12 * 0.1)


def test_marginal_goes_on_while_a_token_is_worth_its_time_and_energy() -> None:
    gelato = Gelato(
        GelatoConfig(variant="marginal", weight=10, budget_j=0.1, acceptance=0.9, decay=1.0)
    )
    gelato.step_s = 0.02
    gelato.round_s = 0.1
    gelato.throughput = 20.0
    gelato.queue = 30.0
    # Of survival s: 10 (0.9 s - 20 x 0.02) - 30 (0.24 - 0.1 x 0.9 s) = 11.7 s - 11.2, above 0 for s
    # > 0.957.
    assert not ask(gelato, 0.04, 0)
    assert ask(gelato, 0.01, 1)
    assert gelato.survival == pytest.approx(math.exp(-0.05))


def test_marginal_keeps_back_what_is_not_worth_its_upload() -> None:
    gelato = Gelato(GelatoConfig(variant="marginal", decay=1.0, budget_j=1.2), upload_s=0.05)
    gelato.throughput = 16.0
    # 0.8 tokens could have come in the time of the upload: survival has to be above.
    ask(gelato, 0.2, 0)
    assert not gelato.holds_last
    assert ask(gelato, 0.1, 1)
    assert gelato.holds_last


def test_marginal_weighs_an_uploads_own_size() -> None:
    gelato = Gelato(
        GelatoConfig(variant="marginal", decay=1.0, budget_j=1.2), upload_s=0.05, newest_s=0.001
    )
    gelato.throughput = 16.0
    # Survival e^-0.3 = 0.74 is under the 0.8 of a usual upload, over the 0.016 of this one.
    ask(gelato, 0.3, 0)
    assert not gelato.holds_last
    gelato.newest_s = 0.06
    assert ask(gelato, 0.0, 1)
    assert gelato.holds_last


def test_marginal_drafts_nothing_where_not_even_one_pays_but_not_for_ever() -> None:
    gelato = Gelato(
        GelatoConfig(variant="marginal", longest=3, budget_j=0.1),
        step_s=0.02,
        upload_s=0.1,
        round_s=0.1,
    )
    # Nothing is known yet: a draft will tell.
    assert not gelato.requests_token
    gelato.throughput = 10.0
    # 0.9 tokens could be gained in the time of 1.2.
    for _ in range(3):
        assert gelato.requests_token
        gelato.observe_verdict(RoundTrip(0.1, 0.0, 0.1), [], None)
        gelato.throughput = 10.0
    assert not gelato.requests_token
    ask(gelato, 0.0, 0)
    gelato.observe_verdict(RoundTrip(0.2, 0.0, 0.1), [True], None)
    gelato.throughput = 10.0
    assert gelato.requests_token
    # An upload of 0.05 s leaves 0.9 in the time of 0.7: what a round costs anyway is not its
    # draft's.
    gelato.upload_s = 0.05
    assert not gelato.requests_token
    # Not with a published variant.
    assert not Gelato(
        GelatoConfig(), step_s=0.02, upload_s=0.1, round_s=0.1, throughput=10.0
    ).requests_token


def passing(monkeypatch: pytest.MonkeyPatch, **asked: object) -> GenerationConfig:
    """Two rounds of three are without a draft."""
    monkeypatch.setattr(
        Gelato, "requests_token", property(lambda self: not self.drafts and self.passed < 2)
    )
    monkeypatch.setattr("hedge.edge_client.transport.connection.pause", lambda *_: 0.0)
    options = GelatoConfig(variant="marginal", decay=0.05, budget_j=1.2)
    return config_of(
        policy="gelato",
        measure="entropy",
        verification="coupled",
        exact=True,
        gelato=options,
        **asked,
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [frozenset(), frozenset({3, 9, 12})])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rounds_without_a_draft_give_the_llm_its_own_tokens(
    temperature: float,
    cut: frozenset[int],
    make_lm: Callable[..., LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    asked = {"warp": Warp(temperature), "seed": 5, "max_new_tokens": 20}
    plain = run_session(slm, PROMPT, config_of(policy="stream", **asked), LocalLink(llm))
    settings = passing(monkeypatch, **asked)
    session = run_session(
        slm, PROMPT, changed(settings, on_disconnect="wait"), Frail(LocalLink(llm), cut)
    )
    assert session.token_ids == plain.token_ids
    assert session.provenance.count(Provenance.BONUS) >= 10


def test_alone_the_device_drafts_whatever_its_pace(
    make_lm: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link dies where a verdict on an empty message is read, and three attempts to reach the
    server fail.
    """
    settings = passing(monkeypatch, max_new_tokens=20, on_disconnect="continue")
    session = run_session(
        make_lm(seed=1), PROMPT, settings, Frail(LocalLink(make_lm(seed=2)), frozenset({4}), away=3)
    )
    assert len(session.token_ids) == 20
    offline = session.provenance.index(Provenance.OFFLINE)
    assert session.statistics.exact_until == offline > 0


def test_a_server_that_keeps_its_own_token_for_itself(
    make_lm: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of before messages without ids do."""
    settings = passing(monkeypatch, max_new_tokens=20)
    receive = LocalStream.receive

    async def without_bonus(self: LocalStream) -> pb.Verdict | None:
        verdict = await receive(self)
        if verdict:
            verdict.ClearField("bonus")
        return verdict

    monkeypatch.setattr(LocalStream, "receive", without_bonus)
    with pytest.raises(Unreachable, match="lacks its bonus"):
        run_session(make_lm(seed=1), PROMPT, settings, LocalLink(make_lm(seed=2)))


@pytest.mark.parametrize("variant", ["published", "tripping", "marginal"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_variant_gives_the_llm_its_own_tokens(
    variant: str, temperature: float, make_lm: Callable[..., LanguageModel]
) -> None:
    slm = make_lm(seed=1)
    link = LocalLink(make_lm(seed=2))
    asked = {"warp": Warp(temperature), "seed": 5, "max_new_tokens": 20}
    plain = run_session(slm, PROMPT, config_of(policy="stream", **asked), link)
    # The tiny models are unsure of everything.
    options = GelatoConfig(variant=variant, decay=0.05)
    settings = config_of(
        policy="gelato",
        measure="entropy",
        verification="coupled",
        exact=True,
        gelato=options,
        **asked,
    )
    assert run_session(slm, PROMPT, settings, link).token_ids == plain.token_ids


def test_what_trips_is_kept_back_as_published(
    make_lm: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compared with the LLM's own token behind the others, even where it is the only one."""
    # By measured times it would be another length every time.
    monkeypatch.setattr(
        "hedge.edge_client.engine.gates.gelato.best_length", lambda options, *_: options.longest
    )
    slm = make_lm(seed=1)
    link = LocalLink(make_lm(seed=1))

    def answer(variant: str, acceptance: float) -> Session:
        options = GelatoConfig(variant=variant, acceptance=acceptance, decay=0.5, bucket=0.8)
        settings = config_of(
            policy="gelato",
            measure="entropy",
            verification="coupled",
            exact=True,
            gelato=options,
            max_new_tokens=18,
        )
        return run_session(slm, PROMPT, settings, link)

    published = answer("published", 0.5)
    tripping = answer("tripping", 0.5)
    assert published.token_ids == tripping.token_ids
    # The bucket overflows at the same draft.
    first = published.statistics.log[0]
    other = tripping.statistics.log[0]
    assert first.positions == first.drafted == other.drafted == other.positions - 1
    # Here every draft makes it overflow.
    lone = answer("published", 0.999)
    assert lone.token_ids == published.token_ids
    # The last of an answer is never kept back.
    assert [(one.drafted, one.positions) for one in lone.statistics.log] == [(1, 1)] * 17 + [(1, 2)]
    assert set(lone.provenance) == {Provenance.ACCEPTED}


def test_marginal_has_a_budget_of_a_token_unless_told() -> None:
    def budget(*words: str) -> float:
        return gelato_config(list(words)).budget

    assert (budget(), budget("variant=marginal"), budget("variant=marginal", "budget_j=0.2")) == (
        1.2,
        0.15,
        0.2,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "x"},
        {"longest": 0},
        {"acceptance": 1.0},
        {"decay": 0.0},
        {"weight": math.nan},
        {"uplink_bps": -1.0},
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=f"gelato {next(iter(wrong))}"):
        GelatoConfig(**wrong)
