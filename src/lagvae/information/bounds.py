"""Mutual information I_q(x;z) from samples of q(z|x): lower and upper bounds, and the paper's kernel density estimate.

All functions return one value per sample, in nats; the caller averages them and reports a standard error. For K draws
x_j ∼ q(x) and samples z_i ∼ q(z|x_i) of a diagonal Gaussian encoder at some of them,

    inclusive       log q(z_i|x_i) − log 1/K Σ_j q(z_i|x_j)            ≤ I_q in expectation, and never above log K
    leave-one-out   log q(z_i|x_i) − log 1/(K−1) Σ_{j≠i} q(z_i|x_j)    ≥ I_q in expectation
    density         log q(z_i|x_i) − log r(z_i)                        ≥ I_q in expectation, if r was fitted without z_i
    mixture         the same, for an equal mixture r of n densities    ≥ I_q in expectation, at most log n above the best one

The inclusive bound is InfoNCE with the optimal critic log q(z|x), so no other critic gives a larger value. The limit log K is
not specific to it: any distribution-free lower bound from K samples that holds with high confidence is at most O(log K)
(McAllester & Stratos, Formal Limitations on the Measurement of Mutual Information, AISTATS 2020).
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from lagvae.errors import SettingError
from lagvae.information.gaussians import Mixture, gaussian_log_density, kde_log_density

ENTRIES = 2**21
"""The largest number of matrix entries held in memory at once for the components of the samples' own groups."""


class Aggregate(NamedTuple):
    """Log densities of samples z_i, each (n,), in nats.

    `own` is log q(z_i|x_i), `inclusive` that of the mixture of all components, and `others` that of the mixture without the
    components of the sample's own group.
    """

    own: Tensor
    inclusive: Tensor
    others: Tensor


def aggregate(z: Tensor, loc: Tensor, scale: Tensor, origin: Tensor | None = None, groups: Tensor | None = None) -> Aggregate:
    """Evaluate the aggregate posterior of K draws of x at samples z_i ∼ q(z|x_i).

    inclusive = log 1/K Σ_j q(z_i|x_j);  others = log 1/M Σ_j q(z_i|x_j) over the M components of other groups.

    Args:
        z: samples, (n, d).
        loc, scale: means and standard deviations of q(z|x_j), (K, d).
        origin: index of the component that each sample was drawn from, (n,); None if the i-th sample was drawn from the i-th
            component (n = K).
        groups: integer label of the group of each component, (K,). `others` leaves out all components of the sample's own
            group, such as all draws of the same image. None if every component is a group of its own.

    Returns: an `Aggregate` in double precision. Time O(n K d), memory O((n + K) d).

    Raises: SettingError for fewer than two groups, or inconsistent numbers of samples, origins, groups and components.

    Examples:
        >>> loc = torch.tensor([[0.0], [100.0]])  # two components that do not overlap
        >>> found = aggregate(loc, loc, torch.ones(2, 1))
        >>> (found.own - found.inclusive).exp().round(decimals=4)  # K
        tensor([2., 2.], dtype=torch.float64)
    """
    k = len(loc)
    origin = torch.arange(len(z), device=z.device) if origin is None else origin
    groups = torch.arange(k, device=z.device) if groups is None else groups
    if k < 2 or int(groups.min()) == int(groups.max()):
        raise SettingError(f"Bounds from the aggregate posterior need at least two samples, not {min(k, 1)} of {k} draws.")
    if len(origin) != len(z) or len(groups) != k or int(origin.max()) >= k:
        raise SettingError(
            f"{len(z)} samples, {len(origin)} origins, {len(groups)} groups and {k} components of the aggregate posterior "
            "do not match: give an origin below K for each sample, and a group for each component."
        )
    z, loc, scale = z.double(), loc.double(), scale.double()
    own = gaussian_log_density(z, loc[origin], scale[origin])
    own_group = groups[origin]
    others = Mixture(loc, scale)(z, own_group, groups)
    order = groups.argsort(stable=True)
    first, after = (torch.searchsorted(groups[order], own_group, right=right) for right in (False, True))
    # The sums over the own group and over the others are computed separately, since a difference of sums would lose precision.
    own_sum, rows = torch.empty_like(own), max(1, ENTRIES // (int((after - first).max()) * z.shape[-1]))
    for part in torch.arange(len(z), device=z.device).split(rows):
        place = first[part, None] + torch.arange(int((after - first)[part].max()), device=z.device)
        member = order[place.clamp(max=k - 1)]
        log_densities = gaussian_log_density(z[part, None], loc[member], scale[member])
        own_sum[part] = log_densities.masked_fill(place >= after[part, None], float("-inf")).logsumexp(-1)
    n_others = (k - (after - first)).double()
    return Aggregate(own, torch.logaddexp(others, own_sum) - log(k), others - n_others.log())


def aggregate_bounds(
    z: Tensor, loc: Tensor, scale: Tensor, origin: Tensor | None = None, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lower (inclusive) and upper (leave-one-out) bounds on I_q(x;z) from the aggregate posterior.

    Both hold in expectation for independent draws x_j ∼ q(x). The lower bound does not need independence: it suffices that
    every x_j has the distribution q(x), as with several draws per image, because the mixture 1/K Σ_j q(z|x_j) in place of
    q(z) lowers it by E KL(1/K Σ_j q(z|x_j) ‖ q(z)) ≥ 0.

    Args: see `aggregate`.

    Returns: the lower and the upper bound, each (n,), in nats.

    Raises: SettingError as in `aggregate`.

    Reference: Poole et al., On Variational Bounds of Mutual Information, ICML 2019.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> loc, noise = torch.randn(2, 2000, 1, generator=generator)
        >>> scale = torch.full_like(loc, 0.5)  # z = x + noise of variance 1/4, so that I = ½ log 5, 0.80 nats
        >>> lower, upper = aggregate_bounds(loc + scale * noise, loc, scale)
        >>> bool(0.7 < lower.mean() <= upper.mean() < 0.9)
        True
    """
    densities = aggregate(z, loc, scale, origin, groups)
    return densities.own - densities.inclusive, densities.own - densities.others


def equal_mixture(*log_densities: Tensor) -> Tensor:
    """log 1/n Σ_a exp(a) in nats, the log density of an equal mixture of n log densities a, at most log n below the largest.

    Shapes: n tensors of one shape → that shape.

    Examples:
        >>> equal_mixture(torch.tensor([0.2]).log(), torch.tensor([0.6]).log()).exp()
        tensor([0.4000])
    """
    return torch.stack(log_densities).logsumexp(0) - log(len(log_densities))


def marginal_bounds(log_weights: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Lower and upper bounds on log p(x) by importance sampling, with weights w(z) = p(x,z) / q(z|x).

        lower = log 1/S Σ_s w(z_s) for z_s ∼ q(z|x)                                   ≤ log p(x) in expectation
        upper = log 1/(S+1) [w(z_0) + Σ_s w(z_s)] for z_0 ∼ p(z|x) in addition        ≥ log p(x) in expectation

    Args:
        log_weights: log w(z_s) in nats, (S, n).
        own: log w(z_0) in nats, (n,), where x ∼ p(x|z_0) was generated from z_0 ∼ p(z), so that z_0 is an exact sample of
            p(z|x); None if x was not generated by the model.

    Returns: lower and upper, each (n,), in nats; upper is None without `own`.

    Reference: Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016; Grosse, Ghahramani, Adams, Sandwiching
    the Marginal Likelihood Using Bidirectional Monte Carlo, 2015.

    Examples:
        >>> weights = torch.tensor([[0.1, 0.2], [0.3, 0.6]])  # two draws of z for each of two x
        >>> lower, _ = marginal_bounds(weights.log())
        >>> lower.exp()
        tensor([0.2000, 0.4000])
    """
    s = len(log_weights)
    total = log_weights.logsumexp(0)
    return total - log(s), None if own is None else torch.logaddexp(total, own) - log(s + 1)


def kde_information(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The paper's estimate (eq. 21) of I_q, log q(z_i|x_i) − log q̂(z_i) with a kernel density estimate q̂.

    q̂ is fitted to one half of the samples and evaluated on the other, and vice versa. In high dimensions it overestimates
    I_q, by ten nats or more for d = 64 and thousands of samples, so it should only be reported beside the bounds.

    Args:
        z: samples z_i ∼ q(z|x_i), (K, d), K ≥ 4.
        loc, scale: means and standard deviations of q(z|x_i), (K, d).

    Returns: (K,), in nats.

    Raises: SettingError for fewer than four samples.

    Reference: Zhao, Song, Ermon, UAI 2018, eq. 21.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> loc, noise = torch.randn(2, 2000, 1, generator=generator)
        >>> scale = torch.full_like(loc, 0.5)  # I = 0.80 nats
        >>> bool(0.7 < kde_information(loc + scale * noise, loc, scale).mean() < 0.9)
        True
    """
    k = z.shape[0]
    if k < 4:
        raise SettingError(f"The kernel density estimate needs at least four samples, not {k}.")
    half = k // 2
    log_q = torch.cat([kde_log_density(z[:half], z[half:]), kde_log_density(z[half:], z[:half])])
    return gaussian_log_density(z.double(), loc.double(), scale.double()) - log_q
