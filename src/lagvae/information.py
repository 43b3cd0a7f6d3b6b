"""Mutual information from samples of q(z|x): bounds of both sides, and the paper's kernel density estimate.

All values are in nats, one per sample: a caller averages them and states a standard error.
With K samples z_i ∼ q(z|x_i) of a diagonal Gaussian encoder:

    inclusive   log q(z_i|x_i) − log 1/K Σ_j q(z_i|x_j)            ≤ I_q in expectation, never above log K
    leave out   log q(z_i|x_i) − log 1/(K−1) Σ_{j≠i} q(z_i|x_j)    ≥ I_q in expectation
    density     log q(z_i|x_i) − log r(z_i)                        ≥ I_q for any r fitted on other samples
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

import torch
from torch import Tensor

from lagvae.errors import SettingError

CHUNK = 2**22
"""Entries of a pairwise matrix held at once: 32 MiB in double precision."""


def gaussian_log_density(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z; loc, diag scale²), (..., d) → (...,)."""
    return -0.5 * (((z - loc) / scale).square() + 2 * scale.log() + log(2 * pi)).sum(-1)


def _pairwise(loc: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from z (n, d) to the matrix log N(z_i; loc_j, scale_j), (n, K), by matrix products."""
    precision = scale.square().reciprocal()
    constant = -0.5 * ((loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1) + loc.shape[-1] * log(2 * pi))
    weights = torch.cat([-0.5 * precision, loc * precision], dim=-1).mT.contiguous()

    def log_densities(z: Tensor) -> Tensor:
        return torch.addmm(constant, torch.cat([z.square(), z], dim=-1), weights)

    return log_densities


def aggregate_bounds(z: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Lower (inclusive) and upper (leave-one-out) estimates of I_q(x;z) from the aggregate posterior.

    Args:
        z: samples, z_i ∼ N(loc_i, diag scale_i²), (K, d).
        loc, scale: of the encoder at x_i, (K, d).

    Returns: two tensors (K,) in nats. Time O(K² d), memory O(K) beside one chunk.

    Raises: SettingError for fewer than two samples.

    Reference: Poole et al., On Variational Bounds of Mutual Information, ICML 2019.
    """
    k = z.shape[0]
    if k < 2:
        raise SettingError(f"Bounds from the aggregate posterior need at least two samples, not {k}.")
    z, loc, scale = z.double(), loc.double(), scale.double()
    centre = loc.mean(0)
    z, loc = z - centre, loc - centre
    log_densities = _pairwise(loc, scale)
    own = gaussian_log_density(z, loc, scale)
    lower, upper = torch.empty_like(own), torch.empty_like(own)
    rows = max(1, CHUNK // k)
    for start in range(0, k, rows):
        part = slice(start, min(start + rows, k))
        pairs = log_densities(z[part])
        index = torch.arange(part.start, part.stop, device=z.device)
        pairs[torch.arange(len(index), device=z.device), index] = float("-inf")
        others = pairs.logsumexp(-1)
        upper[part] = own[part] - others + log(k - 1)
        lower[part] = own[part] - torch.logaddexp(others, own[part]) + log(k)
    return lower, upper


def density_upper(z: Tensor, loc: Tensor, scale: Tensor, log_r: Tensor) -> Tensor:
    """Upper estimates log q(z_i|x_i) − log r(z_i) of I_q, (K,), for a density r that was not fitted on these z."""
    return gaussian_log_density(z.double(), loc.double(), scale.double()) - log_r.double()


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
    centre = points.mean(0)
    z, points = z - centre, points - centre
    width = points.std(0).clamp(min=1e-12) * n ** (-1 / (d + 4))
    log_densities = _pairwise(points, width.expand_as(points))
    rows = max(1, CHUNK // n)
    return torch.cat([log_densities(part).logsumexp(-1) for part in z.split(rows)]) - log(n)


def kde_information(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The paper's estimate (eq. 21) log q(z_i|x_i) − log q̂(z_i), q̂ a kernel density estimate; (K,) in nats.

    Each half of the samples is judged by the density of the other. It overestimates I_q in many dimensions: by ten nats
    and more at d = 64 with thousands of samples. Report it beside the bounds, never alone.
    """
    k = z.shape[0]
    if k < 4:
        raise SettingError(f"The kernel density estimate needs at least four samples, not {k}.")
    half = k // 2
    log_q = torch.cat([kde_log_density(z[:half], z[half:]), kde_log_density(z[half:], z[:half])])
    return gaussian_log_density(z.double(), loc.double(), scale.double()) - log_q
