"""Identity on the bundled pair: `hedge` is the LLM alone, whatever drafts, gates and blocks there
are.
"""

from functools import cache

import pytest

from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.model_options import ModelOptions
from hedge.common.sampling import Warp
from hedge.evaluation.local import LocalLink
from hedge.evaluation.questions import draw_held_out
from tests.configs import changed, config_of
from tests.conftest import run_session
from tests.effort import scaled

PROMPTS = scaled(200)
TOKENS = 20
HEDGE = config_of(
    system="hedge",
    policy="adaptive",
    measure="expected_perturbation",
    threshold=0.2,
    verification="coupled",
    exact=True,
    max_in_flight=8,
    max_new_tokens=TOKENS,
    seed=3,
)


@cache
def model(side: str, dtype: str = "float32") -> LanguageModel:
    return load(BUNDLED, side, ModelOptions(dtype=dtype))


@pytest.mark.statistics
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_hedge_is_the_llm_alone(temperature: float) -> None:
    """Pipelined, waiting, and behind another gate and dtype of the SLM: near ties, where the last
    bit decides, are counted.
    """
    llm = model("llm")
    slm = model("slm")
    ways = [
        (HEDGE, slm, 1),
        (changed(HEDGE, max_in_flight=1), slm, 0),
        (
            changed(HEDGE, policy="threshold", measure="margin", threshold=0.5, max_in_flight=3),
            model("slm", "bfloat16"),
            2,
        ),
    ]
    # At temperature 1 the distribution of the answer, not its length, is at stake: fewer prompts
    # do.
    questions = draw_held_out(PROMPTS if temperature == 0 else max(4, PROMPTS // 5), seed=8)
    tokens = 0
    parted = 0
    for number, question in enumerate(questions):
        prompt = slm.encode_chat([{"role": "user", "content": question.text}])
        warp = Warp(temperature)
        plain = config_of(
            policy="stream", warp=warp, max_new_tokens=TOKENS, seed=HEDGE.sampling.seed
        )
        alone = run_session(slm, prompt, plain, LocalLink(llm)).token_ids
        settings, drafter, lag = ways[number % len(ways)]
        found = run_session(
            drafter, prompt, changed(settings, warp=warp), LocalLink(llm, lag)
        ).token_ids
        tokens += len(alone)
        parted += found != alone
    assert tokens > 10 * len(questions)
    assert parted <= max(1, tokens // 10_000)
