"""The linear-Gaussian model: first the oracle against scipy and quadrature, then the package's estimates against the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log, pi

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, JointSamples, StandardNormalPrior, draw_noise
from lagvae.distributions.decoders import SPEED
from lagvae.divergences import (
    IMQ,
    MMD,
    RBF,
    Distortion,
    Divergence,
    MixtureRBF,
    NegElbo,
    Rate,
    ReferenceRBF,
    check_preference,
    i_p_upper,
    mmd,
    neg_i_p_lower,
)
from lagvae.errors import SettingError
from lagvae.information import gaussian_log_density
from lagvae.networks import MLP
from lagvae.noise import Noise
from lagvae.oracles import LinearGaussian, WaterFilling
from lagvae.oracles.gaussian import gaussian_entropy, gaussian_kl, rbf_mmd

LinearJoint = Callable[[LinearGaussian, Tensor, Tensor], JointModel]
MeanIs = Callable[[Tensor, float | Tensor], float]

N = 40_000
"""Samples of a Monte Carlo estimate here."""


def covariance(d: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return root @ root.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)


def some_world() -> tuple[LinearGaussian, Tensor, Tensor]:
    """A model whose encoder is near the posterior but not equal to it, so that no gap is zero."""
    world = LinearGaussian.random(4, 2, 0.6, seed=3)
    a, cov = world.posterior()
    return world, 0.8 * a + 0.05, 1.3 * cov.diagonal().sqrt()


def mismatched_world() -> tuple[LinearGaussian, Tensor, Tensor]:
    """The same model and encoder, on data from another distribution."""
    world, a, t = some_world()
    return LinearGaussian(world.weight, world.noise, covariance(4, torch.Generator().manual_seed(5))), a, t


def orthogonal_world(noise: float = 1.0) -> LinearGaussian:
    """A model with orthogonal columns of W: its posterior is a diagonal Gaussian, which the encoder can represent."""
    columns = torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    return LinearGaussian(columns * torch.tensor([1.0, 0.7], dtype=torch.float64), noise)


def joint_covariances(world: LinearGaussian, a: Tensor, t: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of (x, z) under q and under p, block by block."""
    w, s, a, t = world.weight.numpy(), world.noise, a.numpy(), t.numpy()
    px = w @ w.T + s**2 * np.eye(len(w))
    sx = px if world.data is None else world.data.numpy()
    q = np.block([[sx, sx @ a.T], [a @ sx, a @ sx @ a.T + np.diag(t**2)]])
    p = np.block([[px, w], [w.T, np.eye(w.shape[1])]])
    return q, p


def entropy(cov: np.ndarray) -> float:
    return float(stats.multivariate_normal(np.zeros(len(cov)), cov).entropy())


# ---- the oracle


def test_entropy_against_scipy(generator: torch.Generator) -> None:
    cov = covariance(3, generator)
    assert float(gaussian_entropy(cov)) == pytest.approx(entropy(cov.numpy()), abs=1e-10)


@pytest.mark.parametrize(("m_q", "v_q", "m_p", "v_p"), [(0.0, 1.0, 0.0, 1.0), (0.3, 0.5, -0.4, 1.7), (1.0, 2.0, 0.0, 0.6)])
def test_kl_against_quadrature(m_q: float, v_q: float, m_p: float, v_p: float) -> None:
    q, p = stats.norm(m_q, v_q**0.5), stats.norm(m_p, v_p**0.5)
    # Beyond 12 standard deviations the integrand is below 1e-30.
    expected = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), m_q - 12 * v_q**0.5, m_q + 12 * v_q**0.5)[0]
    one = torch.ones(1, dtype=torch.float64)
    assert float(gaussian_kl(m_q * one, v_q * one.view(1, 1), m_p * one, v_p * one.view(1, 1))) == pytest.approx(
        expected, abs=1e-8
    )


def test_kl_in_several_dimensions_against_samples(generator: torch.Generator, mean_is: MeanIs) -> None:
    mean_q, mean_p = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    cov_q, cov_p = covariance(3, generator), covariance(3, generator)
    q = stats.multivariate_normal(mean_q.numpy(), cov_q.numpy())
    z = q.rvs(N, random_state=0)
    ratio = q.logpdf(z) - stats.multivariate_normal(mean_p.numpy(), cov_p.numpy()).logpdf(z)
    mean_is(torch.from_numpy(ratio), gaussian_kl(mean_q, cov_q, mean_p, cov_p))


@pytest.mark.parametrize(("m", "v_q", "v_p", "scale"), [(0.0, 0.64, 1.0, 2.0), (0.7, 0.3, 1.5, 1.0), (0.4, 1.0, 1.0, 5.0)])
def test_rbf_mmd_against_quadrature(m: float, v_q: float, v_p: float, scale: float) -> None:
    def mean_kernel(mean: float, variance: float) -> float:
        density = stats.norm(mean, variance**0.5)
        width = 12 * variance**0.5
        return integrate.quad(lambda u: density.pdf(u) * np.exp(-(u**2) / scale), mean - width, mean + width)[0]

    expected = mean_kernel(0, 2 * v_q) + mean_kernel(0, 2 * v_p) - 2 * mean_kernel(m, v_q + v_p)
    one = torch.ones(1, dtype=torch.float64)
    value = rbf_mmd(m * one, v_q * one.view(1, 1), 0 * one, v_p * one.view(1, 1), scale)
    assert float(value) == pytest.approx(expected, abs=1e-8)


def test_rbf_mmd_in_several_dimensions_against_samples(generator: torch.Generator, mean_is: MeanIs) -> None:
    mean_q, mean_p = torch.randn(2, 3, generator=generator, dtype=torch.float64) * 0.5
    cov_q, cov_p = covariance(3, generator), covariance(3, generator)

    def draw(mean: Tensor, cov: Tensor) -> Tensor:
        noise = torch.randn(N, 3, generator=generator, dtype=torch.float64)
        return mean + noise @ torch.linalg.cholesky(cov).mT

    def k(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a - b).square().sum(-1) / 4.0)

    q, q2, p, p2 = draw(mean_q, cov_q), draw(mean_q, cov_q), draw(mean_p, cov_p), draw(mean_p, cov_p)
    # Four samples that share no draw: E [k(q,q') + k(p,p') − k(q,p') − k(q',p)] is the squared MMD.
    mean_is(k(q, q2) + k(p, p2) - k(q, p2) - k(q2, p), rbf_mmd(mean_q, cov_q, mean_p, cov_p, 4.0))
    assert float(rbf_mmd(mean_q, cov_q, mean_q, cov_q, 4.0)) == pytest.approx(0, abs=1e-14)


def test_the_quantities_of_a_model_agree_with_its_joint_covariances() -> None:
    world, a, t = some_world()
    q, p = joint_covariances(world, a, t)
    n = 4
    h_x, h_z_q, h_z_p = entropy(q[:n, :n]), entropy(q[n:, n:]), entropy(p[n:, n:])
    assert float(world.entropy_x) == pytest.approx(h_x, abs=1e-9)
    # I = H(x) + H(z) − H(x, z), in each joint.
    assert float(world.i_q(a, t)) == pytest.approx(h_x + h_z_q - entropy(q), abs=1e-9)
    assert float(world.i_p) == pytest.approx(entropy(p[:n, :n]) + h_z_p - entropy(p), abs=1e-9)
    np.testing.assert_allclose(world.cov_q_z(a, t), q[n:, n:], atol=1e-12)

    def cross(cov_q: np.ndarray, cov_p: np.ndarray) -> float:
        """−E_q log N(·; 0, cov_p) = ½ [log |2π cov_p| + tr(cov_p⁻¹ cov_q)]."""
        return 0.5 * (np.linalg.slogdet(2 * pi * cov_p)[1] + np.trace(np.linalg.solve(cov_p, cov_q)))

    # −E_q log p(x|z) = −E_q log p(x,z) + E_q log p(z); H(z|x) of q is H(x,z) − H(x).
    distortion = cross(q, p) - cross(q[n:, n:], np.eye(2))
    rate = cross(q[n:, n:], np.eye(2)) - (entropy(q) - h_x)
    assert float(world.distortion(a, t)) == pytest.approx(distortion, abs=1e-9)
    assert float(world.rate(a, t)) == pytest.approx(rate, abs=1e-9)
    assert float(world.kl_q_z(a, t)) == pytest.approx(cross(q[n:, n:], np.eye(2)) - h_z_q, abs=1e-9)
    # The gaps between information and its two bounds.
    assert float(world.rate(a, t) - world.i_q(a, t)) == pytest.approx(float(world.kl_q_z(a, t)), abs=1e-9)
    assert float(world.neg_elbo(a, t)) - h_x == pytest.approx(cross(q, p) - entropy(q), abs=1e-9)
    assert float(world.kl_q_z(a, t)) > 0.01
    assert float(world.neg_elbo(a, t)) - h_x > 0.01


@pytest.mark.parametrize("make", [some_world, mismatched_world])
def test_every_divergence_of_a_model_against_samples(
    make: Callable[[], tuple[LinearGaussian, Tensor, Tensor]], mean_is: MeanIs
) -> None:
    world, a, t = make()
    q, p = joint_covariances(world, a, t)
    x_z = stats.multivariate_normal(np.zeros(6), q).rvs(N, random_state=0)
    of = {"xz": slice(0, 6), "x": slice(0, 4), "z": slice(4, 6)}

    def ratio(name: str) -> np.ndarray:
        """log q − log p of the samples, by scipy."""
        part = of[name]
        q_p = [stats.multivariate_normal(np.zeros(part.stop - part.start), c[part, part]).logpdf(x_z[:, part]) for c in (q, p)]
        return q_p[0] - q_p[1]

    joint, x, z = (torch.from_numpy(ratio(name)) for name in ("xz", "x", "z"))
    mean_is(joint, world.kl_q_xz(a, t))
    mean_is(z, world.kl_q_z(a, t))
    # log q(z|x)/p(z|x) = log q(x,z)/p(x,z) − log q(x)/p(x), and so for x|z.
    mean_is(joint - x, world.kl_q_z_given_x(a, t))
    mean_is(joint - z, world.kl_q_x_given_z(a, t))
    if world.data is None:
        assert float(world.kl_q_x) == pytest.approx(0, abs=1e-12)
    else:
        assert mean_is(x, world.kl_q_x) < 0.1 * float(world.kl_q_x)


@pytest.mark.parametrize("make", [some_world, mismatched_world])
def test_identities_between_the_divergences(make: Callable[[], tuple[LinearGaussian, Tensor, Tensor]]) -> None:
    world, a, t = make()
    joint = float(world.kl_q_xz(a, t))
    # The chain rule, both ways; −ELBO and distortion with their gaps.
    assert joint == pytest.approx(float(world.kl_q_x + world.kl_q_z_given_x(a, t)), abs=1e-10)
    assert joint == pytest.approx(float(world.kl_q_z(a, t) + world.kl_q_x_given_z(a, t)), abs=1e-10)
    assert joint == pytest.approx(float(world.neg_elbo(a, t) - world.entropy_x), abs=1e-10)
    lower = world.entropy_x - world.distortion(a, t)
    assert float(world.i_q(a, t) - lower) == pytest.approx(float(world.kl_q_x_given_z(a, t)), abs=1e-10)
    # Quantities of p alone do not depend on the data.
    assert float(world.i_p) == pytest.approx(float(some_world()[0].i_p), abs=1e-12)
    for value in (joint, world.kl_q_z(a, t), world.kl_q_z_given_x(a, t), world.kl_q_x_given_z(a, t)):
        assert float(value) > 0.01


SINGULAR = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)


def test_a_singular_covariance_is_refused_by_its_smallest_eigenvalue() -> None:
    world, a, t = some_world()
    zero, eye = torch.zeros(2).double(), torch.eye(2).double()
    for act, named in (
        (lambda: gaussian_kl(zero, SINGULAR, zero, eye), "covariance of q"),
        (lambda: gaussian_kl(zero, eye, zero, SINGULAR), "covariance of p"),
        (lambda: gaussian_entropy(SINGULAR), "covariance"),
        (lambda: LinearGaussian(torch.ones(2, 1).double(), 0.5, SINGULAR), "covariance of the data"),
        (lambda: WaterFilling(SINGULAR, 1), "covariance of the data"),
        (lambda: world.kl_q_z(0 * a, 0 * t), "covariance of q"),
    ):
        with pytest.raises(SettingError, match=rf"{named} is singular: its smallest eigenvalue is -?\d"):
            act()
    with pytest.raises(SettingError, match="symmetric"):
        gaussian_entropy(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(SettingError, match="noise=0 must be positive"):
        LinearGaussian(world.weight, 0.0)


def test_the_posterior_by_conditioning_the_joint() -> None:
    world, a, t = some_world()
    _, p = joint_covariances(world, a, t)
    mean, cov = world.posterior()
    gain = np.linalg.solve(p[:4, :4], p[:4, 4:]).T
    np.testing.assert_allclose(mean, gain, atol=1e-10)
    np.testing.assert_allclose(cov, p[4:, 4:] - gain @ p[:4, 4:], atol=1e-10)


def test_with_the_exact_posterior_every_bound_is_tight() -> None:
    world = orthogonal_world()
    a, cov = world.posterior()
    torch.testing.assert_close(cov, torch.diag(cov.diagonal()))
    t = cov.diagonal().sqrt()
    assert float(world.neg_elbo(a, t)) == pytest.approx(float(world.entropy_x), abs=1e-9)
    assert float(world.kl_q_z(a, t)) == pytest.approx(0, abs=1e-9)
    for value in (world.rate(a, t), world.i_q(a, t)):
        assert float(value) == pytest.approx(float(world.i_p), abs=1e-9)
    # Any other encoder of this family is worse.
    for other in ((1.05 * a, t), (a, 1.05 * t), (a + 0.02, t)):
        assert float(world.neg_elbo(*other)) > float(world.entropy_x)


def test_samples_of_the_linear_model_have_its_covariance(generator: torch.Generator) -> None:
    world = LinearGaussian.random(3, 2, 0.5, seed=0)
    z, e = (torch.randn(N, k, generator=generator, dtype=torch.float64) for k in (2, 3))
    x = world.sample(z, e)
    # The entry (i, j) of a sample covariance has variance (Σ_ii Σ_jj + Σ_ij²)/N under a Gaussian.
    cov, diagonal = world.cov_x, world.cov_x.diagonal()
    error = ((diagonal.outer(diagonal) + cov.square()) / N).sqrt()
    assert ((x.mT @ x / N - cov).abs() <= 4 * error).all()
    assert float((world.sample(z, 0 * e) - z @ world.weight.mT).abs().max()) < 1e-12


# ---- the package's estimates on this model


@pytest.fixture
def samples(linear_joint: LinearJoint) -> Callable[..., JointSamples]:
    """Draws a batch from the joint model that equals a linear-Gaussian model and an encoder."""

    def draw(world: LinearGaussian, a: Tensor, t: Tensor, size: int = N, step: int = 0) -> JointSamples:
        n, d = world.weight.shape
        data = Noise(7, "data")
        x = world.sample(data.normal("z", step, (size, d)), data.normal("e", step, (size, n)))
        joint = linear_joint(world, a, t)
        return JointSamples(joint, x, draw_noise(frozenset({"z_q", "z_p", "x_p"}), joint, Noise(8), step, x))

    return draw


def test_the_joint_model_equals_the_linear_model(samples: Callable[..., JointSamples]) -> None:
    world, a, t = some_world()
    batch = samples(world, a, t, 5)
    x, z = batch.x_q.double(), batch.z_q.double()
    q, p = batch.q_z_given_x.base_dist, batch.p_x_given_z_q.base_dist
    # Single precision has six digits.
    torch.testing.assert_close(q.loc.double(), x @ a.mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(q.scale.double(), t.expand(5, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p.loc.double(), z @ world.weight.mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p.scale, torch.full_like(p.loc, world.noise), rtol=1e-5, atol=1e-5)


def test_rate_distortion_and_neg_elbo(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world, a, t = some_world()
    batch = samples(world, a, t)
    assert mean_is(batch.rate, world.rate(a, t)) < 0.01
    assert mean_is(batch.distortion, world.distortion(a, t)) < 0.02
    assert mean_is(batch.rate + batch.distortion, world.neg_elbo(a, t)) < 0.02
    # The estimators are the means of these.
    with torch.no_grad():
        assert float(Rate()(batch)) == pytest.approx(float(batch.rate.mean()), rel=1e-6)
        assert float(Distortion()(batch)) == pytest.approx(float(batch.distortion.mean()), rel=1e-6)
        assert float(NegElbo()(batch)) == pytest.approx(float((batch.rate + batch.distortion).mean()), rel=1e-6)


def test_the_information_and_both_gaps(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world, a, t = some_world()
    batch = samples(world, a, t)
    base = batch.q_z_given_x.base_dist
    z, loc, scale = (v.detach().double() for v in (batch.z_q, base.loc, base.scale))
    aggregate = torch.distributions.MultivariateNormal(torch.zeros(2).double(), world.cov_q_z(a, t))
    prior = gaussian_log_density(z, torch.zeros(2).double(), torch.ones(2).double())
    # With q(z) itself as the density the upper bound is I_q; with the prior it is the rate; the difference is KL(q(z)‖p(z)).
    exact, by_prior = (gaussian_log_density(z, loc, scale) - log_r for log_r in (aggregate.log_prob(z), prior))
    mean_is(exact, world.i_q(a, t))
    mean_is(by_prior, world.rate(a, t))
    mean_is(by_prior - exact, world.kl_q_z(a, t))
    # −log p(x|z) − H_q(x) bounds −I_q from above, by KL(q(x|z) ‖ p(x|z)): the other side of the interval.
    lower = world.entropy_x - batch.distortion.detach().double()
    assert float(lower.mean()) <= float(world.i_q(a, t)) + 4 * float(lower.std()) / N**0.5
    # −ELBO − H_q(x) is the KL of the joints: E_q log q(x) q(z|x) / p(z) p(x|z), q(x) = N(0, Σ_x) being known here.
    data = torch.distributions.MultivariateNormal(torch.zeros(4).double(), world.cov_x)
    ratio = data.log_prob(batch.x_q.double()) + gaussian_log_density(z, loc, scale) - prior + batch.distortion.detach()
    mean_is(ratio, world.neg_elbo(a, t) - world.entropy_x)


def batches(samples: Callable[..., JointSamples], count: int, size: int, *world: object) -> Iterator[JointSamples]:
    for step in range(count):
        with torch.no_grad():
            yield samples(*world, size, step)


@pytest.mark.parametrize("kernel", [RBF(), RBF(0.5), ReferenceRBF()], ids=repr)
def test_mmd_between_the_aggregate_and_the_prior(kernel: RBF, samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    # An encoder with Cov q(z) = diag(0.49, 0.64) + a small matrix, which differs enough from I to be detected.
    world = orthogonal_world()
    a, t = torch.zeros(2, 4).double(), torch.tensor([0.7, 0.8]).double()
    a[0, 0] = 0.1
    zero, eye = torch.zeros(2).double(), torch.eye(2).double()
    true = rbf_mmd(zero, world.cov_q_z(a, t), zero, eye, kernel.scale(2))
    values = torch.stack([MMD(kernel)(batch) for batch in batches(samples, 400, 64, world, a, t)])
    assert mean_is(values, true) < 0.25 * float(true)


def test_mmd_of_mixtures_of_rbf_kernels(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world, a, t = some_world()
    zero, eye, cov = torch.zeros(2).double(), torch.eye(2).double(), world.cov_q_z(a, t)
    # MMD is linear in the kernel; IMQ is ∫ exp(−u) RBF(scale/u) du.
    mixture = sum(float(rbf_mmd(zero, cov, zero, eye, 4 * length**2)) for length in (0.5, 1.0, 2.0)) / 3
    imq = integrate.quad(lambda u: np.exp(-u) * float(rbf_mmd(zero, cov, zero, eye, 4 / u)), 1e-12, 60)[0]
    drawn = [(batch.z_q, batch.z_p) for batch in batches(samples, 400, 64, world, a, t)]
    mean_is(torch.stack([mmd(z, w, MixtureRBF()) for z, w in drawn]), mixture)
    mean_is(torch.stack([mmd(z, w, IMQ()) for z, w in drawn]), imq)


def test_the_mmd_of_a_good_encoder_is_zero(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world = orthogonal_world()
    a, cov = world.posterior()
    drawn = batches(samples, 400, 64, world, a, cov.diagonal().sqrt())
    mean_is(torch.stack([MMD(MixtureRBF())(batch) for batch in drawn]), 0.0)


# ---- the model's joint: information between z ∼ p(z) and x ∼ p(x|z)


def test_samples_of_the_model_have_its_distribution(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world, a, t = some_world()
    batch = samples(world, a, t)
    data = torch.distributions.MultivariateNormal(torch.zeros(4).double(), world.cov_x)
    # The mean of −log p(x) is H_p(x) = H_q(x), since the data have the model's own distribution here.
    mean_is(-data.log_prob(batch.x_p.detach().double()), world.entropy_x)
    # E_p log p(x|z) = −n/2 log(2πe s²).
    conditional = batch.p_x_given_z_p.log_prob(batch.x_p).detach()
    mean_is(conditional, -2 * log(2 * pi * world.noise**2) - 2)


def test_bounds_on_i_p(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world = orthogonal_world()
    a, cov = world.posterior()
    t = cov.diagonal().sqrt()
    true, h_z = float(world.i_p), 1 + log(2 * pi)
    size, count = 64, 300
    upper = torch.stack([i_p_upper(batch) for batch in batches(samples, count, size, world, a, t)]).double()
    lower = torch.stack([h_z - neg_i_p_lower(batch) for batch in batches(samples, count, size, world, a, t)])
    # With the exact posterior the lower bound is I_p itself.
    mean_is(lower, true)
    # The upper bound exceeds I_p by E −log(p̂(x)/p(x)), p̂ the mean over the B − 1 others: to second order
    # χ²/(2 (B − 1)), χ² = E_p p(x|z)/p(x) − 1 = Π 1/(1 − ρ²) − 1, and 1/(1 − ρ_k²) = 1 + w_k²/s². Twice that is allowed.
    chi2 = float((1 + world.weight.square().sum(0) / world.noise**2).prod()) - 1
    error = float(upper.std()) / count**0.5
    assert true - 4 * error <= float(upper.mean()) <= true + chi2 / (size - 1) + 4 * error
    assert error < 0.02


def test_a_wrong_encoder_lowers_the_lower_bound_on_i_p(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world = orthogonal_world()
    a, cov = world.posterior()
    batch = samples(world, 0.5 * a, cov.diagonal().sqrt())
    # The gap is E KL(p(z|x) ‖ q(z|x)); with the same scale and half the mean, ½ E ‖½ A x / t‖².
    gap = 0.125 * float(((a @ world.cov_x @ a.mT).diagonal() / cov.diagonal()).sum())
    log_q = batch.q_z_given_x_p.log_prob(batch.z_p)
    error = mean_is(log_q + 1 + log(2 * pi), float(world.i_p) - gap)
    assert gap > 10 * error
    assert float(neg_i_p_lower(batch).detach()) == pytest.approx(-float(log_q.detach().mean()), rel=1e-5)


def test_the_upper_bound_on_i_p_by_a_double_loop(samples: Callable[..., JointSamples]) -> None:
    world, a, t = some_world()
    batch = samples(world, a, t, 9)
    x, z = batch.x_p.detach().double(), batch.z_p.double()
    total = 0.0
    for i in range(9):
        log_p = [stats.norm((world.weight @ z[j]).numpy(), world.noise).logpdf(x[i].numpy()).sum() for j in range(9)]
        others = [log_p[j] for j in range(9) if j != i]
        total += log_p[i] - (np.logaddexp.reduce(others) - log(8))
    assert float(i_p_upper(batch).detach()) == pytest.approx(total / 9, rel=1e-4)


def test_the_gradient_of_information_reaches_the_decoder(samples: Callable[..., JointSamples], mean_is: MeanIs) -> None:
    world = orthogonal_world()
    a, cov = world.posterior()
    upper, lower = [], []
    for step in range(200):
        batch = samples(world, a, cov.diagonal().sqrt(), 64, step)
        decoder = batch.joint.decoder
        upper.append(torch.autograd.grad(i_p_upper(batch), decoder.log_scale, retain_graph=True)[0])
        lower.append(torch.autograd.grad(-neg_i_p_lower(batch), decoder.log_scale)[0])
    # I_p = ½ Σ log(1 + w²/s²), so dI_p/ds = −Σ w²/(s (s² + w²)), and ds/du = SPEED (s − tiny), of which the gradient in u
    # is a share of 1 / (coordinates · SPEED²). At the exact posterior the gradient of the lower bound equals that of I_p: the
    # missing term is E_p ∇log p(z|x) = 0.
    w2 = world.weight.square().sum(0)
    slope = -float((w2 / (world.noise * (world.noise**2 + w2))).sum())
    slope *= (world.noise - decoder.tiny) / (len(world.weight) * SPEED)
    assert mean_is(torch.stack(lower), slope) < 0.1 * abs(slope)
    # The upper bound is not tight, but it also decreases with the noise of the decoder.
    assert float(torch.stack(upper).mean()) < 0


def test_a_preference_on_i_p_needs_differentiable_samples() -> None:
    def linear(shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> MLP:
        return MLP(shape_in, shape_out, hidden=())

    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(linear, (4,), 2), BernoulliDecoder(linear, (4,), 2))
    check_preference(-1.0, 0.0, joint)
    for alpha in (1.0, -1.0):
        with pytest.raises(SettingError, match="likelihood=normal"):
            check_preference(0.0, alpha, joint)


def test_an_unknown_statistic_is_refused_when_the_divergence_is_made() -> None:
    with pytest.raises(SettingError, match="unknown"):
        MMD(RBF(), statistic="w")


@pytest.mark.parametrize("divergence", [Rate(), Distortion(), NegElbo(), MMD(RBF())], ids=repr)
def test_a_divergence_uses_only_the_noise_that_it_requires(
    divergence: Divergence, samples: Callable[..., JointSamples]
) -> None:
    world, a, t = some_world()
    batch = samples(world, a, t, 8)
    batch.noise = {name: batch.noise[name] for name in divergence.required_noise}  # nothing else is drawn on
    assert divergence(batch).shape == ()
    assert divergence.nats == (not isinstance(divergence, MMD))
