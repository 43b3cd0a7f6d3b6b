"""Divergences by a density ratio: a critic that learns log q/p by logistic regression, and expectations of it.

Where the critic is right, v = log q/p (Sugiyama, Suzuki, Kanamori, 2012). These are estimates, not bounds: a critic that is
wrong may be so to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log, pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lagvae.divergences import JensenShannon
from lagvae.errors import SettingError
from lagvae.estimators.base import demand
from lagvae.estimators.critics import Critic, CriticDivergence, Network
from lagvae.estimators.likelihood import DISTORTION
from lagvae.laws import JointSamples, Laws, StandardNormalPrior

DIRECTIONS = ("q_p", "p_q", "both")


class LogRatio(CriticDivergence):
    """KL by a log ratio, in nats: E_q v = KL(q‖p) ("q_p"), −E_p v = KL(p‖q) ("p_q"), or their sum ("both", Jeffreys).

    Args:
        direction: "q_p", "p_q" or "both".
        network, over, r1, spectral: of the critic, see `CriticDivergence`.

    θ descends E v with v held fixed as a function: its own change counts for nothing to first order, since
    E_q ∇ log q = 0.

    Reference: Mescheder, Nowozin, Geiger, ICML 2017; Pu et al., NeurIPS 2017 (symmetric).
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
        return {"q_p": v_q.mean(), "p_q": -v_p.mean(), "both": v_q.mean() - v_p.mean()}[self.direction]

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} by a log ratio"


class Contrast(nn.Module):
    """A Gaussian r(z|x) with learned moments, and a critic of z ∼ q(z|x) against z ∼ r(z|x), told x and z in units of r."""

    def __init__(self, network: Network, shape: Sequence[int], latent: int, spectral: bool, tiny: float = 1e-3) -> None:
        super().__init__()
        self.moments = network(tuple(shape), (2, latent))
        self.critic = Critic(network, [shape, (latent,)], spectral)
        self.tiny = tiny

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of r(z|x), each (B, d)."""
        loc, raw = self.moments(x).float().unbind(1)
        return loc, F.softplus(raw) + self.tiny


class AdversarialRate(CriticDivergence):
    """E_q KL(q(z|x)‖p(z)) in nats, of an encoder without a density, by adaptive contrast.

    With any Gaussian r(z|x):  log q(z|x)/p(z) = log q(z|x)/r(z|x) + log r(z|x)/p(z). A critic learns the first ratio, from
    samples of both in units of r; r follows q by maximum likelihood, so that little is left to the critic; the second
    ratio is exact. The moments of r are learned, not those of a few samples: an r that is itself random would lower
    the estimate by about d over the number of samples.

    Args:
        draws: samples of q(z|x) and of r(z|x) for each x that the critic learns from.
        network, r1, spectral: of the critic, see `CriticDivergence`.

    Raises: SettingError for fewer than 1 draw; in `prepare`, for a prior that is not standard normal.

    Reference: Mescheder, Nowozin, Geiger, Adversarial Variational Bayes, ICML 2017, Section 3.2.
    """

    symbol = "E_q[log q(z|x) - log p(z)]"

    def __init__(self, network: Network, draws: int = 4, r1: float = 0.0, spectral: bool = False) -> None:
        super().__init__(network, "z", r1, spectral)
        if draws < 1:
            raise SettingError(f"divergence.draws={draws} must be at least 1.")
        self.draws = draws
        self.needs = frozenset({"z_q", "z_p", *(f"{law} {k}" for law in ("z_q", "z_p") for k in range(1, draws))})

    def prepare(self, name: str, laws: Laws, shape: Sequence[int]) -> None:
        demand(isinstance(laws.prior, StandardNormalPrior), name, "log p(z)", laws.prior, "set prior=normal")
        self.critic = Contrast(self.network, shape, laws.latent, self.spectral)

    def critic_loss(self, samples: JointSamples) -> Tensor:
        law, sample, names = samples.q_z_given_x, samples.laws.encoder.sample, range(1, self.draws)
        with torch.no_grad():
            z = torch.cat([samples.z_q, *(sample(law, samples.noise[f"z_q {k}"]) for k in names)])
        unit_r = torch.cat([samples.z_p, *(samples.noise[f"z_p {k}"] for k in names)])
        x = samples.x_q.repeat(self.draws, *[1] * (samples.x_q.dim() - 1))
        loc, scale = (m.repeat(self.draws, 1) for m in self.critic(samples.x_q))
        fit = log_normal(z, loc, scale).mean()
        unit_q = ((z - loc) / scale).detach()
        v: Callable[..., Tensor] = self.critic.critic  # type: ignore[assignment]
        return -fit - self.gap(v(x, unit_q), v(x, unit_r))

    def gap(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return JensenShannon().lower(v_q, v_p)

    def rate(self, samples: JointSamples) -> Tensor:
        """v(x, z) + log r(z|x) − log p(z) at z ∼ q(z|x), (B,)."""
        x, z = samples.x_q, samples.z_q
        loc, scale = self.critic(x)
        v: Tensor = self.critic.critic(x, (z - loc) / scale)  # type: ignore[operator]
        return v + log_normal(z, loc, scale) - log_normal(z, torch.zeros_like(z), torch.ones_like(z))

    def __call__(self, samples: JointSamples) -> Tensor:
        return self.rate(samples).mean()

    def __repr__(self) -> str:
        return "E KL(q(z|x)‖p(z)) by adaptive contrast"


class AdversarialNegElbo(AdversarialRate):
    """−ELBO with the rate of `AdversarialRate`: E_q KL(q(z|x)‖p(z)) − E_q log p(x|z), in nats."""

    symbol = "KL(q(x,z)||p(x,z)) + H_q(x)"

    def prepare(self, name: str, laws: Laws, shape: Sequence[int]) -> None:
        super().prepare(name, laws, shape)
        demand(laws.has_distortion, name, DISTORTION, laws.decoder, "set likelihood=normal or likelihood=laplace")

    def __call__(self, samples: JointSamples) -> Tensor:
        return (self.rate(samples) + samples.distortion).mean()

    def __repr__(self) -> str:
        return "−ELBO by adaptive contrast"


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z; loc, diag scale²), (B, d) → (B,)."""
    return -0.5 * (((z - loc) / scale).square() + 2 * scale.log() + log(2 * pi)).sum(-1)
