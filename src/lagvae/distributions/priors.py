"""p(z): what z is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from lagvae.errors import SettingError

TINY = 1e-6
"""How near to 0 and 1 a uniform number may come before it is turned into a normal one."""


def gaussian(loc: Tensor, scale: Tensor, event_dims: int) -> Independent:
    """A diagonal Gaussian with its last axes as one event."""
    return Independent(Normal(loc, scale, validate_args=False), event_dims, validate_args=False)


def normal_from(uniform: Tensor) -> Tensor:
    """Standard normal numbers as a function of uniform ones."""
    return torch.special.ndtri(uniform.clamp(TINY, 1 - TINY))


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I) on R^d."""

    noise_kind = "normal"
    zero: Tensor
    one: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one sample."""
        return (self.latent,)

    @property
    def entropy(self) -> float:
        """H(z) in nats."""
        return 0.5 * self.latent * (1 + log(2 * pi))

    def forward(self) -> Independent:
        """The distribution, with event shape (d,)."""
        return gaussian(self.zero.expand(self.latent), self.one.expand(self.latent), 1)

    def sample(self, noise: Tensor) -> Tensor:
        """z = noise, (B, d) → (B, d)."""
        return noise


class CodesPrior(nn.Module):
    """p(z) = p(c) p(u) p(e): categorical codes c, uniform codes u ∈ [−1, 1], and noise e ∼ N(0, I) that no encoder recovers.

    z is (one-hot of each c, u, e), `latent` numbers in all; the noise takes what the codes leave.

    Args:
        latent: dimension of z.
        categorical: number of values of each categorical code.
        uniform: number of uniform codes.

    Reference: Chen et al., InfoGAN, NeurIPS 2016.
    """

    noise_kind = "uniform"

    def __init__(self, latent: int, categorical: Sequence[int] = (10,), uniform: int = 0) -> None:
        super().__init__()
        if any(k < 2 for k in categorical) or uniform < 0 or not (categorical or uniform):
            raise SettingError(
                f"model.prior.categorical={list(categorical)}, model.prior.uniform={uniform}: a prior of codes needs at least "
                "one code, and a categorical one at least two values."
            )
        self.latent, self.categorical, self.uniform = latent, tuple(categorical), uniform
        self.free = latent - sum(categorical) - uniform
        if self.free < 0:
            raise SettingError(
                f"model.latent={latent} has no room for the codes, which take {latent - self.free} numbers "
                f"(categorical={list(categorical)}, uniform={uniform}); raise model.latent."
            )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one sample: a number for each code, and for each number of e."""
        return (len(self.categorical) + self.uniform + self.free,)

    @property
    def entropy(self) -> float:
        """H(c) + H(u) in nats: the information that codes can carry."""
        return sum(log(k) for k in self.categorical) + self.uniform * log(2)

    def forward(self) -> CodesPrior:
        """The law itself: it is sampled from, and has no density over all of z."""
        return self

    def sample(self, noise: Tensor) -> Tensor:
        """z from uniform noise, (B, codes + free) → (B, d)."""
        n = len(self.categorical)
        ones = [one_hot((noise[..., i] * k).floor(), k) for i, k in enumerate(self.categorical)]
        return torch.cat([*ones, 2 * noise[..., n : n + self.uniform] - 1, normal_from(noise[..., n + self.uniform :])], -1)


def one_hot(index: Tensor, k: int) -> Tensor:
    """One-hot vectors (…, k) of whole numbers (…), also of floating point ones, and under vmap."""
    return (index.unsqueeze(-1) == torch.arange(k, device=index.device)).float()


class EmpiricalPrior(nn.Module):
    """p(z) is the empirical law of a second set of data, such as the images of another domain.

    Args:
        rows: the samples, (M, *shape); z is one of them, flattened.
    """

    noise_kind = "uniform"
    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.shape = tuple(rows.shape[1:])
        self.latent = rows[0].numel()
        self.register_buffer("rows", rows.flatten(1), persistent=False)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One number chooses a row."""
        return ()

    @property
    def entropy(self) -> float:
        """log M in nats, of the choice of a row."""
        return log(len(self.rows))

    def forward(self) -> EmpiricalPrior:
        """The law itself: it is sampled from, and has no density."""
        return self

    def row(self, noise: Tensor) -> Tensor:
        """Which row each uniform number chooses, (B,)."""
        return (noise * len(self.rows)).long()

    def sample(self, noise: Tensor) -> Tensor:
        """A row for each uniform number, (B,) → (B, d)."""
        return self.rows[self.row(noise)]


Prior = StandardNormalPrior | CodesPrior | EmpiricalPrior
