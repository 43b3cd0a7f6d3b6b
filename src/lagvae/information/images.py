"""Bounds on I_q(x;z) for data that are drawn in two steps: an image m, then x ∼ q(x|m), such as a binarisation of m.

Since z depends on m only through x,  I(x;z) = I(m;z) + I(x;z|m).  The two parts are bounded separately, so that N images and
R draws of some of them give lower bounds up to log N + log R nats, where the aggregate posterior of K draws is limited to
log K. The bounds use a model r(z|m) of q(z|m), the distribution of z over all draws of one image:

    r(z|m) = N(z; μ_m, C), with μ_m the mean of E[z|x] over a few draws of m, and one covariance C for all images
    between   log N + log r(z|m) / Σ_m' r(z|m')       ≤ I(m;z) in expectation, for any r
    density   log q(z|x) − log 1/N Σ_m r(z|m)         ≥ I(x;z) in expectation, for any r
    within    the inclusive bound of `aggregate_bounds` over R draws of one image   ≤ I(x;z|m) in expectation, at most log R

Reference: Barber & Agakov, The IM Algorithm, NeurIPS 2003 ("between").
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from lagvae.errors import SettingError
from lagvae.information.gaussians import Mixture, gaussian_log_density


class ImageDistributions(NamedTuple):
    """r(z|m) = N(μ_m, C) for N images: means (N, d), and the whitening matrix A, (d, d), with Aᵀ C A = I; double precision."""

    mean: Tensor
    whiten: Tensor


def image_distributions(loc: Tensor, scale: Tensor, tiny: float = 1e-6) -> ImageDistributions:
    """Fit r(z|m) = N(μ_m, C) to a few draws x ∼ q(x|m) of each image.

    C = (1 + 1/T) Cov(loc within images) + E diag scale², the covariance of z − μ_m for a new draw of the image.

    Args:
        loc, scale: means and standard deviations of q(z|x) for T ≥ 2 draws of each of N ≥ 2 images, (T, N, d).
        tiny: standard deviation whose square is added to the variances, for numerical stability.

    Returns: μ (N, d) in the unit of z, and A (d, d) in its inverse.

    Raises: SettingError for fewer than two draws or images.

    Examples:
        >>> loc = torch.tensor([[0.0], [1.0]]).expand(3, 2, 1)  # two images, each with the same mean for all three draws
        >>> r = image_distributions(loc, torch.full_like(loc, 0.5))  # so that C = 0.5², the variance of the encoder alone
        >>> r.mean, r.whiten.round(decimals=4)
        (tensor([[0.],
                [1.]], dtype=torch.float64), tensor([[2.]], dtype=torch.float64))
    """
    t, n = loc.shape[:2]
    if t < 2 or n < 2:
        raise SettingError(f"Fitting r(z|m) needs at least two draws of at least two images, not {t} of {n}.")
    loc, scale = loc.double(), scale.double()
    mean = loc.mean(0)
    residuals = (loc - mean).flatten(0, 1)
    within = residuals.mT @ residuals / (n * (t - 1)) * (1 + 1 / t)
    covariance = within + torch.diag(scale.square().flatten(0, 1).mean(0) + tiny**2)
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).mT
    return ImageDistributions(mean, whiten)


def image_bounds(
    z: Tensor, image: Tensor, distributions: ImageDistributions, leave_out: bool = False, total: int | None = None
) -> tuple[Tensor, Tensor]:
    """The bound "between" on I(m;z), and log r(z) = log 1/N Σ_m r(z|m) for the bound "density" on I(x;z).

    Args:
        z: samples, (n, d).
        image: index of the image of each sample, (n,).
        distributions: r(z|m) of the N images, fitted to draws of x other than those that z was sampled from.
        leave_out: whether r(z) leaves out the sample's own image, for images that are themselves samples of a population. If
            False, q(m) is uniform over a finite set of images.
        total: number of images in that set, if `distributions` contains only some of them; None for N.

    Returns: the bound "between" and log r(z), each (n,), in nats.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> images = torch.randn(500, 2, generator=generator)
        >>> draws = images + 0.1 * torch.randn(4, 500, 2, generator=generator)  # four draws of x of each, which q(z|x) copies
        >>> scale = torch.full_like(draws, 0.1)
        >>> r = image_distributions(draws[:3], scale[:3])
        >>> z = draws[3] + scale[3] * torch.randn(500, 2, generator=generator)
        >>> between, log_r = image_bounds(z, torch.arange(500), r)
        >>> bool(2 < between.mean() < 6.2)  # at most log 500
        True
    """
    n = len(distributions.mean)
    shift = distributions.whiten.diagonal().log().sum()  # log |det A|; A is triangular
    z, mean = z.double() @ distributions.whiten, distributions.mean @ distributions.whiten
    mixture = Mixture(mean, torch.ones_like(mean))
    own, of_all = gaussian_log_density(z, mean[image], torch.ones_like(z)), mixture(z)
    marginal = mixture(z, image, torch.arange(n, device=z.device)) if leave_out else of_all
    return own - of_all + log(n), marginal + shift - log(n - 1 if leave_out else total or n)
