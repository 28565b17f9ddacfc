"""What the two models think of the same tokens: every measure of uncertainty, rejection, and what
truncation would do.

The tokens are answers of the LLM, so the statistics are those of the LLM's own prefixes, every
token asked; one forward of each model an answer. Drafts and coins are keyed like a session's.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp, draw, residual
from hedge.edge_client.config import ETA
from hedge.edge_client.engine.gates.calibration import Fit
from hedge.edge_client.engine.gates.measures import DRAWS, MEASURES
from hedge.edge_client.engine.statistics import rejection
from hedge.edge_client.engine.verification.bound import flattening, strictness

KS = (1, 2, 4, 8, 16, 30, 64, 128, 256, 512, 1024)
NO_COINS = np.empty(0)
KEPT = ("bound", "flattening", "residuals", "tested", "acceptance")


@dataclass(frozen=True, slots=True)
class Context:
    """Both models and the warp; `fit` gives the beta of the published bound."""

    slm: LanguageModel
    llm: LanguageModel
    warp: Warp
    seed: int
    measure: str
    fit: Fit


class Answered(Protocol):
    """An answer of the LLM, in ids."""

    @property
    def task(self) -> int: ...

    @property
    def prompt_ids(self) -> list[int]: ...

    @property
    def token_ids(self) -> list[int]: ...


def study(
    context: Context, answers: Sequence[Answered], truncated: int
) -> Iterator[dict[str, Any]]:
    """One entry an answer; the first `truncated` also say what each k of KS does, averaged over
    their tokens.
    """
    for number, answer in enumerate(answers):
        history = answer.prompt_ids + answer.token_ids
        rows = len(answer.token_ids)
        mine = context.slm.kv_cache().forward(history[:-1], rows)
        theirs = context.llm.kv_cache().forward(history[:-1], rows)
        noise = Noise(context.seed, answer.prompt_ids)
        entry: dict[str, Any] = {
            "task": answer.task,
            "beta": [],
            "rejected": [],
            "tv": [],
            "u": {name: [] for name in MEASURES},
        }
        seconds: dict[str, list[float]] = {name: [] for name in MEASURES}
        effects = []
        for t, (z, z_llm) in enumerate(zip(mine, theirs, strict=True)):
            x = context.warp(z)
            y = context.warp(z_llm)
            d = draw(x, noise.uniform(Purpose.DRAFT, t))
            for name, measure in MEASURES.items():
                started = time.perf_counter()
                coins = (
                    NO_COINS
                    if measure.draft_independent
                    else noise.uniforms(Purpose.GATE, t, count=2 * DRAWS)
                )
                u = measure.of(z, x, d, coins)
                seconds[name].append(time.perf_counter() - started)
                entry["u"][name].append(round(u, 6))
            beta = rejection(float(x[d]), float(y[d]))
            entry["beta"].append(round(beta, 6))
            entry["rejected"].append(int(noise.uniform(Purpose.ACCEPT, t) < beta))
            entry["tv"].append(round(0.5 * float(np.abs(x - y).sum()), 6))
            if number < truncated:
                expected = float(
                    np.clip(context.fit.a * entry["u"][context.measure][-1] + context.fit.b, 0, 1)
                )
                effects.append(effect(x, y, float(x[d]), expected))
        entry["seconds"] = {name: float(np.median(found)) for name, found in seconds.items()}
        if effects:
            entry["k"] = np.mean(effects, axis=0).round(7).tolist()
        yield entry


def effect(
    x: np.ndarray, y: np.ndarray, drafted: float, beta: float, ks: Sequence[int] = KS
) -> np.ndarray:
    """[k, KEPT] of the paper's truncation: U_TV, half the flattening, and the true distances and
    acceptance.

    `residuals` is the distance between the distributions a rejected token is redrawn from, with x
    and with x_hat; `tested` the distance of a tested token's distribution from y when the draft
    comes from x.
    """
    inside = np.array([k for k in ks if k <= len(x)])
    away = flattening(x, inside)
    order = np.argsort(-x, kind="stable")
    with_x = _normalised(residual(y, x))
    found = np.zeros((len(inside), len(KEPT)))
    for i, k in enumerate(inside):
        x_hat = x.copy()
        if k < len(x):
            x_hat[order[k:]] = x[order[k:]].sum() / (len(x) - k)
        kept = x * np.minimum(1.0, np.divide(y, x_hat, out=np.ones_like(y), where=x_hat > 0))
        with_x_hat = _normalised(residual(y, x_hat))
        probs = kept + (1 - kept.sum()) * with_x_hat
        found[i] = (
            away[i] / float(strictness(drafted, beta, ETA)),
            0.5 * away[i],
            0.5 * float(np.abs(with_x - with_x_hat).sum()),
            0.5 * float(np.abs(probs - y).sum()),
            float(kept.sum()),
        )
    return found


def _normalised(weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights / weights.sum())


def column(
    entries: Sequence[dict[str, Any]], name: str, measure: str | None = None
) -> list[np.ndarray]:
    """One array an answer."""
    return [
        np.asarray(entry[name] if measure is None else entry[name][measure], dtype=float)
        for entry in entries
    ]


def pearson(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    return float(np.corrcoef(np.concatenate(list(a)), np.concatenate(list(b)))[0, 1])


def auc(u: np.ndarray, rejected: np.ndarray) -> float:
    """Pr(u of a rejected token > u of an accepted one), ties half."""
    from scipy.stats import rankdata

    ranks = rankdata(u)
    ones = rejected.sum()
    return float((ranks[rejected > 0].sum() - ones * (ones + 1) / 2) / (ones * (len(u) - ones)))
