"""Divergences by a density ratio: a critic that learns log q/p by logistic regression, and expectations of it.

Where the critic is right, v = log q/p (Sugiyama, Suzuki, Kanamori, 2012). These are estimates, not bounds: a critic that is
wrong may be so to either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from lagvae.distributions import JointModel, JointSamples, StandardNormalPrior
from lagvae.divergences.base import require
from lagvae.divergences.critic import Critic, CriticDivergence, Network
from lagvae.divergences.elbo import DISTORTION
from lagvae.divergences.f_divergence import JensenShannon
from lagvae.errors import SettingError

TINY = 1e-4
"""The smallest scale of the contrast, a numerical floor."""

DIRECTIONS = ("q_p", "p_q", "both")


class LogRatio(CriticDivergence):
    """KL by a log ratio, in nats: E_q v = KL(q‖p) ("q_p"), −E_p v = KL(p‖q) ("p_q"), or their sum ("both", Jeffreys).

    Args:
        direction: "q_p", "p_q" or "both".
        network, over, r1, spectral: of the critic, see `CriticDivergence`.

    θ descends the Donsker–Varadhan form E_q v − log E_p exp v of which KL(q‖p) is the supremum, at v held fixed: that is the
    whole gradient, to the samples of both laws. The gradient of E_q v alone has none to p: KL(q(x)‖p(x)) would not train.

    Reference: Mescheder, Nowozin, Geiger, ICML 2017; Donsker & Varadhan, 1983; Pu et al., NeurIPS 2017 (symmetric).
    """

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
    """E_q v with the gradient of E_q v − log E_p exp v, from v = log q/p at samples of both, (B,) → ()."""
    bound = v_q.mean() - (v_p.logsumexp(0) - log(len(v_p)))
    return v_q.mean().detach() + bound - bound.detach()


class AdversarialRate(CriticDivergence):
    """E_q KL(q(z|x)‖p(z)) in nats, of an encoder without a density, by adaptive contrast.

    With any Gaussian r:  log q(z|x)/p(z) = log q(z|x)/r(z) + log r(z)/p(z). r has the mean and (c times) the covariance of
    `draws` further samples of q(z|x); the second ratio is exact. The first is what a critic sees between z, whitened by
    r, and N(0, I), told x, plus what it cannot see: r itself is random, and E KL(q‖r) of a Gaussian q is added (`own_error`).
    The whole covariance, since a critic is slow to see a thin sheet that a diagonal r hides, and an encoder is quick to use it.

    Args:
        draws: samples that the moments of r are of, at least d + 4.
        network, r1, spectral: of the critic, see `CriticDivergence`.

    Raises: SettingError in `prepare` for too few draws, or a prior that is not standard normal.

    Reference: Mescheder, Nowozin, Geiger, Adversarial Variational Bayes, ICML 2017, Section 3.2 (there r is diagonal, and
    its own error is left out: 1.5 nats at d = 16 and 64 draws).
    """

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
                f"constraints.{name}.divergence.draws={self.draws} tells no covariance of {joint.latent} numbers; make it at "
                f"least {joint.latent + 4}, better {4 * joint.latent}."
            )
        self.critic = Critic(self.network, [shape, (joint.latent,)], self.spectral)

    def contrast(self, samples: JointSamples) -> tuple[Tensor, Tensor]:
        """Mean (B, d) and triangular root (B, d, d) of the covariance of r for each x, held fixed."""
        distribution, sample = samples.q_z_given_x, samples.joint.encoder.sample
        with torch.no_grad():
            z = torch.vmap(lambda noise: sample(distribution, noise), in_dims=1, out_dims=1)(samples.noise[self.further])
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
        """log q(z|x) − log p(z) at z ∼ q(z|x), as estimated, (B,)."""
        z, (loc, root) = samples.z_q, self.contrast(samples)
        white = whitened(z, loc, root)
        log_r = -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        v: Tensor = self.critic(samples.x_q, white)
        return v + log_r + 0.5 * z.square().sum(-1) + own_error(self.draws, z.shape[-1])

    def __call__(self, samples: JointSamples) -> Tensor:
        return self.rate(samples).mean()

    def __repr__(self) -> str:
        return f"E KL(q(z|x)‖p(z)) by adaptive contrast, {self.draws} draws"


def whitened(z: Tensor, loc: Tensor, root: Tensor) -> Tensor:
    """R⁻¹ (z − μ) for a triangular R, (B, d)."""
    solved: Tensor = torch.linalg.solve_triangular(root, (z - loc).unsqueeze(-1), upper=False)
    return solved.squeeze(-1)


def inflation(m: int, d: int) -> float:
    """c, by which a covariance of m samples is too small for a further one: E (z − μ̂)ᵀ (c Σ̂)⁻¹ (z − μ̂) = d of a Gaussian."""
    return (1 + 1 / m) * (m - 1) / (m - d - 2)


def own_error(m: int, d: int) -> float:
    """E KL(N(μ, Σ)‖N(μ̂, c Σ̂)) in nats, of a Gaussian in d dimensions whose mean and covariance are estimated from m samples.

    (m − 1) Σ̂ is Wishart: E log det Σ̂/Σ = Σ_i ψ((m − i)/2) + d log 2/(m − 1), i = 1 … d, and c is such that the quadratic term
    has mean d, so half of E log det c Σ̂/Σ is left.

    Reference: Anderson, An Introduction to Multivariate Statistical Analysis, 2003, ch. 7.
    """
    digammas = torch.digamma((m - torch.arange(1, d + 1, dtype=torch.float64)) / 2).sum()
    return 0.5 * (float(digammas) + d * log(2 * inflation(m, d) / (m - 1)))


class AdversarialNegElbo(AdversarialRate):
    """−ELBO with the rate of `AdversarialRate`: E_q KL(q(z|x)‖p(z)) − E_q log p(x|z), in nats."""

    symbol = "KL(q(x,z)||p(x,z)) + H_q(x)"

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        super().prepare(name, joint, shape)
        require(joint.has_distortion, name, DISTORTION, joint.decoder, "set likelihood=normal or likelihood=laplace")

    def __call__(self, samples: JointSamples) -> Tensor:
        return (self.rate(samples) + samples.distortion).mean()

    def __repr__(self) -> str:
        return f"−ELBO by adaptive contrast, {self.draws} draws"
