"""The total correlation of q(z), from the q(z|x) of a batch as a sample of those that q(z) is a mixture of, or by a critic."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

import torch
from torch import Tensor

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences.base import Divergence, require
from lagvae.divergences.critic import CriticDivergence
from lagvae.divergences.f_divergence import JensenShannon
from lagvae.errors import SettingError
from lagvae.networks import Network

ESTIMATORS = ("stratified", "weighted")


def total_correlation(z: Tensor, loc: Tensor, scale: Tensor, own: float) -> Tensor:
    """The total correlation KL(q(z)‖Π_k q(z_k)) from samples z_i ∼ q(z|x_i) of a diagonal Gaussian encoder.

        1/n Σ_i [log q̂(z_i) − Σ_k log q̂(z_ik)],   q̂(z_i) = w q(z_i|x_i) + (1 − w)/(n − 1) Σ_{j≠i} q(z_i|x_j)

    Args:
        z: samples, (n, d).
        loc, scale: means and standard deviations of q(z|x_i), (n, d).
        own: w, the weight of the distribution that a sample was drawn from: 1/N where x_1 … x_n are drawn from N samples
            without replacement, 0 where they are independent draws of a continuous distribution. Then q̂ is an unbiased
            estimate of q, for the joint density and for each marginal one.

    Returns: a scalar in nats, in single precision at least. By Jensen's inequality the mean of log q̂ is below that of log q
        with such a w, and above it with w = 1/n and independent x_i, each by O(1/n). Because the joint density enters with
        the other sign than the marginal ones, neither bounds the total correlation; but the error of the joint density is
        larger. So the estimate is mostly too small in the first case, and too large in the second.

    Raises: SettingError for fewer than two samples.

    Reference: Chen, Li, Grosse, Duvenaud, Isolating Sources of Disentanglement in VAEs, NeurIPS 2018, Appendix C.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(2, 1000, 1, generator=generator)
        >>> loc = x.expand(-1, 2)  # z₁ = x + noise, z₂ = x + other noise: both have the variance 2 and their correlation is 1/2
        >>> z = loc + torch.cat([noise, torch.randn(1000, 1, generator=generator)], 1)
        >>> bool((total_correlation(z, loc, torch.ones_like(loc), own=0.0) - 0.1438).abs() < 0.05)  # −½ log (1 − ¼)
        True
    """
    n = z.shape[0]
    if n < 2:
        raise SettingError(
            f"The total correlation of q(z) needs at least two samples, not {n}. A DataLoader with drop_last=True leaves out a "
            "last batch that is smaller."
        )
    with torch.autocast(z.device.type, enabled=False):
        z, loc, scale = (t if t.dtype == torch.float64 else t.float() for t in (z, loc, scale))
        # [i, j, k] = log q(z_ik|x_j); the constant −½ log 2π of each coordinate is in the joint and in the marginal densities.
        log_q = -0.5 * ((z.unsqueeze(1) - loc) / scale).square() - scale.log()
        itself = torch.eye(n, dtype=torch.bool, device=z.device)
        log_w = z.new_full((n, n), log((1 - own) / (n - 1))).masked_fill(itself, log(own) if own > 0 else -inf)
        joint = (log_q.sum(-1) + log_w).logsumexp(1)
        marginals = (log_q + log_w.unsqueeze(-1)).logsumexp(1).sum(-1)
        return (joint - marginals).mean()


class TotalCorrelation(Divergence):
    """The total correlation KL(q(z)‖Π_k q(z_k)) of the codes, in nats, by the mixture of the q(z|x) of the batch.

    It is 0 where the coordinates of z are independent. With several ranks the samples of all of them are gathered.

    Args:
        estimator: "stratified": the density of the mixture is unbiased for the `size` samples of the training split, of which a
            batch is a part. Mostly too small, since few of the neighbours of a code are in its batch. "weighted": all of the
            batch have the same weight, which is mostly too large. Both errors shrink with the batch size; see
            `total_correlation`.

    Attributes:
        size: number N of training samples, which a run sets; None for infinitely many. Where x is binarised anew, these are
            images, and the draw of an image stands for all of its draws.

    Raises: SettingError for an unknown estimator; in `prepare`, if q(z|x) is no diagonal Gaussian.

    Reference: Chen, Li, Grosse, Duvenaud, NeurIPS 2018. Their minibatch-stratified estimator gives one of the other samples of
    the batch another weight; the mean over which one that is has a smaller variance and is used here. Their
    minibatch-weighted one divides by N too, which adds the constant (d − 1) log N and changes no gradient.

    Examples:
        >>> from types import SimpleNamespace
        >>> from torch.distributions import Independent, Normal
        >>> z = torch.randn(5, 3)
        >>> q = Independent(Normal(torch.zeros(5, 3), 1.0), 1)  # the same q(z|x) for all x, with independent coordinates
        >>> samples = SimpleNamespace(z_q=z, q_z_given_x=q, gather=lambda t: t)
        >>> bool(TotalCorrelation()(samples).abs() < 1e-5)
        True
    """

    smallest = 0.0
    symbol = "TC(q(z))"

    def __init__(self, estimator: str = "stratified") -> None:
        if estimator not in ESTIMATORS:
            raise SettingError(f"divergence.estimator={estimator!r} is unknown; choose one of {', '.join(ESTIMATORS)}.")
        self.estimator = estimator

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        require(joint.has_gaussian_posterior, name, "a diagonal Gaussian q(z|x)", joint.encoder, "set posterior=gaussian")

    def __call__(self, samples: JointSamples) -> Tensor:
        q = samples.q_z_given_x.base_dist
        z, loc, scale = (samples.gather(t) for t in (samples.z_q, q.loc, q.scale))
        own = 1 / len(z) if self.estimator == "weighted" else 0.0 if self.size is None else 1 / self.size
        return total_correlation(z, loc, scale, own)

    def __repr__(self) -> str:
        return f"TotalCorrelation({self.estimator})"


class AdversarialTotalCorrelation(CriticDivergence):
    """The total correlation of q(z) in nats by a critic v ≈ log q(z) − Σ_k log q(z_k), as E_q v, for any encoder.

    The critic tells codes from codes whose coordinates are permuted, each by itself, over the batch. Like every log ratio
    it may err in either direction. The marginal densities need no gradient: that of Σ_k E_q log q(z_k) in them is 0.

    Args:
        network, r1, spectral: see `CriticDivergence`.

    Reference: Kim & Mnih, Disentangling by Factorising, ICML 2018.

    Examples:
        >>> from lagvae.networks import MLP
        >>> AdversarialTotalCorrelation(MLP)
        TC(q(z)) by a critic
    """

    smallest = 0.0
    symbol = "TC(q(z))"

    def __init__(self, network: Network, r1: float = 0.0, spectral: bool = False) -> None:
        super().__init__(network, "z", r1, spectral)
        self.required_noise = frozenset({"z_q", "slices_z"})  # the order of one normal number per coordinate and sample

    def critic_inputs(self, samples: JointSamples) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        z = samples.z_q
        return (z,), (z.gather(0, samples.noise["slices_z"].argsort(0)).detach(),)

    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return JensenShannon().lower(v_q, v_p)

    def __call__(self, samples: JointSamples) -> Tensor:
        value: Tensor = self.critic(samples.z_q).mean()
        return value

    def __repr__(self) -> str:
        return "TC(q(z)) by a critic"
