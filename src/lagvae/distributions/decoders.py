"""Decoders p(x|z)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Laplace, Normal
from torch.nn import functional as F

from lagvae.distributions.encoders import Pushforward
from lagvae.distributions.priors import one_hot
from lagvae.errors import DataError, SettingError
from lagvae.networks import Network, build_network

SPEED = 10.0
"""How much faster log s moves than a weight of the network does: a step of Adam changes s by this many learning rates."""


class BernoulliDecoder(nn.Module):
    """p(x|z) = ∏_i Bernoulli(x_i; sigmoid(logit_i(z))) for x in {0, 1}.

    For x in [0, 1], log p(x|z) is its expectation over pixels that are 1 with probability x. Samples are not differentiable.

    Args:
        network: builds the network of the logits from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.

    Shapes: z (B, d) → distribution with batch shape (B,) and event shape `shape`; its log density is in nats.

    Examples:
        >>> from lagvae.networks import MLP
        >>> decoder = BernoulliDecoder(MLP, shape=(1, 8, 8), latent=2)
        >>> p = decoder(torch.randn(5, 2))
        >>> x = decoder.sample(p, torch.rand(5, 1, 8, 8))
        >>> p.log_prob(x).shape
        torch.Size([5])
    """

    has_density = True
    differentiable_samples = False
    noise_kind = "uniform"

    def __init__(self, network: Network, shape: Sequence[int], latent: int) -> None:
        super().__init__()
        self.network = build_network(network, (latent,), shape, "model.decoder")
        self.noise_shape = tuple(shape)

    def forward(self, z: Tensor) -> Independent:
        logits = self.network(z).float()
        return Independent(Bernoulli(logits=logits, validate_args=False), len(self.noise_shape), validate_args=False)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """x = 1[noise < p] for noise uniform on [0, 1), (B, *shape) → (B, *shape); not differentiable."""
        return (noise < distribution.base_dist.probs).float()


class _LearnedScale(nn.Module):
    """A scale s > 0 of coordinates of x, fixed or learned as `NormalDecoder` says."""

    fixed: float | None
    tiny: float
    log_scale: nn.Parameter

    def scale(self, loc: Tensor) -> Tensor:
        """s for every coordinate of the means, (B, *shape)."""
        if self.fixed is not None:
            return torch.full_like(loc, self.fixed)
        u = self.log_scale.float()
        share = u.numel() / (loc[0].numel() * SPEED**2)
        if hasattr(self, "log_scale_shift"):  # of a model for several bounds (lagvae.front), a shift for each row
            shift: Tensor = self.log_scale_shift()  # type: ignore[operator]
            u = u + shift.reshape(len(shift), *(u.shape or [1] * (loc.dim() - 1)))
        return (self.tiny + (SPEED * (u.detach() + share * (u - u.detach()))).exp()).expand_as(loc)

    @torch.no_grad()
    def set_scale(self, scale: Tensor | float) -> None:
        """Set a learned s, () or of the shape of x; values below 2 · `tiny` are raised to it."""
        above = (torch.as_tensor(scale) - self.tiny).clamp(min=self.tiny)
        self.log_scale.copy_(above.log() / SPEED)

    def start_scale(self, x: Tensor) -> None:
        """Set a learned s to the spread of samples x, (N, *shape), around the mean of each coordinate. A fixed s stays."""
        if self.fixed is None:
            residual = x - x.mean(0)
            self.set_scale(self.spread(residual if self.log_scale.dim() else residual.flatten()))

    @staticmethod
    def spread(residual: Tensor) -> Tensor:
        """The s of the largest likelihood for residuals (N, …), over the first axis: the root mean square."""
        return residual.square().mean(0).sqrt()


class NormalDecoder(_LearnedScale):
    """p(x|z) = N(x; μ(z), diag s²).

    A learned s starts at the spread of the data (`start_scale`), and follows the reconstruction error down: it is
    `tiny` + exp(`SPEED` · u) with the parameter u. The gradient in u is that of the mean over the coordinates that share it,
    divided by `SPEED`², because it would otherwise dominate the norm of the gradient, which may be clipped. It vanishes at the
    scale that minimises the distortion, here the root mean squared residual.

    Args:
        network: builds the network of μ from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        shared_scale: whether all coordinates share one learned standard deviation s, or have one each.
        scale: a fixed s > 0, or None for a learned one.
        unit: whether a sigmoid maps μ to [0, 1], the range of pixels.
        means: whether samples are the means μ(z) without noise, as those of an image generator are. The density then only
            measures the reconstruction error.
        tiny: lower limit of a learned s, which also bounds −log p(x|z) from below.

    Shapes: z (B, d) → distribution with batch shape (B,) and event shape `shape`; its log density is in nats.

    Raises: SettingError for a fixed scale that is not positive.

    Reference: Rybkin, Daniilidis, Levine, Simple and Effective VAE Training with Calibrated Decoders, ICML 2021.

    Examples:
        >>> from lagvae.networks import MLP
        >>> decoder = NormalDecoder(MLP, shape=(3,), latent=2)
        >>> decoder.start_scale(2 * torch.randn(1000, 3))
        >>> decoder(torch.randn(5, 2)).stddev.mean().round().item()
        2.0
    """

    has_density = True
    differentiable_samples = True
    noise_kind = "normal"
    base: Any = Normal

    def __init__(
        self,
        network: Network,
        shape: Sequence[int],
        latent: int,
        shared_scale: bool = True,
        scale: float | None = None,
        unit: bool = False,
        means: bool = False,
        tiny: float = 1e-2,
    ) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise SettingError(f"model.likelihood.scale={scale} must be positive, or null to learn it.")
        self.network = build_network(network, (latent,), shape, "model.decoder")
        self.event_dims = len(shape)
        self.unit, self.means, self.fixed, self.tiny = unit, means, scale, tiny
        self.noise_shape = (0,) if means else tuple(shape)
        if scale is None:
            self.log_scale = nn.Parameter(torch.empty(() if shared_scale else tuple(shape)))
            self.set_scale(1.0)

    def forward(self, z: Tensor) -> Independent:
        loc = self.network(z).float()
        loc = loc.sigmoid() if self.unit else loc
        return Independent(self.base(loc, self.scale(loc), validate_args=False), self.event_dims, validate_args=False)

    def sample(self, distribution: Independent, noise: Tensor) -> Tensor:
        """x = μ + s · noise for standard normal noise, (B, *shape); or x = μ with `means`, for noise (B, 0)."""
        base = distribution.base_dist
        loc: Tensor = base.loc
        return loc if self.means else torch.addcmul(loc, base.scale, noise)


class LaplaceDecoder(NormalDecoder):
    """p(x|z) = ∏_i Laplace(x_i; μ_i(z), s), so that −log p(x|z) = ‖x − μ(z)‖₁ / s + const. Otherwise as `NormalDecoder`.

    Examples:
        >>> from lagvae.networks import MLP
        >>> p = LaplaceDecoder(MLP, shape=(3,), latent=2, scale=0.5)(torch.zeros(1, 2))
        >>> p.log_prob(p.mean + 1).round(decimals=4).tolist()  # −‖1‖₁ / s − 3 log 2s
        [-6.0]
    """

    noise_kind = "uniform"
    base = Laplace

    @staticmethod
    def spread(residual: Tensor) -> Tensor:
        """The s of the largest likelihood for residuals (N, …), over the first axis: the mean of the absolute values."""
        return residual.abs().mean(0)

    def sample(self, distribution: Independent, noise: Tensor) -> Tensor:
        """x = μ − s · sgn(u) log(1 − |u|), u = 2 noise − 1, for uniform noise, (B, *shape); or x = μ with `means`."""
        base = distribution.base_dist
        loc: Tensor = base.loc
        if self.means:
            return loc
        u = (2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6)
        return loc - base.scale * u.sign() * torch.log1p(-u.abs())


class DiscretizedLogistic(Distribution):
    """Independent values on the grid k / (L − 1), k = 0 … L − 1: a logistic variable, rounded to the nearest of them.

        P(x) = σ((x + h − μ) / s) − σ((x − h − μ) / s),   h = 1 / (2 (L − 1)),   where the whole tail below counts at x = 0,
                                                                     and the whole tail above at x = 1

    Args:
        loc, scale: μ and s > 0, (…). levels: L.

    Shapes: log_prob (…) → (…), in nats, ≤ 0: the probability of a value, not a density.

    Reference: Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, NeurIPS 2016; Salimans et al.,
        PixelCNN++, ICLR 2017.

    Examples:
        >>> grid = torch.arange(4) / 3
        >>> p = DiscretizedLogistic(torch.tensor(0.4), torch.tensor(0.1), levels=4)
        >>> round(p.log_prob(grid).exp().sum().item(), 5)
        1.0
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # as torch declares it
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool = False) -> None:
        self.loc, self.scale, self.levels = loc, scale, levels
        super().__init__(loc.shape, validate_args=validate_args)

    def log_prob(self, x: Tensor) -> Tensor:
        half = 0.5 / (self.levels - 1)
        above, below = (x + half - self.loc) / self.scale, (x - half - self.loc) / self.scale
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)), whose logarithm stays finite far in the tails, and a − b = 2h / s.
        inside = torch.log(-torch.expm1(-2 * half / self.scale))
        lowest, highest = x < half, x > 1 - half
        out = torch.where(highest, 0.0, F.logsigmoid(above)) + torch.where(lowest, 0.0, F.logsigmoid(-below))
        return out + torch.where(lowest | highest, 0.0, inside)

    @property
    def mean(self) -> Tensor:
        """The mean of the logistic variable, cut to [0, 1], which rounding changes by at most h: s · (ζ(μ/s) − ζ((μ − 1)/s))
        with the softplus ζ."""
        return self.scale * (F.softplus(self.loc / self.scale) - F.softplus((self.loc - 1) / self.scale))

    def quantile(self, u: Tensor) -> Tensor:
        """The value of the grid at quantile u in [0, 1), (…)."""
        tiny = torch.finfo(u.dtype).eps
        x = self.loc + self.scale * torch.logit(u, eps=tiny)
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)


class DiscretizedLogisticDecoder(NormalDecoder):
    """p(x|z) = ∏_i DiscretizedLogistic(x_i; μ_i(z), s) for images of `levels` grey or colour values in [0, 1].

    −log p(x|z) is at least 0, and −ELBO / (dimensions · ln 2) is in bits per dimension. A learned s starts at the logistic of
    the data's standard deviation. Otherwise as `NormalDecoder`; samples are not differentiable, unless they are the `means`.

    Args:
        levels: number of values of a pixel, 256 for images of 8 bits.

    Raises: SettingError for fewer than two levels.

    Reference: as for `DiscretizedLogistic`.

    Examples:
        >>> from lagvae.networks import MLP
        >>> decoder = DiscretizedLogisticDecoder(MLP, shape=(3,), latent=2, levels=3, scale=1.0)
        >>> p = decoder(torch.zeros(1, 2))
        >>> (2 * decoder.sample(p, torch.tensor([[1e-3, 0.5, 1 - 1e-3]])).detach()).tolist()[0][::2]
        [0.0, 2.0]
    """

    noise_kind = "uniform"

    def __init__(
        self,
        network: Network,
        shape: Sequence[int],
        latent: int,
        shared_scale: bool = True,
        scale: float | None = None,
        unit: bool = False,
        means: bool = False,
        tiny: float = 1e-3,
        levels: int = 256,
    ) -> None:
        if levels < 2:
            raise SettingError(f"model.likelihood.levels={levels} must be at least 2, the number of values of a pixel.")
        super().__init__(network, shape, latent, shared_scale, scale, unit, means, tiny)
        self.levels, self.differentiable_samples = levels, self.means
        self.base = partial(DiscretizedLogistic, levels=levels)

    def start_scale(self, x: Tensor) -> None:
        """As for `NormalDecoder`. Raises DataError for samples with a value that is none of the levels."""
        off = (x * (self.levels - 1) - (x * (self.levels - 1)).round()).abs()
        wrong = (off > 0.01) | (x < 0) | (x > 1)
        if wrong.any():
            raise DataError(
                f"The data have the value {float(x[wrong][0]):.6g}, which is none of the {self.levels} levels 0, "
                f"1/{self.levels - 1}, …, 1 of a discretised logistic p(x|z). Set model.likelihood.levels to the number of "
                "levels that the data have, or use likelihood=normal."
            )
        super().start_scale(x)

    @staticmethod
    def spread(residual: Tensor) -> Tensor:
        """The s of the logistic with the standard deviation of residuals (N, …) over the first axis: √3 / π times that."""
        return residual.square().mean(0).sqrt() * (sqrt(3) / pi)

    def sample(self, distribution: Independent, noise: Tensor) -> Tensor:
        """x at the quantiles `noise`, uniform on [0, 1), (B, *shape), not differentiable; or E[x|z] with `means`."""
        base = distribution.base_dist
        mean: Tensor = base.mean
        return mean if self.means else base.quantile(noise)


class RowDistribution(Distribution):
    """The distribution of a row of a table: independent Normal numbers and categories, some of which may be missing.

    A row x is (numbers, categories one-hot, and for each of the last numbers 1 where it is there and 0 where it is missing). A
    missing number, and a column of categories that are all 0, contribute nothing to log p(x).

    Args:
        loc, scale: of the numbers, (…, n). logits: of all categories, (…, k). sizes: the number of categories of each column.
        missing: how many of the numbers may be missing, the last ones.

    Examples:
        >>> p = RowDistribution(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 4), sizes=[4], missing=1)
        >>> x = torch.tensor([[0.0, 9.0, 0.0, 0.0, 1.0, 0.0, 0.0]])  # the second number is missing, whatever is in its place
        >>> round(p.log_prob(x).item(), 4)  # −½ log 2π − log 4
        -2.3052
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # as torch declares it
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, logits: Tensor, sizes: Sequence[int], missing: int) -> None:
        self.loc, self.scale, self.sizes, self.missing = loc, scale, list(sizes), missing
        parts = [part.log_softmax(-1) for part in logits.split(self.sizes, -1)] if self.sizes else [logits]
        self.log_probs = torch.cat(parts, -1)
        event = loc.shape[-1] + logits.shape[-1] + missing
        super().__init__(loc.shape[:-1], torch.Size([event]), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of what is there, in nats, (…)."""
        n, k = self.loc.shape[-1], self.log_probs.shape[-1]
        numbers, categories, there = x.split([n, k, self.missing], -1)
        each = Normal(self.loc, self.scale, validate_args=False).log_prob(numbers)
        complete, partial = each.split([n - self.missing, self.missing], -1)
        # A value that is missing may be anything, so that it is left out by a choice and not by a product with 0.
        partial = torch.where(there > 0.5, partial, torch.zeros_like(partial))
        return complete.sum(-1) + partial.sum(-1) + (categories * self.log_probs).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The means of the numbers and the probabilities of the categories, with nothing missing."""
        return self.with_all(self.loc, self.log_probs.exp())

    def with_all(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """The row of numbers and categories of which nothing is missing, (…, n + k + missing)."""
        return torch.cat([numbers, categories, torch.ones_like(numbers[..., : self.missing])], -1)


class RowDecoder(_LearnedScale):
    """p(x|z) of the row of a table: a Normal for each number, with a learned scale s, and a categorical for each other column.

    log p(x|z) is the sum over what is there of log N(x_i; μ_i(z), s_i²), and of log softmax(logits(z))_c for a category c.
    Each column of numbers has its own s, which is learned as that of `NormalDecoder`; the numbers should be standardised.
    Samples have nothing missing, and those of categories no gradient.

    Args:
        network: builds the network of μ and the logits from (shape_in, shape_out).
        shape: of one x, (numbers + Σ categories + missing,).
        latent: dimension d of z.
        numbers: how many of the first values are numbers. missing: how many of these, the last, may be missing.
        categories: the number of categories of each other column.
        scale: a fixed s > 0, or None for learned ones.
        tiny: lower limit of a learned s.

    Shapes: z (B, d) → `RowDistribution` with batch shape (B,) and event shape `shape`; its log density is in nats.

    Raises: SettingError for a fixed scale that is not positive, or another shape.

    Reference: Nazábal et al., Handling Incomplete Heterogeneous Data using VAEs, Pattern Recognition 2020.

    Examples:
        >>> from lagvae.networks import MLP
        >>> decoder = RowDecoder(MLP, shape=(6,), latent=2, numbers=2, missing=1, categories=[3])
        >>> x = decoder.sample(decoder(torch.zeros(1, 2)), torch.zeros(1, 3))
        >>> x.shape, x[:, 2:5].sum().item()  # one category of three
        (torch.Size([1, 6]), 1.0)
    """

    has_density = True
    noise_kind = "normal"

    def __init__(
        self,
        network: Network,
        shape: Sequence[int],
        latent: int,
        numbers: int,
        missing: int,
        categories: Sequence[int],
        scale: float | None = None,
        tiny: float = 1e-2,
    ) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise SettingError(f"model.likelihood.scale={scale} must be positive, or null to learn it.")
        self.numbers, self.missing, self.categories = numbers, missing, list(categories)
        if tuple(shape) != (numbers + sum(self.categories) + missing,):
            raise SettingError(
                f"A row of {numbers} numbers, {sum(self.categories)} categories and {missing} signs of what is missing has not "
                f"the shape {tuple(shape)}."
            )
        self.network = build_network(network, (latent,), (numbers + sum(self.categories),), "model.decoder")
        self.fixed, self.tiny = scale, tiny
        self.noise_shape = (numbers + len(self.categories),)
        self.differentiable_samples = not self.categories
        if scale is None and numbers:
            self.log_scale = nn.Parameter(torch.empty(numbers))
            self.set_scale(1.0)

    def forward(self, z: Tensor) -> RowDistribution:
        loc, logits = self.network(z).float().split([self.numbers, sum(self.categories)], -1)
        return RowDistribution(loc, self.scale(loc) if self.numbers else loc, logits, self.categories, self.missing)

    def start_scale(self, x: Tensor) -> None:
        """Set learned s to the spread of the numbers of samples x, (N, *shape), that are there. A fixed s stays."""
        if self.fixed is not None or not self.numbers:
            return
        numbers = x[:, : self.numbers]
        there = torch.ones_like(numbers)
        there[:, self.numbers - self.missing :] = x[:, x.shape[1] - self.missing :]
        count = there.sum(0).clamp(min=1)
        residual = (numbers - (numbers * there).sum(0) / count) * there
        self.set_scale(((residual.square()).sum(0) / count).sqrt())

    def sample(self, distribution: RowDistribution, noise: Tensor) -> Tensor:
        """x for standard normal noise, (B, n + columns of categories): μ + s · noise, and a category for each number."""
        numbers, rest = noise.split([self.numbers, len(self.categories)], -1)
        x, categories = torch.addcmul(distribution.loc, distribution.scale, numbers), distribution.log_probs
        if self.categories:
            drawn = []
            for k, part in enumerate(distribution.log_probs.exp().split(self.categories, -1)):
                below = torch.special.ndtr(rest[..., k : k + 1]) >= part.cumsum(-1)[..., :-1]
                drawn.append(one_hot(below.sum(-1), part.shape[-1]).to(x.dtype))
            categories = torch.cat(drawn, -1)
        return distribution.with_all(x, categories)

    def with_gaps(self, x: Tensor, like: Tensor) -> Tensor:
        """x with the values of `like` (both (B, *shape)) where these are missing, so that the two can be compared."""
        n, k = self.numbers, sum(self.categories)
        there = torch.ones_like(like[:, :n], dtype=torch.bool)
        there[:, n - self.missing :] = like[:, n + k :] > 0.5
        known = [part.any(-1, keepdim=True).expand(part.shape) for part in like[:, n : n + k].split(self.categories, -1)]
        signs = torch.zeros_like(like[:, n + k :], dtype=torch.bool)
        return torch.where(torch.cat([there, *(known if self.categories else []), signs], -1), x, like)


class Generator(nn.Module):
    """A deterministic decoder x = g(z), which has samples but no density.

    Args:
        network: builds g from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        unit: whether a sigmoid maps x to [0, 1], the range of pixels.

    Shapes: z (B, d) → `Pushforward` with samples x (B, *shape).

    Reference: Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014.

    Examples:
        >>> from lagvae.networks import MLP
        >>> Generator(MLP, shape=(1, 8, 8), latent=2)(torch.randn(5, 2)).mean.shape
        torch.Size([5, 1, 8, 8])
    """

    has_density = False
    differentiable_samples = True
    noise_kind = "normal"
    noise_shape = (0,)

    def __init__(self, network: Network, shape: Sequence[int], latent: int, unit: bool = True) -> None:
        super().__init__()
        self.network = build_network(network, (latent,), shape, "model.decoder")
        self.unit = unit

    def forward(self, z: Tensor) -> Pushforward:
        out = self.network(z).float()
        x = out.sigmoid() if self.unit else out
        return Pushforward(lambda noise: x)

    @staticmethod
    def sample(distribution: Pushforward, noise: Tensor) -> Tensor:
        """x = g(z), (B, *shape); the noise (B, 0) is empty."""
        return distribution.mean
