"""The conditional laws p(z), p(x|z), q(z|x): modules that return torch distributions.

A law never draws noise. It says what shape of noise a sample takes, and a sample is a
deterministic, differentiable function of the distribution and of noise that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn import functional as F

Network = Callable[..., nn.Module]  # (shape_in, shape_out) -> module


def _gaussian(loc: Tensor, scale: Tensor, event_dims: int) -> Independent:
    return Independent(Normal(loc, scale, validate_args=False), event_dims, validate_args=False)


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I) on R^d."""

    zero: Tensor
    one: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self) -> Independent:
        """The distribution, with event shape (d,)."""
        return _gaussian(self.zero.expand(self.latent), self.one.expand(self.latent), 1)

    def sample(self, noise: Tensor) -> Tensor:
        """z = noise, (B, d) → (B, d)."""
        return noise


class GaussianEncoder(nn.Module):
    """q(z|x) = N(μ(x), diag σ(x)²) with σ = softplus(·) + `tiny`.

    Args:
        network: builds a module from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        tiny: smallest scale, a numerical floor.

    Shapes: x (B, *shape) → distribution with batch shape (B,) and event shape (d,).
    """

    def __init__(self, network: Network, shape: Sequence[int], latent: int, tiny: float = 1e-4) -> None:
        super().__init__()
        self.network = network(tuple(shape), (2, latent))
        self.tiny = tiny

    def forward(self, x: Tensor) -> Independent:
        loc, raw = self.network(x).float().unbind(1)
        return _gaussian(loc, F.softplus(raw) + self.tiny, 1)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """z = μ + σ · noise with standard normal noise, (B, d) → (B, d)."""
        base = distribution.base_dist
        return torch.addcmul(base.loc, base.scale, noise)


class BernoulliDecoder(nn.Module):
    """p(x|z) = ∏ Bernoulli(x_i; sigmoid(logit_i(z))), x in {0, 1} (or [0, 1], read as a probability).

    Shapes: z (B, d) → distribution with batch shape (B,) and event shape `shape`.
    """

    differentiable_samples = False

    def __init__(self, network: Network, shape: Sequence[int], latent: int) -> None:
        super().__init__()
        self.network = network((latent,), tuple(shape))
        self.event_dims = len(shape)

    def forward(self, z: Tensor) -> Independent:
        logits = self.network(z).float()
        return Independent(Bernoulli(logits=logits, validate_args=False), self.event_dims, validate_args=False)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """x = [noise < p] with noise uniform on [0, 1); not differentiable."""
        return (noise < distribution.base_dist.probs).float()


class NormalDecoder(nn.Module):
    """p(x|z) = N(μ(z), diag s²) with one learned scale per coordinate, or one for all.

    Args:
        network: builds a module from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension of z.
        shared_scale: one s for all coordinates.
        tiny: smallest scale, a numerical floor; with it −log p(x|z) is bounded below.

    Shapes: z (B, d) → distribution with batch shape (B,) and event shape `shape`.
    """

    differentiable_samples = True

    def __init__(
        self, network: Network, shape: Sequence[int], latent: int, shared_scale: bool = True, tiny: float = 1e-2
    ) -> None:
        super().__init__()
        self.network = network((latent,), tuple(shape))
        self.event_dims = len(shape)
        self.tiny = tiny
        # softplus(0.54) ≈ 1: the unit scale of standardised data
        self.raw_scale = nn.Parameter(torch.full(() if shared_scale else tuple(shape), 0.54))

    def forward(self, z: Tensor) -> Independent:
        loc = self.network(z).float()
        scale = F.softplus(self.raw_scale.float()) + self.tiny
        return _gaussian(loc, scale.expand_as(loc), self.event_dims)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """x = μ + s · noise with standard normal noise."""
        base = distribution.base_dist
        return torch.addcmul(base.loc, base.scale, noise)


class Laws(nn.Module):
    """The two joints: p(x,z) = p(z) p(x|z) and q(x,z) = q(x) q(z|x), q(x) being the data."""

    prior: StandardNormalPrior
    encoder: Any
    decoder: Any

    def __init__(self, prior: StandardNormalPrior, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.encoder = encoder
        self.decoder = decoder

    @property
    def latent(self) -> int:
        """Dimension of z."""
        return self.prior.latent


def mean_of(distribution: Distribution) -> Tensor:
    """The mean, what a picture shows."""
    mean: Tensor = distribution.mean
    return mean
