"""What the files beside it name: a divergence and a data set. `--config-dir` lets Python find this module."""

from math import tau

import torch
from torch import Tensor

from lagvae.data import Arrays
from lagvae.distributions import JointSamples
from lagvae.divergences import Divergence


class Correlation(Divergence):
    """Σ_{i≠j} C_ij² with C the covariance of z ∼ q(z) over a batch; it has no unit."""

    nats = False
    smallest = 0.0

    def __call__(self, samples: JointSamples) -> Tensor:
        centred = samples.z_q - samples.z_q.mean(0)
        covariance = centred.mT @ centred / (len(centred) - 1)
        return covariance.square().sum() - covariance.diagonal().square().sum()


def rings(n: int = 2000, noise: float = 0.1) -> Arrays:
    """n points around two circles in the plane, (n, 2), and the circle of each as its label."""
    generator = torch.Generator().manual_seed(0)
    angle, radius = tau * torch.rand(n, generator=generator), 1 + torch.randint(2, (n,), generator=generator)
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return Arrays(points + noise * torch.randn(n, 2, generator=generator), labels=radius - 1)
