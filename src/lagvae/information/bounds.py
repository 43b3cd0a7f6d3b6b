"""Mutual information from samples of q(z|x): bounds of both sides, and the paper's kernel density estimate.

All values are in nats, one per sample: a caller averages them and states a standard error.
With K draws x_j ∼ q(x), and samples z_i ∼ q(z|x_i) of a diagonal Gaussian encoder at some of them:

    inclusive   log q(z_i|x_i) − log 1/K Σ_j q(z_i|x_j)            ≤ I_q in expectation, never above log K
    leave out   log q(z_i|x_i) − log 1/(K−1) Σ_{j≠i} q(z_i|x_j)    ≥ I_q in expectation
    density     log q(z_i|x_i) − log r(z_i)                        ≥ I_q for any r that does not know z_i
    mixed       the same with r an equal mixture of such densities  ≥ I_q, at most log n above the best of the n

The inclusive bound is InfoNCE with the best of all critics, log q(z|x): no other critic reads more. That it cannot pass
log K is no accident of it: no lower bound that knows the law by K samples alone holds with confidence far above log K
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
"""Numbers of draws of own groups that are held at once."""


class Aggregate(NamedTuple):
    """Log densities of samples z_i in nats, (n,): log q(z_i|x_i), of the mixture with the own component, and without it."""

    own: Tensor
    inclusive: Tensor
    others: Tensor


def aggregate(z: Tensor, loc: Tensor, scale: Tensor, origin: Tensor | None = None, groups: Tensor | None = None) -> Aggregate:
    """Judge samples z_i ∼ q(z|x_i) by the aggregate posterior of K draws of x.

    inclusive = log 1/K Σ_j q(z_i|x_j);  others = log 1/M Σ_j q(z_i|x_j) over the M components of other groups.

    Args:
        z: samples, (n, d), n ≤ K.
        loc, scale: of q(z|x_j), (K, d).
        origin: (n,), which component is each sample's own; None: the i-th is that of the i-th (n = K).
        groups: (K,), whole numbers. Components of the own group are left out together, such as all draws of one image where
            an image stands for itself alone. None: the own component alone is left out.

    Returns: an `Aggregate`, double precision. Time O(n K d), memory O((n + K) d).

    Raises: SettingError for fewer than two groups, or where it cannot be told which component is whose.
    """
    k = len(loc)
    origin = torch.arange(len(z), device=z.device) if origin is None else origin
    groups = torch.arange(k, device=z.device) if groups is None else groups
    if k < 2 or int(groups.min()) == int(groups.max()):
        raise SettingError(f"Bounds from the aggregate posterior need at least two samples, not {min(k, 1)} of {k} draws.")
    if len(origin) != len(z) or len(groups) != k or int(origin.max()) >= k:
        raise SettingError(
            f"{len(z)} samples, {len(origin)} origins, {len(groups)} groups and {k} components of the aggregate posterior do "
            "not fit together: give an origin below K for each sample, and a group for each component."
        )
    z, loc, scale = z.double(), loc.double(), scale.double()
    own = gaussian_log_density(z, loc[origin], scale[origin])
    mine = groups[origin]
    others = Mixture(loc, scale)(z, mine, groups)
    order = groups.argsort(stable=True)
    first, after = (torch.searchsorted(groups[order], mine, right=right) for right in (False, True))
    # The sum over the own group is made apart from that over the others: a difference would lose what is small.
    together, rows = torch.empty_like(own), max(1, ENTRIES // (int((after - first).max()) * z.shape[-1]))
    for part in torch.arange(len(z), device=z.device).split(rows):
        place = first[part, None] + torch.arange(int((after - first)[part].max()), device=z.device)
        member = order[place.clamp(max=k - 1)]
        pairs = gaussian_log_density(z[part, None], loc[member], scale[member])
        together[part] = pairs.masked_fill(place >= after[part, None], float("-inf")).logsumexp(-1)
    left = (k - (after - first)).double()
    return Aggregate(own, torch.logaddexp(others, together) - log(k), others - left.log())


def aggregate_bounds(
    z: Tensor, loc: Tensor, scale: Tensor, origin: Tensor | None = None, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lower (inclusive) and upper (leave-one-out) estimates of I_q(x;z) from the aggregate posterior.

    Both hold in expectation for independent draws x_j. The lower one needs less: any draws that are each of the law q(x) by
    themselves, such as several of every image, since 1/K Σ_j q(z|x_j) costs E KL(1/K Σ_j q(z|x_j) ‖ q(z)) ≥ 0.

    Args: as of `aggregate`; with z (K, d) alone the i-th sample is of the i-th component.

    Returns: two tensors (n,) in nats.

    Raises: SettingError as `aggregate`.

    Reference: Poole et al., On Variational Bounds of Mutual Information, ICML 2019.
    """
    found = aggregate(z, loc, scale, origin, groups)
    return found.own - found.inclusive, found.own - found.others


def equal_mixture(*log_densities: Tensor) -> Tensor:
    """log 1/n Σ eᵃ of n log densities: at most log n worse than the best of them, at every point."""
    return torch.stack(log_densities).logsumexp(0) - log(len(log_densities))


def marginal_bounds(log_weights: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Importance sampling of log p(x) from weights w = p(x, z) / q(z|x).

    below = log 1/S Σ_s w(z_s) with z_s ∼ q(z|x):                         ≤ log p(x) in expectation
    above = log 1/(S+1) [w(z₀) + Σ_s w(z_s)] with z₀ ∼ p(z|x) as well:    ≥ log p(x) in expectation

    Args:
        log_weights: log w(z_s) in nats, (S, n).
        own: log w(z₀), (n,), of the z₀ ∼ p(z) that made x ∼ p(x|z₀), which is a draw of p(z|x); None: there is none.

    Returns: below and above, (n,); above is None without `own`.

    Reference: Burda, Grosse, Salakhutdinov, ICLR 2016; Grosse, Ghahramani, Adams, 2015 (both sides).
    """
    s = len(log_weights)
    total = log_weights.logsumexp(0)
    return total - log(s), None if own is None else torch.logaddexp(total, own) - log(s + 1)


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
