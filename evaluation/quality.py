"""How good answers are: exact match, accuracy relative to the LLM, fidelity, perplexity, chrF."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hedge.common.errors import HedgeError
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp, softmax
from hedge.evaluation.record import AnswerRecord
from hedge.evaluation.tasks import FILE_FAMILY

RESAMPLES = 2000
LEVEL = 0.95


def interval(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of sum(numerator) / sum(denominator) over paired items; NaN where a
    resample has none.
    """
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(numerator), (RESAMPLES, len(numerator)))
    below = denominator[picked].sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = numerator[picked].sum(axis=1) / below
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def relative_accuracy(
    own: Sequence[AnswerRecord], llm: Sequence[AnswerRecord]
) -> tuple[float, float, float] | None:
    """Accuracy over the LLM's on the same tasks, with a paired 95 % interval; None where the LLM is
    never right.
    """
    theirs = {answer.task: answer.correct for answer in llm}
    pairs = [
        (a.correct, theirs[a.task])
        for a in own
        if a.correct is not None and theirs.get(a.task) is not None
    ]
    right = np.array(pairs, dtype=float).reshape(-1, 2)
    if not right[:, 1].sum():
        return None
    return float(right[:, 0].sum() / right[:, 1].sum()), *interval(right[:, 0], right[:, 1])


def chrf(answers: Sequence[AnswerRecord]) -> float | None:
    """Corpus chrF (sacrebleu) of whole replies against the references of a prompt file; None
    without any.
    """
    judged = [
        answer
        for answer in answers
        if answer.family == FILE_FAMILY and answer.reference is not None
    ]
    if not judged:
        return None
    return float(
        chrf_metric()
        .corpus_score([a.text for a in judged], [[a.reference or "" for a in judged]])
        .score
    )


def chrf_metric() -> Any:
    """sacrebleu's chrF; HedgeError where it is not installed."""
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise HedgeError("chrF needs sacrebleu: pip install 'hedge-hlm[bench]'") from None
    return CHRF()


def judge(
    slm: LanguageModel, llm: LanguageModel, answers: Sequence[AnswerRecord], warp: Warp
) -> tuple[float, float]:
    """Fidelity and LLM perplexity of answers.

    Fidelity is 1 - the mean over positions of the distance between the distribution a token was
    drawn from and the LLM's warped distribution: TV(x, y) where it was released untested, 0 where
    the LLM tested it. Perplexity is of the unwarped LLM.
    """
    distance = 0.0
    surprise = 0.0
    count = 0
    for answer in answers:
        history = answer.prompt_ids + answer.token_ids
        rows = len(answer.token_ids)
        theirs = llm.kv_cache().forward(history[:-1], rows)
        if untested := [
            i for i, kind in enumerate(answer.provenance) if kind in ("local", "offline")
        ]:
            mine = slm.kv_cache().forward(history[:-1], rows)
            distance += sum(
                0.5 * float(np.abs(warp(mine[i]) - warp(theirs[i])).sum()) for i in untested
            )
        for token, logits in zip(answer.token_ids, theirs, strict=True):
            surprise -= float(np.log(max(softmax(logits)[token], 1e-300)))
        count += rows
    return 1 - distance / count, float(np.exp(surprise / count))
