"""Whether an engine that scores prompts gives a position the same logprobs in whatever company it
is scored.
"""

import asyncio
from collections.abc import Sequence

import numpy as np

from hedge.cloud_server.engines.scoring import Scorer
from hedge.cloud_server.engines.self_check import ROUNDING, Exactness
from hedge.cloud_server.verification.certificate import Top
from hedge.common.errors import Incompatible
from hedge.common.model import LanguageModel

# Ids of the text, longer than a block of the engine's cache where that is short, and how many of
# its rows are compared.
IDS = 72
ROWS = 8
COUNT = 64
# Tokens that the engine streams are drawn from its logits, those of verdicts from logprobs, which
# float32 rounds once more.
FLOOR = 1e-5


async def check_scorer(scorer: Scorer, lm: LanguageModel) -> Exactness:
    """Scores one text in several ways. Incompatible for an engine whose rows change by more than
    rounding.
    """
    size = min(IDS, lm.context - 1)
    count = min(COUNT, lm.vocab_size)
    rows = min(ROWS, size)
    texts = np.random.default_rng(0).integers(0, lm.vocab_size, (4, size)).tolist()
    text = texts[0]
    (row,) = (await scorer.score(text, 1, None)).tops
    spread = float(row.logprobs.std()) if row else 0.0
    expected = (await scorer.score(text, rows, count)).tops
    ways: list[tuple[str, Sequence[Top | None]]] = []
    alone = [
        (await scorer.score(text[: size - rows + number + 1], 1, count)).tops[0]
        for number in range(rows)
    ]
    ways.append(("when it is judged alone", alone))
    beside = await asyncio.gather(*(scorer.score(one, rows, count) for one in (*texts[1:], text)))
    ways.append(("beside other sessions", beside[-1].tops))
    worst = 0.0
    compared = 0
    for way, tops in ways:
        for one, other in zip(expected, tops, strict=True):
            if one is None or other is None:
                continue
            apart = _apart(one, other)
            if np.isnan(apart):
                continue
            if apart > ROUNDING * spread:
                raise Incompatible(
                    f"{lm.name} cannot verify: the logprobs of a position change by more than "
                    f"rounding {way}"
                )
            worst = max(worst, apart)
            compared = compared + 1
    return Exactness(max(worst, FLOOR), compared)


def _apart(one: Top, other: Top) -> float:
    """The largest difference of a logprob that both tell."""
    _, mine, theirs = np.intersect1d(one.ids, other.ids, return_indices=True)
    if not len(mine):
        return float("inf")
    return float(np.abs(one.logprobs[mine] - other.logprobs[theirs]).max())
