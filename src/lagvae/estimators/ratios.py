"""Divergences by a density ratio: a critic that learns log q/p by logistic regression, and expectations of it.

Where the critic is right, v = log q/p (Sugiyama, Suzuki, Kanamori, 2012). These are estimates, not bounds: a critic that is
wrong may be so to either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi

import torch
from torch import Tensor

from lagvae.divergences import JensenShannon
from lagvae.errors import SettingError
from lagvae.estimators.base import demand
from lagvae.estimators.critics import Critic, CriticDivergence, Network
from lagvae.estimators.likelihood import DISTORTION
from lagvae.laws import JointSamples, Laws, StandardNormalPrior

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
        forward, backward = f"KL({self.q_law}||{self.p_law})", f"KL({self.p_law}||{self.q_law})"
        self.symbol = {"q_p": forward, "p_q": backward, "both": f"{forward} + {backward}"}[direction]

    def gap(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return JensenShannon().lower(v_q, v_p)

    def __call__(self, samples: JointSamples) -> Tensor:
        v_q, v_p = self.numbers(samples)
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

    With any Gaussian r:  log q(z|x)/p(z) = log q(z|x)/r(z) + log r(z)/p(z). r has the mean and the scale of `draws` further
    samples of q(z|x); the second ratio is exact. The first is what a critic sees between z in units of r and
    N(0, I), told x, plus what it cannot see: r itself is random, and E KL(q‖r) of a Gaussian q is added (`own_error`).

    Args:
        draws: samples that the moments of r are of.
        network, r1, spectral: of the critic, see `CriticDivergence`.

    Raises: SettingError for fewer than 8 draws; in `prepare`, for a prior that is not standard normal.

    Reference: Mescheder, Nowozin, Geiger, Adversarial Variational Bayes, ICML 2017, Section 3.2 (without `own_error`, which
    is 0.6 nats at d = 16 and 32 draws).
    """

    symbol = "E_q[log q(z|x) - log p(z)]"

    def __init__(self, network: Network, draws: int = 32, r1: float = 0.0, spectral: bool = False) -> None:
        super().__init__(network, "z", r1, spectral)
        if draws < 8:
            raise SettingError(f"divergence.draws={draws} must be at least 8, to tell a mean and a scale.")
        self.draws = draws
        self.needs = frozenset({"z_q", "z_p", *(f"z_q {k}" for k in range(draws))})

    def prepare(self, name: str, laws: Laws, shape: Sequence[int]) -> None:
        demand(isinstance(laws.prior, StandardNormalPrior), name, "log p(z)", laws.prior, "set prior=normal")
        self.critic = Critic(self.network, [shape, (laws.latent,)], self.spectral)

    def moments(self, samples: JointSamples) -> tuple[Tensor, Tensor]:
        """Mean and scale of r for each x, each (B, d), held fixed."""
        law, sample = samples.q_z_given_x, samples.laws.encoder.sample
        with torch.no_grad():
            z = torch.stack([sample(law, samples.noise[f"z_q {k}"]) for k in range(self.draws)])
            return z.mean(0), z.std(0) + TINY

    def critic_loss(self, samples: JointSamples) -> Tensor:
        loc, scale = self.moments(samples)
        v_q = self.critic(samples.x_q, (samples.z_q.detach() - loc) / scale)
        return -self.gap(v_q, self.critic(samples.x_q, samples.z_p))

    def gap(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return JensenShannon().lower(v_q, v_p)

    def rate(self, samples: JointSamples) -> Tensor:
        """log q(z|x) − log p(z) at z ∼ q(z|x), as estimated, (B,)."""
        z, (loc, scale) = samples.z_q, self.moments(samples)
        v: Tensor = self.critic(samples.x_q, (z - loc) / scale)
        prior = log_normal(z, torch.zeros_like(z), torch.ones_like(z))
        return v + log_normal(z, loc, scale) - prior + z.shape[-1] * own_error(self.draws)

    def __call__(self, samples: JointSamples) -> Tensor:
        return self.rate(samples).mean()

    def __repr__(self) -> str:
        return f"E KL(q(z|x)‖p(z)) by adaptive contrast, {self.draws} draws"


def own_error(m: int) -> float:
    """E KL(N(μ, σ²)‖N(μ̂, σ̂²)) in nats, of a number whose mean and standard deviation are estimated from m samples.

    With σ̂²/σ² ∼ χ²/(m − 1) of m − 1 degrees and μ̂ independent of it:
    E log σ̂/σ = ½ (ψ((m − 1)/2) + log 2/(m − 1)),  E (σ² + (μ − μ̂)²)/σ̂² = (1 + 1/m) (m − 1)/(m − 3).
    """
    log_scale = 0.5 * (float(torch.digamma(torch.tensor((m - 1) / 2, dtype=torch.float64))) + log(2 / (m - 1)))
    return log_scale + 0.5 * (1 + 1 / m) * (m - 1) / (m - 3) - 0.5


class AdversarialNegElbo(AdversarialRate):
    """−ELBO with the rate of `AdversarialRate`: E_q KL(q(z|x)‖p(z)) − E_q log p(x|z), in nats."""

    symbol = "KL(q(x,z)||p(x,z)) + H_q(x)"

    def prepare(self, name: str, laws: Laws, shape: Sequence[int]) -> None:
        super().prepare(name, laws, shape)
        demand(laws.has_distortion, name, DISTORTION, laws.decoder, "set likelihood=normal or likelihood=laplace")

    def __call__(self, samples: JointSamples) -> Tensor:
        return (self.rate(samples) + samples.distortion).mean()

    def __repr__(self) -> str:
        return f"−ELBO by adaptive contrast, {self.draws} draws"


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z; loc, diag scale²), (B, d) → (B,)."""
    return -0.5 * (((z - loc) / scale).square() + 2 * scale.log() + log(2 * pi)).sum(-1)
