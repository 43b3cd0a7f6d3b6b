"""Priors p(z)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi, prod

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from lagvae.errors import SettingError

TINY = 1e-6
"""Uniform numbers are clamped to [TINY, 1 − TINY] before they are transformed to normal ones."""


def gaussian(loc: Tensor, scale: Tensor, event_dims: int) -> Independent:
    """A diagonal Gaussian whose last `event_dims` axes form the event shape."""
    return Independent(Normal(loc, scale, validate_args=False), event_dims, validate_args=False)


def normal_from(uniform: Tensor) -> Tensor:
    """Transform uniform numbers on [0, 1) to standard normal ones, elementwise."""
    return torch.special.ndtri(uniform.clamp(TINY, 1 - TINY))


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I) on R^d.

    Args:
        latent: dimension d of z.

    Examples:
        >>> StandardNormalPrior(latent=2)().log_prob(torch.zeros(5, 2))  # −log 2π each
        tensor([-1.8379, -1.8379, -1.8379, -1.8379, -1.8379])
    """

    has_density = True
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
    """p(z) = p(c) p(u) p(e) with categorical codes c, uniform codes u ∈ [−1, 1], and noise e ∼ N(0, I).

    z concatenates the one-hot vectors of all c, u, and e; e has the dimensions that the codes leave of `latent`. The encoder
    does not infer e.

    Args:
        latent: dimension d of z.
        categorical: number of values, at least 2, of each categorical code. All values are equally likely.
        uniform: number of uniform codes.

    Raises: SettingError if there is no code, a categorical code has fewer than two values, or the codes exceed `latent`.

    Reference: Chen et al., InfoGAN, NeurIPS 2016.

    Examples:
        >>> prior = CodesPrior(latent=14, categorical=(10,), uniform=2)  # one of ten values, two in [−1, 1], and two of noise
        >>> prior.sample(torch.rand(5, *prior.noise_shape)).shape
        torch.Size([5, 14])
        >>> prior.sample(torch.rand(5, *prior.noise_shape))[:, :10].sum(1)
        tensor([1., 1., 1., 1., 1.])
    """

    has_density = False
    noise_kind = "uniform"

    def __init__(self, latent: int, categorical: Sequence[int] = (10,), uniform: int = 0) -> None:
        super().__init__()
        if any(k < 2 for k in categorical) or uniform < 0 or not (categorical or uniform):
            raise SettingError(
                f"model.prior.categorical={list(categorical)}, model.prior.uniform={uniform}: the prior needs at least one "
                "code, and every categorical code needs at least two values."
            )
        self.latent, self.categorical, self.uniform = latent, tuple(categorical), uniform
        self.free = latent - sum(categorical) - uniform
        if self.free < 0:
            raise SettingError(
                f"model.latent={latent} is too small for the codes, which take {latent - self.free} dimensions "
                f"(categorical={list(categorical)}, uniform={uniform}); raise model.latent."
            )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one sample: one number for each code and for each dimension of e."""
        return (len(self.categorical) + self.uniform + self.free,)

    @property
    def entropy(self) -> float:
        """H(c) + H(u) in nats. H(c) limits the information about c; H(u) is differential and limits nothing."""
        return sum(log(k) for k in self.categorical) + self.uniform * log(2)

    def forward(self) -> CodesPrior:
        """The prior itself, which has samples but no density over all of z."""
        return self

    def sample(self, noise: Tensor) -> Tensor:
        """z from uniform noise, (B, number of codes + dimension of e) → (B, d)."""
        n = len(self.categorical)
        ones = [one_hot((noise[..., i] * k).floor(), k) for i, k in enumerate(self.categorical)]
        return torch.cat([*ones, 2 * noise[..., n : n + self.uniform] - 1, normal_from(noise[..., n + self.uniform :])], -1)


def one_hot(index: Tensor, k: int) -> Tensor:
    """One-hot vectors (…, k) of integers (…), which may have a floating point dtype; works under vmap."""
    return (index.unsqueeze(-1) == torch.arange(k, device=index.device)).float()


class EmpiricalPrior(nn.Module):
    """p(z) is the empirical distribution of a second data set, such as the images of another domain.

    Args:
        rows: the M samples, (M, *shape). z is one of them, flattened to (d,), with equal probability. M = 0 for a prior that is
            never sampled.

    Examples:
        >>> prior = EmpiricalPrior(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> prior.sample(torch.tensor([0.1, 0.9]))
        tensor([[1., 2.],
                [3., 4.]])
    """

    has_density = False
    noise_kind = "uniform"
    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.shape = tuple(rows.shape[1:])
        self.latent = prod(self.shape)
        self.register_buffer("rows", rows.flatten(1), persistent=False)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one sample: a single number, which selects a row."""
        return ()

    @property
    def entropy(self) -> float:
        """H(z) = log M in nats, the entropy of the index of a row."""
        return log(len(self.rows))

    def forward(self) -> EmpiricalPrior:
        """The prior itself, which has samples but no density."""
        return self

    def row(self, noise: Tensor) -> Tensor:
        """The index of the row that each uniform number selects, (B,) → (B,)."""
        return (noise * len(self.rows)).long()

    def sample(self, noise: Tensor) -> Tensor:
        """z, the rows that uniform noise selects, (B,) → (B, d)."""
        return self.rows[self.row(noise)]


Prior = StandardNormalPrior | CodesPrior | EmpiricalPrior
