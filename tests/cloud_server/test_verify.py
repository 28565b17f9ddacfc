"""Accept / resample leaves the target's distribution: 50,000 draws a case through the pure
functions, toy vocabularies.
"""

import numpy as np
import pytest
from scipy.stats import chisquare

from hedge.cloud_server.verification.base import ClaimedDraft, to_audit_byte, verify_block
from hedge.cloud_server.verification.coupled import CoupledRule
from hedge.cloud_server.verification.resampled import ResampledRule
from hedge.cloud_server.verification.split import SplitRule
from hedge.common.coupling import draw_coupled
from hedge.common.distribution import Quantised
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp, draw, residual
from hedge.common.split import compute_share, encode_share
from hedge.edge_client.engine.verification.truncation import truncate
from tests.effort import scaled

DRAWS = scaled(50_000)
# Fixed seeds; a right implementation fails one case in 10,000 choices of them.
ERROR_RATE = 1e-4
ZEROS = np.array([0.5, 0.0, 0.3, 0.0, 0.2, 0.0])
FLAT = np.full(6, 1 / 6)
STEEP = np.array([0.7, 0.2, 0.06, 0.03, 0.01, 0.0])
RISING = STEEP[::-1].copy()


def told(token: int, probs: Quantised) -> ClaimedDraft:
    return ClaimedDraft(token, probs.probability(token), probs)


def emitted(noise: Noise, t: int, sent: Quantised, y: np.ndarray) -> int:
    """One position, asked, drawn from what is sent."""
    bucket, within = noise.uniforms(Purpose.DRAFT, t, count=2)
    proposal = told(sent.draw(bucket, within), sent)
    outcome = verify_block(ResampledRule(noise), 0, t, [proposal], [y])
    return proposal.token if outcome.correction is None else outcome.correction


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("x", "y", "kept", "bits"),
    [
        (STEEP, RISING, None, 16),
        (STEEP, RISING, 2, 3),
        (STEEP, RISING, 1, 1),
        (FLAT, STEEP, 3, 8),
        (FLAT, ZEROS, 2, 4),
        (ZEROS, FLAT, 3, 12),
        (STEEP, ZEROS, None, 2),
        (ZEROS, ZEROS, None, 20),
        (STEEP, STEEP, 4, 5),
        (FLAT, RISING, 6, 8),
    ],
)
def test_every_asked_token_follows_the_target(
    x: np.ndarray, y: np.ndarray, kept: int | None, bits: int
) -> None:
    noise = Noise(5, [kept or 0, bits])
    sent = truncate(x, kept, bits)
    counts = np.bincount([emitted(noise, t, sent, y) for t in range(DRAWS)], minlength=len(y))
    assert not counts[y == 0].any()
    assert chisquare(counts[y > 0], DRAWS * y[y > 0]).pvalue > ERROR_RATE


def test_drawing_from_the_full_distribution_but_testing_the_truncated_one_is_not_exact() -> None:
    """The trap: the paper's draft-from full with a coarse x_hat. Shows that the test above has the
    power to see it.
    """
    noise = Noise(5, [1])
    sent = truncate(STEEP, 1, 1)
    counts = np.zeros(6)
    for t in range(DRAWS):
        token = draw(STEEP, noise.uniform(Purpose.DRAFT, t))
        outcome = verify_block(ResampledRule(noise), 0, t, [told(token, sent)], [RISING + 0.0])
        counts[token if outcome.correction is None else outcome.correction] += 1
    assert chisquare(counts[1:], counts.sum() * RISING[1:] / RISING[1:].sum()).pvalue < 1e-12


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("x", "y"), [(STEEP, RISING), (FLAT, ZEROS), (ZEROS, FLAT), (STEEP, STEEP)]
)
def test_split_draws_the_residual_at_the_device(x: np.ndarray, y: np.ndarray) -> None:
    """The cloud sees one share of x_hat and answers with y; test and redraw together give y."""
    noise = Noise(6, [1])
    sent = truncate(x, 2, 5)
    counts = np.zeros(6)
    for t in range(DRAWS):
        bucket, within = noise.uniforms(Purpose.DRAFT, t, count=2)
        token = sent.draw(bucket, within)
        rule = SplitRule(noise, 5)
        outcome = verify_block(
            rule, 0, t, rule.read([token], [encode_share(compute_share(sent, token))], 6), [y]
        )
        if outcome.probs is not None:
            token = draw(residual(outcome.probs, sent.dense()), noise.uniform(Purpose.RESIDUAL, t))
        counts[token] += 1
    assert not counts[y == 0].any()
    assert chisquare(counts[y > 0], DRAWS * y[y > 0]).pvalue > ERROR_RATE


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("x", "y"), [(STEEP, RISING), (FLAT, ZEROS), (ZEROS, FLAT), (STEEP, STEEP)]
)
def test_coupled_tokens_are_the_llms_and_agree_as_often_as_promised(
    x: np.ndarray, y: np.ndarray
) -> None:
    """c ~ y whatever was drafted, and Pr(c = d) lies between (1 - TV) / (1 + TV) and 1 - TV."""
    noise = Noise(7, [1])
    counts = np.zeros(6)
    agreed = 0
    for t in range(DRAWS):
        token = draw_coupled(noise, t, x)
        outcome = verify_block(CoupledRule(noise), 0, t, [ClaimedDraft(token)], [y])
        agreed += outcome.accepted
        counts[token if outcome.correction is None else outcome.correction] += 1
    assert not counts[y == 0].any()
    assert chisquare(counts[y > 0], DRAWS * y[y > 0]).pvalue > ERROR_RATE
    tv = 0.5 * np.abs(x - y).sum()
    # Four standard errors.
    slack = 4 * 0.5 / DRAWS**0.5
    assert (1 - tv) / (1 + tv) - slack <= agreed / DRAWS <= 1 - tv + slack


def test_a_coupled_bonus_is_an_early_verdict() -> None:
    """The bonus after a block is what the next block's test would have said."""
    noise = Noise(8, [1])
    for t in range(200):
        early = verify_block(
            CoupledRule(noise), 0, t, [ClaimedDraft(draw_coupled(noise, t, FLAT))], [FLAT, RISING]
        )
        assert early.bonus == draw_coupled(noise, t + 1, RISING)
        late = verify_block(CoupledRule(noise), 0, t + 1, [ClaimedDraft(early.bonus)], [RISING])
        assert late.accepted == 1


@pytest.mark.statistics
def test_blocks_with_a_bonus_follow_the_targets_jointly() -> None:
    """Two drafts and a bonus: the joint distribution of the first two tokens is y1 x y2."""
    targets = [FLAT, STEEP, RISING]
    sent = [truncate(STEEP, 2, 6), truncate(FLAT, 3, 6)]
    first = np.zeros(6)
    bonus = np.zeros(6)
    for t in range(scaled(10_000)):
        noise = Noise(t, [9])
        proposals = [
            told(q.draw(*noise.uniforms(Purpose.DRAFT, i, count=2)), q) for i, q in enumerate(sent)
        ]
        outcome = verify_block(ResampledRule(noise), 0, 0, proposals, targets)
        first[outcome.correction if outcome.accepted == 0 else proposals[0].token] += 1  # type: ignore[index]
        if outcome.bonus is not None:
            assert outcome.accepted == 2
            bonus[outcome.bonus] += 1
    assert chisquare(first, first.sum() * FLAT).pvalue > ERROR_RATE
    assert chisquare(bonus[1:], bonus.sum() * RISING[1:]).pvalue > ERROR_RATE
    assert bonus[0] == 0


def test_greedy_accepts_the_argmax_and_corrects_everything_else() -> None:
    z = np.array([0.1, 2.0, 1.0])
    y = Warp(0.0)(z)
    noise = Noise(0, [1])
    for token in range(3):
        x = np.eye(3)[token]
        outcome = verify_block(ResampledRule(noise), 0, 0, [told(token, truncate(x, None, 8))], [y])
        assert (outcome.accepted, outcome.correction) == ((1, None) if token == 1 else (0, 1))


def test_an_accepted_end_token_ends_the_block_without_bonus() -> None:
    y = np.array([0.0, 1.0, 0.0])
    probs = Quantised(3, 1, np.array([1]), np.array([2]))
    outcome = verify_block(
        ResampledRule(Noise(0, [1])),
        0,
        0,
        [told(1, probs), told(1, probs)],
        [y, y, y],
        frozenset({1}),
    )
    assert (outcome.accepted, outcome.correction, outcome.bonus) == (1, None, None)


def test_an_end_token_is_not_accepted_by_force() -> None:
    y = np.array([1.0, 0.0, 0.0])
    probs = Quantised(3, 1, np.array([1]), np.array([2]))
    outcome = verify_block(
        ResampledRule(Noise(0, [1])), 0, 0, [told(1, probs)], [y], frozenset({1})
    )
    assert (outcome.accepted, outcome.correction) == (0, 0)


def test_a_token_the_proposal_could_not_draw_stays_iff_the_target_has_it() -> None:
    probs = Quantised(3, 1, np.array([1]), np.array([2]))
    assert (
        verify_block(
            ResampledRule(Noise(0, [1])), 0, 0, [told(0, probs)], [np.array([0.1, 0.9, 0])]
        ).accepted
        == 1
    )
    assert (
        verify_block(
            ResampledRule(Noise(0, [1])), 0, 0, [told(2, probs)], [np.array([0.1, 0.9, 0])]
        ).accepted
        == 0
    )


def test_a_step_has_numbers_of_its_own_where_it_matters() -> None:
    """Drawn by step, what is tested anew is drawn anew; `coupled` says the same whichever message
    carried the draft.
    """
    noise = Noise(4, [1])
    draft = told(0, truncate(np.eye(6)[0] * 0.5 + 0.5 / 6, None, 8))
    for rule, differs in ((ResampledRule(noise), True), (CoupledRule(noise), False)):
        outcomes = [
            [verify_block(rule, step, t, [draft], [FLAT, RISING]) for t in range(100)]
            for step in (0, 1)
        ]
        accepted = [[outcome.accepted for outcome in of_step] for of_step in outcomes]
        assert (accepted[0] != accepted[1]) == differs
        corrected = [
            (a.correction, b.correction)
            for a, b in zip(*outcomes, strict=True)
            if a.accepted == b.accepted == 0
        ]
        assert corrected
        assert any(a != b for a, b in corrected) == differs


def test_audit_bytes() -> None:
    assert [to_audit_byte(p) for p in (1.0, np.exp(-1), 1e-30, 0.0)] == [0, 16, 254, 255]
