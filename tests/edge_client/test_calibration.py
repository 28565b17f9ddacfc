from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hedge.common.errors import BadInput, HedgeError, Incompatible
from hedge.common.sampling import Warp
from hedge.edge_client.calibrations import load_calibration, save_calibration
from hedge.edge_client.engine.gates.calibration import Calibration, fit_measure, hoeffding_bentkus


def sample(prompts: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Prompts of correlated tokens whose rejection grows with u, more on hard prompts."""
    rng = np.random.default_rng(seed)
    us = []
    betas = []
    for _ in range(prompts):
        hard = rng.random() < 0.3
        u = rng.beta(1, 3, size=rng.integers(5, 40))
        us.append(u)
        betas.append(
            np.clip(0.9 * u - 0.05 + rng.normal(0, 0.05, len(u)), 0, 1) * (2 if hard else 0.5)
        )
    return us, [np.clip(b, 0, 1) for b in betas]


def made(prompts: int = 400) -> Calibration:
    us, betas = sample(prompts)
    every = np.concatenate(betas)
    return Calibration(
        "s",
        "l",
        "t",
        Warp(),
        prompts,
        len(every),
        float((every > 0).mean()),
        1.0,
        8,
        {"entropy": fit_measure(us, betas)},
    )


def threshold(calibration: Calibration, rule: str, **changes: float) -> float | None:
    options = {"max_risk": 0.1, "delta": 0.1, "skip_rate": 0.5} | changes
    return calibration.threshold("entropy", rule, **options)


def test_the_fit_is_ordinary_least_squares() -> None:
    us, betas = sample(100)
    u = np.concatenate(us)
    beta = np.concatenate(betas)
    slope, intercept = np.polyfit(u, beta, 1)
    fit = fit_measure(us, betas)
    assert (fit.a, fit.b) == (pytest.approx(slope), pytest.approx(intercept))
    assert fit.pearson == pytest.approx(np.corrcoef(u, beta)[0, 1])
    assert fit.r2 == pytest.approx(
        1 - ((beta - slope * u - intercept) ** 2).sum() / ((beta - beta.mean()) ** 2).sum()
    )


def test_paper_thresholds() -> None:
    calibration = made()
    fit = calibration.fits["entropy"]
    averse = threshold(calibration, "risk-averse")
    prone = threshold(calibration, "risk-prone")
    assert averse == pytest.approx(-fit.b / fit.a)
    assert prone == pytest.approx((calibration.overshoot - fit.b) / fit.a)


def test_quantile_skips_the_share() -> None:
    calibration = made()
    u = np.concatenate(sample(400)[0])
    for share in (0.2, 0.5, 0.75):
        limit = threshold(calibration, "quantile", skip_rate=share)
        assert (u <= limit).mean() == pytest.approx(share, abs=0.01)
        assert calibration.fits["entropy"].skip_rate(limit or 0) == pytest.approx(share, abs=0.01)
    assert threshold(calibration, "quantile", skip_rate=0.0) is None


def test_max_risk_holds_on_fresh_prompts_as_often_as_it_says() -> None:
    """Over repeated calibrations the true joint risk of the chosen threshold exceeds epsilon at
    most in a delta share.
    """
    epsilon = 0.08
    delta = 0.1
    violations = 0
    runs = 60
    fresh_u, fresh_beta = sample(4000, seed=999)
    for run in range(runs):
        us, betas = sample(200, seed=run)
        calibration = Calibration(
            "s", "l", "t", Warp(), 200, 0, 0.5, 1.0, 8, {"entropy": fit_measure(us, betas)}
        )
        limit = threshold(calibration, "max-risk", max_risk=epsilon, delta=delta)
        assert limit is not None
        risk = np.mean(
            [np.where(u <= limit, b, 0).mean() for u, b in zip(fresh_u, fresh_beta, strict=True)]
        )
        violations += risk > epsilon
    # Binomial(60, 0.1) reaches 14 less than once in 500.
    assert violations <= 13


def test_max_risk_with_too_few_prompts_refuses_and_with_no_feasible_threshold_asks_always() -> None:
    few = made(30)
    with pytest.raises(HedgeError, match="30 calibration prompts"):
        threshold(few, "max-risk", max_risk=0.02)
    hopeless = replace(
        made(), fits={"entropy": fit_measure([np.zeros(9)] * 400, [np.ones(9)] * 400)}
    )
    assert threshold(hopeless, "max-risk") is None


def test_hoeffding_bentkus_is_monotone_and_needs_the_prompts_it_needs() -> None:
    assert hoeffding_bentkus(0.0, 114, 0.02) <= 0.1 < hoeffding_bentkus(0.0, 113, 0.02)
    values = [hoeffding_bentkus(mean, 300, 0.1) for mean in np.linspace(0, 0.12, 30)]
    assert values == sorted(values)
    assert values[-1] == 1


def test_a_flat_or_falling_slope_is_an_error() -> None:
    us, betas = sample(50)
    falling = replace(made(), fits={"entropy": fit_measure(us, [1 - b for b in betas])})
    with pytest.raises(HedgeError, match="slope"):
        threshold(falling, "risk-averse")


def test_files_round_trip_and_belong_to_one_pair(tmp_path: Path) -> None:
    calibration = made()
    path = tmp_path / "c.json"
    save_calibration(calibration, path)
    assert load_calibration(path) == calibration
    calibration.check("s", "l", "t", Warp())
    for other in (
        ("S", "l", "t", Warp()),
        ("s", "L", "t", Warp()),
        ("s", "l", "T", Warp()),
        ("s", "l", "t", Warp(0.5)),
    ):
        with pytest.raises(Incompatible):
            calibration.check(*other)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 7}', '{"version": 1, "fits": {"entropy": 3}}']
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"broken\.json"):
        load_calibration(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.json"
    path.write_text("old")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(HedgeError, match="No space left"):
        save_calibration(made(), path)
    assert path.read_bytes() == b"old"
