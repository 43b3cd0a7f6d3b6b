"""Convergence: what a learning curve says about longer training, on curves whose answer is known."""

from __future__ import annotations

import copy
from dataclasses import replace
from math import cos, exp, log, pi
from pathlib import Path

import pytest
import torch
from small import TINY, compose

from lagvae.divergences import NegElbo
from lagvae.errors import SettingError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.convergence import Convergence, assess_convergence, effect_of_doubling
from lagvae.experiment.diagnostics import ConstraintResult, Verdict, explain_convergence, overall_verdict
from lagvae.experiment.run import MOST_DOUBLINGS, calibrate, find_calibration, settled_calibration, setup
from lagvae.experiment.summary import below_calibration
from lagvae.experiment.validate import validate
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian, Preference
from lagvae.runs.metrics_table import MetricsTable

STEPS = 5000
LOGGED = range(50, STEPS + 1, 50)
EVALUATED = range(500, STEPS + 1, 500)


def cosine(step: int) -> float:
    return 1e-3 * (1 + cos(pi * step / STEPS)) / 2


def learning_time(step: int, rate: str) -> float:
    """τ in units of the first learning rate, by the exact integral of the schedule."""
    if rate == "constant":
        return step
    return step / 2 + STEPS / (2 * pi) * torch.sin(torch.tensor(pi * step / STEPS, dtype=torch.float64)).item()


def curve(slope: float, rate: str = "cosine", of_rate: float = 0.0) -> tuple[dict[int, float], dict[int, float]]:
    """A curve a − slope · ln τ + of_rate · η / η_0, and the learning rates."""
    rates = {k: cosine(k) if rate == "cosine" else 1e-3 for k in LOGGED}
    values = {}
    for k in EVALUATED:
        eta = cosine(k) if rate == "cosine" else 1e-3
        values[k] = 7.0 - slope * log(learning_time(k, rate)) + of_rate * eta / 1e-3
    return values, rates


@pytest.mark.parametrize("rate", ["cosine", "constant"])
def test_doubling_gains_the_slope_over_the_logarithm_times_ln_2(rate: str) -> None:
    values, rates = curve(2.0, rate, 0.7)
    change, error = effect_of_doubling(values, rates) or (0.0, 0.0)
    # The rates are logged every 50 steps, and the trapezoidal rule on that grid is exact to (π 50 / STEPS)² / 12 ≈ 1e-4.
    assert change == pytest.approx(-2.0 * log(2), rel=1e-2)
    assert error < 1e-2


def test_the_error_covers_the_truth_as_often_as_it_says() -> None:
    covered, repeats = 0, 200
    for seed in range(repeats):
        generator = torch.Generator().manual_seed(seed)
        values, rates = curve(1.0, "cosine", 0.5)
        noisy = {k: v + 0.05 * torch.randn((), generator=generator).item() for k, v in values.items()}
        change, error = effect_of_doubling(noisy, rates) or (0.0, 0.0)
        covered += abs(change + log(2)) < error
    # 95 % of 200 are 190; the standard deviation of the binomial count is 3.1.
    assert abs(covered - 190) < 4 * 3.1


def test_what_a_falling_learning_rate_gains_is_not_taken_for_a_gain_of_training() -> None:
    values, rates = curve(0.0, "cosine", 0.7)
    assert max(values.values()) - min(values.values()) > 0.5
    change, _ = effect_of_doubling(values, rates) or (1.0, 0.0)
    assert abs(change) < 1e-2


def test_too_few_values_give_no_answer() -> None:
    values, rates = curve(2.0)
    late = {k: v for k, v in values.items() if k >= 4000}
    assert effect_of_doubling(late, rates) is None
    assert effect_of_doubling({}, rates) is None
    assert effect_of_doubling(values, {}) is None


# ---- from a run's table


def lagrangian(alpha: float = -2.0, learned: bool = True) -> Lagrangian:
    elbo = Constraint("neg_elbo", NegElbo(), bound=20.0, multiplier=0.5, learned=learned)
    return Lagrangian(Preference(alpha), [elbo])


def write(path: Path, gain: float, drift: float = 0.0, moved: float = 0.0) -> Path:
    """A metrics.csv whose Lagrangian falls by `gain` per doubling, while −ELBO and distortion trade places.

    λ rises by `drift` over the last quarter, and comes to 1 from exp(−1): at another λ the Lagrangian is `moved` ln² λ higher.
    """
    table = MetricsTable(path, 10)
    for k in LOGGED:
        tau = learning_time(k, "cosine")
        trade = 0.3 * cos(
            k / 300
        )  # −ELBO above its bound, at the price λ = 1 (|α| = 2 times 0.5), half a nat of distortion each
        v = 50.0 - gain * log(tau) / log(2) + 0.4 * cosine(k) / 1e-3
        ln_multiplier = min(k / (0.7 * STEPS) - 1, 0.0) if moved else 0.0
        v += moved * ln_multiplier**2
        row = {"train/learning_rate": cosine(k), "train/multiplier/neg_elbo": exp(ln_multiplier) + drift * k / (STEPS / 4)}
        if k in EVALUATED:
            row |= {
                "train_probe/distortion": (v - trade) / 2,
                "train_probe/constraint/neg_elbo": trade,
                "train_probe/rate": 9.0,
            }
        table.log_metrics(row, k)
    table.log_metrics({"train_probe/distortion": 1e6, "train_probe/constraint/neg_elbo": 1e6}, STEPS + 500)
    table.save()
    return path


def test_a_run_that_improves_is_told_from_one_that_has_converged(tmp_path: Path) -> None:
    improving = assess_convergence(write(tmp_path / "a.csv", 1.2), lagrangian(), STEPS)
    still = assess_convergence(write(tmp_path / "b.csv", 0.0), lagrangian(), STEPS)
    assert improving is not None
    assert still is not None
    assert improving.gain == pytest.approx(1.2, rel=2e-2)
    assert improving.moving
    assert not still.moving
    message = explain_convergence(improving, ["neg_elbo"], -2.0, 0.0, STEPS) or ""
    assert "lower bound on I_q was still rising by about 0.6" in message  # per |α| = 2
    assert "training.steps=10000" in message
    unsure = replace(improving, gain=18.2, gain_error=13.6)
    assert "by about 9 ± 7 nats" in (explain_convergence(unsure, ["neg_elbo"], -2.0, 0.0, STEPS) or "")
    assert explain_convergence(still, ["neg_elbo"], -2.0, 0.0, STEPS) is None


def test_a_multiplier_that_moves_is_named_if_its_constraint_is_active(tmp_path: Path) -> None:
    moving = assess_convergence(write(tmp_path / "a.csv", 0.0, drift=0.2), lagrangian(), STEPS)
    assert moving is not None
    assert moving.drift["neg_elbo"] == pytest.approx(0.2, rel=2e-2)  # relative to the final λ of 1, which the model holds
    assert "λ of neg_elbo by +20% over the last quarter" in (explain_convergence(moving, ["neg_elbo"], -2.0, 0.0, STEPS) or "")
    assert explain_convergence(moving, [], -2.0, 0.0, STEPS) is None


def test_that_lambda_came_to_where_it_is_is_not_taken_for_a_gain(tmp_path: Path) -> None:
    found = assess_convergence(write(tmp_path / "a.csv", 0.5, moved=3.0), lagrangian(), STEPS)
    assert found is not None
    assert found.gain == pytest.approx(0.5, rel=2e-2)
    assert found.drifting(["neg_elbo"]) == {}  # over the last quarter λ stood still


def test_nothing_is_said_without_a_curve(tmp_path: Path) -> None:
    assert assess_convergence(tmp_path / "none.csv", lagrangian(), STEPS) is None
    assert assess_convergence(write(tmp_path / "a.csv", 1.2), lagrangian(), 100) is None


def results(*verdicts: Verdict) -> list[ConstraintResult]:
    return [ConstraintResult("d", 1.0, 0.0, 1.0, 1.0, 0.0, 0.1, 0.0, 1.0, v) for v in verdicts]


def test_the_verdict_is_met_only_where_nothing_moves_and_the_calibration_was_long_enough() -> None:
    assert overall_verdict(results(Verdict.ACTIVE)) == "met"
    assert overall_verdict(results(Verdict.ACTIVE), moving=True) == "met, not converged"
    assert overall_verdict(results(Verdict.INACTIVE), moving=True, short_calibration=True) == "met, calibration too short"
    assert overall_verdict(results(Verdict.ACTIVE, Verdict.INFEASIBLE), moving=True) == "infeasible"
    assert overall_verdict(results(Verdict.PENALTY), moving=True) == "unconstrained"


# ---- calibrations


def calibration(neg_elbo: float, gain: float = 0.0, mmd: float = 0.0) -> Calibration:
    convergence = Convergence(gain, 0.0, {}, {}, {}).as_dict()
    return Calibration(
        {"neg_elbo": neg_elbo, "mmd": mmd}, {"neg_elbo": 0.02, "mmd": 1e-4}, "val", {}, {}, convergence=convergence
    )


def test_a_run_below_its_calibration_shows_that_it_was_too_short() -> None:
    cfg = compose(TINY)  # the weights are 1 for −ELBO and 100 for MMD
    measured = {"constraint/neg_elbo": 22.0, "constraint/neg_elbo_stderr": 0.02}
    measured |= {"constraint/mmd": 1e-3, "constraint/mmd_stderr": 1e-4}
    below = below_calibration(cfg, calibration(23.0), {"val": measured})
    assert below == pytest.approx(23.0 - 22.0 - 100 * 1e-3)
    assert below_calibration(cfg, calibration(22.0), {"val": measured}) is None
    assert below_calibration(cfg, calibration(22.0 + TOLERANCE), {"val": measured}) is None
    deviation = (2 * 0.02**2 + 2 * (100 * 1e-4) ** 2) ** 0.5
    for times, told in ((1.9, False), (2.1, True)):
        calibrated = 22.0 + 100 * 1e-3 + TOLERANCE + times * deviation
        assert (below_calibration(cfg, calibration(calibrated), {"val": measured}) is not None) is told
    # less −ELBO at the price of more MMD is no contradiction
    assert below_calibration(cfg, calibration(23.0), {"val": measured | {"constraint/mmd": 1e-2}}) is None
    assert below_calibration(cfg, None, {"val": measured}) is None
    # a bound that was given says nothing of the calibration, from which such a run may only start
    given = ["epsilon=explicit", "constraints.neg_elbo.epsilon=22", "constraints.mmd.epsilon=1e-3"]
    assert below_calibration(compose([*TINY, *given]), calibration(23.0), {"val": measured}) is None


def test_auto_doubles_the_calibration_until_it_has_settled() -> None:
    cfg = compose([*TINY, "calibration.steps=auto"])
    asked: list[int] = []

    def search(values: list[Calibration | None]) -> Calibration | None:
        asked.clear()

        def get(longer: object) -> tuple[Calibration, Path] | None:
            asked.append(longer.calibration.steps)  # type: ignore[attr-defined]
            value = values[len(asked) - 1]
            return None if value is None else (value, Path())

        found = settled_calibration(cfg, get)
        return None if found is None else found[0]

    values = [calibration(24.0, 2.0), calibration(23.0, 1.0), calibration(22.5, 0.0), calibration(22.4, 0.0)]
    assert search(list(values)) is values[2]
    assert asked == [40, 80, 160]
    values = [calibration(24.0, 2.0), calibration(23.0, 1.0), calibration(22.95, 1.0)]
    assert search(list(values)) is values[1]  # the next one lowers ε̂ by less than the tolerance, whatever its curve says
    assert search([values[0], None]) is None
    values = [calibration(24.0 - k, 2.0) for k in range(MOST_DOUBLINGS + 1)]
    assert search(list(values)) is values[-1]


def test_auto_is_found_again_by_the_same_and_by_the_written_out_setting(tmp_path: Path) -> None:
    words = [
        *TINY,
        f"paths.root={tmp_path}",
        "alpha=none",
        "training.steps=20",
        "data=linear_gaussian",
        "data.source.n=600",
        "data.batch=50",
    ]
    auto = compose([*words, "calibration.steps=auto"])
    made = calibrate(auto)
    data, _, used = setup(copy.deepcopy(auto))
    assert used is not None
    assert used.hash == made[0].hash
    found = find_calibration(compose([*words, "calibration.steps=20"]), data)
    assert found is not None
    assert found[0].hash == made[0].hash


def test_other_words_than_auto_are_refused() -> None:
    with pytest.raises(SettingError, match=r"calibration\.steps=long must be a whole number of at least 1, or auto"):
        validate(compose([*TINY, "calibration.steps=long"]))
