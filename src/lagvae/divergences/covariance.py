"""The squared distance between the covariance of q(z) and the identity, which is that of a standard normal p(z)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences.base import Divergence, require


def covariance_distance(loc: Tensor, scale: Tensor) -> Tensor:
    """The squared Frobenius norm ‖Cov_q(z) − I‖², where Cov_q(z) = Cov E[z|x] + E Var[z|x] over a batch of diagonal q(z|x).

    Args:
        loc, scale: means and standard deviations of q(z|x_i), (n, d).

    Returns: a scalar ≥ 0, in the unit of z to the fourth power, in single precision at least. It is biased upwards by the
        variance of the estimated covariance, of order d²/n, and by −Cov E[z|x] / n within the norm.

    Examples:
        >>> loc = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # the covariance of the means is 1 everywhere
        >>> covariance_distance(loc, torch.zeros(2, 2))  # 1² + 1² off the diagonal
        tensor(2.)
    """
    with torch.autocast(loc.device.type, enabled=False):
        loc, scale = (t if t.dtype == torch.float64 else t.float() for t in (loc, scale))
        centred = loc - loc.mean(0)
        excess = centred.mT @ centred / loc.shape[0] + torch.diag(scale.square().mean(0) - 1)
        return excess.square().sum()


class CovarianceDistance(Divergence):
    """‖Cov_q(z) − I‖², the squared distance of the covariance of q(z) from that of a standard normal prior, not in nats.

    It is 0 where the coordinates of z are uncorrelated with variance 1, whatever else q(z) is. With several ranks the samples
    of all of them are gathered. See `covariance_distance`.

    Raises: SettingError in `prepare`, if q(z|x) is no diagonal Gaussian.

    Reference: Kumar, Sattigeri, Balakrishnan, Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations, ICLR 2018 (DIP-VAE-II, with the same weight on and off the diagonal).

    Examples:
        >>> from types import SimpleNamespace
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.zeros(5, 3), 1.0), 1)  # the prior, for all x
        >>> CovarianceDistance()(SimpleNamespace(q_z_given_x=q, gather=lambda t: t))
        tensor(0.)
    """

    nats = False
    smallest = 0.0
    symbol = "Cov(q(z)||p(z))"

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        require(joint.has_gaussian_posterior, name, "a diagonal Gaussian q(z|x)", joint.encoder, "set posterior=gaussian")

    def __call__(self, samples: JointSamples) -> Tensor:
        q = samples.q_z_given_x.base_dist
        return covariance_distance(samples.gather(q.loc), samples.gather(q.scale))
