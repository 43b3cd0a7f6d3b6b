"""Distributions compared with scipy, samples as functions of given noise, lazy evaluation, and shapes of networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor
from torch.func import functional_call, stack_module_state

from lagvae.distributions import (
    BernoulliDecoder,
    CodesPosterior,
    CodesPrior,
    DiscretizedLogistic,
    DiscretizedLogisticDecoder,
    GaussianEncoder,
    Generator,
    ImplicitEncoder,
    JointModel,
    JointSamples,
    LaplaceDecoder,
    NormalDecoder,
    StandardNormalPrior,
    draw_noise,
    mean_of,
)
from lagvae.distributions.decoders import SPEED
from lagvae.errors import DataError, SettingError
from lagvae.networks import MLP, ConvDecoder, ConvEncoder, LeakyReLU, ResidualBlock, SquareMotion, default_channels
from lagvae.noise import Noise

MeanIs = Callable[[Tensor, float | Tensor], float]

SHAPE, LATENT = (1, 3, 2), 2
ALL = frozenset({"z_q", "z_p", "x_p"})


def make_joint(decoder: str, seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    network = partial(MLP, hidden=(8,), activation="tanh")
    kind = {"bernoulli": BernoulliDecoder, "normal": NormalDecoder}[decoder]
    return JointModel(StandardNormalPrior(LATENT), GaussianEncoder(network, SHAPE, LATENT), kind(network, SHAPE, LATENT))


def binary(generator: torch.Generator, n: int) -> Tensor:
    return (torch.rand(n, *SHAPE, generator=generator) < 0.4).float()


# ---- densities


def test_the_prior_is_standard_normal(generator: torch.Generator) -> None:
    z = torch.randn(5, 3, generator=generator)
    distribution = StandardNormalPrior(3)()
    assert (distribution.batch_shape, distribution.event_shape) == ((), (3,))
    np.testing.assert_allclose(distribution.log_prob(z), stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-5)


def test_the_encoder_is_a_diagonal_gaussian_of_its_network(generator: torch.Generator) -> None:
    joint, x = make_joint("normal"), torch.randn(4, *SHAPE, generator=generator)
    distribution = joint.encoder(x)
    out = joint.encoder.network(x).detach()
    scale = np.log1p(np.exp(out[:, 1].double().numpy())) + 1e-4
    z = torch.randn(4, LATENT, generator=generator)
    expected = stats.norm(out[:, 0].numpy(), scale).logpdf(z.numpy()).sum(-1)
    assert (distribution.batch_shape, distribution.event_shape) == ((4,), (LATENT,))
    np.testing.assert_allclose(distribution.log_prob(z).detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_scale_of_the_encoder_has_a_floor() -> None:
    encoder = GaussianEncoder(partial(MLP, hidden=()), (1,), 1, tiny=1e-3)
    encoder.network.load_state_dict({"layers.0.weight": torch.zeros(2, 1), "layers.0.bias": torch.tensor([0.0, -200.0])})
    distribution = encoder(torch.zeros(1, 1))
    assert float(distribution.stddev.detach()) == pytest.approx(1e-3)
    assert distribution.log_prob(torch.zeros(1, 1)).isfinite().all()


def test_the_bernoulli_decoder_against_scipy(generator: torch.Generator) -> None:
    joint, z = make_joint("bernoulli"), torch.randn(4, LATENT, generator=generator)
    distribution = joint.decoder(z)
    p = 1 / (1 + np.exp(-joint.decoder.network(z).detach().double().numpy()))
    x = binary(generator, 4)
    assert (distribution.batch_shape, distribution.event_shape) == ((4,), SHAPE)
    np.testing.assert_allclose(
        distribution.log_prob(x).detach(), stats.bernoulli.logpmf(x.numpy(), p).sum((1, 2, 3)), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(mean_of(distribution).detach(), p, rtol=1e-5)
    # For x in [0, 1] the value is the expected log-likelihood of a pixel that is 1 with probability x.
    grey = torch.rand(4, *SHAPE, generator=generator)
    expected = (grey.numpy() * np.log(p) + (1 - grey.numpy()) * np.log1p(-p)).sum((1, 2, 3))
    np.testing.assert_allclose(distribution.log_prob(grey).detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_the_normal_decoder_against_scipy(shared: bool, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    decoder = NormalDecoder(partial(MLP, hidden=(8,)), SHAPE, LATENT, shared_scale=shared)
    # The initial scale is 1, that of standardised data, and the learned parameters determine it.
    z = torch.randn(4, LATENT, generator=generator)
    torch.testing.assert_close(decoder(z).stddev, torch.ones(4, *SHAPE))
    assert decoder.log_scale.numel() == (1 if shared else 6)
    decoder.log_scale.data = 0.1 * torch.randn(decoder.log_scale.shape, generator=generator)
    scale = (np.exp(SPEED * decoder.log_scale.detach().double().numpy()) + 1e-2) * np.ones(SHAPE)
    x = torch.randn(4, *SHAPE, generator=generator)
    distribution = decoder(z)
    expected = stats.norm(decoder.network(z).detach().numpy(), scale).logpdf(x.numpy()).sum((1, 2, 3))
    assert (distribution.batch_shape, distribution.event_shape) == ((4,), SHAPE)
    np.testing.assert_allclose(distribution.log_prob(x).detach(), expected, rtol=1e-4, atol=1e-4)


DECODERS = pytest.mark.parametrize(
    ("kind", "spread"),
    [(NormalDecoder, lambda r: r.square().mean(0).sqrt()), (LaplaceDecoder, lambda r: r.abs().mean(0))],
    ids=["normal", "laplace"],
)
"""The decoders with a scale, and the scale of the largest likelihood for residuals, over the first axis."""


@DECODERS
def test_a_learned_scale_starts_at_the_spread_of_the_data(
    kind: type[NormalDecoder], spread: Callable[[Tensor], Tensor], generator: torch.Generator
) -> None:
    network, z = partial(MLP, hidden=()), torch.zeros(1, LATENT)
    x = torch.randn(50, *SHAPE, generator=generator) * torch.tensor([0.5, 3.0]) + 7
    residual = x - x.mean(0)
    for shared, expected in ((False, spread(residual)), (True, spread(residual.flatten()).expand(SHAPE))):
        decoder = kind(network, SHAPE, LATENT, shared_scale=shared)
        decoder.start_scale(x)
        torch.testing.assert_close(decoder(z).base_dist.scale[0], expected)
    # A coordinate that is constant starts above the lower limit, where the scale can still move; a fixed scale stays.
    decoder.start_scale(torch.ones(5, *SHAPE))
    assert float(decoder(z).base_dist.scale.detach().min()) == pytest.approx(2 * decoder.tiny)
    fixed = kind(network, SHAPE, LATENT, scale=0.3)
    fixed.start_scale(x)
    torch.testing.assert_close(fixed(z).base_dist.scale, torch.full((1, *SHAPE), 0.3))


@DECODERS
@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_of_a_scale_is_zero_at_its_optimum_and_a_mean_over_coordinates(
    kind: type[NormalDecoder], spread: Callable[[Tensor], Tensor], shared: bool, generator: torch.Generator
) -> None:
    decoder = kind(partial(MLP, hidden=()), SHAPE, LATENT, shared_scale=shared, tiny=1e-6)
    z, noise = torch.randn(20, LATENT, generator=generator), torch.randn(20, *SHAPE, generator=generator)
    residual = noise - decoder(z).base_dist.loc.detach()
    best = spread(residual.flatten() if shared else residual)

    def gradient(scale: Tensor) -> Tensor:
        decoder.set_scale(scale)
        return torch.autograd.grad(-decoder(z).log_prob(noise).mean(), decoder.log_scale)[0]

    assert float(gradient(best).abs().max()) < 1e-5
    # The distortion is log s + (b/s)^k / k per coordinate, with k = 2 for Normal, 1 for Laplace. u is log(s) / SPEED, and the
    # gradient in u is that of the mean over the coordinates that share s, divided by SPEED².
    k = 1 if kind is LaplaceDecoder else 2
    torch.testing.assert_close(gradient(2 * best), torch.full_like(best, (1 - 0.5**k) / SPEED), rtol=1e-4, atol=1e-6)


def test_a_learned_scale_has_a_floor() -> None:
    decoder = NormalDecoder(partial(MLP, hidden=()), SHAPE, LATENT, tiny=1e-3)
    decoder.log_scale.data.fill_(-50.0)
    assert float(decoder(torch.zeros(1, LATENT)).stddev.detach().min()) == pytest.approx(1e-3)


# ---- samples as functions of noise


def test_a_sample_of_the_encoder_is_location_plus_scale_times_noise(generator: torch.Generator) -> None:
    joint, x = make_joint("normal"), torch.randn(4, *SHAPE, generator=generator)
    noise = torch.randn(4, LATENT, generator=generator)
    distribution = joint.encoder(x)
    z = joint.encoder.sample(distribution, noise)
    torch.testing.assert_close(z, distribution.mean + distribution.stddev * noise)
    # The sample is differentiable in both: d(sum z)/dμ = 1, d(sum z)/dσ = noise.
    d_loc, d_scale = torch.autograd.grad(z.sum(), (distribution.base_dist.loc, distribution.base_dist.scale))
    torch.testing.assert_close(d_loc, torch.ones_like(noise))
    torch.testing.assert_close(d_scale, noise)


def test_samples_of_the_decoders_have_their_distribution(generator: torch.Generator, mean_is: MeanIs) -> None:
    n = 20_000
    z = torch.randn(1, LATENT, generator=generator).expand(n, -1)
    joint = make_joint("bernoulli")
    distribution = joint.decoder(z)
    x = joint.decoder.sample(distribution, torch.rand(n, *SHAPE, generator=generator))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    for pixel, p in zip(x.flatten(1).T, distribution.mean[0].flatten().tolist(), strict=True):
        mean_is(pixel, p)
    joint = make_joint("normal")
    distribution = joint.decoder(z)
    x = joint.decoder.sample(distribution, torch.randn(n, *SHAPE, generator=generator)).detach()
    standardised = ((x - distribution.mean) / distribution.stddev).detach()
    # A correct sampler falls below 1e-4 for one seed in 10,000, and the seed is fixed.
    assert stats.kstest(standardised[:, 0, 0, 0].numpy(), "norm").pvalue > 1e-4
    mean_is(standardised[:, 0, 0, 0] * standardised[:, 0, 1, 0], 0)


def test_samples_of_the_laplace_decoder_are_the_quantiles_of_its_uniform_noise(generator: torch.Generator) -> None:
    decoder = LaplaceDecoder(partial(MLP, hidden=()), (1,), LATENT, scale=0.7)
    distribution = decoder(torch.randn(1, LATENT, generator=generator).expand(101, -1))
    noise = torch.linspace(0, 1, 101).unsqueeze(1)
    # The quantiles of 0 and 1 are infinite; the samples are those of |2 noise − 1| = 1 − 1e-6, which fp32 resolves to 6 %.
    quantile = noise.double().clamp(0.5e-6, 1 - 0.5e-6).numpy()
    expected = stats.laplace.ppf(quantile, distribution.mean.detach().numpy(), 0.7)
    found = decoder.sample(distribution, noise).detach().numpy()
    np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize(("loc", "scale", "levels"), [(0.3, 0.05, 256), (1.4, 0.02, 256), (-0.2, 0.5, 4), (0.5, 2.0, 2)])
def test_a_discretized_logistic_against_scipy(loc: float, scale: float, levels: int) -> None:
    p = DiscretizedLogistic(*torch.tensor([loc, scale], dtype=torch.float64), levels=levels)
    grid, half = np.arange(levels) / (levels - 1), 0.5 / (levels - 1)
    edges = np.concatenate([[-np.inf], grid[1:] - half, [np.inf]])
    # Differences of a survival function keep their digits in the upper tail, those of a distribution function in the lower.
    logistic = stats.logistic(loc, scale)
    upper, lower = -np.diff(logistic.sf(edges)), np.diff(logistic.cdf(edges))
    expected = np.where(grid > loc, upper, lower)
    found = p.log_prob(torch.from_numpy(grid))
    np.testing.assert_allclose(found.exp(), expected, rtol=1e-9, atol=1e-300)
    assert found.isfinite().all()
    # Rounding moves each value by at most h, and so the mean.
    assert abs(float(p.mean) - float((torch.from_numpy(expected) * torch.from_numpy(grid)).sum())) <= half
    # The value at quantile u is the first of the grid up to which the probability is at least u.
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    np.testing.assert_allclose(p.quantile(u), grid[np.searchsorted(np.cumsum(expected), u.numpy())], atol=1e-12)


def test_a_discretized_logistic_decoder_takes_the_levels_of_pixels_only(generator: torch.Generator) -> None:
    decoder = DiscretizedLogisticDecoder(partial(MLP, hidden=()), (1, 4, 4), LATENT)
    x = torch.randint(256, (500, 1, 4, 4), generator=generator) / 255
    decoder.start_scale(x)
    deviation = (x - x.mean(0)).square().mean().sqrt()
    distribution = decoder(torch.randn(5, LATENT, generator=generator))
    assert float(distribution.base_dist.scale.mean().detach()) == pytest.approx(float(deviation) * 3**0.5 / np.pi, rel=1e-4)
    samples = decoder.sample(distribution, torch.rand(5, 1, 4, 4, generator=generator))
    torch.testing.assert_close(255 * samples, (255 * samples).round(), atol=1e-4, rtol=0)
    assert not decoder.differentiable_samples
    for value in (0.5, -1.0, 2.0):  # 127.5/255, and levels beyond black and white
        with pytest.raises(DataError, match=f"the value {value:g}, which is none of the 256 levels .* model.likelihood.levels"):
            decoder.start_scale(torch.full((2, 1, 4, 4), value))


def test_noise_for_the_decoder_is_of_the_kind_it_takes(generator: torch.Generator) -> None:
    x = torch.zeros(2000, *SHAPE)
    uniform = draw_noise(ALL, make_joint("bernoulli"), Noise(0), 3, x)["x_p"]
    normal = draw_noise(ALL, make_joint("normal"), Noise(0), 3, x)["x_p"]
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-4
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-4


def test_a_generator_takes_no_noise() -> None:
    joint, x = make_joint("normal"), torch.zeros(5, *SHAPE)
    joint.decoder = Generator(partial(MLP, hidden=()), SHAPE, LATENT)
    noise = draw_noise(ALL, joint, Noise(0), 3, x)
    assert noise["x_p"].shape == (5, 0)
    torch.testing.assert_close(JointSamples(joint, x, noise).x_p, joint.decoder.network(noise["z_p"]).sigmoid())


def test_the_log_density_of_codes_is_that_of_their_distributions() -> None:
    """log q(c, u|x) of a categorical code and two Gaussian ones, by torch's own; the noise e has no part in it."""
    prior, generator = CodesPrior(8, (4,), 2), torch.Generator().manual_seed(5)
    z = prior.sample(torch.rand(6, *prior.noise_shape, generator=generator))
    logits, loc, scale = (
        torch.randn(6, 4, generator=generator),
        torch.randn(6, 2, generator=generator),
        torch.tensor([0.3, 2.0]),
    )
    expected = torch.distributions.Categorical(logits=logits).log_prob(z[:, :4].argmax(1))
    expected = expected + torch.distributions.Normal(loc, scale).log_prob(z[:, 4:6]).sum(1)
    torch.testing.assert_close(CodesPosterior(prior, logits, loc, scale).log_prob(z), expected)


def test_further_draws_of_z_share_no_noise_with_the_first() -> None:
    x = torch.rand(50, 1, 8, 8)
    noise = draw_noise(frozenset({"z_q", "z_q*2"}), make_joint("normal"), Noise(0), 3, x)
    assert noise["z_q*2"].shape == (50, 2, LATENT)
    every = torch.cat([noise["z_q"].flatten(), noise["z_q*2"].flatten()])
    assert len(every.unique()) == len(every)


def test_further_noise_does_not_change_the_other_streams() -> None:
    joint, x = make_joint("normal"), torch.zeros(5, *SHAPE)
    every = draw_noise(ALL, joint, Noise(0), 3, x)
    for name in ALL:
        alone = draw_noise(frozenset({name}), joint, Noise(0), 3, x)
        assert set(alone) == {name}
        assert torch.equal(alone[name], every[name])
    assert {name: tuple(t.shape) for name, t in every.items()} == {
        "z_q": (5, LATENT),
        "z_p": (5, LATENT),
        "x_p": (5, *SHAPE),
    }
    assert not torch.equal(every["z_q"], every["z_p"])


# ---- the two joints


def test_joint_samples_by_hand(generator: torch.Generator) -> None:
    joint, x = make_joint("bernoulli"), binary(generator, 4)
    noise = draw_noise(ALL, joint, Noise(0), 0, x)
    batch = JointSamples(joint, x, noise)
    mean, raw = joint.encoder.network(x).unbind(1)
    scale = torch.log1p(raw.exp()) + 1e-4
    z = mean + scale * noise["z_q"]
    torch.testing.assert_close(batch.z_q, z)
    logits = joint.decoder.network(z)
    torch.testing.assert_close(batch.distortion, (torch.log1p(logits.exp()) - x * logits).sum((1, 2, 3)))
    torch.testing.assert_close(batch.rate, 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(-1))
    torch.testing.assert_close(batch.z_p, noise["z_p"])
    torch.testing.assert_close(batch.x_p, (noise["x_p"] < joint.decoder.network(noise["z_p"]).sigmoid()).float())
    torch.testing.assert_close(batch.q_z_given_x_p.mean, joint.encoder.network(batch.x_p)[:, 0])
    torch.testing.assert_close(batch.p_x_given_z_p.mean, joint.decoder.network(noise["z_p"]).sigmoid())


def test_the_rate_is_the_mean_of_the_log_ratio(generator: torch.Generator, mean_is: MeanIs) -> None:
    joint, x = make_joint("bernoulli"), binary(generator, 1)
    distribution, prior = joint.encoder(x), joint.prior()
    rate = JointSamples(joint, x, {}).rate
    z = joint.encoder.sample(distribution, torch.randn(20_000, LATENT, generator=generator))
    mean_is(distribution.log_prob(z) - prior.log_prob(z), rate.detach())


def test_samples_are_computed_lazily(generator: torch.Generator) -> None:
    joint, x = make_joint("bernoulli"), binary(generator, 3)
    passes = {"encoder": 0, "decoder": 0}
    for name in passes:

        def count(*_: object, name: str = name) -> None:
            passes[name] += 1

        getattr(joint, name).network.register_forward_hook(count)
    # Without noise for p there are no samples of p(x,z), as in a VAE, and every quantity is computed once.
    batch = JointSamples(joint, x, draw_noise(frozenset({"z_q"}), joint, Noise(0), 0, x))
    assert passes == {"encoder": 0, "decoder": 0}
    _ = batch.rate
    assert passes == {"encoder": 1, "decoder": 0}
    for _ in range(2):
        _ = batch.rate, batch.distortion, batch.z_q
    assert passes == {"encoder": 1, "decoder": 1}
    with pytest.raises(KeyError, match="z_p"):
        _ = batch.z_p


def test_an_ensemble_computes_what_each_member_does(generator: torch.Generator) -> None:
    models = [make_joint("bernoulli", seed) for seed in range(3)]
    x = binary(generator, 4)
    noise = torch.randn(3, 4, LATENT, generator=generator)

    def terms(joint: JointModel, noise: Tensor) -> tuple[Tensor, Tensor]:
        batch = JointSamples(joint, x, {"z_q": noise})
        return batch.rate.mean(), batch.distortion.mean()

    class Terms(torch.nn.Module):
        def __init__(self, joint: JointModel) -> None:
            super().__init__()
            self.joint = joint

        def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
            return terms(self.joint, noise)

    parameters, buffers = stack_module_state([Terms(joint) for joint in models])
    base = Terms(make_joint("bernoulli", 9))
    stacked = torch.vmap(lambda p, b, e: functional_call(base, (p, b), (e,)))(parameters, buffers, noise)
    alone = [terms(joint, e) for joint, e in zip(models, noise, strict=True)]
    for i in range(2):
        torch.testing.assert_close(stacked[i], torch.stack([value[i] for value in alone]))


# ---- networks


@pytest.mark.parametrize("activation", ["gelu", "leaky_relu", "relu", "silu", "softplus", "tanh"])
def test_mlp_shapes(activation: str, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 2, generator=generator)
    assert MLP((3, 2), (4,), hidden=(7, 6), activation=activation)(x).shape == (5, 4)
    assert MLP((3, 2), (2, 4), hidden=(7,), activation=activation)(x).shape == (5, 2, 4)


def test_a_perceptron_without_hidden_layers_is_linear(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    network = MLP((3,), (2,), hidden=())
    x, y = torch.randn(2, 5, 3, generator=generator)
    zero = network(torch.zeros(5, 3))
    torch.testing.assert_close(network(2 * x + y) - zero, 2 * (network(x) - zero) + network(y) - zero)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 9, 13)])
@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 4, 4)])
def test_convolutions_fit_the_image(shape: tuple[int, ...], channels: tuple[int, ...], generator: torch.Generator) -> None:
    x = torch.randn(2, *shape, generator=generator)
    encoder = ConvEncoder(shape, (2, 5), channels=channels, hidden=8)
    decoder = ConvDecoder((5,), shape, channels=channels, hidden=8)
    assert encoder(x).shape == (2, 2, 5)
    assert decoder(torch.randn(2, 5, generator=generator)).shape == (2, *shape)


@pytest.mark.parametrize("side", [4, 8, 9, 28, 31, 32, 63, 64, 100])
def test_default_channels_leave_an_image_of_four_to_seven_pixels(side: int, generator: torch.Generator) -> None:
    assert side < 8 or 4 <= side // 2 ** len(default_channels((1, side, side + 3))) < 8
    encoder = ConvEncoder((1, side, side), (3,), channels=None, hidden=8, blocks=1)
    decoder = ConvDecoder((3,), (1, side, side), channels=None, hidden=8, blocks=1)
    assert decoder(encoder(torch.randn(2, 1, side, side, generator=generator))).shape == (2, 1, side, side)
    widths = [layer.in_channels for layer in decoder.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert widths == sorted(widths, reverse=True), "from many small feature maps to few large ones"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": ()}, r"channels=\[\] must be widths of layers, each at least 1, and at least one of them"),
        ({"channels": (4, 0)}, r"channels=\[4, 0\] must be widths"),
        ({"hidden": 0}, r"hidden=\[0\] must be widths"),
        ({"blocks": -1}, "blocks=-1 must be a number of residual blocks"),
    ],
)
def test_sizes_of_convolutions_that_make_no_network_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ConvEncoder((1, 8, 8), (3,), **sizes)
    with pytest.raises(SettingError, match=message):
        ConvDecoder((3,), (1, 8, 8), **sizes)


@pytest.mark.parametrize(("channels", "inner"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_residual_blocks_have_half_of_the_channels_inside(channels: int, inner: int) -> None:
    narrow, wide = (layer for layer in ResidualBlock(channels, torch.nn.GELU).branch if isinstance(layer, torch.nn.Conv2d))
    assert (narrow.out_channels, wide.in_channels, wide.out_channels) == (inner, inner, channels)


def test_the_scale_of_an_implicit_posterior_is_never_below_a_thousandth() -> None:
    encoder = ImplicitEncoder(partial(MLP, hidden=[]), shape=(3,), latent=2, noise=1)
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.fill_(0)
        encoder.network.layers[0].bias[2:4] = -100.0  # softplus of which is 0
        noise = torch.tensor([[1.0, -1.0, 0.0]])
        samples = encoder.sample(encoder(torch.zeros(1, 3)), noise)
    torch.testing.assert_close(samples, torch.tensor([[1e-3, -1e-3]]))


def test_the_density_of_an_implicit_posterior_is_a_mixture_over_its_further_noise(generator: torch.Generator) -> None:
    """Of Gaussians whose means and scales are read off its samples: where ε is 0, and where it is 1."""
    torch.manual_seed(0)
    encoder = ImplicitEncoder(partial(MLP, hidden=[8]), shape=(3,), latent=2, noise=3)
    torch.nn.init.normal_(encoder.bend[-1].weight)  # it starts at zero, where all means are the same
    x, z, e = (torch.randn(*shape, generator=generator) for shape in ((5, 3), (5, 2), (4, 5, 3)))
    with torch.no_grad():
        means, ones = (
            torch.stack([encoder.sample(encoder(x), torch.cat([torch.full((5, 2), at), each], 1)) for each in e])
            for at in (0.0, 1.0)
        )
        found = encoder.log_density(x, z, e)
    assert (means[0] - means[1]).abs().min() > 1e-3
    expected = stats.norm.logpdf(z, means, ones - means).sum(-1)
    np.testing.assert_allclose(found, logsumexp(expected, 0) - np.log(4), rtol=1e-4, atol=1e-4)


def test_residual_blocks_start_as_the_identity_and_learn(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder((1, 8, 8), (3,), channels=(4, 6), hidden=8, blocks=2)
    plain = ConvEncoder((1, 8, 8), (3,), channels=(4, 6), hidden=8)
    kept = [p for name, p in encoder.named_parameters() if ".branch." not in name and ".factor" not in name]
    plain.load_state_dict(dict(zip(plain.state_dict(), kept, strict=True)))
    x = torch.randn(5, 1, 8, 8, generator=generator)
    torch.testing.assert_close(encoder(x), plain(x))
    encoder(x).square().sum().backward()
    factors = [p for name, p in encoder.named_parameters() if ".factor" in name]
    assert len(factors) == 4
    assert all(float(p.grad.abs()) > 0 for p in factors if p.grad is not None)


def test_the_default_decoder_has_the_channels_of_the_default_encoder_in_reverse() -> None:
    encoder, decoder = ConvEncoder((1, 8, 8), (5,), hidden=8), ConvDecoder((5,), (1, 8, 8), hidden=8)
    down = [layer.out_channels for layer in encoder.layers if isinstance(layer, torch.nn.Conv2d)]
    up = [layer.in_channels for layer in decoder.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert up == down[::-1] == [64, 32]


def test_the_leaky_relu_of_critics_has_slope_one_fifth() -> None:
    torch.testing.assert_close(LeakyReLU()(torch.tensor([-5.0, 0.0, 5.0])), torch.tensor([-1.0, 0.0, 5.0]))


@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 4, 4)])
def test_a_square_motion_rotates_and_then_maps_every_pixel_by_itself(
    shape: tuple[int, int, int], generator: torch.Generator
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, *shape, generator=generator)
    flat = (x[0].numel(),)
    for network in (SquareMotion(shape, flat), SquareMotion(flat, shape)):
        network.choice.data[1] = 100.0  # the second of the eight symmetries, and no other
        given, expected = x.reshape(2, *flat) if network.shape_out == shape else x, network.tones(x.rot90(1, (-2, -1)))
        torch.testing.assert_close(network(given), expected.reshape(2, *network.shape_out))
        # Another value of one pixel changes the pixel that it is rotated to, and no other.
        other = x.clone()
        other[:, :, 0, -1] += 1
        changed = (network(other.reshape(given.shape)) - network(given)).reshape(2, *shape).abs().amax((0, 1)) > 1e-5
        assert changed.nonzero().tolist() == [[0, 0]]


def test_a_square_motion_needs_square_images_on_either_side() -> None:
    for shapes in (((1, 4, 5), (20,)), ((16,), (16,)), ((1, 4, 4), (1, 5, 5))):
        with pytest.raises(SettingError, match="maps images of shape"):
            SquareMotion(*shapes)


def test_invalid_networks_are_rejected() -> None:
    with pytest.raises(SettingError, match="gelu"):
        MLP((3,), (2,), activation="swish")
    for network in (partial(ConvEncoder, shape_out=(2, 5)), lambda shape_in: ConvDecoder((5,), shape_in)):
        with pytest.raises(SettingError, match="channels, height, width"):
            network(shape_in=(8,))
        with pytest.raises(SettingError, match="too small"):
            network(shape_in=(1, 3, 8))


def test_a_motion_has_few_parameters_and_follows_its_choice_as_sharply_as_it_is_told() -> None:
    """Eight weights, and 16 tones in between: 1 → 16 → 1 with their biases. exp(2 · 3) to one for a choice of 3."""
    motion = SquareMotion((1, 4, 4), (1, 4, 4))
    assert sum(p.numel() for p in motion.parameters()) == 8 + 2 * 16 + 16 + 1
    motion.tones = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        motion.choice[1] = 3.0
    x = torch.zeros(1, 1, 4, 4)
    x[..., 0, 1] = 1.0  # its eight copies lie on eight places
    shares = motion(x).detach().flatten()
    shares = shares[shares > 0].sort().values
    assert len(shares) == 8
    torch.testing.assert_close(shares[-1] / shares[:-1], torch.full((7,), 6.0).exp())
