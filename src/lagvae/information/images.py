"""I_q(x;z) where x is drawn in two steps: an image m, then x ∼ q(x|m), such as its binarisation.

Since z depends on m through x alone,  I(x;z) = I(m;z) + I(x;z|m).  Each part is bounded by as many draws as it takes, so
together they reach log N + log R nats with N images and R draws of some of them, where the aggregate posterior of K draws
stops at log K. All of it rests on a model of q(z|m), the law of z over all draws of one image:

    r(z|m) = N(z; μ_m, C),  μ_m the mean of E[z|x] over a few draws of m, and one covariance C for all images
    between   log N + log r(z|m) / Σ_m' r(z|m')       ≤ I(m;z) in expectation, whatever r is (Barber & Agakov, 2003)
    density   log q(z|x) − log 1/N Σ_m r(z|m)         ≥ I(x;z) in expectation, whatever r is
    within    the inclusive bound of `aggregate_bounds` on R draws of one image   ≤ I(x;z|m), at most log R
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from lagvae.errors import SettingError
from lagvae.information.gaussians import Mixture, gaussian_log_density


class ImageDistributions(NamedTuple):
    """r(z|m) = N(μ_m, C) for N images: means (N, d), and C as the matrix A with Aᵀ C A = I, (d, d); double precision."""

    mean: Tensor
    whiten: Tensor


def image_distributions(loc: Tensor, scale: Tensor, tiny: float = 1e-6) -> ImageDistributions:
    """Fit r(z|m) = N(μ_m, C) to a few draws x ∼ q(x|m) of each image.

    C = (1 + 1/T) Cov(loc within images) + E diag scale²: how far z of a new draw is from the mean of T others.

    Args:
        loc, scale: of q(z|x), (T, N, d): T ≥ 2 draws of x for each of N ≥ 2 images.
        tiny: smallest standard deviation, a numerical floor.

    Raises: SettingError for fewer than two draws or images.
    """
    t, n = loc.shape[:2]
    if t < 2 or n < 2:
        raise SettingError(f"The law of z over an image needs at least two draws of two images, not {t} of {n}.")
    loc, scale = loc.double(), scale.double()
    mean = loc.mean(0)
    off = (loc - mean).flatten(0, 1)
    within = off.mT @ off / (n * (t - 1)) * (1 + 1 / t)
    covariance = within + torch.diag(scale.square().flatten(0, 1).mean(0) + tiny**2)
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).mT
    return ImageDistributions(mean, whiten)


def image_bounds(
    z: Tensor, image: Tensor, joint: ImageDistributions, leave_out: bool = False, total: int | None = None
) -> tuple[Tensor, Tensor]:
    """The bound "between" on I(m;z), and log r(z) = log 1/N Σ_m r(z|m) for the bound "density" on I(x;z).

    Args:
        z: samples, (n, d). image: which of the N images each is of, (n,).
        laws: of the N images, made from draws of x other than those that z are of.
        leave_out: leave the own image out of r(z), where images are draws of a population themselves; else they are all there
            is, and q(m) is uniform over them.
        total: how many images there are, if laws has only some of them; None: N.

    Returns: between and log r(z), (n,), in nats.
    """
    n = len(joint.mean)
    shift = joint.whiten.diagonal().log().sum()  # log |det A|; A is triangular
    z, mean = z.double() @ joint.whiten, joint.mean @ joint.whiten
    mixture = Mixture(mean, torch.ones_like(mean))
    own, every = gaussian_log_density(z, mean[image], torch.ones_like(z)), mixture(z)
    some = mixture(z, image, torch.arange(n, device=z.device)) if leave_out else every
    return own - every + log(n), some + shift - log(n - 1 if leave_out else total or n)
