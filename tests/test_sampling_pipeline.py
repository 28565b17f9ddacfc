"""Penalties, bias, min-p and grammars through whole sessions: the output is still the LLM's,
processed as it would be alone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import chisquare

from hedge.common.grammar import convert_regex, convert_schema
from hedge.common.loading import load
from hedge.common.logits import LogitsOptions, LogitsProcessor
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.config import GateConfig, SamplingParams, VerificationConfig
from hedge.edge_client.engine.gates.survival_gate import SurvivalGate
from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.evaluation.local import LocalLink
from tests.configs import changed, config_of
from tests.conftest import run_session
from tests.test_exactness import ERROR_RATE, PROMPT, RUNS, VOCAB, WAYS, pair  # noqa: F401

PENALTIES = LogitsOptions(1.4, 0.5, 0.3)
MIXED = LogitsOptions(0.8, -0.5, 0.2, ((0, 1.5), (3, -1.0)))


def joint_probs(lm: LanguageModel, options: LogitsOptions, warp: Warp, length: int) -> np.ndarray:
    """P(first `length` tokens) of plain sampling from the LLM, [V] * length."""
    process = LogitsProcessor(options, lm, len(PROMPT), [])
    joint = np.ones([lm.vocab_size] * length)
    for tokens in np.ndindex(*joint.shape):
        for t, token in enumerate(tokens):
            before = [*PROMPT, *tokens[:t]]
            joint[tokens] *= warp(process(lm.kv_cache().forward(before, 1)[0], before))[token]
    return joint


ALL = (MIXED, Warp(0.9, 4, 0.95, 0.1))


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("way", "options", "warp"),
    [
        *((way, *ALL) for way in WAYS),
        ("coupled", PENALTIES, Warp()),
        ("sparse", LogitsOptions(), Warp(1.2, min_p=0.2)),
    ],
    ids=[*WAYS, "penalties", "min-p"],
)
def test_the_output_follows_the_processed_llm(
    way: str,
    options: LogitsOptions,
    warp: Warp,
    pair: tuple[LanguageModel, LanguageModel],  # noqa: F811
) -> None:
    slm, llm = pair
    settings = changed(WAYS[way], warp=warp, logits=options, threshold=0.5, max_in_flight=2)
    link = LocalLink(llm, 1)
    counts = np.zeros([VOCAB] * 3)
    for seed in range(RUNS):
        counts[tuple(run_session(slm, PROMPT, changed(settings, seed=seed), link).token_ids)] += 1
    expected = RUNS * joint_probs(llm, options, warp, 3)
    assert not counts[expected == 0].any()
    common = expected >= 5
    rest = expected[~common].sum()
    found = [*counts[common], *([counts[~common].sum()] if rest > 0 else [])]
    assert chisquare(found, [*expected[common], *([rest] if rest > 0 else [])]).pvalue > ERROR_RATE


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer"},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
ASKED = {
    "penalties": SamplingParams(Warp(1.0), logits=PENALTIES),
    "bias": SamplingParams(Warp(0.7), logits=LogitsOptions(logit_bias=((95, 3.0), (6, -2.0)))),
    "schema": SamplingParams(Warp(1.0), logits=LogitsOptions(grammar=convert_schema(PERSON))),
    "schema at 0": SamplingParams(Warp(0.0), logits=LogitsOptions(grammar=convert_schema(PERSON))),
    "expression with penalties": SamplingParams(
        Warp(1.3, 0, 0.9), logits=LogitsOptions(1.2, 1.0, grammar=convert_regex("[a-f ]{3,30}!"))
    ),
    "min-p": SamplingParams(Warp(1.3, min_p=0.1)),
    "all": SamplingParams(
        Warp(1.1, 50, 0.95, 0.01),
        logits=replace(PENALTIES, grammar=convert_schema(PERSON), logit_bias=((9, 2.0),)),
    ),
}


@cache
def bundled(side: str) -> LanguageModel:
    return load(BUNDLED, side)


def answer(system: str, sampling: SamplingParams, seed: int, lag: int = 0) -> Session:
    slm = bundled("slm")
    config = replace(SYSTEMS[system], sampling=replace(sampling, seed=seed, max_new_tokens=40))
    prompt = slm.encode_chat([{"role": "user", "content": f"Tell me tale number {seed}."}])
    return run_session(
        slm, prompt, config, LocalLink(bundled("llm"), lag) if config.needs_cloud else None
    )


@pytest.mark.parametrize("asked", ASKED)
def test_every_exact_system_is_the_llm_alone(asked: str) -> None:
    for seed in range(3):
        alone = answer("llm", ASKED[asked], seed).token_ids
        assert answer("hedge", ASKED[asked], seed, lag=seed).token_ids == alone
        assert answer("gelato", ASKED[asked], seed).token_ids == alone


@pytest.mark.parametrize("system", ["slm", "cu-hlm", "hlm"])
def test_a_grammar_holds_in_every_system(system: str) -> None:
    config = replace(
        SYSTEMS[system],
        sampling=SamplingParams(
            Warp(1.0), logits=LogitsOptions(grammar=convert_regex("[a-e]{4,9}"))
        ),
    )
    if system == "cu-hlm":
        config = config.with_threshold(0.3)
    slm = bundled("slm")
    link = LocalLink(bundled("llm")) if config.needs_cloud else None
    session = run_session(slm, slm.encode_text("abc"), config, link)
    assert 4 <= len(session.text) <= 9
    assert set(session.text) <= set("abcde")
    assert session.finish_reason == "stop"


def test_forced_tokens_cost_no_slm_step_no_bytes_and_no_llm_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One answer that is forced whole, and one that is forced but for a letter. Their time is that
    of no step.
    """
    timed: list[float] = []
    monkeypatch.setattr(SurvivalGate, "observe_step", lambda _, seconds: timed.append(seconds))
    forced = SamplingParams(
        Warp(1.0),
        logits=LogitsOptions(
            grammar=convert_regex("It was a dark and stormy night; the rain fell")
        ),
    )
    whole = answer("hedge", forced, 1)
    assert whole.text == "It was a dark and stormy night; the rain fell"
    assert whole.statistics.steps == 0
    assert whole.statistics.uplink_codec_bytes == 0
    assert {Provenance.ACCEPTED, Provenance.BONUS} >= set(whole.provenance)
    once = answer(
        "hedge",
        replace(
            forced, logits=LogitsOptions(grammar=convert_regex("It was a [dp]ark and stormy night"))
        ),
        1,
    )
    # The id codec needs a byte or two for the one choice there is.
    assert once.statistics.uplink_codec_bytes <= 3 * once.statistics.steps
    assert len(timed) == once.statistics.steps <= 3
    assert answer("llm", forced, 1).statistics.llm_positions == 0


def test_a_policy_that_always_asks_is_exact_under_a_grammar_too() -> None:
    asked = SamplingParams(
        Warp(1.0),
        seed=1,
        max_new_tokens=40,
        logits=LogitsOptions(grammar=convert_regex("It was a [dp]ark night")),
    )
    config = GenerationConfig("always", asked, GateConfig("always"), VerificationConfig("coupled"))
    assert config.guarantee == "exact"
    prompt = bundled("slm").encode_chat([{"role": "user", "content": "Tell me tale number 1."}])
    session = run_session(bundled("slm"), prompt, config, LocalLink(bundled("llm")))
    assert session.token_ids == answer("llm", asked, 1).token_ids


def test_logprobs_are_those_of_whoever_vouches(make_lm: Callable[..., LanguageModel]) -> None:
    """One a token, of the LLM's own softmax, whatever blocks and rollbacks there were; and the
    SLM's where it is alone.
    """
    slm = make_lm(seed=1, vocab=VOCAB)
    llm = make_lm(seed=2, vocab=VOCAB)
    for way, owner in (
        (WAYS["survival"], llm),
        (WAYS["sparse"], llm),
        (config_of(policy="stream"), llm),
        (config_of(policy="never"), slm),
    ):
        for seed in range(20):
            settings = changed(
                way, seed=seed, max_new_tokens=12, max_in_flight=3, logprobs=2, logits=PENALTIES
            )
            link = LocalLink(llm, 1) if settings.needs_cloud else None
            found = emitted(slm, settings, link)
            ids = list(PROMPT)
            for token, told in found:
                row = owner.kv_cache().forward(ids, 1)[0].astype(np.float64)
                values = row - row.max() - np.log(np.exp(row - row.max()).sum())
                assert told is not None
                assert told[0] == pytest.approx(values[token], abs=1e-4)
                assert [one for one, _ in told[1]] == list(np.argsort(-values)[:2])
                ids.append(token)


def emitted(
    slm: LanguageModel, settings: GenerationConfig, link: LocalLink | None
) -> list[tuple[int, object]]:
    import asyncio

    async def run() -> list[tuple[int, object]]:
        session = Session(slm, PROMPT, settings, link)
        found = [(one.token, one.logprobs) async for one in session.tokens()]
        return found[: len(session.token_ids)]

    return asyncio.run(run())
