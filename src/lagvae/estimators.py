"""Estimators: a number and its gradient from samples of the two joints.

A `Divergence` is what a constraint bounds: which quantity, over which variables, estimated how.
All values are means over the batch; information is in nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import log

import torch
from torch import Tensor

from lagvae.divergences import STATISTICS, Kernel, mmd
from lagvae.errors import SettingError
from lagvae.laws import JointSamples, Laws


class Divergence(ABC):
    """A scalar estimate of a divergence from a batch of samples."""

    needs: frozenset[str] = frozenset({"z_q"})
    """Names of the noise that the estimate draws on (see `draw_noise`)."""
    nats: bool = True
    """Whether the value is in nats; otherwise it has no unit."""
    symbol: str
    """What is estimated, in the notation of `lagvae.algebra`."""

    @abstractmethod
    def __call__(self, samples: JointSamples) -> Tensor:
        """The estimate, shape ()."""

    def __repr__(self) -> str:
        return type(self).__name__


class NegElbo(Divergence):
    """−ELBO = E_q [KL(q(z|x)‖p(z)) − log p(x|z)] = KL(q(x,z)‖p(x,z)) + H_q(x), in nats.

    H_q(x) is a constant of the data, so a bound on −ELBO is a bound on the KL of the joints. With densities
    (Normal decoder) both can be negative.

    Reference: Zhao, Song, Ermon, UAI 2018, Section 6.
    """

    symbol = "KL(q(x,z)||p(x,z)) + H_q(x)"

    def __call__(self, samples: JointSamples) -> Tensor:
        return (samples.rate + samples.distortion).mean()


class Rate(Divergence):
    """E_q(x) KL(q(z|x)‖p(z)) = I_q(x;z) + KL(q(z)‖p(z)), in nats: a capacity that may be bounded by itself."""

    symbol = "E_q[log q(z|x) - log p(z)]"

    def __call__(self, samples: JointSamples) -> Tensor:
        return samples.rate.mean()


class Distortion(Divergence):
    """−E_q log p(x|z), in nats: the reconstruction error that may be bounded by itself."""

    symbol = "-E_q[log p(x|z)]"

    def __call__(self, samples: JointSamples) -> Tensor:
        return samples.distortion.mean()


class MMD(Divergence):
    """The squared MMD between q(z) and p(z), without unit (see `lagvae.divergences.mmd`).

    Args:
        kernel: the kernel.
        statistic: "u" (unbiased, may be negative) or "v".

    Over several ranks the samples of all of them are joined first: it is the MMD of the global batch.
    """

    needs = frozenset({"z_q", "z_p"})
    nats = False
    symbol = "MMD(q(z)||p(z))"

    def __init__(self, kernel: Kernel, statistic: str = "u") -> None:
        if statistic not in STATISTICS:
            raise SettingError(f"statistic={statistic!r} is unknown; choose one of {', '.join(STATISTICS)}.")
        self.kernel = kernel
        self.statistic = statistic

    def __call__(self, samples: JointSamples) -> Tensor:
        return mmd(samples.gather(samples.z_q), samples.gather(samples.z_p), self.kernel, self.statistic)

    def __repr__(self) -> str:
        return f"MMD({self.statistic.upper()}-statistic, {self.kernel})"


def neg_i_p_lower(samples: JointSamples) -> Tensor:
    """−E_p log q(z|x), (): minimising it maximises the bound I_p ≥ E_p log q(z|x) + H_p(z) (Barber & Agakov, 2003)."""
    return -samples.q_z_given_x_p.log_prob(samples.z_p).mean()


def i_p_upper(samples: JointSamples) -> Tensor:
    """The leave-one-out upper bound on I_p, (), in nats (Poole et al., ICML 2019).

    E_p [log p(x_i|z_i) − log 1/(B−1) Σ_{j≠i} p(x_i|z_j)]
    """
    law, x = samples.p_x_given_z_p, samples.x_p
    pairs: Tensor = torch.vmap(lambda one: law.log_prob(one.expand_as(x)))(x)  # [i, j] = log p(x_i | z_j)
    n = pairs.shape[-1]
    own = pairs.diagonal(dim1=-2, dim2=-1)
    others = pairs.masked_fill(torch.eye(n, dtype=torch.bool, device=pairs.device), float("-inf"))
    return (own - others.logsumexp(-1) + log(n - 1)).mean()


def check_preference(alpha_p: float, laws: Laws) -> None:
    """Raise SettingError where a preference on I_p has no gradient: the decoder's samples must be differentiable."""
    if alpha_p != 0 and not getattr(laws.decoder, "differentiable_samples", False):
        raise SettingError(
            f"alpha.p={alpha_p:g} needs samples of p(x|z) with a gradient, which {type(laws.decoder).__name__} has not; "
            "set model.likelihood=normal, or alpha.p=0."
        )
