"""Rejection fit and thresholds (docs/algorithms.md, section 2.2): what `hedge calibrate` learns and
generation reads.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from hedge.common.errors import BadInput, HedgeError, Incompatible
from hedge.common.sampling import Warp
from hedge.edge_client.engine.verification.bound import grid, strictness

VERSION = 2
LEVELS = 201


@dataclass(frozen=True, slots=True)
class Fit:
    """beta = a u + b for one measure, and how u and the joint risk are distributed over the
    calibration tokens.

    `levels` are the u at evenly spaced skip rates 0..1; `joint_risk[i]` is the mean over prompts of
    L_p = mean over tokens of 1[u <= levels[i]] beta. `bound[i]` is the mean U_TV at the i-th k of
    `bound.grid`. `decay` is the rate of 1 - beta = exp(-decay u), 0 where it was not fitted.
    """

    a: float
    b: float
    r2: float
    pearson: float
    levels: tuple[float, ...]
    joint_risk: tuple[float, ...]
    bound: tuple[float, ...] = ()
    decay: float = 0.0

    def skip_rate(self, threshold: float) -> float:
        """Share of calibration tokens with u <= threshold, to the resolution of `levels`."""
        return float(np.searchsorted(np.asarray(self.levels[1:]), threshold, side="right")) / (
            len(self.levels) - 1
        )


def fit_measure(uncertainty: Sequence[np.ndarray], rejection: Sequence[np.ndarray]) -> Fit:
    """Ordinary least squares over all tokens; one array per prompt on both sides."""
    u = np.concatenate(list(uncertainty))
    beta = np.concatenate(list(rejection))
    spread = float(u.var())
    covariance = float(((u - u.mean()) * (beta - beta.mean())).mean())
    a = covariance / spread if spread > 0 else 0.0
    b = float(beta.mean()) - a * float(u.mean())
    total = float(beta.var())
    pearson = covariance / math.sqrt(spread * total) if spread > 0 and total > 0 else 0.0
    levels = np.quantile(u, np.linspace(0, 1, LEVELS), method="inverted_cdf")
    weights = np.concatenate([b_p / (len(b_p) * len(rejection)) for b_p in rejection])
    order = np.argsort(u)
    risk = np.append(0.0, np.cumsum(weights[order]))[
        np.searchsorted(u[order], levels, side="right")
    ]
    return Fit(
        a,
        b,
        pearson**2,
        pearson,
        tuple(map(float, levels)),
        tuple(map(float, risk)),
        decay=decay_rate(u, beta),
    )


def decay_rate(u: np.ndarray, beta: np.ndarray) -> float:
    """Least squares of exp(-rate u) to 1 - beta: Newton's method from the slope at 0, at most 50
    steps.
    """
    rate = 0.0
    for _ in range(50):
        model = np.exp(-rate * u)
        slope = u * model
        if not (curvature := float(slope @ slope)):
            break
        step = float((model - (1 - beta)) @ slope) / curvature
        rate = max(0.0, rate + step)
        if abs(step) < 1e-9 * max(1.0, rate):
            break
    return rate


def with_bound(
    fit: Fit, uncertainty: np.ndarray, drafted: np.ndarray, distances: np.ndarray, eta: float
) -> Fit:
    """Adds the mean U_TV(k) over tokens: u and x_d [n], `flattening` at the k of the grid [n,
    grid].
    """
    beta = np.clip(fit.a * uncertainty + fit.b, 0, 1)
    return replace(
        fit,
        bound=tuple(map(float, (1 / strictness(drafted, beta, eta)) @ distances / len(drafted))),
    )


def hoeffding_bentkus(mean: float, count: int, limit: float) -> float:
    """p-value of "the expected loss exceeds `limit`" for `count` independent losses in [0, 1] with
    this mean (Bates 2021).
    """
    if mean >= limit:
        return 1.0
    divergence = (1 - mean) * math.log((1 - mean) / (1 - limit)) + (
        mean * math.log(mean / limit) if mean > 0 else 0.0
    )
    hits = math.ceil(count * mean)
    tail = sum(
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(i + 1)
            - math.lgamma(count - i + 1)
            + i * math.log(limit)
            + (count - i) * math.log1p(-limit)
        )
        for i in range(hits + 1)
    )
    return min(1.0, math.exp(-count * divergence), math.e * tail)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fits of every measure for one pair of models under one warp, with the sizes of the sample."""

    slm: str
    llm: str
    tokenizer: str
    warp: Warp
    prompts: int
    tokens: int
    overshoot: float
    eta: float
    vocab_size: int
    fits: dict[str, Fit]

    def check(self, slm: str, llm: str, tokenizer: str, warp: Warp) -> None:
        """Incompatible, both values named, unless it was made for exactly this."""
        for what, own, other in (
            ("SLM", self.slm, slm),
            ("LLM", self.llm, llm),
            ("tokenizer", self.tokenizer, tokenizer),
            ("warp", self.warp, warp),
        ):
            if own != other:
                raise Incompatible(
                    f"the calibration is for {what} {own}, not {other}: run hedge calibrate, or "
                    "give --threshold"
                )

    def threshold(
        self, measure: str, rule: str, *, max_risk: float, delta: float, skip_rate: float
    ) -> float | None:
        """u_th by `rule`; None means ask always (no threshold keeps the risk)."""
        fit = self.fits[measure]
        if rule == "quantile":
            return fit.levels[round(skip_rate * (len(fit.levels) - 1))] if skip_rate > 0 else None
        if rule == "max-risk":
            return self._max_risk(fit, max_risk, delta)
        if fit.a <= 0:
            raise HedgeError(
                f"the calibration of {measure} has slope {fit.a:.3g}, not above 0: uncertainty "
                "does not predict rejection"
            )
        return (0.0 if rule == "risk-averse" else self.overshoot) / fit.a - fit.b / fit.a

    def _max_risk(self, fit: Fit, limit: float, delta: float) -> float | None:
        """The largest u_th whose joint risk has an upper confidence bound at or below `limit` at
        level 1 - delta.

        The joint risk is monotone in u_th with a fixed denominator, so that scanning it needs no
        correction.
        """
        if hoeffding_bentkus(0.0, self.prompts, limit) > delta:
            raise HedgeError(
                f"{self.prompts} calibration prompts cannot certify a risk of {limit:g} at level "
                f"{1 - delta:g}, even without a "
                "single rejection: calibrate on more prompts"
            )
        passing = [
            level
            for level, risk in zip(fit.levels, fit.joint_risk, strict=True)
            if hoeffding_bentkus(risk, self.prompts, limit) <= delta
        ]
        return max(passing) if passing else None

    def smallest_k(self, measure: str, theta: float, eta: float) -> int:
        """k* of truncation `offline`: the smallest of the grid whose mean U_TV over the calibration
        is within theta.
        """
        if eta != self.eta:
            raise Incompatible(
                f"the calibration has its bound for eta {self.eta:g}, not {eta:g}: run hedge "
                "calibrate --eta"
            )
        within = np.asarray(self.fits[measure].bound) <= theta
        return int(grid(self.vocab_size)[int(np.argmax(within))])

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """What `to_json` wrote. BadInput, ValueError, TypeError, KeyError or AttributeError for
        anything else.
        """
        if data.pop("version") != VERSION:
            raise BadInput(f"a calibration of another version than {VERSION}")
        data.pop("summary", None)
        fits = {name: _fit(fit) for name, fit in data["fits"].items()}
        return cls(**{**data, "warp": Warp(**data["warp"]), "fits": fits})


def _fit(data: dict[str, Any]) -> Fit:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
    return Fit(**values)
