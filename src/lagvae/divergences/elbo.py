"""Estimators from densities: rate, distortion, −ELBO, and bounds on I_p. All values are means over a batch, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

from lagvae.distributions import JointModel, JointSamples, part_name
from lagvae.divergences.base import Divergence, require
from lagvae.errors import SettingError

RATE = "the rate KL(q(z|x)‖p(z))"

DISTORTION = "log p(x|z)"


class NegElbo(Divergence):
    """−ELBO = E_q [KL(q(z|x)‖p(z)) − log p(x|z)] = KL(q(x,z)‖p(x,z)) + H_q(x), in nats.

    H_q(x) is a constant of the data, so a bound on −ELBO bounds the KL divergence of the joints. For continuous x, such as with
    a Normal decoder, −ELBO and H_q(x) may be negative.

    The rate is exact where torch knows it, otherwise log q(z|x) − log p(z) at z ∼ q(z|x).

    Raises: SettingError in `prepare` if q(z|x), p(z) or p(x|z) has no density.

    Reference: Zhao, Song, Ermon, UAI 2018, Section 6.

    Examples:
        >>> from functools import partial
        >>> from lagvae.distributions import GaussianEncoder, NormalDecoder, StandardNormalPrior, draw_noise
        >>> from lagvae.networks import MLP
        >>> from lagvae.noise import Noise
        >>> joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), NormalDecoder(MLP, (3,), 2))
        >>> x, divergence = torch.randn(100, 3), NegElbo()
        >>> divergence.prepare("neg_elbo", joint, (3,))
        >>> samples = JointSamples(joint, x, draw_noise(divergence.required_noise, joint, Noise(0, "example"), 0, x))
        >>> torch.isclose(divergence(samples), samples.rate.mean() + samples.distortion.mean())
        tensor(True)
    """

    symbol = "KL(q(x,z)||p(x,z)) + H_q(x)"

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        require(
            joint.has_rate, name, RATE, without_density(joint), "estimate it with a critic: divergence=[adversarial_neg_elbo]"
        )
        require(joint.has_distortion, name, DISTORTION, joint.decoder, "compare joints instead: divergence=[js_xz]")

    def __call__(self, samples: JointSamples) -> Tensor:
        return (samples.rate + samples.distortion).mean()


class Rate(Divergence):
    """The rate E_q(x) KL(q(z|x)‖p(z)) = I_q(x;z) + KL(q(z)‖p(z)), in nats: ≥ 0, and an upper bound on I_q.

    Raises: SettingError in `prepare` if q(z|x) or p(z) has no density.

    Examples:
        >>> from types import SimpleNamespace
        >>> Rate()(SimpleNamespace(rate=torch.tensor([11.0, 13.0])))  # the mean over a batch of two
        tensor(12.)
    """

    smallest = 0.0
    symbol = "E_q[log q(z|x) - log p(z)]"

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        require(
            joint.has_rate, name, RATE, without_density(joint), "bound KL(q(z)‖p(z)) with a critic instead: divergence=[kl_z]"
        )

    def __call__(self, samples: JointSamples) -> Tensor:
        return samples.rate.mean()


class Distortion(Divergence):
    """The distortion −E_q log p(x|z), the reconstruction error in nats, which may be negative where x is continuous.

    Raises: SettingError in `prepare` if the decoder has no density.

    Examples:
        >>> from types import SimpleNamespace
        >>> Distortion()(SimpleNamespace(distortion=torch.tensor([11.0, 13.0])))  # the mean over a batch of two
        tensor(12.)
    """

    symbol = "-E_q[log p(x|z)]"

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        require(joint.has_distortion, name, DISTORTION, joint.decoder, "set likelihood=normal or likelihood=laplace")

    def __call__(self, samples: JointSamples) -> Tensor:
        return samples.distortion.mean()


def without_density(joint: JointModel) -> nn.Module:
    """The part of a joint model without a rate for which there is none: the encoder, or else the prior."""
    return joint.prior if joint.has_posterior_density else joint.encoder


def neg_i_p_lower(samples: JointSamples) -> Tensor:
    """−E_p log q(z|x), (), in nats. Minimising it maximises the lower bound I_p ≥ E_p log q(z|x) + H_p(z).

    Reference: Barber & Agakov, The IM Algorithm, NeurIPS 2003.

    Examples:
        >>> from types import SimpleNamespace
        >>> from torch.distributions import Independent, Normal
        >>> z = torch.zeros(5, 1)
        >>> neg_i_p_lower(SimpleNamespace(z_p=z, q_z_given_x_p=Independent(Normal(z, 1.0), 1)))  # ½ log 2π
        tensor(0.9189)
    """
    return -samples.q_z_given_x_p.log_prob(samples.z_p).mean()


def i_p_upper(samples: JointSamples) -> Tensor:
    """The leave-one-out upper bound on I_p, (), in nats.

    I_p ≤ E_p [log p(x_i|z_i) − log 1/(B−1) Σ_{j≠i} p(x_i|z_j)]

    Reference: Poole et al., On Variational Bounds of Mutual Information, ICML 2019.

    Examples:
        >>> from types import SimpleNamespace
        >>> from torch.distributions import Independent, Normal
        >>> x = torch.arange(5.0)[:, None]
        >>> useless = Independent(Normal(torch.zeros(5, 1), 1.0), 1)  # p(x|z) is the same for all z, so that I_p = 0
        >>> bool(i_p_upper(SimpleNamespace(x_p=x, p_x_given_z_p=useless)).abs() < 1e-5)
        True
    """
    distribution, x = samples.p_x_given_z_p, samples.x_p
    log_p: Tensor = torch.vmap(lambda one: distribution.log_prob(one.expand_as(x)))(x)  # [i, j] = log p(x_i | z_j)
    n = log_p.shape[-1]
    own = log_p.diagonal(dim1=-2, dim2=-1)
    others = log_p.masked_fill(torch.eye(n, dtype=torch.bool, device=log_p.device), float("-inf"))
    return (own - others.logsumexp(-1) + log(n - 1)).mean()


def check_preference(alpha_q: float, alpha_p: float, joint: JointModel) -> None:
    """Raise SettingError if the joint model does not have the bounds that the signs of α select, or they have no gradient.

    Examples:
        >>> from lagvae.distributions import BernoulliDecoder, GaussianEncoder, StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), BernoulliDecoder(MLP, (3,), 2))
        >>> check_preference(-1.0, 0.0, joint)
        >>> check_preference(-1.0, 0.5, joint)
        Traceback (most recent call last):
        lagvae.errors.SettingError: alpha.p=0.5 needs samples of p(x|z) with a gradient, which BernoulliDecoder does not have...
    """
    encoder, decoder = part_name(joint.encoder), part_name(joint.decoder)
    if alpha_q > 0 and not joint.has_rate:
        raise SettingError(
            f"alpha.q={alpha_q:g} minimises {RATE}, which {encoder} with {part_name(joint.prior)} does not have; set "
            "posterior=gaussian, or alpha.q ≤ 0."
        )
    if alpha_q < 0 and not joint.has_distortion:
        raise SettingError(
            f"alpha.q={alpha_q:g} maximises E_q {DISTORTION}, which {decoder} does not have; set likelihood=normal or "
            "likelihood=laplace, or alpha.q=0."
        )
    if alpha_p == 0:
        return
    if not decoder_has_gradient(joint):
        raise SettingError(
            f"alpha.p={alpha_p:g} needs samples of p(x|z) with a gradient, which {decoder} does not have; "
            "set model.likelihood=normal, or alpha.p=0."
        )
    if alpha_p < 0 and not joint.encoder.has_density:
        raise SettingError(
            f"alpha.p={alpha_p:g} maximises E_p log q(z|x), which {encoder} does not have; set posterior=gaussian, "
            "or alpha.p=0."
        )
    if alpha_p > 0 and not joint.has_distortion:
        raise SettingError(
            f"alpha.p={alpha_p:g} minimises a bound that needs {DISTORTION}, which {decoder} does not have; set "
            "likelihood=normal, or alpha.p=0."
        )


def decoder_has_gradient(joint: JointModel) -> bool:
    """Whether samples of p(x|z) have a gradient."""
    return bool(getattr(joint.decoder, "differentiable_samples", False))
