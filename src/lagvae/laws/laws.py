"""The two joints, made of conditional laws: modules that return distributions.

A law never draws noise. It says what noise a sample takes (`noise_kind`, `noise_shape`), and a sample is a deterministic
function of the distribution and of noise that it is given.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lagvae.laws.encoders import GaussianEncoder
from lagvae.laws.priors import StandardNormalPrior


class Laws(nn.Module):
    """The two joints: p(x,z) = p(z) p(x|z) and q(x,z) = q(x) q(z|x), q(x) being the data."""

    prior: Any
    encoder: Any
    decoder: Any

    def __init__(self, prior: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.encoder = encoder
        self.decoder = decoder

    @property
    def latent(self) -> int:
        """Dimension of z."""
        latent: int = self.prior.latent
        return latent

    @property
    def has_rate(self) -> bool:
        """Whether KL(q(z|x)‖p(z)) has a closed form."""
        return isinstance(self.encoder, GaussianEncoder) and isinstance(self.prior, StandardNormalPrior)

    @property
    def has_distortion(self) -> bool:
        """Whether log p(x|z) has a value."""
        has: bool = self.decoder.has_density
        return has


def mean_of(distribution: Any) -> Tensor:
    """The mean, what a picture shows."""
    mean: Tensor = distribution.mean
    return mean
