"""p(x|z): what the decoder says of x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Laplace, Normal
from torch.nn import functional as F

from lagvae.distributions.encoders import Pushforward
from lagvae.errors import SettingError

Network = Callable[..., nn.Module]  # (shape_in, shape_out) -> module


class BernoulliDecoder(nn.Module):
    """p(x|z) = ∏ Bernoulli(x_i; sigmoid(logit_i(z))), x in {0, 1} (or [0, 1], read as a probability).

    Shapes: z (B, d) → distribution with batch shape (B,) and event shape `shape`.
    """

    has_density = True
    differentiable_samples = False
    noise_kind = "uniform"

    def __init__(self, network: Network, shape: Sequence[int], latent: int) -> None:
        super().__init__()
        self.network = network((latent,), tuple(shape))
        self.noise_shape = tuple(shape)

    def forward(self, z: Tensor) -> Independent:
        logits = self.network(z).float()
        return Independent(Bernoulli(logits=logits, validate_args=False), len(self.noise_shape), validate_args=False)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """x = [noise < p] with noise uniform on [0, 1); not differentiable."""
        return (noise < distribution.base_dist.probs).float()


class NormalDecoder(nn.Module):
    """p(x|z) = N(μ(z), diag s²).

    Args:
        network: builds a module from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension of z.
        shared_scale: one learned s for all coordinates, or one each.
        scale: s where it is fixed; None: learned.
        unit: whether μ is in [0, 1] (by a sigmoid), as pixels are.
        means: whether samples are the means, as a generator of images gives them (the limit of small s); the density
            then measures how far x is off.
        tiny: smallest learned scale, a numerical floor; with it −log p(x|z) is bounded below.

    Shapes: z (B, d) → distribution with batch shape (B,) and event shape `shape`.
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
            raise SettingError(f"model.likelihood.scale={scale} must be positive, or null for a learned one.")
        self.network = network((latent,), tuple(shape))
        self.event_dims = len(shape)
        self.unit, self.means, self.fixed, self.tiny = unit, means, scale, tiny
        self.noise_shape = (0,) if means else tuple(shape)
        if scale is None:
            # softplus(0.54) ≈ 1: the unit scale of standardised data
            self.raw_scale = nn.Parameter(torch.full(() if shared_scale else tuple(shape), 0.54))

    def forward(self, z: Tensor) -> Independent:
        loc = self.network(z).float()
        loc = loc.sigmoid() if self.unit else loc
        if self.fixed is not None:
            scale = torch.full_like(loc, self.fixed)
        else:
            scale = (F.softplus(self.raw_scale.float()) + self.tiny).expand_as(loc)
        return Independent(self.base(loc, scale, validate_args=False), self.event_dims, validate_args=False)

    def sample(self, distribution: Independent, noise: Tensor) -> Tensor:
        """x = μ + s · noise with standard normal noise; μ where samples are means."""
        base = distribution.base_dist
        loc: Tensor = base.loc
        return loc if self.means else torch.addcmul(loc, base.scale, noise)


class LaplaceDecoder(NormalDecoder):
    """p(x|z) = ∏ Laplace(x_i; μ_i(z), s): −log p(x|z) is the L1 distance over s, up to a constant; else as `NormalDecoder`."""

    noise_kind = "uniform"
    base = Laplace

    def sample(self, distribution: Independent, noise: Tensor) -> Tensor:
        """x = μ − s · sgn(u) log(1 − |u|), u = 2 noise − 1 with uniform noise; μ where samples are means."""
        base = distribution.base_dist
        loc: Tensor = base.loc
        if self.means:
            return loc
        u = (2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6)
        return loc - base.scale * u.sign() * torch.log1p(-u.abs())


class Generator(nn.Module):
    """x = g(z): samples without a density; with `unit` in [0, 1], as pixels are.

    Shapes: z (B, d) → x (B, *shape).

    Reference: Goodfellow et al., NeurIPS 2014.
    """

    has_density = False
    differentiable_samples = True
    noise_kind = "normal"
    noise_shape = (0,)

    def __init__(self, network: Network, shape: Sequence[int], latent: int, unit: bool = True) -> None:
        super().__init__()
        self.network = network((latent,), tuple(shape))
        self.unit = unit

    def forward(self, z: Tensor) -> Pushforward:
        out = self.network(z).float()
        x = out.sigmoid() if self.unit else out
        return Pushforward(lambda noise: x)

    @staticmethod
    def sample(distribution: Pushforward, noise: Tensor) -> Tensor:
        """x = g(z)."""
        return distribution.mean
