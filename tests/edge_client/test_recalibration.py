import asyncio
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.model import LanguageModel
from hedge.edge_client.engine.gates.recalibration import (
    LONGEST,
    RATE,
    Recalibrated,
    recalibration_of,
)
from hedge.edge_client.engine.session import Session
from hedge.evaluation.local import LocalLink
from tests.configs import changed, config_of
from tests.conftest import RememberingLM
from tests.effort import scaled


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30), max_size=80
    ),
    st.floats(0.001, 0.3),
    st.floats(0, 1),
)
def test_the_mean_loss_keeps_its_bound_whatever_comes(
    messages: list[list[tuple[float, float]]], epsilon: float, start: float
) -> None:
    """An adversary picks (u, beta) of every token; a message ends at the first one that asks."""
    policy = Recalibrated(start, epsilon)
    losses = list[float]()
    for message in messages:
        skipped = []
        for u, beta in message:
            policy.observe_draft(u)
            if policy.asks(u, 0):
                break
            skipped.append(beta)
        else:
            # Unaudited as yet: the answer ended.
            continue
        for loss in [*skipped, 0.0]:
            policy.observe_audit(loss)
            losses.append(loss)
    if losses:
        assert np.mean(losses) <= epsilon + (start + RATE * LONGEST) / (RATE * len(losses)) + 1e-9


def test_a_bad_threshold_is_put_right_by_the_audit(make_lm: Callable[..., LanguageModel]) -> None:
    """Two unrelated models, everything skipped at first: the realised risk comes down to what was
    asked for.
    """
    slm = RememberingLM(make_lm(seed=1, vocab=5))
    llm = RememberingLM(make_lm(seed=2, vocab=5))
    settings = config_of(
        policy="threshold",
        measure="entropy",
        threshold=1.0,
        recalibrate=0.1,
        draft_from="sent",
        k=2,
        max_new_tokens=20,
    )
    recalibrated = recalibration_of(settings)
    assert recalibrated is not None
    risk = audited = 0.0
    for seed in range(scaled(60, 20)):
        session = Session(
            slm,
            [1, 2, seed % 5],
            changed(settings, seed=seed),
            LocalLink(llm),
            recalibrated=recalibrated,
        )

        async def drain(session: Session = session) -> None:
            await session.run()

        asyncio.run(drain())
        risk = risk + session.statistics.risk
        audited = audited + session.statistics.audited
    assert recalibrated.limit < 1.0
    assert risk / audited <= 0.1 + (1.0 + RATE * LONGEST) / (RATE * audited)
