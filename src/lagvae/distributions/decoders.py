"""Decoders p(x|z)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Laplace, Normal

from lagvae.distributions.encoders import Pushforward
from lagvae.errors import SettingError
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


class NormalDecoder(nn.Module):
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

    def scale(self, loc: Tensor) -> Tensor:
        """s for every coordinate of the means, (B, *shape)."""
        if self.fixed is not None:
            return torch.full_like(loc, self.fixed)
        u = self.log_scale.float()
        share = u.numel() / (loc[0].numel() * SPEED**2)
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
