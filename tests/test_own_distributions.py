"""Distributions, networks and metrics of one's own: what is computed of them, and what is said of those that do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from math import e, log, pi
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
    kl_divergence,
    transforms,
)
from torchmetrics import MeanSquaredError, Metric

from lagvae.distributions import GaussianEncoder, JointModel, JointSamples, NormalDecoder, StandardNormalPrior, draw_noise
from lagvae.distributions.adapters import noise_shape_of, sample_from
from lagvae.distributions.joint import mean_of
from lagvae.divergences import AdversarialRate
from lagvae.errors import SettingError
from lagvae.experiment.factory import build_prior
from lagvae.introspection import draws_by_itself
from lagvae.lagrangian import Lagrangian, Preference
from lagvae.metrics import Information, InformationOfModel, as_latent_metric
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.noise import Noise

MeanIs = Callable[[Tensor, float | Tensor], float]

SHAPE, LATENT = (5,), 3
ALL = frozenset({"z_q", "z_p", "x_p"})
NETWORK = partial(MLP, hidden=(8,))


class Returns(nn.Module):
    """A module whose forward is a given function, beside a network that it may use."""

    def __init__(self, function: Callable[..., Any], network: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.network = function, network or nn.Identity()

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.network(*inputs)) if inputs else self.function()


def own_joint(**parts: nn.Module) -> JointModel:
    """A joint model of the package's parts, but for those that are given."""
    torch.manual_seed(0)
    ours = {
        "prior": StandardNormalPrior(LATENT),
        "encoder": GaussianEncoder(NETWORK, SHAPE, LATENT),
        "decoder": NormalDecoder(NETWORK, SHAPE, LATENT),
    }
    return JointModel(**(ours | parts))


def drawn(joint: JointModel, n: int = 6, step: int = 0) -> JointSamples:
    x = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return JointSamples(joint, x, draw_noise(ALL, joint, Noise(0), step, x))


def standard_mixture() -> MixtureSameFamily:
    """A mixture of four equal components, which is N(0, I) itself, and whose entropy and KL torch does not know."""
    return MixtureSameFamily(Categorical(torch.ones(4)), Independent(Normal(torch.zeros(4, LATENT), torch.ones(4, LATENT)), 1))


# ---- distributions by protocol


@pytest.mark.parametrize("joined", [False, True])
def test_a_module_that_returns_the_same_gaussian_is_the_same_model(joined: bool) -> None:
    """Whether its event shape says that the coordinates belong together, or not."""

    def given(distribution: Independent) -> Distribution:
        return distribution if joined else distribution.base_dist

    ours = own_joint()
    own = own_joint(
        prior=Returns(lambda: given(ours.prior())),
        encoder=Returns(lambda x: given(ours.encoder(x))),
        decoder=Returns(lambda z: given(ours.decoder(z))),
    )
    a, b = drawn(ours), drawn(own)
    assert own.rate_is_exact
    assert own.has_gaussian_posterior
    for name in ("z_q", "z_p", "x_p", "rate", "distortion"):
        torch.testing.assert_close(getattr(b, name), getattr(a, name), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("distribution", "cdf"),
    [
        (Laplace(torch.tensor([1.0]), torch.tensor([2.0])), stats.laplace(1, 2).cdf),
        (LogNormal(torch.tensor([0.5]), torch.tensor([0.7])), stats.lognorm(0.7, scale=np.exp(0.5)).cdf),
        (MultivariateNormal(torch.tensor([1.0, 0.0]), torch.tensor([[4.0, 1.0], [1.0, 1.0]])), stats.norm(1, 2).cdf),
        (
            MixtureSameFamily(
                Categorical(torch.tensor([0.2, 0.8])), Independent(Normal(torch.tensor([[-3.0], [1.0]]), torch.ones(2, 1)), 1)
            ),
            lambda v: 0.2 * stats.norm(-3, 1).cdf(v) + 0.8 * stats.norm(1, 1).cdf(v),
        ),
        (
            Independent(MixtureSameFamily(Categorical(torch.ones(1, 2)), Laplace(torch.tensor([[-3.0, 1.0]]), 1.0)), 1),
            lambda v: 0.5 * stats.laplace(-3, 1).cdf(v) + 0.5 * stats.laplace(1, 1).cdf(v),
        ),
        (
            TransformedDistribution(Independent(Normal(torch.zeros(1), torch.ones(1)), 1), [transforms.AffineTransform(1, 3)]),
            stats.norm(1, 3).cdf,
        ),
    ],
    ids=["laplace", "lognormal", "multivariate", "mixture", "mixture of numbers", "flow"],
)
def test_noise_becomes_samples_of_the_distribution(distribution: Any, cdf: Any, generator: torch.Generator) -> None:
    noise = torch.randn(5000, *distribution.batch_shape, *noise_shape_of(distribution), generator=generator)
    first = sample_from(distribution, noise)[:, 0]
    assert stats.kstest(first.numpy(), cdf).pvalue > 1e-3  # a correct sampler fails once in a thousand seeds; this one is fixed


def test_the_coordinates_of_a_sample_have_their_covariance(generator: torch.Generator) -> None:
    covariance = torch.tensor([[4.0, 1.0], [1.0, 1.0]])
    z = sample_from(MultivariateNormal(torch.zeros(2), covariance), torch.randn(20_000, 2, generator=generator))
    # The standard error of an entry is at most √(2 · 4²/20000) = 0.04.
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0, atol=0.16)


def test_samples_have_the_gradient_of_the_reparametrisation() -> None:
    loc, scale = torch.zeros(4, requires_grad=True), torch.full((4,), 2.0, requires_grad=True)
    z = sample_from(Laplace(loc, scale), torch.tensor([-1.0, -0.1, 0.2, 2.0]))
    d_loc, d_scale = torch.autograd.grad(z.sum(), (loc, scale))
    torch.testing.assert_close(d_loc, torch.ones(4))
    torch.testing.assert_close(d_scale, z.detach() / 2)  # z = loc + scale · l, with loc = 0


@pytest.mark.parametrize(
    "prior", [lambda: Dirichlet(torch.full((LATENT,), 2.0)), lambda: Gamma(2 * torch.ones(LATENT), torch.ones(LATENT))]
)
def test_what_only_torch_can_draw_is_a_function_of_the_noise_as_well(prior: Callable[[], Distribution]) -> None:
    joint = own_joint(prior=Returns(prior))
    assert not joint.prior.is_pathwise
    before = torch.get_rng_state()
    first, again, other = (drawn(joint, 2000, step).z_p for step in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state()), "the generator of the user is left alone"
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    error = prior().stddev / len(first) ** 0.5
    assert bool(((first.mean(0) - prior().mean).abs() < 4 * error).all())


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_rate_is_that_of_the_prior_that_is_given(scale: float) -> None:
    """KL(N(μ, σ²)‖N(0, s²)) = ½ Σ (μ² + σ²) / s² − 1 − log(σ² / s²)."""
    s = drawn(own_joint(prior=Returns(lambda: Normal(torch.zeros(LATENT), scale * torch.ones(LATENT)))))
    mean, variance = s.q_z_given_x.mean, s.q_z_given_x.variance
    expected = ((mean**2 + variance) / scale**2 - 1 - (variance / scale**2).log()).sum(-1) / 2
    torch.testing.assert_close(s.rate, expected)


@pytest.mark.parametrize("side", ["prior", "encoder"])
def test_full_covariances_have_a_rate_in_closed_form(side: str) -> None:
    ours = drawn(own_joint())
    full = MultivariateNormal(torch.zeros(LATENT), torch.diag(torch.tensor([1.0, 4.0, 9.0])))
    diagonal = Independent(Normal(torch.zeros(LATENT), torch.tensor([1.0, 2.0, 3.0])), 1)
    if side == "prior":
        joint = own_joint(prior=Returns(lambda: full))
        expected = kl_divergence(ours.q_z_given_x, diagonal)
    else:
        joint = own_joint(encoder=Returns(lambda x: full.expand(x.shape[:1])))
        expected = kl_divergence(diagonal, ours.p_z).expand(6)
    assert joint.rate_is_exact
    torch.testing.assert_close(drawn(joint).rate, expected)


def test_without_a_closed_form_the_rate_is_estimated_at_the_samples(mean_is: MeanIs) -> None:
    joint, ours = own_joint(prior=Returns(standard_mixture)), own_joint()
    assert joint.has_rate
    assert not joint.rate_is_exact
    s, exact = drawn(joint, 4000), drawn(ours, 4000).rate
    torch.testing.assert_close(s.rate, s.q_z_given_x.log_prob(s.z_q) - StandardNormalPrior(LATENT)().log_prob(s.z_q))
    mean_is(s.rate - exact, 0.0)


def test_a_mean_that_torch_does_not_know_is_the_transformed_mean_of_the_base() -> None:
    flow = TransformedDistribution(Normal(torch.zeros(2, 3), torch.ones(2, 3)), [transforms.AffineTransform(1.0, 2.0)])
    torch.testing.assert_close(mean_of(Independent(flow, 1)), torch.ones(2, 3))


def test_a_distribution_without_a_density_has_no_rate() -> None:
    class Uniformly(Distribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012
        has_rsample = True

        def __init__(self, x: Tensor) -> None:
            super().__init__(x.shape[:1], torch.Size((LATENT,)))
            self.x = x

        def rsample(self, sample_shape: Any = ()) -> Tensor:
            return self.x[:, :LATENT] + torch.rand(*sample_shape, len(self.x), LATENT)

    joint = own_joint(encoder=Returns(Uniformly))
    assert not joint.has_rate
    assert torch.equal(drawn(joint).z_q, drawn(joint).z_q)


def test_a_bernoulli_decoder_of_ones_own(generator: torch.Generator) -> None:
    joint = own_joint(decoder=Returns(lambda z: Bernoulli(logits=z[:, :1].expand(-1, 5))))
    assert not joint.decoder.differentiable_samples
    s = drawn(joint, 4000)
    probability = s.z_p[:, :1].sigmoid()
    error = (probability * (1 - probability)).mean() / 4000
    assert float((s.x_p[:, 0] - probability[:, 0]).mean().abs()) < 4 * float(error) ** 0.5
    assert set(s.x_p.unique().tolist()) == {0.0, 1.0}


def scaled(x: Tensor, loc: float = 0.0) -> Normal:
    return Normal(x[:, :LATENT] + loc, torch.ones(len(x), LATENT))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no distribution": ({"encoder": Returns(lambda x: x)}, r"Returns\.forward returns a tensor of shape \(2, 5\) for a batch"),
    "a tuple": ({"encoder": Returns(lambda x: (x, x))}, "Returns.forward returns a tuple"),
    "another dimension": (
        {"encoder": Returns(lambda x: Normal(x, 1.0))},
        r"model\.posterior: .*Returns\.forward returns a distribution of shape \(2, 5\) for a batch of shape \(2, 5\); it must "
        r"return a distribution of shape \(2, 3\)",
    ),
    "one for all": ({"encoder": Returns(lambda x: Normal(x[0, :3], 1.0))}, r"of shape \(3,\) .*one z for each x"),
    "no gradient": ({"encoder": Returns(lambda x: OneHotCategorical(logits=x[:, :3]))}, "without rsample"),
    "an error": (
        {"encoder": Returns(lambda x: x @ torch.ones(4))},
        r"fails for a batch of shape \(2, 5\): RuntimeError.*\(test_own_distributions\.py, line \d+\)\. It must return a "
        r"distribution of shape \(2, 3\)",
    ),
    "a wrong parameter": ({"encoder": Returns(lambda x: Normal(x[:, :3], -1.0))}, "fails .* GreaterThan"),
    "a number": (
        {"prior": Returns(lambda: Normal(0.0, 1.0))},
        r"model\.prior: .*shape \(\); it must return one distribution",
    ),
    "no module": ({"prior": Normal(0.0, 1.0)}, "The prior must be a torch.nn.Module whose forward returns a distribution"),
    "one image": (
        {"decoder": Returns(lambda z: Normal(z[0], 1.0))},
        r"model\.likelihood: .*shape \(2, \*shape\), one x for each z",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_with_its_shapes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, message = WRONG[case]
    monkeypatch.setattr(Distribution, "_validate_args", False)  # as torch.compile leaves it
    with pytest.raises(SettingError, match=message):
        own_joint(**parts)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda a: nn.Linear(5, 6), r"model\.encoder: .* cannot be built from \(shape_in, shape_out\) = \(\(5,\), \(2, 3\)\)"),
        (lambda a, b: nn.Linear(5, 6), r"gives \(2, 6\) for a batch of shape \(2, 5\); it must give \(2, 2, 3\)"),
        (
            lambda a, b: nn.Linear(4, 6),
            r"fails on a batch of shape \(2, 5\): RuntimeError.*shape_in = \(5,\) and shape_out = \(2, 3\)",
        ),
        (lambda a, b: Returns(lambda x: [x]), "gives a list"),
    ],
)
def test_a_network_that_does_not_fit_is_named_with_its_shapes(network: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        GaussianEncoder(network, SHAPE, LATENT)


def test_a_module_is_tried_as_it_is_used_and_left_as_it_was() -> None:
    norm = nn.BatchNorm1d(5)
    own_joint(encoder=Returns(scaled, norm))
    assert norm.training
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


# ---- what is measured of it


def joint_of_gaussians() -> tuple[JointModel, JointModel]:
    """A joint model of the package, and the same one with p(z) written as a mixture, of which torch knows less."""
    ours = own_joint()
    return ours, own_joint(prior=Returns(standard_mixture), encoder=ours.encoder, decoder=ours.decoder)


def test_likelihoods_are_those_of_the_same_density(mean_is: MeanIs) -> None:
    x = torch.randn(300, *SHAPE, generator=torch.Generator().manual_seed(2))
    ours, own = (
        LatentVariableModel(joint, Lagrangian(Preference(0.0), []), partial(torch.optim.Adam, lr=1e-3)).eval()
        for joint in joint_of_gaussians()
    )
    torch.testing.assert_close(own.log_prob(x, draws=8), ours.log_prob(x, draws=8), rtol=1e-4, atol=1e-4)
    # With the same z the two differ by the rate alone, whose estimate is a mean over the draws.
    one, many = (mean_is(own.elbo(x, draws=n) - ours.elbo(x, draws=n), 0.0) for n in (1, 16))
    assert many < one / 2


def test_information_of_the_model_without_a_known_entropy(mean_is: MeanIs) -> None:
    ours, own = joint_of_gaussians()
    values = []
    for joint in (ours, own):
        metric = InformationOfModel()
        assert metric.is_applicable(joint, SimpleNamespace(), "test")  # type: ignore[arg-type]
        metric.update(drawn(joint, 4000), torch.arange(4000))
        values.append(metric)
    assert values[1].entropy is None
    # Pointwise the two differ by −log p(z) − H(z), at the z of the mixture.
    found = [float(metric.compute()["i_p_lower"]) for metric in values]
    errors = [float(metric.compute()["i_p_lower_stderr"]) for metric in values]
    assert abs(found[0] - found[1]) < 4 * sum(error**2 for error in errors) ** 0.5


def test_the_interval_of_information_is_that_of_the_prior_that_is_given() -> None:
    """The bound by the prior is the mean rate; evaluating fewer samples, with control variates, changes no bound by much."""
    joint = own_joint(prior=Returns(lambda: Normal(torch.full((LATENT,), 2.0), 3 * torch.ones(LATENT))))
    data: Any = SimpleNamespace(size=lambda split: 600, is_stochastic=False)
    samples, found = drawn(joint, 600), []
    for pairs in (10**8, 600 * 300):
        metric = Information(pairs=pairs)
        assert metric.is_applicable(joint, data, "val")
        metric.update(samples, torch.arange(600))
        found.append({key: float(value) for key, value in metric.compute().items()})
    whole, part = found
    rate = samples.rate.mean().item()
    assert abs(whole["i_q_upper_rate"] - rate) < 0.1 * rate
    assert whole["i_q_lower"] <= whole["i_q_upper"] < rate  # q(z) is closer to each q(z|x) than a prior that is wide and apart
    # Half of the same samples: the difference is at most as wide as the standard error of a half.
    for key in ("i_q_lower_inclusive", "i_q_upper_leave_one_out"):
        assert abs(whole[key] - part[key]) < 4 * part["i_q_upper_stderr"]
    full = own_joint(encoder=Returns(lambda x: MultivariateNormal(x[:, :3], torch.eye(3))))
    assert not Information().is_applicable(full, data, "val")


def test_an_adversarial_rate_draws_further_samples_of_ones_own_encoder() -> None:
    draws = 40
    joint = own_joint(encoder=Returns(lambda x: Gamma(2 + x[:, :3].square(), torch.ones(len(x), 3))))
    divergence = AdversarialRate(partial(MLP, hidden=(8,)), draws=draws)
    divergence.prepare("r", joint, SHAPE)
    x = torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(1))
    s = JointSamples(joint, x, draw_noise(divergence.required_noise, joint, Noise(0), 0, x))
    mean, root = divergence.contrast(s)
    # Means of `draws` samples of Gamma(a, 1), which has the variance a: their mean squared error over x is a / draws.
    truth = s.q_z_given_x.mean
    squared = ((mean - truth).square() / truth).mean()
    assert abs(float(squared) - 1 / draws) < 4 * (2 / draws**2 / truth.numel()) ** 0.5 * 2
    assert root.shape == (2000, 3, 3)
    assert divergence(s).shape == ()


def test_every_step_has_draws_of_its_own() -> None:
    model = LatentVariableModel(own_joint(), Lagrangian(Preference(0.0), []), partial(torch.optim.Adam, lr=1e-3))
    model._draws_by_itself = draws_by_itself(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)))
    before = torch.get_rng_state()
    drawn_at = []
    for step in (0, 0, 1):
        with model._generators(step):
            drawn_at.append(torch.rand(3).tolist())
    assert drawn_at[0] == drawn_at[1]
    assert drawn_at[0] != drawn_at[2]
    assert torch.equal(before, torch.get_rng_state())
    assert draws_by_itself(Returns(scaled))
    assert not draws_by_itself(own_joint())


# ---- metrics


def test_a_metric_gets_what_its_update_asks_for() -> None:
    seen: list[tuple[Any, ...]] = []

    class Asks(Metric):
        full_state_update = False

        def update(self, samples: Any, index: Tensor) -> None:
            seen.append((samples, index))

        def compute(self) -> dict[str, Tensor]:
            return {"a": torch.ones(()), "a_stderr": torch.zeros(()), "b": torch.ones(())}

    samples, index = drawn(own_joint()), torch.arange(6)
    metric = as_latent_metric("asks", Asks())
    metric.update(samples, index)
    assert seen == [(samples, index)]
    assert metric.compute().keys() == {"a", "a_stderr", "b"}
    assert metric.labels == {"a": "a", "b": "b"}
    error = as_latent_metric("error", MeanSquaredError())
    error.update(samples, index)
    torch.testing.assert_close(error.compute()["error"], (samples.p_x_given_z_q.mean - samples.x_q).square().mean())
    error.reset()
    assert int(error.metric.total) == 0  # type: ignore[operator]
    with pytest.raises(SettingError, match=r"net: torch\.nn\.modules\.linear\.Linear is no torchmetrics\.Metric"):
        as_latent_metric("net", nn.Linear(1, 1))


def test_a_class_without_arguments_of_its_own_is_given_none() -> None:
    """The __init__ that it has from torch.nn.Module says that it takes all, and refuses them."""

    class Constant(nn.Module):
        def forward(self) -> Distribution:
            return Normal(torch.zeros(LATENT), 2.0)

    prior = build_prior(partial(Constant), LATENT, lambda: torch.empty(0))
    assert prior().stddev.tolist() == [2.0] * LATENT
    with pytest.raises(SettingError, match=r"Constant has z of 3 dimensions, and model\.latent=5; set model\.latent=3"):
        build_prior(partial(Constant), 5, lambda: torch.empty(0))
    with pytest.raises(SettingError, match=r"Constant cannot be built .*'scale'.*It gets what its __init__ names of latent"):
        build_prior(partial(Constant, scale=3), LATENT, lambda: torch.empty(0))


def test_the_entropy_of_a_prior_with_parameters_is_a_number_without_a_warning() -> None:
    scale = torch.nn.Parameter(torch.full((LATENT,), 2.0))
    prior = own_joint(prior=Returns(lambda: Independent(Normal(torch.zeros(LATENT), scale), 1))).prior
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prior.entropy == pytest.approx(LATENT * (0.5 * log(2 * pi * e) + log(2)))
