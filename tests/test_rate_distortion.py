"""The optimum of linear networks on Gaussian data: the closed form against a general optimiser, and training against it."""

from __future__ import annotations

from math import inf, log, nextafter, pi

import numpy as np
import pytest
import torch
from scipy import optimize
from small import compose
from torch import Tensor

from lagvae.errors import SettingError
from lagvae.experiment.factory import build_data
from lagvae.experiment.run import train
from lagvae.oracles import LinearGaussian, WaterFilling

SIGNS = [pytest.param(-1.0, id="maximise"), pytest.param(1.0, id="minimise")]


def problem(dim: int = 5, latent: int = 2, seed: int = 0) -> WaterFilling:
    """A covariance whose eigenvalues all differ, and which no model of the family has."""
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return WaterFilling(root @ root.mT + 0.1 * torch.eye(dim, dtype=torch.float64), latent)


def value(exact: WaterFilling, alpha: float, epsilon: float) -> float:
    best = exact.optimum(alpha, epsilon)
    return alpha * best.rate if alpha > 0 else -alpha * best.distortion


@pytest.mark.parametrize("level", [0.01, 0.3, 1.0, 4.0])
def test_the_model_of_a_point_of_the_curve_has_its_rate_and_distortion(level: float) -> None:
    exact = problem()
    point = exact.at(level)
    world, a, t = exact.model(point)
    assert float(world.rate(a, t)) == pytest.approx(point.rate, abs=1e-9)
    assert float(world.distortion(a, t)) == pytest.approx(point.distortion, abs=1e-9)
    # At such a point q(z) = p(z), so that the rate equals the information.
    assert float(world.kl_q_z(a, t)) == pytest.approx(0, abs=1e-9)
    assert float(world.i_q(a, t)) == pytest.approx(point.rate, abs=1e-9)


def test_the_rate_is_the_rate_distortion_function_of_a_gaussian_source() -> None:
    # Where d is at least the number of μ > v, a rate of ½ Σ log(μ/v) nats allows the error Σ min(μ, v) (Cover & Thomas, 2006,
    # theorem 10.3.3).
    cov = torch.diag(torch.tensor([4.0, 2.0, 0.5], dtype=torch.float64))
    point = WaterFilling(cov, 2).at(1.0)
    assert point.rate == pytest.approx(0.5 * log(4) + 0.5 * log(2), abs=1e-12)
    assert 3 * point.variance == pytest.approx(1 + 1 + 0.5, abs=1e-12)
    assert point.distortion == pytest.approx(1.5 * log(2 * pi * 2.5 / 3) + 1.5, abs=1e-12)


@pytest.mark.parametrize("alpha", [-2.0, -1.0, 0.5, 1.0])
@pytest.mark.parametrize("slack", [0.05, 0.3, 0.8])
def test_the_optimum_meets_its_bound_and_its_multiplier_is_the_shadow_price(alpha: float, slack: float) -> None:
    exact, step = problem(), 1e-4
    epsilon = exact.least.neg_elbo + slack
    best = exact.optimum(alpha, epsilon)
    assert best.neg_elbo == pytest.approx(epsilon, abs=1e-9)
    # Central differences have the error step² V‴/6. V‴ is largest at small slack, where V ∼ √slack: 1e-8 · slack^(−5/2) ≤ 2e-5.
    slope = -(value(exact, alpha, epsilon + step) - value(exact, alpha, epsilon - step)) / (2 * step)
    assert best.multiplier == pytest.approx(slope, rel=2e-5)
    # The solution depends on λ and α only through their ratio.
    assert best.multiplier / abs(alpha) == pytest.approx(exact.optimum(alpha / abs(alpha), epsilon).multiplier, rel=1e-9)


@pytest.mark.parametrize("alpha", SIGNS)
def test_no_linear_model_has_a_lower_lagrangian(alpha: float) -> None:
    """A general optimiser over W, s, A and t, from random starting points, converges to the closed form."""
    exact = problem(4, 2)
    n, d = 4, 2
    best = exact.optimum(alpha, exact.least.neg_elbo + 0.4)

    def lagrangian(theta: Tensor) -> Tensor:
        w, a, log_t, log_s = theta[: n * d].view(n, d), theta[n * d : 2 * n * d].view(d, n), theta[-d - 1 : -1], theta[-1]
        t, residual = log_t.exp(), torch.eye(n) - w @ a
        error = (residual @ exact.cov @ residual.mT).trace() + (w * t).square().sum()
        rate = 0.5 * ((a @ exact.cov @ a.mT).trace() + (t.square() - 1).sum()) - log_t.sum()
        distortion = 0.5 * (n * (log(2 * pi) + 2 * log_s) + error * (-2 * log_s).exp())
        f = alpha * rate if alpha > 0 else -alpha * distortion
        return f + best.multiplier * (rate + distortion)

    def with_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(theta).requires_grad_(True)
        out = lagrangian(at)
        return float(out.detach()), torch.autograd.grad(out, at)[0].numpy()

    generator = np.random.default_rng(0)
    found = [
        optimize.minimize(with_gradient, 0.5 * generator.normal(size=2 * n * d + d + 1), jac=True, method="BFGS").fun
        for _ in range(8)
    ]
    exactly = (alpha * best.rate if alpha > 0 else -alpha * best.distortion) + best.multiplier * best.neg_elbo
    # BFGS stops where the gradient is below 1e-5. The error of the value is its square over the curvature, far below 1e-6.
    assert min(found) == pytest.approx(exactly, abs=1e-6)


def test_the_least_neg_elbo_is_that_of_principal_components() -> None:
    world = LinearGaussian.random(6, 2, 0.5, seed=1)
    exact = WaterFilling(world.cov_x, 2)
    # On data of the model itself the smallest −ELBO is their entropy, and λ is unbounded there.
    assert exact.least.neg_elbo == pytest.approx(float(world.entropy_x), abs=1e-9)
    assert exact.least.variance == pytest.approx(0.25, abs=1e-9)
    assert exact.least.rate == pytest.approx(float(world.i_p), abs=1e-9)
    assert exact.optimum(1.0, exact.least.neg_elbo).rate == pytest.approx(exact.least.rate, abs=1e-6)


@pytest.mark.parametrize("alpha", SIGNS)
def test_the_multiplier_is_infinite_at_the_least_neg_elbo_and_never_negative(alpha: float) -> None:
    for seed in range(20):
        exact = problem(seed=seed)
        least = exact.least
        best = exact.optimum(alpha, least.neg_elbo)
        assert (best.multiplier, best.level) == (inf, least.level)
        for ulps in range(1, 20):  # −ELBO has its minimum there, so that all of these ε belong to levels 1e-8 apart
            assert exact.optimum(alpha, least.neg_elbo + ulps * 2e-15).multiplier > 1e5


@pytest.mark.parametrize("dim", [3, 5, 9])
def test_a_bound_that_the_collapsed_model_meets_is_inactive(dim: int) -> None:
    for seed in range(200):
        exact = problem(dim, dim - 1, seed)
        best = exact.optimum(1.0, 100.0)
        # The level is the largest eigenvalue itself, so that no direction contributes to the rate: zero without rounding.
        assert (best.rate, best.multiplier, best.level) == (0.0, 0.0, float(exact.eigenvalues[0]))
        assert best.neg_elbo < 100.0
        assert exact.optimum(1.0, best.neg_elbo) == best


def test_a_bound_just_below_the_collapsed_model_is_solved() -> None:
    for seed in range(200):
        exact = problem(seed=seed)
        collapsed = exact.optimum(1.0, 100.0)
        best = exact.optimum(1.0, nextafter(collapsed.neg_elbo, 0.0))
        # d(−ELBO)/dv > 0 at the largest eigenvalue: a change of −ELBO by one unit in the last place, and the search's own
        # tolerance of 1e-14 in log v, change the rate by no more than some 1e-13.
        assert 0 <= best.rate < 1e-12
        assert best.multiplier == pytest.approx(1 / (best.level / best.variance - 1), rel=1e-9)


def test_bad_problems_are_refused() -> None:
    exact = problem()
    with pytest.raises(SettingError, match="alpha=0"):
        exact.optimum(0.0, 10.0)
    with pytest.raises(SettingError, match=rf"epsilon=1 is out of reach: the least −ELBO is {exact.least.neg_elbo:.6g}"):
        exact.optimum(-1.0, 1.0)
    for alpha, epsilon, name in ((1.0, float("nan"), "epsilon"), (-1.0, inf, "epsilon"), (inf, 10.0, "alpha")):
        with pytest.raises(SettingError, match=rf"{name}=(nan|inf) must be a finite number"):
            exact.optimum(alpha, epsilon)
    with pytest.raises(SettingError, match=r"epsilon=10000 takes a level below 1e-300"):
        exact.optimum(-1.0, 1e4)
    assert exact.optimum(-1.0, 600.0).neg_elbo == pytest.approx(600, rel=1e-12)
    for latent in (0, 5):
        with pytest.raises(SettingError, match=rf"latent={latent} must be from 1 to 4"):
            WaterFilling(exact.cov, latent)


LINEAR = [
    "data=linear_gaussian",
    "model.encoder.hidden=[]",
    "model.decoder.hidden=[]",
    "model.latent=2",
    "divergence=[neg_elbo]",
    "epsilon=explicit",
    "training.start=scratch",
    "trainer=cpu",
    "training.threads=1",
    "callbacks.figures=false",
    "callbacks.final.information.samples=100",
    "callbacks.final.information.components=0",
    "~callbacks.final.two_sample_x",
    "~callbacks.final.two_sample_z",
]


@pytest.mark.parametrize("alpha", [-1.0, pytest.param(1.0, marks=pytest.mark.slow)], ids=["maximise", "minimise"])
def test_training_finds_the_optimum(alpha: float, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A small version of benchmarks/linear_gaussian.py. The exact problem has the covariance of the training split itself."""
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    words = [*LINEAR, f"alpha.q={alpha}", "training.steps=2500", "training.interval=2500", "model.optimizer.lr=0.03"]
    data = build_data(compose([*words, "constraints.neg_elbo.epsilon=0"]))
    x = data.arrays.x[data.split["train"]].double()
    exact = WaterFilling(torch.cov(x.mT, correction=0), 2)
    epsilon = exact.least.neg_elbo + 0.5
    best = exact.optimum(alpha, epsilon)
    summary = train(compose([*words, f"constraints.neg_elbo.epsilon={epsilon!r}"]))
    assert summary["splits"]["train"]["rate"] == pytest.approx(best.rate, rel=0.02)
    assert summary["constraints"]["neg_elbo"]["multiplier"] == pytest.approx(best.multiplier, rel=0.1)
