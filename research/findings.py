"""Numbers out of a token study: which measure predicts what, at which cost, and whether max-risk
keeps its word.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hedge.common.sampling import Warp
from hedge.edge_client.engine.gates.calibration import Calibration, fit_measure
from hedge.edge_client.engine.gates.measures import MEASURES
from research.study import auc, column, pearson

RESAMPLES = 50


def predictors(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per measure: Pearson with TV(x, y) and with the draft's beta, AUC for rejection, and its cost
    over perturbation's.
    """
    beta = column(entries, "beta")
    tv = column(entries, "tv")
    rejected = np.concatenate(column(entries, "rejected"))
    seconds = {
        name: float(np.median([entry["seconds"][name] for entry in entries])) for name in MEASURES
    }
    found = {}
    for name in MEASURES:
        us = column(entries, "u", name)
        found[name] = {
            "pearson_tv": pearson(us, tv),
            "pearson_beta": pearson(us, beta),
            "r2_beta": fit_measure(us, beta).r2,
            "auc": auc(np.concatenate(us), rejected),
            "cost": seconds[name] / seconds["perturbation"],
        }
    return found


def max_risk_trials(
    entries: Sequence[dict[str, Any]],
    measure: str,
    epsilon: float,
    delta: float,
    calibrated: int,
    seed: int = 0,
) -> tuple[int, int, float]:
    """Over RESAMPLES splits of the prompts: how often the disjoint rest's joint risk exceeds
    epsilon, the number of splits in which a threshold was found, and the mean share it skips.
    """
    rng = np.random.default_rng(seed)
    us = column(entries, "u", measure)
    betas = column(entries, "beta")
    exceeded = 0
    feasible = 0
    skipped = 0.0
    for _ in range(RESAMPLES):
        order = rng.permutation(len(us))
        own = order[:calibrated]
        rest = order[calibrated:]
        fit = fit_measure([us[i] for i in own], [betas[i] for i in own])
        calibration = Calibration("", "", "", Warp(), calibrated, 0, 0.0, 1.0, 1, {measure: fit})
        limit = calibration.threshold(
            measure, "max-risk", max_risk=epsilon, delta=delta, skip_rate=0.0
        )
        if limit is not None:
            feasible += 1
            exceeded += (
                float(np.mean([np.where(us[i] <= limit, betas[i], 0).mean() for i in rest]))
                > epsilon
            )
            skipped += float(np.mean(np.concatenate([us[i] for i in rest]) <= limit))
    return exceeded, feasible, skipped / max(1, feasible)
