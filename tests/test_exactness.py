"""The distribution of what comes out, through whole sessions: the real edge and the real verifier
on tiny random models.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.engine.gates.measures import MEASURES
from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink
from tests.configs import changed, config_of
from tests.conftest import RememberingLM, run_session
from tests.effort import RUNS, scaled

# Fixed seeds; a right implementation fails one test in 10,000 choices of them.
ERROR_RATE = 1e-4
PROMPT = [1, 2, 3]
VOCAB = 5
ASKED = {Provenance.ACCEPTED, Provenance.CORRECTED}
ALWAYS = config_of(system="test", policy="always", draft_from="sent", max_new_tokens=2, k=2, bits=3)


@pytest.fixture(scope="module")
def pair(make_lm: Callable[..., LanguageModel]) -> tuple[LanguageModel, LanguageModel]:
    return RememberingLM(make_lm(seed=1, vocab=VOCAB)), RememberingLM(make_lm(seed=2, vocab=VOCAB))


def joint_probs(lm: LanguageModel, warp: Warp, length: int) -> np.ndarray:
    """P(first `length` tokens) of plain sampling from the LLM, [V] * length."""
    joint = np.ones([lm.vocab_size] * length)
    for tokens in np.ndindex(*joint.shape):
        for t, token in enumerate(tokens):
            joint[tokens] *= warp(lm.kv_cache().forward([*PROMPT, *tokens[:t]], 1)[0])[token]
    return joint


@pytest.mark.statistics
@pytest.mark.parametrize(
    "settings",
    [
        ALWAYS,
        changed(ALWAYS, verification="full", truncation="none", bits=4, warp=Warp(0.8, 4, 0.95)),
        changed(ALWAYS, truncation="online", theta=0.8),
    ],
    ids=["sparse", "full", "online"],
)
def test_with_every_token_asked_the_output_follows_the_llm(
    settings: GenerationConfig, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    slm, llm = pair
    link = LocalLink(llm)
    counts = np.zeros((VOCAB, VOCAB))
    for seed in range(RUNS):
        first, second = run_session(slm, PROMPT, changed(settings, seed=seed), link).token_ids
        counts[first, second] += 1
    expected = joint_probs(llm, settings.sampling.warp, 2) * RUNS
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > ERROR_RATE


def gate_at_the_median(slm: LanguageModel) -> float:
    contexts = [slm.kv_cache().forward([*PROMPT, first], 1)[0] for first in range(VOCAB)]
    return float(
        np.median([MEASURES["entropy"].of(z, Warp()(z), -1, np.empty(0)) for z in contexts])
    )


EXACT = changed(
    ALWAYS, policy="threshold", measure="entropy", threshold=0.0, exact=True, max_new_tokens=3
)
WAYS = {
    "full": changed(EXACT, verification="full", truncation="none", bits=4),
    "sparse": EXACT,
    "split": changed(EXACT, verification="split"),
    "coupled": changed(EXACT, verification="coupled"),
    "survival": changed(EXACT, verification="coupled", policy="survival"),
}


@pytest.mark.statistics
@pytest.mark.parametrize("warp", [Warp(), Warp(0.8, 4, 0.95)], ids=["plain", "warped"])
@pytest.mark.parametrize(("in_flight", "lag"), [(1, 0), (3, 2)], ids=["waiting", "pipelined"])
@pytest.mark.parametrize("way", WAYS)
def test_exact_mode_follows_the_llm_across_rollbacks(
    way: str, in_flight: int, lag: int, warp: Warp, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    """The joint distribution of three tokens that were drafted in blocks, ahead of verdicts,
    corrected and drafted anew.
    """
    slm, llm = pair
    settings = changed(
        WAYS[way], warp=warp, max_in_flight=in_flight, threshold=gate_at_the_median(slm)
    )
    link = LocalLink(llm, lag)
    counts = np.zeros([VOCAB] * 3)
    seen = set[Provenance]()
    rolled_back = longest = 0
    for seed in range(RUNS):
        session = run_session(slm, PROMPT, changed(settings, seed=seed), link)
        counts[tuple(session.token_ids)] += 1
        seen |= set(session.provenance)
        rolled_back += session.statistics.rolled_back
        longest = max(longest, session.statistics.steps - len(session.statistics.log))
    assert seen == (ASKED | {Provenance.BONUS} if in_flight == 1 else ASKED)
    assert longest > 0
    assert rolled_back > RUNS / 10
    expected = RUNS * joint_probs(llm, warp, 3)
    assert not counts[expected == 0].any()
    common = expected >= 5
    assert common.sum() >= 10
    rest = expected[~common].sum()
    found = [*counts[common], *([counts[~common].sum()] if rest > 0 else [])]
    assert chisquare(found, [*expected[common], *([rest] if rest > 0 else [])]).pvalue > ERROR_RATE


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("in_flight", "lag"), [(1, 0), (4, 3), (64, 10**6)], ids=["waiting", "pipelined", "far ahead"]
)
@pytest.mark.parametrize("way", WAYS)
def test_at_temperature_0_exact_mode_is_plain_greedy_decoding(
    way: str, in_flight: int, lag: int, make_lm: Callable[..., LanguageModel]
) -> None:
    slm = make_lm(kind="gpt2", seed=4, eos=11)
    llm = make_lm(seed=5, eos=11)
    settings = changed(
        WAYS[way], warp=Warp(0.0), threshold=0.9, max_in_flight=in_flight, max_new_tokens=20
    )
    link = LocalLink(llm, lag)
    rng = np.random.default_rng(0)
    for _ in range(scaled(50)):
        prompt = [int(t) for t in rng.integers(0, 11, rng.integers(1, 9))]
        history = list(prompt)
        while len(history) < len(prompt) + 20 and not (
            len(history) > len(prompt) and history[-1] == 11
        ):
            history.append(int(llm.kv_cache().forward(history, 1)[0].argmax()))
        assert run_session(slm, prompt, settings, link).token_ids == history[len(prompt) :]


@pytest.mark.statistics
def test_coupled_answers_do_not_depend_on_the_device(make_lm: Callable[..., LanguageModel]) -> None:
    """Another SLM, gate, block rule, lag, or none of them: the answer for a seed is the one that
    `llm` streams.
    """
    llm = make_lm(seed=5, eos=11)
    slms = [make_lm(seed=4, eos=11), make_lm(kind="gpt2", seed=6, eos=11)]
    coupled = changed(WAYS["coupled"], max_new_tokens=30)
    for seed in range(scaled(20)):
        plain = run_session(
            slms[0],
            PROMPT,
            config_of(policy="stream", max_new_tokens=30, seed=seed),
            LocalLink(llm),
        ).token_ids
        for settings, slm, lag in (
            (changed(coupled, threshold=0.95), slms[0], 0),
            (changed(coupled, policy="always", max_in_flight=5), slms[0], 2),
            (changed(coupled, policy="adaptive", threshold=0.95, max_in_flight=2), slms[1], 1),
            (changed(coupled, policy="random", verify_rate=0.2, max_in_flight=64), slms[1], 10**6),
            (changed(coupled, threshold=0.9, measure="perturbation", max_in_flight=3), slms[1], 4),
            (changed(coupled, policy="survival", threshold=None, max_in_flight=4), slms[1], 3),
        ):
            # Of a model of survival that is wrong on purpose.
            wrong = Survival(a=-9.0 if seed % 2 else 9.0, b=0.02)
            assert (
                run_session(
                    slm, PROMPT, changed(settings, seed=seed), LocalLink(llm, lag), survival=wrong
                ).token_ids
                == plain
            )


def asked_pvalue(
    pair: tuple[LanguageModel, LanguageModel], settings: GenerationConfig, runs: int
) -> tuple[float, float]:
    """p-value of "asked second tokens follow the LLM's distribution given the first token", and the
    share asked.
    """
    slm, llm = pair
    link = LocalLink(llm)
    counts = np.zeros((VOCAB, VOCAB))
    for seed in range(runs):
        session = run_session(slm, PROMPT, changed(settings, seed=seed), link)
        if session.provenance[1] in ASKED:
            counts[tuple(session.token_ids)] += 1
    statistic = 0.0
    freedom = 0
    for first in range(VOCAB):
        probs = settings.sampling.warp(llm.kv_cache().forward([*PROMPT, first], 1)[0])
        if (total := counts[first].sum()) >= 50:
            statistic += float(((counts[first] - total * probs) ** 2 / (total * probs)).sum())
            freedom += VOCAB - 1
    assert freedom
    return float(chi2.sf(statistic, freedom)), counts.sum() / runs


@pytest.mark.statistics
@pytest.mark.parametrize("measure", ["expected_perturbation", "entropy"])
def test_asked_positions_follow_the_llm_behind_a_draft_independent_gate(
    measure: str, pair: tuple[LanguageModel, LanguageModel]
) -> None:
    contexts = [pair[0].kv_cache().forward([*PROMPT, first], 1)[0] for first in range(VOCAB)]
    limit = float(
        np.median([MEASURES[measure].of(z, Warp()(z), -1, np.empty(0)) for z in contexts])
    )
    settings = changed(
        ALWAYS, policy="threshold", measure=measure, threshold=limit, bits=8, k=VOCAB
    )
    pvalue, share = asked_pvalue(pair, settings, RUNS)
    assert 0.02 < share < 0.98
    assert pvalue > ERROR_RATE


@pytest.mark.statistics
def test_perturbation_moves_the_distribution_of_asked_positions(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    """A finding about the published gate: it looks at the draft, so given "asked" the draft is not
    distributed as x.
    """
    settings = changed(
        ALWAYS,
        policy="threshold",
        measure="perturbation",
        threshold=0.5,
        draft_from="full",
        bits=20,
        verification="full",
        truncation="none",
    )
    pvalue, share = asked_pvalue(pair, settings, max(2000, RUNS))
    assert 0.02 < share < 0.98
    assert pvalue < 1e-6


@pytest.mark.statistics
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    "settings",
    [ALWAYS, changed(ALWAYS, verification="full", truncation="none")],
    ids=["sparse", "full"],
)
def test_at_temperature_0_every_asked_token_is_plain_greedy_decoding(
    kind: str, settings: GenerationConfig, make_lm: Callable[..., LanguageModel]
) -> None:
    """Fifty prompts; the SLM of another architecture, the vocabulary of the LLM padded."""
    slm = make_lm(kind="llama" if kind != "llama" else "gpt2", seed=4)
    llm = make_lm(kind=kind, seed=5, padding=4 if kind == "qwen2" else 0)
    link = LocalLink(llm)
    rng = np.random.default_rng(0)
    for _ in range(scaled(50)):
        prompt = [int(t) for t in rng.integers(0, 11, rng.integers(1, 9))]
        session = run_session(
            slm, prompt, changed(settings, warp=Warp(0.0), max_new_tokens=12), link
        )
        history = list(prompt)
        while len(history) < len(prompt) + 12 and not (
            len(history) > len(prompt) and history[-1] in slm.end_ids
        ):
            history.append(int(llm.kv_cache().forward(history, 1)[0].argmax()))
        assert session.token_ids == history[len(prompt) :]


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox"])
def test_any_architecture_drafts(kind: str, make_lm: Callable[..., LanguageModel]) -> None:
    slm = make_lm(kind=kind, seed=4, padding=3 if kind == "qwen2" else 0)
    llm = make_lm(seed=5)
    session = run_session(
        slm, PROMPT, changed(ALWAYS, warp=Warp(0.0), max_new_tokens=12), LocalLink(llm)
    )
    history = list(PROMPT)
    while len(history) < len(PROMPT) + 12 and history[-1] not in slm.end_ids:
        history.append(int(llm.kv_cache().forward(history, 1)[0].argmax()))
    assert session.token_ids == history[len(PROMPT) :]


def test_same_seed_same_tokens(pair: tuple[LanguageModel, LanguageModel]) -> None:
    slm, llm = pair
    settings = changed(ALWAYS, policy="random", verify_rate=0.5, max_new_tokens=20, seed=7)
    runs = [run_session(slm, PROMPT, settings, LocalLink(llm)) for _ in range(2)]
    assert runs[0].token_ids == runs[1].token_ids
    assert runs[0].provenance == runs[1].provenance
    assert (
        runs[0].token_ids
        != run_session(slm, PROMPT, changed(settings, seed=8), LocalLink(llm)).token_ids
    )


def test_never_and_always_bracket_the_llm_and_the_slm(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    """`never` is the SLM's own sampling, with or without a cloud."""
    slm, llm = pair
    settings = config_of(system="slm", policy="never", max_new_tokens=10, seed=3)
    alone = run_session(slm, PROMPT, settings)
    assert alone.token_ids == run_session(slm, PROMPT, settings, LocalLink(llm)).token_ids
    assert set(alone.provenance) == {Provenance.LOCAL}


def test_the_audit_is_the_risk_that_was_taken(pair: tuple[LanguageModel, LanguageModel]) -> None:
    """beta of skipped tokens, recomputed from both models' probs, equals the realised risk up to
    the audit's rounding.
    """
    slm, llm = pair
    settings = changed(ALWAYS, policy="random", verify_rate=0.4, max_new_tokens=30, seed=1)
    session = run_session(slm, PROMPT, settings, LocalLink(llm))
    kinds = session.provenance
    ids = session.token_ids
    last_asked = max(i for i, kind in enumerate(kinds) if kind in ASKED)
    betas = []
    for i in range(last_asked):
        if kinds[i] is Provenance.LOCAL:
            history = [*PROMPT, *ids[:i]]
            x, y = (
                settings.sampling.warp(lm.kv_cache().forward(history, 1)[0])[ids[i]]
                for lm in (slm, llm)
            )
            betas.append(max(0.0, 1 - y / x))
    assert session.statistics.audited == last_asked + 1
    assert session.statistics.realised_risk == pytest.approx(
        sum(betas) / (last_asked + 1), abs=0.03
    )


@pytest.mark.statistics
def test_split_with_a_cut_distribution_stays_within_its_certificate(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    """Where only the largest entries S of y come back, the first token's distribution is within 1 -
    y(S) of y, and says so.
    """
    slm, llm = pair
    settings = changed(ALWAYS, verification="split", probs_entries=2, max_new_tokens=1)
    assert settings.guarantee == "opportunistic"
    target = Warp()(llm.kv_cache().forward(PROMPT, 1)[0])
    certificate = 1 - float(np.sort(target)[-2:].sum())
    counts = np.zeros(VOCAB)
    said = 0.0
    corrected = 0
    for seed in range(RUNS):
        session = run_session(slm, PROMPT, changed(settings, seed=seed), LocalLink(llm))
        counts[session.token_ids[0]] += 1
        corrected += session.statistics.count(Provenance.CORRECTED)
        said += session.statistics.cut_mass
    assert said / corrected == pytest.approx(certificate, rel=1e-6)
    distance = 0.5 * np.abs(counts / RUNS - target).sum()
    # Sampling moves it by less than this, in all but one of 10,000 choices of seeds.
    slack = np.sqrt((VOCAB * np.log(2) - np.log(ERROR_RATE)) / (2 * RUNS))
    assert 0.01 < distance < certificate + slack
    whole = changed(settings, probs_entries=VOCAB)
    for seed in range(scaled(50)):
        answers = [
            run_session(
                slm, PROMPT, changed(one, seed=seed, max_new_tokens=6), LocalLink(llm)
            ).token_ids
            for one in (whole, changed(whole, probs_entries=0))
        ]
        assert answers[0] == answers[1]
