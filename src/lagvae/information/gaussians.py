"""Log densities, in nats, of diagonal Gaussians, of mixtures of them, and of kernel density estimates."""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

ROWS, COLUMNS = 128, 2048
"""Tile size of the (sample, component) matrix: 2 MiB in double precision, which fits into the cache of a core."""


def gaussian_log_density(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z; loc, diag scale²) in nats, (…, d) → (…,).

    Examples:
        >>> gaussian_log_density(torch.zeros(2), torch.zeros(2), torch.ones(2))  # −log 2π
        tensor(-1.8379)
    """
    return -0.5 * (((z - loc) / scale).square() + 2 * scale.log() + log(2 * pi)).sum(-1)


class Mixture:
    """log Σ_j N(z; loc_j, diag scale_j²) in nats, an unnormalised mixture of K components, in tiles by matrix products.

    Args:
        loc, scale: means and standard deviations, (K, d).

    Examples:
        >>> Mixture(torch.zeros(3, 2), torch.ones(3, 2))(torch.zeros(1, 2)).exp()  # 3 / 2π
        tensor([0.4775])
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.centre = loc.mean(0)
        loc = loc - self.centre
        precision = scale.square().reciprocal()
        self.constant = -0.5 * ((loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1) + loc.shape[-1] * log(2 * pi))
        self.weights = torch.cat([-0.5 * precision, loc * precision], dim=-1).mT.contiguous()

    def __call__(self, z: Tensor, group: Tensor | None = None, groups: Tensor | None = None) -> Tensor:
        """Evaluate the mixture at z, (n, d) → (n,), in nats.

        If the labels `group` (n,) of the samples and `groups` (K,) of the components are given, every sample leaves out the
        components with its own label.
        """
        z = z - self.centre
        powers = torch.cat([z.square(), z], dim=-1)
        result = torch.full((len(z),), float("-inf"), dtype=z.dtype, device=z.device)
        for i in range(0, len(z), ROWS):
            rows = slice(i, i + ROWS)
            for j in range(0, len(self.constant), COLUMNS):
                columns = slice(j, j + COLUMNS)
                log_terms = torch.addmm(self.constant[columns], powers[rows], self.weights[:, columns])
                if group is not None and groups is not None:
                    log_terms.masked_fill_(group[rows, None] == groups[columns], float("-inf"))
                result[rows] = torch.logaddexp(result[rows], log_terms.logsumexp(-1))
        return result


def kde_log_density(z: Tensor, points: Tensor) -> Tensor:
    """The log of a Gaussian kernel density estimate, with a diagonal bandwidth by Scott's rule.

    log 1/N Σ_j N(z; points_j, diag h²),  h_k = std_k(points) · N^(−1/(d+4)).

    Args:
        z: points at which to evaluate the density, (n, d).
        points: samples that define the density, (N, d), disjoint from z.

    Returns: (n,) in nats.

    Reference: Scott, Multivariate Density Estimation, Wiley 1992.

    Examples:
        >>> z = torch.arange(-20.0, 20.0, 0.1)[:, None]
        >>> (0.1 * kde_log_density(z, torch.tensor([[-1.0], [1.0]])).exp()).sum().round(decimals=4)  # ∫ q̂(z) dz
        tensor(1., dtype=torch.float64)
    """
    n, d = points.shape
    z, points = z.double(), points.double()
    width = points.std(0).clamp(min=1e-12) * n ** (-1 / (d + 4))
    return Mixture(points, width.expand_as(points))(z) - log(n)
