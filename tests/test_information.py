"""Bounds on I_q(x;z) for Gaussian channels, where it is known, and compared with loops over all pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import exp, log
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lagvae.errors import SettingError
from lagvae.information import (
    aggregate,
    aggregate_bounds,
    equal_mixture,
    gaussian_log_density,
    gaussians,
    image_bounds,
    image_distributions,
    kde_information,
    kde_log_density,
    marginal_bounds,
)

MeanIs = Callable[[Tensor, float | Tensor], float]


def channel(generator: torch.Generator, k: int, d: int, rho2: float) -> tuple[Tensor, Tensor, Tensor]:
    """K draws of z = √ρ² x + √(1 − ρ²) e for standard normal x and e: q(z) = N(0, I), I = rate = −d/2 log(1 − ρ²)."""
    loc = rho2**0.5 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    scale = torch.full_like(loc, (1 - rho2) ** 0.5)
    return loc + scale * torch.randn(k, d, generator=generator, dtype=torch.float64), loc, scale


def some_posterior(generator: torch.Generator, k: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors with different means and scales, far from the origin."""
    loc = 3 + 2 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    scale = torch.rand(k, d, generator=generator, dtype=torch.float64) + 0.2
    return loc + scale * torch.randn(k, d, generator=generator, dtype=torch.float64), loc, scale


def test_the_log_density_against_scipy(generator: torch.Generator) -> None:
    z, loc, scale = some_posterior(generator, 6, 3)
    expected = stats.norm(loc.numpy(), scale.numpy()).logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(gaussian_log_density(z, loc, scale), expected, atol=1e-12)


# ---- the aggregate posterior


def naive_bounds(z: Tensor, loc: Tensor, scale: Tensor) -> tuple[list[float], list[float]]:
    k = len(z)
    lower, upper = [], []
    for i in range(k):
        log_q = [float(stats.norm(loc[j].numpy(), scale[j].numpy()).logpdf(z[i].numpy()).sum()) for j in range(k)]
        lower.append(log_q[i] - (np.logaddexp.reduce(log_q) - log(k)))
        upper.append(log_q[i] - (np.logaddexp.reduce(log_q[:i] + log_q[i + 1 :]) - log(k - 1)))
    return lower, upper


@pytest.mark.parametrize("k", [2, 3, 20])
def test_both_bounds_equal_a_double_loop(k: int, generator: torch.Generator) -> None:
    z, loc, scale = some_posterior(generator, k, 3)
    for value, expected in zip(aggregate_bounds(z, loc, scale), naive_bounds(z, loc, scale), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-9)


def test_sharp_posteriors_lose_no_digits(generator: torch.Generator) -> None:
    # With the smallest scale of an encoder, 1e-4, and means of size 4 the matrix products have terms near 1e9.
    loc = 4 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    loc[1::2] = loc[::2] + 1e-4 * torch.randn(10, 3, generator=generator, dtype=torch.float64)
    scale = torch.full_like(loc, 1e-4)
    z = loc + scale * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    for value, expected in zip(aggregate_bounds(z, loc, scale), naive_bounds(z, loc, scale), strict=True):
        # A sum of six terms below 1e10 with a relative error of 1e-16 each; a leave-one-out bound may itself reach 1e10.
        np.testing.assert_allclose(value, expected, atol=1e-5, rtol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (20, 6), (7, 20), (10**6, 10**6)])
def test_the_size_of_a_tile_does_not_matter(
    rows: int, columns: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, loc, scale = some_posterior(generator, 20, 3)
    origin, groups = torch.randperm(20, generator=generator)[:9], torch.arange(20) % 4

    def all_of_them() -> list[Tensor]:
        densities = aggregate(z[origin], loc, scale, origin, groups)
        return [*aggregate_bounds(z, loc, scale), kde_log_density(z, loc), *densities]

    whole = all_of_them()
    monkeypatch.setattr(gaussians, "ROWS", rows)
    monkeypatch.setattr(gaussians, "COLUMNS", columns)
    for a, b in zip(whole, all_of_them(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [3, 20])
def test_draws_of_one_image_are_left_out_together(k: int, generator: torch.Generator) -> None:
    _, loc, scale = some_posterior(generator, k, 3)
    groups = torch.randint(2, (k,), generator=generator) + 7
    groups[:2] = torch.tensor([7, 8])
    origin = torch.randint(k, (15,), generator=generator)
    z = loc[origin] + scale[origin] * torch.randn(15, 3, generator=generator, dtype=torch.float64)
    found = aggregate(z, loc, scale, origin, groups)
    log_q = stats.norm(loc.numpy(), scale.numpy()).logpdf(z.numpy()[:, None]).sum(-1)
    for i, j in enumerate(origin.tolist()):
        others = log_q[i][(groups != groups[j]).numpy()]
        assert float(found.own[i]) == pytest.approx(log_q[i, j], abs=1e-9)
        assert float(found.inclusive[i]) == pytest.approx(np.logaddexp.reduce(log_q[i]) - log(k), abs=1e-9)
        assert float(found.others[i]) == pytest.approx(np.logaddexp.reduce(others) - log(len(others)), abs=1e-9)


def test_groups_of_one_are_the_leave_one_out_bound(generator: torch.Generator) -> None:
    z, loc, scale = some_posterior(generator, 20, 3)
    plain, grouped = aggregate(z, loc, scale), aggregate(z, loc, scale, groups=torch.randperm(20, generator=generator))
    for a, b in zip(plain, grouped, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def info_nce(scores: Tensor) -> Tensor:
    """log f(x_i, z_i) − log 1/K Σ_j f(x_j, z_i) for scores log f, (K, K), z_i in rows (van den Oord, Li, Vinyals, 2018)."""
    return scores.diagonal() - scores.logsumexp(-1) + log(scores.shape[-1])


def test_the_inclusive_bound_is_info_nce_with_the_best_critic(generator: torch.Generator) -> None:
    z, loc, scale = channel(generator, 500, 3, 0.6)
    scores = gaussian_log_density(z.unsqueeze(1), loc, scale)
    best = aggregate_bounds(z, loc, scale)[0]
    torch.testing.assert_close(info_nce(scores), best, rtol=0, atol=1e-9)
    # Adding a function of z changes nothing. Other critics, here a bilinear and an overconfident one, give smaller values.
    torch.testing.assert_close(info_nce(scores + z[:, :1]), best, rtol=0, atol=1e-9)
    for worse in (z @ loc.mT, 3 * scores):
        assert float(info_nce(worse).mean()) < float(best.mean()) - 4 * float((info_nce(worse) - best).std()) / 500**0.5


@pytest.mark.parametrize(("d", "rho2"), [(1, 0.3), (2, 0.5), (4, 0.4)])
def test_the_truth_lies_between_the_bounds(d: int, rho2: float, generator: torch.Generator) -> None:
    k, repeats = 256, 200
    ends = [aggregate_bounds(*channel(generator, k, d, rho2)) for _ in range(repeats)]
    # The values of a batch are dependent, so the means of batches are the independent observations.
    lower = torch.stack([low.mean() for low, _ in ends])
    upper = torch.stack([up.mean() for _, up in ends])
    true = -d / 2 * log(1 - rho2)
    errors = [float(v.std()) / repeats**0.5 for v in (lower, upper)]
    assert float(lower.mean()) <= true + 4 * errors[0]
    assert float(upper.mean()) >= true - 4 * errors[1]
    # To second order the bias of both bounds is χ²/(2K) with χ² = E q(z|x)/q(z) − 1 = (1 − ρ²)^(−d) − 1; twice that is allowed.
    chi2 = (1 - rho2) ** -d - 1
    assert float(lower.mean()) >= true - chi2 / k - 4 * errors[0]
    assert float(upper.mean()) <= true + chi2 / k + 4 * errors[1]
    assert max(errors) < 0.02 * true


@pytest.mark.parametrize("k", [2, 10, 100])
def test_the_lower_bound_never_exceeds_log_k(k: int, generator: torch.Generator) -> None:
    # A sample's own posterior contributes 1/K to the mixture, so no value exceeds log K, except by rounding.
    for rho2 in (0.1, 0.9, 1 - 1e-6):
        lower, _ = aggregate_bounds(*channel(generator, k, 5, rho2))
        assert float(lower.max()) <= log(k) + 1e-9
    # For I = 34 nats the bound equals log K, and the interval is not informative.
    assert float(lower.mean()) == pytest.approx(log(k), abs=1e-3)


def test_the_bounds_are_zero_without_information(generator: torch.Generator) -> None:
    # All posteriors are the same distribution, so both ratios are 1.
    z = torch.randn(50, 3, generator=generator)
    lower, upper = aggregate_bounds(z, torch.zeros(50, 3), torch.ones(50, 3))
    torch.testing.assert_close(lower, torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(upper, torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_copied_image_cannot_be_told_apart(generator: torch.Generator) -> None:
    # Two distant images with eight copies each: the inclusive bound is I = log 2, and 7 of the 15 other components are copies.
    loc = torch.tensor([[-50.0], [50.0]], dtype=torch.float64).repeat(8, 1)
    z = loc + torch.randn(16, 1, generator=generator, dtype=torch.float64)
    lower, upper = aggregate_bounds(z, loc, torch.ones_like(loc))
    torch.testing.assert_close(lower, torch.full_like(lower, log(2)))
    torch.testing.assert_close(upper, torch.full_like(upper, log(15 / 7)))


def test_the_bounds_need_two_samples() -> None:
    with pytest.raises(SettingError, match="at least two"):
        aggregate_bounds(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(SettingError, match="at least two samples, not 1 of 5 draws"):
        aggregate_bounds(torch.zeros(5, 2), torch.zeros(5, 2), torch.ones(5, 2), groups=torch.zeros(5).long())


def test_samples_and_components_must_fit_together() -> None:
    z = torch.zeros(5, 2)
    for origin, groups in ((torch.arange(4), None), (torch.arange(5) + 1, None), (None, torch.arange(4))):
        with pytest.raises(SettingError, match="do not match"):
            aggregate(z, z, z + 1, origin, groups)
    with pytest.raises(SettingError, match="6 samples, 6 origins, 5 groups and 5 components"):
        aggregate(torch.zeros(6, 2), z, z + 1)


MEMORY = """
import torch
from pathlib import Path
torch.set_num_threads(1)
from lagvae.information import aggregate_bounds
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
loc = torch.randn(14_000, 16)
lower, upper = aggregate_bounds(loc + torch.randn(14_000, 16), loc, torch.ones(14_000, 16))
assert lower.isfinite().all() and upper.isfinite().all()
print(peak() - before)
"""


def test_many_samples_fit_in_memory(tmp_path: Path) -> None:
    # The matrix of all pairs would take 1.57 GB in double precision, and half of that in single precision.
    with (tmp_path / "said").open("w") as said:
        forked.run([sys.executable, "-c", MEMORY], stdout=said, check=True)
    assert int((tmp_path / "said").read_text()) < 2**19, "KiB"


# ---- images and their draws


def two_steps(
    generator: torch.Generator, n: int, t: int, d: int, draw: float, noise: float
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """N images m ∼ N(0, 4 I), x = m + draw · u and z = x + noise · e, so that q(z|m) = N(m, (draw² + noise²) I).

    Returns: E[z|x] for t draws of each image, (t, n, d); the images; and a function that draws a new x for given images.
    """
    m = 2 * torch.randn(n, d, generator=generator, dtype=torch.float64)

    def redraw(image: Tensor) -> Tensor:
        return m[image] + draw * torch.randn(len(image), d, generator=generator, dtype=torch.float64)

    loc = torch.stack([redraw(torch.arange(n)) for _ in range(t)])
    return loc, m, redraw


def test_image_distributions(generator: torch.Generator) -> None:
    n, t, d, draw, noise = 4000, 3, 2, 0.5, 0.3
    loc, _, _ = two_steps(generator, n, t, d, draw, noise)
    fitted = image_distributions(loc, torch.full_like(loc, noise))
    torch.testing.assert_close(fitted.mean, loc.mean(0))
    covariance = torch.linalg.inv(fitted.whiten @ fitted.whiten.mT)
    # A variance with n (t − 1) degrees of freedom has the relative standard error √(2 / (n (t − 1))), a covariance less.
    expected = (draw**2 * (1 + 1 / t) + noise**2) * torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=4 * (2 / (n * (t - 1))) ** 0.5 * float(expected[0, 0]))


@pytest.mark.parametrize("leave_out", [False, True])
def test_bounds_of_images_equal_a_loop(leave_out: bool, generator: torch.Generator) -> None:
    loc, _, redraw = two_steps(generator, 7, 3, 2, 0.5, 0.3)
    fitted = image_distributions(loc, torch.rand(3, 7, 2, generator=generator, dtype=torch.float64))
    image = torch.randint(7, (11,), generator=generator)
    z = redraw(image)
    between, log_r = image_bounds(z, image, fitted, leave_out, total=None if leave_out else 9)
    covariance = torch.linalg.inv(fitted.whiten @ fitted.whiten.mT).numpy()
    for i, own in enumerate(image.tolist()):
        log_r_m = [stats.multivariate_normal(mean.numpy(), covariance).logpdf(z[i].numpy()) for mean in fitted.mean]
        assert float(between[i]) == pytest.approx(log_r_m[own] - np.logaddexp.reduce(log_r_m) + log(7), abs=1e-9)
        others = log_r_m[:own] + log_r_m[own + 1 :] if leave_out else log_r_m
        assert float(log_r[i]) == pytest.approx(np.logaddexp.reduce(others) - log(6 if leave_out else 9), abs=1e-9)


def test_bounds_of_images_and_draws_exceed_log_k(generator: torch.Generator) -> None:
    # 300 images that hardly overlap, with I(x;z|m) = 8 log(1 + 0.5²/0.02²)/2 = 25.8 nats: I is near log 300 + 25.8.
    n, t, d, draw, noise = 300, 10, 8, 0.5, 0.02
    loc, m, redraw = two_steps(generator, n, t, d, draw, noise)
    fitted = image_distributions(loc, torch.full_like(loc, noise))
    image = torch.arange(n).repeat(10)
    x = redraw(image)
    z = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    between, log_r = image_bounds(z, image, fitted)
    own = gaussian_log_density(z, x, torch.full_like(x, noise))
    whole = torch.full_like(m, (draw**2 + noise**2) ** 0.5)
    log_q = (gaussian_log_density(z.unsqueeze(1), m, whole)).logsumexp(-1) - log(n)
    truth, apart = own - log_q, gaussian_log_density(z, m[image], whole[image]) - log_q

    def compare(a: Tensor, b: Tensor) -> tuple[float, float]:
        """The mean of b − a, and four standard errors of it."""
        return float((b - a).mean()), 4 * float((b - a).std()) / len(a) ** 0.5

    more, error = compare(between, apart)
    assert more > -error
    more, error = compare(truth, own - log_r)
    assert more > -error
    # μ_m from t draws has variance draw²/t per coordinate, which C includes: KL = d/2 log(1 + (1/t) draw²/(draw² + noise²)).
    # The other images contribute nothing. The factor 1.2 allows for the error of C.
    assert more < 1.2 * d / 2 * log(1 + draw**2 / (draw**2 + noise**2) / t) + error
    r = 2000
    inside = []
    for k in range(4):
        each = redraw(torch.full((r,), k))
        evaluated = torch.arange(50)
        seen = each[evaluated] + noise * torch.randn(50, d, generator=generator, dtype=torch.float64)
        inside.append(float(aggregate_bounds(seen, each, torch.full_like(each, noise), evaluated)[0].mean()))
    assert max(inside) <= log(r) + 1e-9
    nested, plain = float(between.mean()) + sum(inside) / 4, float(aggregate_bounds(z, x, torch.full_like(x, noise))[0].mean())
    assert plain <= log(3000) + 1e-9 < nested - 4 < float(truth.mean()) - 4


def test_image_distributions_need_two_draws() -> None:
    for shape in ((1, 5, 2), (5, 1, 2)):
        with pytest.raises(SettingError, match="at least two draws of at least two images"):
            image_distributions(torch.zeros(shape), torch.ones(shape))


# ---- importance sampling of log p(x)


def test_importance_sampling_bounds_the_truth(generator: torch.Generator, mean_is: MeanIs) -> None:
    # z ∼ N(0, 1) and x = z + e, so p(x) = N(0, 2) and p(z|x) = N(x/2, 1/2); q(z|x) = N(c x, s²).
    n, s_draws = 20_000, 5
    z0 = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    x = z0 + torch.randn(n, 1, generator=generator, dtype=torch.float64)
    true = gaussian_log_density(x, torch.zeros(1), torch.full((1,), 2**0.5).double())

    def weights(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        one = torch.ones(1).double()
        return gaussian_log_density(z, 0 * one, one) + gaussian_log_density(x, z, one) - gaussian_log_density(z, loc, scale)

    for c, s in ((0.5, 0.5**0.5), (0.4, 0.9), (0.5, 0.6)):
        loc, scale = c * x, torch.full_like(x, s)
        z = loc + scale * torch.randn(s_draws, n, 1, generator=generator, dtype=torch.float64)
        below, above = marginal_bounds(weights(z, loc, scale), weights(z0, loc, scale))
        assert above is not None
        if s == 0.5**0.5:  # q(z|x) is the posterior, so every weight is p(x)
            torch.testing.assert_close(below, true)
            torch.testing.assert_close(above, true)
            continue
        for low, high in ((below, true), (true, above)):
            assert float((high - low).mean()) > 4 * float((high - low).std()) / n**0.5
    assert marginal_bounds(weights(z, loc, scale))[1] is None


# ---- densities fitted to other samples


def test_an_equal_mixture(generator: torch.Generator) -> None:
    a, b, c = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(equal_mixture(a, b, c), ((a.exp() + b.exp() + c.exp()) / 3).log())
    assert (equal_mixture(a, b, c) >= torch.stack([a, b, c]).amax(0) - log(3) - 1e-12).all()


def test_any_density_gives_an_upper_bound_and_the_right_one_gives_the_truth(
    generator: torch.Generator, mean_is: MeanIs
) -> None:
    d, rho2 = 3, 0.5
    z, loc, scale = channel(generator, 20_000, d, rho2)
    true = -d / 2 * log(1 - rho2)
    mean_is(gaussian_log_density(z, loc, scale) - gaussian_log_density(z, torch.zeros(d), torch.ones(d)), true)
    # r = N(m, s² I) in place of q(z) = N(0, I) adds KL(q(z)‖r) = d/2 (1/s² + m²/s² − 1 + 2 log s).
    for m, s in ((0.4, 1.0), (0.0, 1.5), (-0.3, 0.8)):
        log_r = gaussian_log_density(z, torch.full((d,), m), torch.full((d,), s))
        mean_is(gaussian_log_density(z, loc, scale) - log_r, true + d / 2 * ((1 + m**2) / s**2 - 1 + 2 * log(s)))


# ---- the kernel density estimate


def test_the_kernel_density_against_scipy(generator: torch.Generator) -> None:
    points = 2 + 1.5 * torch.randn(300, generator=generator, dtype=torch.float64)
    z = torch.linspace(-4, 8, 50, dtype=torch.float64)
    expected = stats.gaussian_kde(points.numpy(), bw_method="scott").logpdf(z.numpy())
    np.testing.assert_allclose(kde_log_density(z.unsqueeze(1), points.unsqueeze(1)), expected, atol=1e-8)


def test_the_kernel_density_in_several_dimensions_against_scipy(generator: torch.Generator) -> None:
    # scipy uses the sample covariance; for points with an exactly diagonal covariance that is one bandwidth per axis.
    points = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    points = points - points.mean(0)
    points = points @ torch.linalg.inv(torch.linalg.cholesky(points.mT.cov())).mT * torch.tensor([0.5, 1.0, 3.0])
    z = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    expected = stats.gaussian_kde(points.numpy().T, bw_method="scott").logpdf(z.numpy().T)
    np.testing.assert_allclose(kde_log_density(z, points), expected, atol=1e-8)


def test_the_kernel_estimate_evaluates_each_half_with_the_other(generator: torch.Generator) -> None:
    z, loc, scale = channel(generator, 11, 1, 0.5)
    first, second = stats.gaussian_kde(z[5:, 0].numpy()), stats.gaussian_kde(z[:5, 0].numpy())
    log_q = np.concatenate([first.logpdf(z[:5, 0].numpy()), second.logpdf(z[5:, 0].numpy())])
    expected = stats.norm(loc.numpy(), scale.numpy()).logpdf(z.numpy())[:, 0] - log_q
    np.testing.assert_allclose(kde_information(z, loc, scale), expected, atol=1e-9)


def test_the_kernel_estimate_is_good_in_one_dimension(generator: torch.Generator) -> None:
    k, rho2 = 4000, 0.75
    values = kde_information(*channel(generator, k, 1, rho2))
    true, error = -0.5 * log(1 - rho2), float(values.std()) / k**0.5
    # Scott's h = 2000^(−1/5) = 0.22 widens N(0, 1) to N(0, 1 + h²), a KL below h⁴/4 = 6e-4. The variance of the estimate
    # adds ½ ∫ Var q̂/q ≈ 0.28/(2 · 2000 · h) · 8 = 0.003 over the interval of length 8 that has samples.
    assert abs(float(values.mean()) - true) <= 4 * error + 0.006


def test_the_kernel_estimate_breaks_the_upper_bound_in_many_dimensions(generator: torch.Generator, mean_is: MeanIs) -> None:
    # In 64 dimensions with q(z) = N(0, I), I and the rate are 16 nats. The expectation of q̂ over its points is
    # N(0, (1 + h²) I), and the logarithm is concave, so the excess over the truth is at least
    # KL = d/2 (log(1 + h²) + 1/(1 + h²) − 1).
    k, d = 2000, 64
    z, loc, scale = channel(generator, k, d, 1 - exp(-0.5))
    upper = gaussian_log_density(z, loc, scale) - gaussian_log_density(z, torch.zeros(d), torch.ones(d))
    excess = kde_information(z, loc, scale) - upper
    error = float(excess.std()) / k**0.5
    h2 = (k / 2) ** (-2 / (d + 4))
    least = d / 2 * (log(1 + h2) + 1 / (1 + h2) - 1)
    mean_is(upper, 16)
    assert least > 4
    assert float(excess.mean()) > least - 4 * error


def test_the_kernel_estimate_needs_four_samples() -> None:
    with pytest.raises(SettingError, match="at least four"):
        kde_information(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2))
