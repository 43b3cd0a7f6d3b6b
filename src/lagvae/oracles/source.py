"""Data drawn from a linear-Gaussian model, whose quantities are known: `data=linear_gaussian`."""

from __future__ import annotations

import torch

from lagvae.data import Arrays
from lagvae.errors import SettingError
from lagvae.oracles.gaussian import LinearGaussian


def linear_gaussian_source(n: int = 4000, dim: int = 8, latent: int = 2, noise: float = 0.5, seed: int = 0) -> Arrays:
    """n samples x = W z + noise · e with standard normal z and e: the model in which every quantity has a closed form.

    `seed` determines W (see `lagvae.oracles.gaussian`) and the samples.

    Raises: SettingError for sizes below 1 or noise that is not positive.
    """
    if min(n, dim, latent) < 1 or not noise > 0:
        raise SettingError(f"data.source: n={n}, dim={dim}, latent={latent} must be ≥ 1 and noise={noise} > 0.")
    world = LinearGaussian.random(dim, latent, noise, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return Arrays(world.sample(torch.randn(n, latent, generator=generator), torch.randn(n, dim, generator=generator)))
