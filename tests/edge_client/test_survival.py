import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.coupling import decide_race
from hedge.common.errors import BadInput
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.edge_client.engine.gates.gate import RoundTrip, Unverified
from hedge.edge_client.engine.gates.survival import LARGEST, LOWEST_B, PRIOR_A, PRIOR_B, Survival
from hedge.edge_client.engine.gates.survival_gate import MOST_RISK, SurvivalGate
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.verification.coupled import Coupled
from hedge.evaluation.local import LocalLink
from tests.configs import changed, config_of
from tests.conftest import run_session

PROMPT = [1, 2, 3]
SURVIVAL = config_of(
    policy="survival", verification="coupled", exact=True, max_new_tokens=30, seed=2
)


def sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-value)))


def fitted(margins: np.ndarray, accepted: np.ndarray) -> tuple[float, float]:
    """The same posterior without fading, all drafts at once."""
    x = np.stack([np.ones_like(margins), margins], 1)
    prior = np.array([PRIOR_A, PRIOR_B])
    weights = prior.copy()
    precision = np.diag([4.0, 20.0])
    for _ in range(50):
        p = sigmoid(x @ weights)
        gradient = x.T @ (accepted - p) - precision @ (weights - prior)
        weights = weights + np.linalg.solve(
            (x * (p * (1 - p))[:, None]).T @ x + precision, gradient
        )
    return float(weights[0]), float(weights[1])


@pytest.mark.parametrize("truth", [(0.0, 0.7), (1.5, 0.3), (-2.0, 1.5), (3.0, 0.05)])
def test_one_step_a_draft_is_as_good_as_a_fit_of_all(truth: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    model = Survival()
    margins = rng.exponential(2.0, 1500)
    accepted = rng.random(1500) < sigmoid(truth[0] + truth[1] * margins)
    for margin, stays in zip(margins, accepted, strict=True):
        model.judged(float(margin), accepted=bool(stays))
    batch = fitted(margins, accepted)
    grid = np.linspace(0, 8, 20)
    online = np.array([model.probability(m) for m in grid])
    assert np.abs(online - sigmoid(batch[0] + batch[1] * grid)).max() < 0.06


def test_a_prior_that_is_wrong_is_left_within_an_answer() -> None:
    """A pair that agrees always, and one that never does."""
    for accepted in (True, False):
        model = Survival()
        for _ in range(64):
            model.judged(1.0, accepted=accepted)
        assert abs(model.probability(1.0) - accepted) < 0.15


@given(st.lists(st.tuples(st.floats(0, math.inf), st.booleans()), max_size=60))
def test_whatever_comes_it_stays_a_probability_that_grows_with_the_margin(
    judged: list[tuple[float, bool]],
) -> None:
    model = Survival()
    for margin, accepted in judged:
        model.judged(margin, accepted=accepted)
    found = [model.probability(margin) for margin in (0.0, 0.5, 2.0, LARGEST, math.inf)]
    assert all(0 <= p <= 1 for p in found)
    assert found == sorted(found)
    assert model.b >= LOWEST_B


class Sure(Survival):
    """Nine of ten, whatever comes."""

    def probability(self, margin: float) -> float:
        return 0.9

    def judged(self, margin: float, *, accepted: bool) -> None: ...


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_block_ends_where_a_rejection_has_become_likely(
    temperature: float, make_lm: Callable[..., LanguageModel]
) -> None:
    """0.9^5 is the first below 0.6: five drafts and a bonus a round, where both models are one."""
    lm = make_lm(seed=1)
    config = changed(SURVIVAL, temperature=temperature, threshold=0.4)
    session = run_session(lm, PROMPT, config, LocalLink(lm), survival=Sure())
    assert (session.statistics.rounds, session.statistics.steps) == (5, 25)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_verdicts_teach_and_answers_hand_on(
    temperature: float, make_lm: Callable[..., LanguageModel]
) -> None:
    """A pair that always agrees, and one that hardly does: fewer passes, or fewer steps in vain,
    the longer it runs.
    """
    config = changed(SURVIVAL, temperature=temperature)
    lm = make_lm(seed=1)
    other = make_lm(seed=2)
    alike = Survival()
    apart = Survival()
    agreeing = [
        run_session(lm, PROMPT, changed(config, seed=n), LocalLink(lm), survival=alike).statistics
        for n in range(4)
    ]
    parting = [
        run_session(
            lm, PROMPT, changed(config, seed=n), LocalLink(other), survival=apart
        ).statistics
        for n in range(4)
    ]
    assert alike.probability(1.0) > 0.9 > 0.6 > apart.probability(1.0)
    assert agreeing[3].rounds < agreeing[0].rounds
    assert parting[3].steps < parting[0].steps


class Counting(Survival):
    """Of what it was told, by outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.told = {True: 0, False: 0}

    def judged(self, margin: float, *, accepted: bool) -> None:
        self.told[accepted] += 1


@pytest.mark.parametrize("lag", [0, 3])
def test_every_draft_that_was_judged_teaches_once(
    lag: int, make_lm: Callable[..., LanguageModel]
) -> None:
    """One that a bonus confirmed has its test too, later; one that a bonus replaced has none."""
    slm = make_lm(seed=1)
    llm = make_lm(seed=2)
    kinds = Counter[Provenance]()
    counting = Counting()
    for seed in range(20):
        config = changed(SURVIVAL, threshold=0.05, max_in_flight=4, seed=seed)
        session = run_session(slm, PROMPT, config, LocalLink(llm, lag), survival=counting)
        kinds.update(session.provenance)
    assert counting.told == {True: kinds[Provenance.ACCEPTED], False: kinds[Provenance.CORRECTED]}
    assert min(counting.told.values()) > 50


def test_the_margin_is_that_of_the_draw_itself() -> None:
    noise = Noise(3, PROMPT)
    rng = np.random.default_rng(0)
    verification = Coupled(SURVIVAL.verification, noise, 50)
    for position in range(50):
        probs = rng.dirichlet(np.full(50, 0.3))
        drawn = verification.propose(probs, position, 0, None, 0.0)
        assert (drawn.token, drawn.margin) == decide_race(
            probs, noise.integers(Purpose.TARGET, position, 0, 50)
        )


def test_it_needs_drafts_that_are_all_tested_with_shared_noise() -> None:
    for options in (
        {"verification": "sparse", "exact": True, "draft_from": "sent"},
        {"verification": "coupled"},
    ):
        with pytest.raises(BadInput, match="policy survival needs verification coupled"):
            config_of(policy="survival", **options)
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(BadInput, match="the range of policy survival"):
            changed(SURVIVAL, threshold=threshold)
    gate = SURVIVAL.with_threshold(0.3).gate
    assert (gate.policy, gate.threshold) == ("adaptive", 0.3)


def paced(
    prefer: str = "balanced", *, step: float = 0.02, network: float = 0.05, queue: float = 0.0
) -> SurvivalGate:
    """One that has measured this, of a cloud whose pass takes 40 ms and that rejects one draft in
    ten.
    """
    pace = SurvivalGate(prefer)
    for n in range(400):
        pace.observe_step(step)
        pace.observe_verdict(
            RoundTrip(network + queue + 0.04, queue, 0.04), [False], True if n % 10 == 0 else None
        )
    return pace


def test_blocks_are_longer_the_less_holding_back_costs() -> None:
    """A slow network, a fast device and a preference for few passes each make them longer; never
    beyond the most.
    """
    risks = [paced(prefer).risk for prefer in ("speed", "balanced", "cloud")]
    assert risks == sorted(risks)
    assert risks[2] == MOST_RISK
    assert paced(network=0.005).risk < paced(network=0.05).risk < paced(network=0.1).risk
    assert paced(step=0.04).risk < paced(step=0.02).risk
    assert paced(queue=0.03).risk > paced().risk
    assert SurvivalGate().risk == MOST_RISK
    assert SurvivalGate(threshold=0.1).risk == 0.1


def test_nobody_runs_ahead_of_a_cloud_that_is_short_of_passes() -> None:
    """Messages wait longer there than they are computed: as if few passes were preferred."""
    likely = Unverified(1, 0, 3, survival=0.5)
    assert paced(queue=0.03).should_draft(likely)
    assert not paced(queue=0.05).should_draft(likely)
    assert paced("speed", queue=0.05).risk == paced("cloud").risk


def test_no_more_messages_are_ahead_than_allowed() -> None:
    ahead = SurvivalGate(in_flight=3)
    assert [ahead.should_draft(Unverified(messages, 0, messages)) for messages in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_nobody_runs_ahead_of_drafts_that_will_hardly_stay() -> None:
    for prefer, least in (("speed", 0.05), ("balanced", 0.2), ("cloud", 0.6)):
        ahead = SurvivalGate(prefer)
        found = [
            ahead.should_draft(Unverified(1, 0, 3, survival))
            for survival in (1.0, least + 0.01, least - 0.01)
        ]
        assert found == [True, True, False]
        assert ahead.should_draft(Unverified(0, 0, 3, 0.01))


def test_a_step_that_a_verdict_on_its_way_will_make_vain_is_not_begun() -> None:
    """A verdict comes after 90 ms, a step takes 20: with even odds none is begun in the last 10 ms,
    and one that is late is not waited for.
    """
    pace = paced()
    found = [
        pace.should_draft(Unverified(1, 0, 3, 0.5, waited))
        for waited in (0.0, 0.079, 0.081, 0.089, 0.091, 5.0)
    ]
    assert found == [True, True, False, False, True, True]
    assert pace.should_draft(Unverified(1, 0, 3, 1.0, 0.089))
