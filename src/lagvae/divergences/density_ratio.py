"""KL divergences by density ratio estimation: a critic learns v = log q/p by logistic regression.

The values are estimates and not bounds: an imperfect critic may err in either direction.

Reference: Sugiyama, Suzuki, Kanamori, Density Ratio Estimation in Machine Learning, Cambridge University Press 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, pi

import torch
from torch import Tensor

from lagvae.distributions import JointModel, JointSamples, StandardNormalPrior, TorchEncoder
from lagvae.divergences.base import require
from lagvae.divergences.critic import Critic, CriticDivergence
from lagvae.divergences.elbo import DISTORTION
from lagvae.divergences.f_divergence import JensenShannon
from lagvae.errors import SettingError
from lagvae.networks import Network

TINY = 1e-4
"""Standard deviation whose square is added to the variances of the contrast, for numerical stability."""

DIRECTIONS = ("q_p", "p_q", "both")


class LogRatio(CriticDivergence):
    """KL divergence by a log ratio, in nats.

    KL(q‖p) = E_q v ("q_p"), KL(p‖q) = −E_p v ("p_q"), or their sum, the Jeffreys divergence ("both"), with v ≈ log q/p.

    The gradient in θ is that of the Donsker–Varadhan form E_q v − log E_p exp v for fixed v, whose supremum over v is KL(q‖p).
    It is the complete gradient with respect to samples of both distributions. E_q v alone has no gradient in p, so that
    KL(q(x)‖p(x)) could not train the decoder.

    Args:
        direction: "q_p", "p_q" or "both".
        network, over, r1, spectral: see `CriticDivergence`.

    Raises: SettingError for an unknown direction, or as in `CriticDivergence`.

    Reference: Mescheder, Nowozin, Geiger, Adversarial Variational Bayes, ICML 2017; Donsker & Varadhan, 1983; Pu et al.,
    Adversarial Symmetric Variational Autoencoder, NeurIPS 2017 ("both").

    Examples:
        >>> from lagvae.networks import MLP
        >>> LogRatio(MLP, over="x", direction="both")
        KL(q(x)‖p(x)) + KL(p(x)‖q(x)) by a log ratio
    """

    smallest = 0.0

    def __init__(
        self, network: Network, over: str = "z", direction: str = "q_p", r1: float = 0.0, spectral: bool = False
    ) -> None:
        super().__init__(network, over, r1, spectral)
        if direction not in DIRECTIONS:
            raise SettingError(f"divergence.direction={direction!r} is unknown; choose one of {', '.join(DIRECTIONS)}.")
        self.direction = direction
        forward, backward = f"KL({self.q_symbol}||{self.p_symbol})", f"KL({self.p_symbol}||{self.q_symbol})"
        self.symbol = {"q_p": forward, "p_q": backward, "both": f"{forward} + {backward}"}[direction]

    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return JensenShannon().lower(v_q, v_p)

    def __call__(self, samples: JointSamples) -> Tensor:
        v_q, v_p = self.scores(samples)
        forward, backward = kl_of_ratio(v_q, v_p), kl_of_ratio(-v_p, -v_q)
        return {"q_p": forward, "p_q": backward, "both": forward + backward}[self.direction]

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} by a log ratio"


def kl_of_ratio(v_q: Tensor, v_p: Tensor) -> Tensor:
    """E_q v with the gradient of E_q v − log E_p exp v, from scores v = log q/p on samples of q and of p, (B,), (B,) → (),
    in nats.

    Examples:
        >>> kl_of_ratio(torch.full((5,), 0.5), torch.full((5,), -0.5))  # E_q v
        tensor(0.5000)
    """
    bound = v_q.mean() - (v_p.logsumexp(0) - log(len(v_p)))
    return v_q.mean().detach() + bound - bound.detach()


class AdversarialRate(CriticDivergence):
    """The rate E_q(x) KL(q(z|x)‖p(z)) in nats of an encoder without a density, by adaptive contrast.

    For a Gaussian r(z|x),  log q(z|x)/p(z) = log q(z|x)/r(z|x) + log r(z|x)/p(z),  where r has the mean and c times the
    covariance of `draws` further samples of q(z|x). The second ratio is exact. The first is estimated by a critic that
    discriminates between z, whitened by r, and N(0, I), given x. r is estimated from a finite number of draws, so
    that E KL(q‖r) > 0 even for a Gaussian q: it is `moment_error`. The critic sees whitened z and not the moments, and can
    detect only the part `whitened_kl` of it. The difference, which is known, is added. With a critic that has learned nothing
    the rate is too small by `whitened_kl`, 0.14 nats for d = 16 and 64 draws. r has a full covariance, because an encoder
    could otherwise learn correlations faster than a critic detects them.

    Args:
        network, r1, spectral: see `CriticDivergence`.
        draws: number of samples from which the moments of r are estimated, at least d + 4.

    Raises: SettingError in `prepare` for too few draws, or a prior that is not standard normal.

    Reference: Mescheder, Nowozin, Geiger, Adversarial Variational Bayes, ICML 2017, Section 3.2. There r is diagonal, and
    the error of its moments is neglected, which is 1.5 nats for d = 16 and 64 draws.

    Examples:
        >>> from lagvae.networks import MLP
        >>> AdversarialRate(MLP, draws=32)
        E KL(q(z|x)‖p(z)) by adaptive contrast, 32 draws
    """

    smallest = 0.0
    symbol = "E_q[log q(z|x) - log p(z)]"

    def __init__(self, network: Network, draws: int = 64, r1: float = 0.0, spectral: bool = False) -> None:
        super().__init__(network, "z", r1, spectral)
        self.draws = draws
        self.further = f"z_q*{draws}"
        self.required_noise = frozenset({"z_q", "z_p", self.further})

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        require(isinstance(joint.prior, StandardNormalPrior), name, "log p(z)", joint.prior, "set prior=normal")
        if self.draws < joint.latent + 4:
            raise SettingError(
                f"constraints.{name}.divergence.draws={self.draws} is too small to estimate a covariance in {joint.latent} "
                f"dimensions; set it to at least {joint.latent + 4}, better {4 * joint.latent}."
            )
        self.critic = Critic(self.network, [shape, (joint.latent,)], self.spectral)

    def contrast(self, samples: JointSamples) -> tuple[Tensor, Tensor]:
        """The mean (B, d) of r(z|x) for each x and the Cholesky factor (B, d, d) of its covariance, both detached."""
        distribution, encoder, noise = samples.q_z_given_x, samples.joint.encoder, samples.noise[self.further]
        with torch.no_grad():
            if isinstance(encoder, TorchEncoder):
                z = encoder.sample(distribution, noise.transpose(0, 1)).transpose(0, 1)
            else:
                z = torch.vmap(lambda each: encoder.sample(distribution, each), in_dims=1, out_dims=1)(noise)
            centred = z - z.mean(1, keepdim=True)
            m, d = z.shape[1:]
            covariance = centred.mT @ centred * (inflation(m, d) / (m - 1)) + TINY**2 * torch.eye(d, device=z.device)
            return z.mean(1), torch.linalg.cholesky(covariance)

    def critic_loss(self, samples: JointSamples) -> Tensor:
        v_q = self.critic(samples.x_q, whitened(samples.z_q.detach(), *self.contrast(samples)))
        return -self.critic_objective(v_q, self.critic(samples.x_q, samples.z_p))

    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return JensenShannon().lower(v_q, v_p)

    def rate(self, samples: JointSamples) -> Tensor:
        """The estimate of log q(z|x) − log p(z) at z ∼ q(z|x), (B,), in nats."""
        z, (loc, root) = samples.z_q, self.contrast(samples)
        white = whitened(z, loc, root)
        log_r = -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        v: Tensor = self.critic(samples.x_q, white)
        m, d = self.draws, z.shape[-1]
        return v + log_r + 0.5 * z.square().sum(-1) + moment_error(m, d) - whitened_kl(m, d)

    def __call__(self, samples: JointSamples) -> Tensor:
        return self.rate(samples).mean()

    def __repr__(self) -> str:
        return f"E KL(q(z|x)‖p(z)) by adaptive contrast, {self.draws} draws"


def whitened(z: Tensor, loc: Tensor, root: Tensor) -> Tensor:
    """R⁻¹ (z − μ) for a lower triangular R: z (B, d), μ (B, d), R (B, d, d) → (B, d)."""
    solved: Tensor = torch.linalg.solve_triangular(root, (z - loc).unsqueeze(-1), upper=False)
    return solved.squeeze(-1)


def inflation(m: int, d: int) -> float:
    """The factor c with E (z − μ̂)ᵀ (c Σ̂)⁻¹ (z − μ̂) = d, for moments μ̂, Σ̂ of m Gaussian samples in d dimensions and a new z."""
    return (1 + 1 / m) * (m - 1) / (m - d - 2)


def moment_error(m: int, d: int) -> float:
    """E KL(N(μ, Σ)‖N(μ̂, c Σ̂)) in nats, for the mean μ̂ and the covariance Σ̂ of m Gaussian samples in d dimensions.

    (m − 1) Σ̂ has a Wishart distribution, so E log det(Σ⁻¹ Σ̂) = Σ_{i=1}^d ψ((m − i)/2) + d log(2/(m − 1)) with the digamma
    function ψ. The factor c (`inflation`) gives the quadratic term the mean d, which leaves ½ E log det(c Σ⁻¹ Σ̂).

    Reference: Anderson, An Introduction to Multivariate Statistical Analysis, Wiley 2003, ch. 7.

    Examples:
        >>> round(moment_error(m=10_000, d=2), 5)  # d (d + 3) / 4m for many samples
        0.00025
    """
    digammas = torch.digamma((m - torch.arange(1, d + 1, dtype=torch.float64)) / 2).sum()
    return 0.5 * (float(digammas) + d * log(2 * inflation(m, d) / (m - 1)))


def whitened_kl(m: int, d: int) -> float:
    """KL(w‖N(0, I)) in nats, for a new Gaussian sample w whitened by the moments μ̂ and c Σ̂ of m others, in d dimensions.

    By the Bartlett decomposition w_i = √((m − d − 2) s_i / (m − i)) t_i, with independent t_i of Student's distribution with
    m − i degrees of freedom and s_i = 1 + Σ_{j<i} w_j² / (m − d − 2). So H(w) is a sum over i; E ‖w‖² = d.

    Reference: Anderson, An Introduction to Multivariate Statistical Analysis, Wiley 2003, ch. 7.

    Examples:
        >>> round(whitened_kl(m=64, d=16), 2), round(moment_error(m=64, d=16), 2)  # the smaller part of E KL(q‖r)
        (0.14, 1.45)
    """
    i = torch.arange(1, d + 1, dtype=torch.float64)
    growth = torch.digamma((m - i + 1) / 2) - torch.digamma((m - i) / 2)  # E log (s_{i+1} / s_i)
    # The entropy of t_i / √(m − i), then what its factor adds: s_j grows by w_i for all j > i.
    entropy = (m - i + 1) / 2 * growth + torch.lgamma((m - i) / 2) + 0.5 * log(pi) - torch.lgamma((m - i + 1) / 2)
    entropy += 0.5 * log(m - d - 2) + 0.5 * (d - i) * growth
    return 0.5 * d * (1 + log(2 * pi)) - float(entropy.sum())


class AdversarialNegElbo(AdversarialRate):
    """−ELBO = E_q KL(q(z|x)‖p(z)) − E_q log p(x|z) in nats, with the rate of `AdversarialRate`.

    Raises: SettingError in `prepare` as `AdversarialRate`, or for a decoder without a density.

    Examples:
        >>> from lagvae.networks import MLP
        >>> AdversarialNegElbo(MLP)
        −ELBO by adaptive contrast, 64 draws
    """

    smallest = -inf  # as H_q(x) may be negative
    symbol = "KL(q(x,z)||p(x,z)) + H_q(x)"

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        super().prepare(name, joint, shape)
        require(joint.has_distortion, name, DISTORTION, joint.decoder, "set likelihood=normal or likelihood=laplace")

    def __call__(self, samples: JointSamples) -> Tensor:
        return (self.rate(samples) + samples.distortion).mean()

    def __repr__(self) -> str:
        return f"−ELBO by adaptive contrast, {self.draws} draws"
