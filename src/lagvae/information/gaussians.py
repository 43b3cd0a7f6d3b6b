"""Log densities of diagonal Gaussians, of many of them together, and of a kernel density estimate; in nats."""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

ROWS, COLUMNS = 128, 2048
"""A tile of the matrix of all pairs: 2 MiB in double precision, which stay in a core's cache."""


def gaussian_log_density(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z; loc, diag scale²), (..., d) → (...,)."""
    return -0.5 * (((z - loc) / scale).square() + 2 * scale.log() + log(2 * pi)).sum(-1)


class Mixture:
    """log Σ_j N(z; loc_j, diag scale_j²) over K components, tile by tile, by matrix products."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.centre = loc.mean(0)
        loc = loc - self.centre
        precision = scale.square().reciprocal()
        self.constant = -0.5 * ((loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1) + loc.shape[-1] * log(2 * pi))
        self.weights = torch.cat([-0.5 * precision, loc * precision], dim=-1).mT.contiguous()

    def __call__(self, z: Tensor, group: Tensor | None = None, groups: Tensor | None = None) -> Tensor:
        """(n, d) → (n,); components whose entry in `groups` (K,) is the sample's in `group` (n,) are left out."""
        z = z - self.centre
        powers = torch.cat([z.square(), z], dim=-1)
        result = torch.full((len(z),), float("-inf"), dtype=z.dtype, device=z.device)
        for i in range(0, len(z), ROWS):
            rows = slice(i, i + ROWS)
            for j in range(0, len(self.constant), COLUMNS):
                columns = slice(j, j + COLUMNS)
                pairs = torch.addmm(self.constant[columns], powers[rows], self.weights[:, columns])
                if group is not None and groups is not None:
                    pairs.masked_fill_(group[rows, None] == groups[columns], float("-inf"))
                result[rows] = torch.logaddexp(result[rows], pairs.logsumexp(-1))
        return result


def kde_log_density(z: Tensor, points: Tensor) -> Tensor:
    """Log of a Gaussian kernel density estimate, diagonal bandwidth by Scott's rule.

    h_k = std_k(points) · N^(−1/(d+4));  log 1/N Σ_j N(z; points_j, diag h²).

    Args:
        z: where, (n, d). points: samples that make the density, (N, d), other than z.

    Returns: (n,) in nats.

    Reference: Scott, Multivariate Density Estimation, 1992.
    """
    n, d = points.shape
    z, points = z.double(), points.double()
    width = points.std(0).clamp(min=1e-12) * n ** (-1 / (d + 4))
    return Mixture(points, width.expand_as(points))(z) - log(n)
