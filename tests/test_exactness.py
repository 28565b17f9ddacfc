"""The law of what comes out, through whole sessions: the real edge and the real verifier on tiny random models."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from common.model import CausalLM
from common.sampling import Warp
from edge_client.measures import MEASURES
from edge_client.settings import Settings
from edge_client.statistics import Provenance
from evaluation.local import LocalLink
from tests.conftest import RememberingLM, run_session

RUNS = 5000
# Fixed seeds; a right implementation fails one test in 10,000 choices of them.
ERROR_RATE = 1e-4
PROMPT = [1, 2, 3]
VOCAB = 5
ASKED = {Provenance.ACCEPTED, Provenance.CORRECTED}
ALWAYS = Settings(system="test", policy="always", draft_from="sent", max_new_tokens=2, k=2, bits=3)


@pytest.fixture(scope="module")
def pair(make_lm: Callable[..., CausalLM]) -> tuple[CausalLM, CausalLM]:
    return RememberingLM(make_lm(seed=1, vocab=VOCAB)), RememberingLM(make_lm(seed=2, vocab=VOCAB))


def joint_law(lm: CausalLM, warp: Warp) -> np.ndarray:
    """P(first two tokens) of plain sampling from the LLM, [V, V]."""
    first = warp(lm.prefix().forward(PROMPT, 1)[0])
    return np.stack([first[t] * warp(lm.prefix().forward([*PROMPT, t], 1)[0]) for t in range(lm.vocab_size)])


@pytest.mark.parametrize(
    "settings",
    [
        ALWAYS,
        replace(ALWAYS, verification="full", truncation="none", bits=4, warp=Warp(0.8, 4, 0.95)),
        replace(ALWAYS, truncation="online", theta=0.8),
    ],
    ids=["sparse", "full", "online"],
)
def test_with_every_token_asked_the_output_follows_the_llm(settings: Settings, pair: tuple[CausalLM, CausalLM]) -> None:
    slm, llm = pair
    link, counts = LocalLink(llm), np.zeros((VOCAB, VOCAB))
    for seed in range(RUNS):
        first, second = run_session(slm, PROMPT, replace(settings, seed=seed), link).token_ids
        counts[first, second] += 1
    expected = joint_law(llm, settings.warp) * RUNS
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > ERROR_RATE


def asked_law_pvalue(pair: tuple[CausalLM, CausalLM], settings: Settings, runs: int) -> tuple[float, float]:
    """p-value of "asked second tokens follow the LLM's law given the first token", and the share asked."""
    slm, llm = pair
    link, counts = LocalLink(llm), np.zeros((VOCAB, VOCAB))
    for seed in range(runs):
        session = run_session(slm, PROMPT, replace(settings, seed=seed), link)
        if session.statistics.provenance[1] in ASKED:
            counts[tuple(session.token_ids)] += 1
    statistic, freedom = 0.0, 0
    for first in range(VOCAB):
        law = settings.warp(llm.prefix().forward([*PROMPT, first], 1)[0])
        if (total := counts[first].sum()) >= 50:
            statistic += float(((counts[first] - total * law) ** 2 / (total * law)).sum())
            freedom += VOCAB - 1
    assert freedom
    return float(chi2.sf(statistic, freedom)), counts.sum() / runs


@pytest.mark.parametrize("measure", ["expected_perturbation", "entropy"])
def test_asked_positions_follow_the_llm_behind_a_draft_independent_gate(measure: str, pair: tuple[CausalLM, CausalLM]) -> None:
    contexts = [pair[0].prefix().forward([*PROMPT, first], 1)[0] for first in range(VOCAB)]
    limit = float(np.median([MEASURES[measure].of(z, Warp()(z), -1, np.empty(0)) for z in contexts]))
    settings = replace(ALWAYS, policy="threshold", measure=measure, threshold=limit, bits=8, k=VOCAB)
    pvalue, share = asked_law_pvalue(pair, settings, RUNS)
    assert 0.02 < share < 0.98
    assert pvalue > ERROR_RATE


def test_perturbation_moves_the_law_of_asked_positions(pair: tuple[CausalLM, CausalLM]) -> None:
    """A finding about the published gate: it looks at the draft, so given "asked" the draft is not distributed as x."""
    settings = replace(
        ALWAYS, policy="threshold", measure="perturbation", threshold=0.5, draft_from="full", bits=20,
        verification="full", truncation="none",
    )  # fmt: skip
    pvalue, share = asked_law_pvalue(pair, settings, RUNS)
    assert 0.02 < share < 0.98
    assert pvalue < 1e-6


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("settings", [ALWAYS, replace(ALWAYS, verification="full", truncation="none")], ids=["sparse", "full"])
def test_at_temperature_0_every_asked_token_is_plain_greedy_decoding(
    kind: str, settings: Settings, make_lm: Callable[..., CausalLM]
) -> None:
    """Fifty prompts; the SLM of another architecture, the vocabulary of the LLM padded."""
    slm = make_lm(kind="llama" if kind != "llama" else "gpt2", seed=4)
    llm = make_lm(kind=kind, seed=5, padding=4 if kind == "qwen2" else 0)
    link, rng = LocalLink(llm), np.random.default_rng(0)
    for _ in range(50):
        prompt = [int(t) for t in rng.integers(0, 11, rng.integers(1, 9))]
        session = run_session(slm, prompt, replace(settings, warp=Warp(0.0), max_new_tokens=12), link)
        history = list(prompt)
        while len(history) < len(prompt) + 12 and not (len(history) > len(prompt) and history[-1] in slm.end_ids):
            history.append(int(llm.prefix().forward(history, 1)[0].argmax()))
        assert session.token_ids == history[len(prompt) :]


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox"])
def test_any_architecture_drafts(kind: str, make_lm: Callable[..., CausalLM]) -> None:
    slm, llm = make_lm(kind=kind, seed=4, padding=3 if kind == "qwen2" else 0), make_lm(seed=5)
    session = run_session(slm, PROMPT, replace(ALWAYS, warp=Warp(0.0), max_new_tokens=12), LocalLink(llm))
    history = list(PROMPT)
    while len(history) < len(PROMPT) + 12 and history[-1] not in slm.end_ids:
        history.append(int(llm.prefix().forward(history, 1)[0].argmax()))
    assert session.token_ids == history[len(PROMPT) :]


def test_same_seed_same_tokens(pair: tuple[CausalLM, CausalLM]) -> None:
    slm, llm = pair
    settings = replace(ALWAYS, policy="random", verify_rate=0.5, max_new_tokens=20, seed=7)
    runs = [run_session(slm, PROMPT, settings, LocalLink(llm)) for _ in range(2)]
    assert runs[0].token_ids == runs[1].token_ids
    assert runs[0].statistics.provenance == runs[1].statistics.provenance
    assert runs[0].token_ids != run_session(slm, PROMPT, replace(settings, seed=8), LocalLink(llm)).token_ids


def test_never_and_always_bracket_the_llm_and_the_slm(pair: tuple[CausalLM, CausalLM]) -> None:
    """`never` is the SLM's own sampling, with or without a cloud."""
    slm, llm = pair
    settings = Settings(system="slm", policy="never", max_new_tokens=10, seed=3)
    alone = run_session(slm, PROMPT, settings)
    assert alone.token_ids == run_session(slm, PROMPT, settings, LocalLink(llm)).token_ids
    assert set(alone.statistics.provenance) == {Provenance.LOCAL}


def test_the_audit_is_the_risk_that_was_taken(pair: tuple[CausalLM, CausalLM]) -> None:
    """beta of skipped tokens, recomputed from both models' laws, equals the realised risk up to the audit's rounding."""
    slm, llm = pair
    settings = replace(ALWAYS, policy="random", verify_rate=0.4, max_new_tokens=30, seed=1)
    session = run_session(slm, PROMPT, settings, LocalLink(llm))
    kinds, ids = session.statistics.provenance, session.token_ids
    last_asked = max(i for i, kind in enumerate(kinds) if kind in ASKED)
    betas = []
    for i in range(last_asked):
        if kinds[i] is Provenance.LOCAL:
            history = [*PROMPT, *ids[:i]]
            x, y = (settings.warp(lm.prefix().forward(history, 1)[0])[ids[i]] for lm in (slm, llm))
            betas.append(max(0.0, 1 - y / x))
    assert session.statistics.audited == last_asked + 1
    assert session.statistics.realised_risk == pytest.approx(sum(betas) / (last_asked + 1), abs=0.03)
