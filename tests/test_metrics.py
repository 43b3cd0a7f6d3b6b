"""Metrics over batches against the same values computed at once, and standard errors against numpy."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan, log, log2
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lagvae.distributions import CodesPosterior, CodesPrior, EmpiricalPrior, JointModel, JointSamples, draw_noise
from lagvae.divergences import MMD, RBF, Divergence, MedianRBF, MixtureRBF, NegElbo
from lagvae.errors import SettingError
from lagvae.information import aggregate_bounds, kde_information
from lagvae.metrics import (
    ActiveUnits,
    ClassifierScore,
    DivergenceValues,
    FactorScores,
    Information,
    InformationOfModel,
    LatentMetric,
    MarginalLikelihood,
    RateDecomposition,
    ReconstructionError,
    Terms,
    TwoSampleTest,
    mean_and_stderr,
    permutation_p_value,
    tightest,
)
from lagvae.metrics.base import KERNEL, Sizes
from lagvae.metrics.images import Reobserver, between_images
from lagvae.metrics.information import apply_control_variates, count_earlier_draws
from lagvae.noise import Noise
from lagvae.oracles import LinearGaussian

LinearJoint = Callable[[LinearGaussian, Tensor, Tensor], JointModel]
Draw = Callable[..., JointSamples]
MeanIs = Callable[[Tensor, float | Tensor], float]


def some_world() -> tuple[LinearGaussian, Tensor, Tensor]:
    world = LinearGaussian.random(4, 2, 0.6, seed=3)
    a, cov = world.posterior()
    return world, 0.8 * a + 0.05, 1.3 * cov.diagonal().sqrt()


@pytest.fixture
def draw(linear_joint: LinearJoint) -> Draw:
    """Draws batch number `step` of a linear-Gaussian model with an encoder; `x` replaces its own data."""

    def batch(world: LinearGaussian, a: Tensor, t: Tensor, size: int, step: int, x: Tensor | None = None) -> JointSamples:
        n, d = world.weight.shape
        data = Noise(1, "data")
        if x is None:
            x = world.sample(data.normal("z", step, (size, d)), data.normal("e", step, (size, n)))
        joint = linear_joint(world, a, t).requires_grad_(False)
        return JointSamples(joint, x, draw_noise(frozenset({"z_q", "z_p"}), joint, Noise(2), step, x))

    return batch


def feed(measure: LatentMetric, batches: list[JointSamples]) -> dict[str, float]:
    start = 0
    for batch in batches:
        measure.update(batch, torch.arange(start, start + len(batch.x_q)))
        start += len(batch.x_q)
    return {name: float(value) for name, value in measure.compute().items()}


def stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


# ---- a mean and its standard error


def test_for_single_draws_it_is_the_standard_error_of_the_mean(generator: torch.Generator) -> None:
    values = torch.randn(40, generator=generator)
    mean, error = mean_and_stderr(values, torch.randperm(40, generator=generator) + 7)
    assert float(mean) == pytest.approx(values.double().numpy().mean())
    assert float(error) == pytest.approx(stderr(values.double().numpy()))


def test_another_draw_of_an_image_is_not_a_new_observation(generator: torch.Generator) -> None:
    images = torch.randn(30, generator=generator)
    index = torch.arange(30).repeat(5)
    values = images.repeat(5) + 0.1 * torch.randn(150, generator=generator)
    mean, error = mean_and_stderr(values, index)
    by_image = values.double().numpy().reshape(5, 30).mean(0)
    assert float(mean) == pytest.approx(by_image.mean())
    assert float(error) == pytest.approx(stderr(by_image))
    # Five copies of the same numbers contain no more information than one.
    assert float(mean_and_stderr(images.repeat(5), index)[1]) == pytest.approx(stderr(images.double().numpy()))


def test_the_standard_error_covers_the_truth(generator: torch.Generator) -> None:
    # 40 images, ten draws of each, image effect 1 and noise 0.5 around 0. The error of the mean exceeds two standard errors in
    # 5.2% of repetitions (Student's t with 39 degrees of freedom); over 400 repetitions ± 4 √(0.052 · 0.948 / 400) = 4.4%.
    off = 0
    for _ in range(400):
        images = torch.randn(40, generator=generator).repeat(10)
        mean, error = mean_and_stderr(images + 0.5 * torch.randn(400, generator=generator), torch.arange(40).repeat(10))
        off += abs(float(mean)) > 2 * float(error)
    assert 0.052 - 0.044 < off / 400 < 0.052 + 0.044


def test_one_image_has_no_standard_error() -> None:
    mean, error = mean_and_stderr(torch.tensor([1.0, 3.0]), torch.tensor([4, 4]))
    assert float(mean) == 2
    assert isnan(float(error))


# ---- terms


def test_terms_over_batches_of_any_size(draw: Draw) -> None:
    batches = [draw(*some_world(), size, step) for step, size in enumerate((50, 50, 7, 1))]
    result = feed(Terms(), batches)
    rate = torch.cat([b.rate for b in batches]).double().numpy()
    distortion = torch.cat([b.distortion for b in batches]).double().numpy()
    neg_elbo = rate + distortion
    per_dim = neg_elbo / batches[0].x_q.shape[1]
    truth = {"rate": rate, "distortion": distortion, "neg_elbo": neg_elbo, "neg_elbo_per_dim": per_dim}
    for name, values in truth.items():
        assert result[name] == pytest.approx(values.mean(), rel=1e-6)
        # The error of a sum is not the sum of errors: the rate and distortion of a sample are correlated.
        assert result[f"{name}_stderr"] == pytest.approx(stderr(values), rel=1e-5)


def test_terms_agree_with_the_oracle_within_the_errors_they_state(draw: Draw) -> None:
    world, a, t = some_world()
    result = feed(Terms(), [draw(world, a, t, 1000, step) for step in range(10)])
    for name, true in (("rate", world.rate(a, t)), ("distortion", world.distortion(a, t)), ("neg_elbo", world.neg_elbo(a, t))):
        assert result[name] == pytest.approx(float(true), abs=4 * result[f"{name}_stderr"])


def test_terms_of_several_passes_count_images_once(draw: Draw) -> None:
    world, a, t = some_world()
    x = draw(world, a, t, 60, 0).x_q
    passes = [draw(world, a, t, 60, step, x) for step in range(4)]
    measure = Terms()
    for batch in passes:
        measure.update(batch, torch.arange(60))
    result = {name: float(value) for name, value in measure.compute().items()}
    by_image = torch.stack([b.distortion for b in passes]).double().numpy().mean(0)
    assert result["distortion"] == pytest.approx(by_image.mean(), rel=1e-6)
    assert result["distortion_stderr"] == pytest.approx(stderr(by_image), rel=1e-5)


# ---- divergences


def test_divergences_of_equal_batches(draw: Draw) -> None:
    divergences: dict[str, Divergence] = {"mmd": MMD(RBF()), "neg_elbo": NegElbo()}
    batches = [draw(*some_world(), 20, step) for step in range(8)]
    result = feed(DivergenceValues(divergences), batches)
    for name, divergence in divergences.items():
        values = torch.stack([divergence(b) for b in batches]).double().numpy()
        assert result[name] == pytest.approx(values.mean())
        assert result[f"{name}_stderr"] == pytest.approx(stderr(values))


def test_divergences_of_unequal_batches_are_weighted_by_size(draw: Draw) -> None:
    sizes = (30, 30, 30, 10)
    batches = [draw(*some_world(), size, step) for step, size in enumerate(sizes)]
    result = feed(DivergenceValues({"neg_elbo": NegElbo()}), batches)
    # The mean over samples does not depend on how they were divided into batches.
    samples = torch.cat([b.rate + b.distortion for b in batches]).double()
    assert result["neg_elbo"] == pytest.approx(float(samples.mean()), rel=1e-6)
    values, weights = np.array([float(NegElbo()(b)) for b in batches]), np.array(sizes) / 100
    spread = np.cov(values, aweights=weights * 100, ddof=0) * 4 / 3
    assert result["neg_elbo_stderr"] == pytest.approx(float((spread * (weights**2).sum()) ** 0.5), rel=1e-6)


def test_the_error_of_a_divergence_is_right(draw: Draw) -> None:
    # −ELBO also has a standard error over samples. That over 100 batches must agree with it within 4/√(2 · 99) = 0.28, four
    # relative standard errors of a standard deviation that is estimated from 100 numbers.
    batches = [draw(*some_world(), 20, step) for step in range(100)]
    by_batch, by_sample = feed(DivergenceValues({"d": NegElbo()}), batches), feed(Terms(), batches)
    assert by_batch["d"] == pytest.approx(by_sample["neg_elbo"], rel=1e-6)
    assert by_batch["d_stderr"] == pytest.approx(by_sample["neg_elbo_stderr"], rel=0.28)


def test_a_batch_of_one_is_left_out_and_one_batch_has_no_error(draw: Draw) -> None:
    batches = [draw(*some_world(), 20, 0), draw(*some_world(), 1, 1)]
    result = feed(DivergenceValues({"mmd": MMD(RBF())}), batches)
    assert result["mmd"] == pytest.approx(float(MMD(RBF())(batches[0])))
    assert isnan(result["mmd_stderr"])


def test_without_divergences_there_are_no_values(draw: Draw) -> None:
    assert feed(DivergenceValues({}), [draw(*some_world(), 5, 0)]) == {}


# ---- information


def all_of(batches: list[JointSamples]) -> tuple[Tensor, Tensor, Tensor]:
    bases = [b.q_z_given_x.base_dist for b in batches]
    return (
        torch.cat([b.z_q for b in batches]).double(),
        torch.cat([base.loc for base in bases]).double(),
        torch.cat([base.scale for base in bases]).double(),
    )


def test_information_over_batches_is_that_of_all_samples(draw: Draw) -> None:
    batches = [draw(*some_world(), size, step) for step, size in enumerate((40, 40, 15))]
    result = feed(Information(kde=True), batches)
    z, loc, scale = all_of(batches)
    lower, leave_one_out = (v.numpy() for v in aggregate_bounds(z, loc, scale))
    rate = torch.cat([b.rate for b in batches]).double().numpy()
    kde = kde_information(z, loc, scale).numpy()
    assert result["i_q_lower"] == pytest.approx(lower.mean())
    assert result["i_q_upper_leave_one_out"] == pytest.approx(leave_one_out.mean())
    assert result["i_q_upper_rate"] == pytest.approx(rate.mean(), rel=1e-5)
    assert result["i_q_kde"] == pytest.approx(kde.mean())
    assert result["i_q_upper"] == min(result["i_q_upper_leave_one_out"], result["i_q_upper_rate"])
    assert result["i_q"] == pytest.approx((result["i_q_lower"] + result["i_q_upper"]) / 2)
    assert result["i_q_lower_limit"] == pytest.approx(log(95))
    assert result["i_q_lower_stderr"] == pytest.approx(stderr(lower))
    tightest = leave_one_out if leave_one_out.mean() < rate.mean() else rate
    assert result["i_q_upper_stderr"] == pytest.approx(stderr(tightest), rel=1e-5)
    assert result["i_q_stderr"] == max(result["i_q_lower_stderr"], result["i_q_upper_stderr"])
    assert result["i_q_kde_stderr"] == pytest.approx(stderr(kde))


def test_the_interval_holds_the_truth_and_the_density_tightens_it(draw: Draw) -> None:
    world, a, t = some_world()
    batches = [draw(world, a, t, 500, step) for step in range(6)]
    true = float(world.i_q(a, t))
    result = feed(Information(samples=3000, components=1), batches)
    assert result["i_q_lower"] <= true + 4 * result["i_q_lower_stderr"]
    assert result["i_q_upper"] >= true - 4 * result["i_q_upper_stderr"]
    # q(z) is a Gaussian, which one component can represent. Its five parameters, fitted on 1,500 samples, cost 5/(2 · 1500)
    # nats on average; ten times that is allowed, and 1e-4 for the ridge of the fit, on variances near 1.
    z, loc, scale = all_of(batches)
    q_z = torch.distributions.MultivariateNormal(torch.zeros(2).double(), world.cov_q_z(a, t))
    exact = (torch.distributions.Normal(loc, scale).log_prob(z).sum(-1) - q_z.log_prob(z)).mean()
    assert result["i_q_upper_density"] == pytest.approx(float(exact), abs=10 * 5 / 3000 + 1e-4)
    assert result["i_q_upper"] == min(result[f"i_q_upper_{name}"] for name in ("rate", "leave_one_out", "density"))


def test_the_density_is_evaluated_on_samples_it_was_not_fitted_to(draw: Draw) -> None:
    # A single component is a Gaussian with the mean and covariance of the other half (and a ridge of 1e-4).
    batches = [draw(*some_world(), 21, 0)]
    z, loc, scale = (v.numpy() for v in all_of(batches))
    total = stats.norm(loc, scale).logpdf(z).sum(-1)
    for fit, evaluated in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        cov = np.cov(z[fit].T, ddof=0) + 1e-4 * np.eye(2)
        total[evaluated] -= stats.multivariate_normal(z[fit].mean(0), cov).logpdf(z[evaluated])
    assert feed(Information(components=1), batches)["i_q_upper_density"] == pytest.approx(total.mean(), rel=1e-5)


def test_without_a_density_of_z_information_has_its_other_bounds(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where z is spread over many orders of magnitude, so that no covariance can be inverted."""

    def fails(self: Any, x: np.ndarray) -> None:
        raise ValueError("Fitting the mixture model failed because some components have ill-defined empirical covariance")

    batches = [draw(*some_world(), 21, 0)]
    whole = feed(Information(components=1), batches)
    monkeypatch.setattr("sklearn.mixture.GaussianMixture.fit", fails)
    result = feed(Information(components=1), batches)
    assert {"i_q_upper_density", "i_q_upper_mixed"} == whole.keys() - result.keys()
    assert result == feed(Information(components=0), batches)
    batches[0].z_q[0] = torch.nan
    with pytest.raises(ValueError, match="Fitting"):
        feed(Information(components=1), batches)


def test_no_more_samples_are_used_than_requested(draw: Draw) -> None:
    batches = [draw(*some_world(), 20, step) for step in range(5)]
    few, some = Information(samples=50), Information(samples=50)
    result = feed(few, batches)
    z, loc, scale = (v[:50] for v in all_of(batches))
    assert result["i_q_lower"] == pytest.approx(float(aggregate_bounds(z, loc, scale)[0].mean()))
    assert result["i_q_lower_limit"] == pytest.approx(log(50))
    # After a reset the metric starts again.
    some.update(batches[4], torch.arange(20))
    some.reset()
    assert feed(some, batches) == result


def test_the_kernel_estimate_is_marked_where_it_breaks_a_bound(draw: Draw) -> None:
    # With 64 latent coordinates of 0.25 nat each the estimate is many nats too large; with two coordinates it is valid.
    d, rho2 = 64, 1 - float(np.exp(-0.5))
    deep = LinearGaussian(torch.eye(d).double(), 0.1)
    a = (rho2 / 1.01) ** 0.5 * torch.eye(d).double()
    broken = feed(Information(kde=True), [draw(deep, a, torch.full((d,), (1 - rho2) ** 0.5).double(), 1000, 0)])
    assert broken["i_q_upper"] == pytest.approx(16, abs=4 * broken["i_q_upper_stderr"])
    assert broken["i_q_kde"] > broken["i_q_upper"] + 2 * broken["i_q_kde_stderr"]
    assert broken["i_q_kde_breaks_bound"] == 1
    fine = feed(Information(kde=True), [draw(*some_world(), 1000, 0)])
    assert fine["i_q_kde_breaks_bound"] == 0


def test_information_needs_four_samples() -> None:
    with pytest.raises(SettingError, match="samples=3"):
        Information(samples=3)
    for settings, message in (({"components": -1}, "components=-1"), ({"pairs": 0}, "pairs=0")):
        with pytest.raises(SettingError, match=message):
            Information(**settings)


class Observed:
    """Images m that are observed as x = m + draw · u, with new noise every time; it has only what `Information` needs."""

    def __init__(self, images: Tensor, draw: float) -> None:
        self.images, self.draw, self.is_stochastic = images, draw, draw > 0

    def size(self, split: str) -> int:
        return len(self.images)

    def first_samples(self, split: str, n: int) -> Tensor:
        return self.images[:n]

    def reobserve(self, split: str, index: Tensor, times: int, step: int, device: str = "cpu") -> Tensor:
        x = self.images[index].expand(times, -1, -1)
        return x + self.draw * Noise(5, "again").normal("u", step, tuple(x.shape))


@pytest.mark.parametrize("k", [0, 5])
def test_the_bound_on_held_out_images_is_that_of_the_other_images(k: int, generator: torch.Generator) -> None:
    """What was seen of an image decides neither about a Gaussian nor about a covariance by which its own samples are judged."""
    n, times, d = 12, 4, 3
    loc, scale, z = torch.randn(times, n, d, generator=generator), torch.full((times, n, d), 0.3), torch.zeros(n, d)
    moved = loc.clone()
    moved[:, k] += 5 * torch.randn(times, d, generator=generator)
    found = [
        between_images(z, torch.arange(n), torch.arange(n), lambda *_, loc=where: (loc, scale), times, None)[1]
        for where in (loc, moved)
    ]
    torch.testing.assert_close(found[0][k], found[1][k])
    assert not torch.allclose(found[0], found[1]), "others are judged by it"


def images_of(
    joint: JointModel, data: Observed, split: str, passes: int, **settings: object
) -> tuple[Information, dict[str, float]]:
    """A metric after several passes over a split, and its values."""
    measure = Information(**settings)  # type: ignore[arg-type]
    assert measure.is_applicable(joint, data, split)  # type: ignore[arg-type]
    index = torch.arange(len(data.images))
    for step in range(passes):
        x = data.reobserve(split, index, 1, 10_000 + step)[0]
        measure.update(JointSamples(joint, x, draw_noise(frozenset({"z_q"}), joint, Noise(2), step, x)), index)
    found = {name: float(value) for name, value in measure.compute().items()}
    for end, best in (("lower", max), ("upper", min)):
        bounds = [v for name, v in found.items() if name.startswith(f"i_q_{end}_") and not name.endswith(("_stderr", "_limit"))]
        assert found[f"i_q_{end}"] == best(bounds), "the tightest"
    return measure, found


def two_step_world(
    linear_joint: LinearJoint, n: int, draw: float, t: float, generator: torch.Generator
) -> tuple[JointModel, Observed, float]:
    """N images in four dimensions with q(z|x) = N(x, t² I), and I(x;z) under the uniform distribution over these images."""
    d = 4
    images = 2 * torch.randn(n, d, generator=generator)
    joint = linear_joint(LinearGaussian(torch.eye(d).double(), 0.1), torch.eye(d).double(), torch.full((d,), t).double())
    s = (draw**2 + t**2) ** 0.5
    m = torch.randint(n, (20_000,), generator=generator)
    z = images[m] + s * torch.randn(20_000, d, generator=generator)
    apart = -torch.cdist(z.double(), images.double()).square() / (2 * s * s)
    between = apart.gather(1, m[:, None])[:, 0] - apart.logsumexp(-1) + log(n)
    return joint.requires_grad_(False), Observed(images, draw), float(between.mean()) + d / 2 * log(1 + (draw / t) ** 2)


def test_further_draws_of_the_images_lift_the_limit(linear_joint: LinearJoint, generator: torch.Generator) -> None:
    joint, data, true = two_step_world(linear_joint, 60, 0.5, 0.2, generator)
    seen, few = images_of(joint, data, "train", 2)
    z, loc, scale, _ = seen._all()
    # Of 120 draws, two of each image, 119 remain without the sample's own: their density is at most 120/119 of q(z).
    without = float(aggregate_bounds(z, loc, scale)[1].mean()) + log(120 / 119)
    assert few["i_q_upper_leave_one_out"] == pytest.approx(without, abs=1e-9)
    many = images_of(joint, data, "train", 2, samples=6000, images=True, components=2)[1]
    assert few["i_q_lower_limit"] == pytest.approx(log(120))
    assert many["i_q_lower_limit"] == pytest.approx(log(6000))
    assert many["i_q_lower_inclusive"] > few["i_q_lower_inclusive"] + 0.3
    assert many["i_q_upper"] < few["i_q_upper"] - 0.3
    for found in (few, many):
        assert found["i_q_lower"] <= true + 4 * found["i_q_lower_stderr"]
        assert found["i_q_upper"] >= true - 4 * found["i_q_upper_stderr"]
    assert many["i_q_upper"] - many["i_q_lower"] < (few["i_q_upper"] - few["i_q_lower"]) / 4


def test_where_log_k_is_the_limit_the_nested_bound_is_used(linear_joint: LinearJoint, generator: torch.Generator) -> None:
    joint, data, true = two_step_world(linear_joint, 60, 0.5, 0.005, generator)
    found = images_of(joint, data, "train", 2, samples=6000, images=True)[1]
    assert tightest(found) == {"i_q_lower_by": "nested", "i_q_upper_by": "images"}
    assert found["i_q_lower_inclusive"] <= log(6000) < found["i_q_lower"] - 2
    assert found["i_q_lower"] <= found["i_q_lower_limit"] == pytest.approx(log(60) + log(3750))
    assert found["i_q_lower"] <= true + 4 * found["i_q_lower_stderr"]
    # The images are far apart, and the number of draws far exceeds that of the entries of the covariance: r(z) is near q(z).
    assert true - 4 * found["i_q_upper_stderr"] <= found["i_q_upper"] <= true + 0.2


def test_held_out_images_are_draws_of_a_population(linear_joint: LinearJoint, generator: torch.Generator) -> None:
    # m ∼ N(0, 4 I): over the population q(z) = N(0, (4 + draw² + t²) I) and I = d/2 log((4 + draw² + t²) / t²). Over the 60
    # images alone I is smaller, and a bound evaluated with the sample's own image would be a bound on that smaller value.
    draw, t, d, repeats = 0.3, 0.25, 4, 10
    ends = []
    for _ in range(repeats):
        joint, data, of_images = two_step_world(linear_joint, 60, draw, t, generator)
        held, train = (images_of(joint, data, s, 2, samples=1500, images=True, components=2)[1] for s in ("test", "train"))
        ends.append([held["i_q_lower"], held["i_q_upper"], train["i_q_upper"] - of_images, of_images])
    mean, error = torch.tensor(ends).mean(0), 4 * torch.tensor(ends).std(0) / repeats**0.5
    population = d / 2 * log((4 + draw**2 + t**2) / t**2)
    assert mean[0] <= population + error[0]
    assert mean[1] >= population - error[1]
    assert mean[2] >= -error[2]
    assert mean[3] < population - 0.5


def test_x_without_noise_is_used_once_and_gives_the_exact_value(linear_joint: LinearJoint, generator: torch.Generator) -> None:
    joint, data, true = two_step_world(linear_joint, 60, 0.0, 0.8, generator)
    found = images_of(joint, data, "train", 5, images=True)[1]
    assert found["i_q_lower_limit"] == pytest.approx(log(60))
    assert found["i_q_lower"] == found["i_q_upper"] == found["i_q_upper_whole"]
    assert tightest(found)["i_q_upper_by"] == "whole"
    assert found["i_q"] == pytest.approx(true, abs=4 * found["i_q_stderr"])
    held = images_of(joint, data, "test", 5, images=True)[1]
    assert "i_q_upper_whole" not in held
    assert held == {**held, **images_of(joint, data, "test", 1)[1]}


def test_few_evaluated_samples_agree_with_all(linear_joint: LinearJoint, generator: torch.Generator) -> None:
    joint, data, _ = two_step_world(linear_joint, 500, 0.3, 0.5, generator)
    all_of_them = images_of(joint, data, "train", 10)[1]
    some = images_of(joint, data, "train", 10, pairs=5000 * 400)[1]
    for name in ("i_q_lower", "i_q_upper"):
        error = (all_of_them[f"{name}_stderr"] ** 2 + some[f"{name}_stderr"] ** 2) ** 0.5
        assert 0 < abs(some[name] - all_of_them[name]) <= 4 * error


def test_control_variates_keep_the_mean_and_reduce_the_variance(generator: torch.Generator, mean_is: MeanIs) -> None:
    u, e = torch.randn(3000, 2, generator=generator).double(), torch.randn(3000, generator=generator).double()
    values = 7 + 3 * u[:, 0] - 2 * u[:, 1] + 0.1 * e
    assert mean_is(apply_control_variates(values, u), 7) < 1.1 * 0.1 / 3000**0.5
    torch.testing.assert_close(apply_control_variates(values - 0.1 * e, u), torch.full_like(values, 7))


def test_more_samples_than_there_are_is_refused() -> None:
    fixed, noisy = Observed(torch.zeros(50, 2), 0.0), Observed(torch.zeros(50, 2), 1.0)
    for settings, data in (({"samples": 51}, fixed), ({"samples": 51, "images": True}, fixed), ({"samples": 51}, noisy)):
        with pytest.raises(SettingError, match=r"callbacks\.final\.information\.samples=51 is more than the 50 samples"):
            Information(**settings).check(data, "callbacks.final.information")  # type: ignore[arg-type]
    for settings, data in (({"samples": 50}, fixed), ({}, fixed), ({"samples": 51, "images": True}, noisy)):
        Information(**settings).check(data, "callbacks.final.information")  # type: ignore[arg-type]


def test_the_earlier_draws_of_an_image_are_counted() -> None:
    assert count_earlier_draws(torch.tensor([3, 1, 3, 3, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]


# ---- importance sampling


def test_the_likelihood_lies_between_its_bounds(draw: Draw) -> None:
    world, a, t = some_world()
    batches = [draw(world, a, t, 400, step) for step in range(3)]
    few, many = (feed(MarginalLikelihood(draws=draws, samples=1200), batches) for draws in (2, 500))
    terms, entropy = feed(Terms(), batches), float(world.entropy_x)  # the data are from p(x): −E log p(x) = H(x)
    # All three use the same x and draws of z of their own.
    assert many["nll"] < few["nll"] - 4 * 0.02 < terms["neg_elbo"]
    assert many["nll"] == pytest.approx(entropy, abs=4 * many["nll_stderr"])


def test_the_posterior_as_proposal_is_exact(draw: Draw) -> None:
    # With orthogonal columns of W the posterior is diagonal, and every weight equals p(x).
    world = LinearGaussian(torch.tensor([[1.0, 0], [0, 2], [1, 0], [0, 0]]).double(), 0.6)
    a, cov = world.posterior()
    batch = draw(world, a, cov.diagonal().sqrt(), 300, 0)
    p_x = torch.distributions.MultivariateNormal(torch.zeros(4).double(), world.cov_x)
    true = -p_x.log_prob(batch.x_q.double())
    for draws in (1, 7):
        assert feed(MarginalLikelihood(draws=draws), [batch])["nll"] == pytest.approx(float(true.mean()), abs=1e-3)


@pytest.mark.parametrize("size", [40, 1000])
def test_the_likelihood_uses_evenly_spaced_images_once(size: int, draw: Draw, linear_joint: LinearJoint) -> None:
    """They are spaced over the 40 images that are evaluated, of a split that may have more."""
    world, a, t = some_world()
    joint, measure = linear_joint(world, a, t), MarginalLikelihood(draws=3, samples=10)
    data: Any = SimpleNamespace(size=lambda split: size, draws_of=lambda split: 120 if size == 40 else 40)
    assert measure.is_applicable(joint, data, "test")
    for step in range(6):
        measure.update(draw(world, a, t, 20, step), torch.arange(20) + 20 * (step % 2))
    assert torch.cat(measure.index).tolist() == list(range(0, 40, 4))
    batch, found = draw(world, a, t, 20, 0), MarginalLikelihood(draws=3, samples=40)
    for step in range(2):
        found.update(batch, torch.arange(20) + 20 * step)
    assert not torch.isclose(found.value[0], found.value[1]).any(), "the same x with importance samples of its own"
    with pytest.raises(SettingError, match="draws=0"):
        MarginalLikelihood(draws=0)


def test_the_information_of_the_model_lies_between_its_bounds(linear_joint: LinearJoint) -> None:
    world, a, t = some_world()
    joint = linear_joint(world, a, t).requires_grad_(False)
    x = torch.zeros(500, 4)
    known = SimpleNamespace(size=lambda split: 500)
    found = {}
    for draws in (0, 3, 300):
        measure = InformationOfModel(draws=draws, samples=1500)
        assert measure.is_applicable(joint, known, "train")  # type: ignore[arg-type]
        required_noise = frozenset({"z_q", "z_p", "x_p"})
        found[draws] = feed(
            measure, [JointSamples(joint, x, draw_noise(required_noise, joint, Noise(3), k, x)) for k in range(3)]
        )
    true = float(world.i_p)
    for draws in (3, 300):
        assert found[draws]["i_p_lower"] <= true + 4 * found[draws]["i_p_lower_stderr"]
        assert found[draws]["i_p_upper"] >= true - 4 * found[draws]["i_p_upper_stderr"]
    assert found[300]["i_p_upper"] - found[300]["i_p_lower"] < 0.05 < found[3]["i_p_upper"] - found[3]["i_p_lower"]
    assert found[300]["i_p_lower"] > found[0]["i_p_lower"]
    assert "i_p_upper" not in found[0]
    measure = InformationOfModel(draws=2, samples=700)
    measure.is_applicable(joint, known, "train")  # type: ignore[arg-type]
    feed(measure, [JointSamples(joint, x, draw_noise(required_noise, joint, Noise(3), k, x)) for k in range(2)])
    assert sum(map(len, measure.above)) == 700, "draws beyond that are not weighted"
    with pytest.raises(SettingError, match="draws=-1"):
        InformationOfModel(draws=-1)


def test_a_share_of_the_entropy_is_taken_of_discrete_codes_only() -> None:
    """A posterior that knows the code of 8 values and a uniform one to within 0.01: log 8 nats, and more than H(u) = log 2."""
    for uniform, share in ((0, 1.0), (1, None)):
        prior = CodesPrior(12, (8,), uniform)
        z = prior.sample(torch.rand(200, *prior.noise_shape))
        known = CodesPosterior(prior, 50 * z[:, :8], z[:, 8 : 8 + uniform], torch.full((uniform,), 0.01))
        samples, measure = SimpleNamespace(q_z_given_x_p=known, z_p=z), InformationOfModel()
        assert measure.is_applicable(SimpleNamespace(prior=prior, encoder=SimpleNamespace(has_density=True)), None, "test")  # type: ignore[arg-type]
        measure.update(samples, torch.arange(200))  # type: ignore[arg-type]
        found = measure.compute()
        assert found["i_p_lower"] > prior.entropy - 1e-6
        assert found.get("i_p_share") == (share and pytest.approx(share))


# ---- the power of MMD


@pytest.mark.parametrize("kernel", ["mixture", "median"])
def test_kernels_detect_a_different_scale_in_64_dimensions(kernel: str, generator: torch.Generator) -> None:
    """N(0, 0.64 I) against N(0, I) with 250 samples each: p ≤ 0.05 in 60 of 60 repetitions."""
    k = {"mixture": MixtureRBF(), "median": MedianRBF()}[kernel]
    for repetition in range(60):
        a, b = 0.8 * torch.randn(250, 64, generator=generator), torch.randn(250, 64, generator=generator)
        assert permutation_p_value(a, b, k, 39, seed=repetition)[1] <= 0.05


# ---- active units


def test_active_units(draw: Draw) -> None:
    # Posterior means with variances 0.04, 0.009 and 0; a shift of the means must not affect the variance.
    world = LinearGaussian(torch.eye(3).double(), 1e-3)
    a = torch.diag(torch.tensor([0.2, 0.009**0.5, 0.0])).double()
    batches = [draw(world, a, torch.ones(3).double(), 500, step) for step in range(4)]
    variance = torch.cat([b.q_z_given_x.mean for b in batches]).double().numpy().var(0)
    for threshold in (0.01, 1e-3, 0.1, 0.0):
        expected = int((variance > threshold).sum())
        assert feed(ActiveUnits(3, threshold), batches) == {"active_units": expected}
    assert feed(ActiveUnits(3), batches) == {"active_units": 1}  # Burda's threshold
    shifted = [draw(world, a, torch.ones(3).double(), 500, step, b.x_q + 5) for step, b in enumerate(batches)]
    assert feed(ActiveUnits(3), shifted) == {"active_units": 1}


# ---- reconstruction


def test_reconstruction_is_the_squared_error_of_the_mean(draw: Draw) -> None:
    batches = [draw(*some_world(), size, step) for step, size in enumerate((40, 25))]
    error = torch.cat([(b.x_q - b.joint.decoder(b.z_q).mean).square().mean(1) for b in batches]).double().numpy()
    found = feed(ReconstructionError(), batches)
    assert found == pytest.approx({"reconstruction": error.mean(), "reconstruction_stderr": stderr(error)})


def test_the_reconstruction_of_a_second_domain_counts_its_rows_once(generator: torch.Generator) -> None:
    """x = 2 z and E[z|x] = x/2 + (an error of the row): every draw of a row has the same error."""
    prior = EmpiricalPrior(torch.arange(12.0).reshape(6, 2))
    off = torch.rand(6, 1, generator=generator)
    measure = ReconstructionError()
    for _ in range(5):
        row = torch.arange(6)
        z = prior.rows[row]
        samples = SimpleNamespace(
            joint=SimpleNamespace(prior=prior, decoder=None),
            noise={"z_p": (row + 0.5) / 6},
            x_q=2 * z,
            p_x_given_z_q=SimpleNamespace(mean=2 * z + 3),
            z_p=z,
            q_z_given_x_p=SimpleNamespace(mean=z + off),
        )
        measure.update(samples, row)  # type: ignore[arg-type]
    found = {name: float(value) for name, value in measure.compute().items()}
    square = off.flatten().double().numpy() ** 2
    assert found == pytest.approx(
        {
            "reconstruction": 9.0,
            "reconstruction_stderr": 0.0,
            "reconstruction_z": square.mean(),
            "reconstruction_z_stderr": stderr(square),
        },
        rel=1e-5,
    )


SIZES = Sizes(encode=1e6, decode=1e7, x=64, z=3, images=500, draws=2000)


def applied(metric: Any, **settings: Any) -> Any:
    """A metric as `is_applicable` leaves it."""
    for name, value in settings.items():
        setattr(metric, name, value)
    return metric


COSTS: dict[str, tuple[Any, float]] = {
    # each sample in each component: 4 products for a coordinate, by itself and among all, and an exponential of all and of each
    "decomposition": (RateDecomposition(), 2000**2 * (4 * 3 + 4 * KERNEL)),
    "decomposition of few": (RateDecomposition(100), 100**2 * (4 * 3 + 4 * KERNEL)),
    "decomposition of x without noise": (applied(RateDecomposition(), _stochastic=False), 500**2 * (4 * 3 + 4 * KERNEL)),
    "two samples of z": (TwoSampleTest("z", samples=400, permutations=100), (2 * 400) ** 2 * (2 * 3 + KERNEL + 100)),
    "two samples of x": (TwoSampleTest("x", samples=900, permutations=100), (2 * 500) ** 2 * (2 * 64 + KERNEL + 100)),
    "likelihood": (MarginalLikelihood(draws=8, samples=700), 500 * 8 * 1e7),
    "information of the model": (applied(InformationOfModel(draws=8, samples=700), weighs=True), 700 * 8 * 1e7),
    "information of the model, unweighted": (InformationOfModel(draws=8, samples=700), 0.0),
    # 256 samples at least in K components of 2 products for a coordinate and an exponential
    "information": (Information(pairs=1), 256 * 2000 * (6 + KERNEL)),
    "information of many pairs": (Information(pairs=1_000_000), 500 * 2000 * (6 + KERNEL)),
    "information of x without noise": (applied(Information(pairs=1), _stochastic=False), 256 * 500 * (6 + KERNEL)),
    "information of few": (Information(pairs=1, samples=100), 256 * 100 * (6 + KERNEL)),
    # two halves that are fitted to 1,000 samples in 50 iterations, and a kernel estimate of one half at the other
    "mixture": (Information(pairs=1, components=4), 256 * 2000 * (6 + KERNEL) + 2 * 4 * 50 * 1000 * 3 * (3 + KERNEL)),
    "kernels": (Information(pairs=1, kde=True), 256 * 2000 * (6 + KERNEL) + 1000 * 2000 * (6 + KERNEL)),
    # the components are K draws and 2 · 500 Gaussians of images. Each of 8 images is observed 5 K / 8 times more, of which 256
    # are evaluated, and each of 500 images 4000 / 500 times for its Gaussian
    "information of images": (
        applied(Information(pairs=1, most=4000), _reobserve=True),
        256 * (4000 + 1000) * (6 + KERNEL) + 8 * 2500 * 256 * (6 + KERNEL) + (2000 + 500 * 8 + 8 * 2500) * 1e6,
    ),
    # 200 iterations for 300 images, forwards and backwards, of two classes; then 3 predictions for each draw
    "classifier": (applied(ClassifierScore(), _training_labels=torch.arange(300) % 2), (2 * 200 * 300 + 3 * 2000) * 2 * 64),
    "classifier of few": (
        applied(ClassifierScore(training=100), _training_labels=torch.arange(300) % 2),
        (2 * 200 * 100 + 3 * 2000) * 2 * 64,
    ),
    # a tree for each of two factors sorts all images by each of 3 coordinates at every one of its levels
    "factors": (applied(FactorScores(trees=5), _factors=torch.zeros(500, 2)), KERNEL * 5 * 500 * log2(500) * 3 * 2),
    "factors of few": (applied(FactorScores(trees=5, samples=64), _factors=torch.zeros(500, 2)), KERNEL * 5 * 64 * 6 * 3 * 2),
}


@pytest.mark.parametrize("kind", COSTS)
def test_the_cost_of_a_metric_is_counted_by_hand(kind: str) -> None:
    metric, cost = COSTS[kind]
    assert metric.cost(SIZES) == pytest.approx(cost, rel=1e-12)


def test_of_few_images_no_more_observations_are_encoded_than_their_gaussians_need() -> None:
    metric = applied(Information(pairs=1, most=4000), _reobserve=True)
    encoded = metric.cost(SIZES._replace(images=100)) - metric.cost(SIZES._replace(images=100, encode=0.0))
    assert encoded == pytest.approx((2000 + 100 * 32 + 8 * 2500) * 1e6), "32 of each image, where 40 would be 4,000 draws"


@pytest.mark.parametrize(
    ("metric", "quarter", "least"),
    [
        (RateDecomposition(4000), {"most": (4000, 2000)}, [128]),  # its cost grows with the square
        (TwoSampleTest("z", samples=400), {"samples": (400, 200)}, [50]),
        (FactorScores(samples=8000), {"samples": (8000, 2000)}, [1000]),
        (applied(ClassifierScore(4000), _training_labels=torch.arange(4000) % 2), {"training": (4000, 1000)}, [256]),
        (applied(ClassifierScore(4000), _training_labels=torch.arange(4000) // 2000), {"training": (4000, 4000)}, [4000]),
        (Information(pairs=10**6), {"pairs": (10**6, 250_000), "most": (60_000, 15_000)}, [256 * 128, 128]),
        (Information(samples=1000, pairs=10**6), {"pairs": (10**6, 250_000), "samples": (1000, 250)}, [256 * 128, 128]),
    ],
)
def test_a_metric_is_limited_to_a_share_of_its_cost_as_long_as_it_says_something(
    metric: Any, quarter: dict[str, tuple[int, int]], least: list[int]
) -> None:
    assert metric.limit(0.25) == quarter
    assert [used for _, used in metric.limit(1e-9).values()] == least


@pytest.mark.parametrize(("images", "times"), [(7, 1), (7, 2), (7, 3), (3, 11), (1, 8)])
def test_images_are_observed_again_a_few_at_once_and_each_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch, images: int, times: int
) -> None:
    """At most `AT_ONCE` samples, and `COORDINATES` numbers, are in memory; no two parts have the same noise."""
    parts: list[tuple[int, int]] = []

    class Observed:
        def first_samples(self, split: str, count: int) -> Tensor:
            return torch.zeros(count, 2)

        def reobserve(self, split: str, index: Tensor, times: int, step: int, device: Any) -> Tensor:
            parts.append((times * len(index), step))
            assert split == "val"
            return torch.stack([index + 100.0 * step, index.float()], -1).expand(times, -1, -1)

    def encoder(x: Tensor) -> Any:
        return SimpleNamespace(base_dist=SimpleNamespace(loc=x, scale=x + 0.5))

    for at_once, coordinates in ((5, 2**22), (4096, 2 * 5)):
        parts.clear()
        monkeypatch.setattr("lagvae.metrics.images.AT_ONCE", at_once)
        monkeypatch.setattr("lagvae.metrics.images.COORDINATES", coordinates)
        index = torch.arange(images) + 3
        loc, scale = Reobserver(Observed(), "val", encoder)(index, times)  # type: ignore[arg-type]
        assert loc.shape == scale.shape == (times, images, 2)
        assert torch.equal(loc[..., 1], index.float().expand(times, images)), "each column is of its image"
        assert torch.equal(scale, loc + 0.5)
        assert max(size for size, _ in parts) <= 5
        assert len({step for _, step in parts}) == len(parts)


def test_four_samples_are_enough_for_the_decomposition_of_the_rate() -> None:
    assert RateDecomposition(4).most == 4
    with pytest.raises(SettingError, match="at least 4 samples, not most=3"):
        RateDecomposition(3)
