"""The best that linear networks can do on Gaussian data: the preference's bound, subject to −ELBO ≤ ε, for both signs of α.

The model is x ∼ N(0, Σ), q(z|x) Gaussian with a linear mean, p(z) = N(0, I_d), p(x|z) = N(W z, s² I_n), W and s free. Both
signs minimise β · rate + distortion for some β: with L = α rate + λ (−ELBO − ε), β = 1 + α/λ; with
L = |α| distortion + λ (−ELBO − ε), β = λ/(λ + |α|). For a given β:

1. given W and s, the best q(z|x) is proportional to p(z) p(x|z)^(1/β), and β · rate + distortion becomes β times the
   negative log likelihood of N(0, W Wᵀ + v I), v = β s², plus a function of s;
2. given s, the best W has columns √(μ_i − v) u_i for the d largest eigenvalues μ_i > v of Σ (Tipping & Bishop, 1999);
3. then rate = ½ Σ log(μ_i / min(μ_i, v)) over the first d, and the error of x is n s² = Σ min(μ_i, v) over the first d plus
   Σ μ_i over the others: reverse water-filling at the level v, one direction at a time.

v / s² grows with v, so each β > 0 has one level, and each level is the minimum of the Lagrangian of one λ ≥ 0: there is no
duality gap within this model, for either sign. −ELBO is least where v = s² (principal components), and grows on both sides
of it, so a bound on it is met with equality at one level on each side: a one-dimensional search.

Reference: Cover & Thomas, Elements of Information Theory, 2006, section 10.3.3; Tipping & Bishop, JRSS B 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, log, pi

import torch
from scipy.optimize import brentq
from torch import Tensor

from lagvae.errors import SettingError
from lagvae.oracles.gaussian import LinearGaussian, check_covariance

LOWEST = 1e-300
"""The lowest water level: doubles end a little below."""


@dataclass(frozen=True)
class Optimum:
    """A solution: rate and distortion in nats, λ in nats per nat, the water level v, the variance s² of p(x|z).

    At a solution q(z) = p(z), so I_q(x;z) is the rate.
    """

    rate: float
    distortion: float
    multiplier: float
    level: float
    variance: float

    @property
    def neg_elbo(self) -> float:
        """rate + distortion, in nats."""
        return self.rate + self.distortion


@dataclass
class WaterFilling:
    """The curve of rate against distortion of linear networks on Gaussian data.

    Args:
        cov: Σ, the covariance of x, (n, n).
        latent: d, the dimension of z.

    Raises: SettingError where Σ is singular, or d is not between 1 and n − 1: with d ≥ n the noise of p(x|z) may vanish in
        all directions, and information has no bound at any −ELBO.
    """

    cov: Tensor
    latent: int

    def __post_init__(self) -> None:
        check_covariance(self.cov, "The covariance of the data")
        n = len(self.cov)
        if not 1 <= self.latent < n:
            raise SettingError(f"latent={self.latent} must be from 1 to {n - 1}, one less than the {n} coordinates of x.")
        values, vectors = torch.linalg.eigh(self.cov.double())
        self.eigenvalues, self.vectors = values.flip(0), vectors.flip(1)

    def at(self, level: float, multiplier: float = 0.0) -> Optimum:
        """The point of the curve at a water level v > 0."""
        n, kept = len(self.cov), self.eigenvalues[: self.latent]
        error = float(kept.clamp(max=level).sum() + self.eigenvalues[self.latent :].sum())
        rate = 0.5 * float((kept / level).clamp(min=1).log().sum())
        return Optimum(rate, 0.5 * n * (log(2 * pi * error / n) + 1), multiplier, level, error / n)

    @property
    def least(self) -> Optimum:
        """Where −ELBO is least: v = s², the mean of the n − d smallest eigenvalues (Tipping & Bishop, 1999)."""
        return self.at(float(self.eigenvalues[self.latent :].mean()))

    def optimum(self, alpha: float, epsilon: float) -> Optimum:
        """The minimum of α · rate (α > 0) or |α| · distortion (α < 0) subject to −ELBO ≤ ε, with λ* = −d minimum / dε.

        At the least −ELBO itself λ* is infinite.

        Raises: SettingError where α is 0, α or ε is not finite, ε is below the least −ELBO, or, with α < 0, so large that the
            level is no double.
        """
        for name, number in (("alpha", alpha), ("epsilon", epsilon)):
            if not isfinite(number):
                raise SettingError(f"{name}={number} must be a finite number.")
        if alpha == 0:
            raise SettingError("alpha=0 has no preference to optimise; give alpha > 0 (minimise) or alpha < 0 (maximise).")
        least = self.least
        if not epsilon >= least.neg_elbo:
            raise SettingError(f"epsilon={epsilon:g} is out of reach: the least −ELBO is {least.neg_elbo:.6g} nats.")
        start, top = log(least.level), log(float(self.eigenvalues[0]))
        if alpha > 0 and epsilon >= self.at(exp(top)).neg_elbo:
            return self.at(exp(top))  # no information is left, and the bound is slack

        def excess(log_level: float) -> float:
            return self.at(exp(log_level)).neg_elbo - epsilon

        if epsilon <= least.neg_elbo or excess(start) >= 0:
            return self.at(least.level, inf)
        other = top if alpha > 0 else log(LOWEST)
        if excess(other) < 0:
            raise SettingError(
                f"epsilon={epsilon:g} takes a level below {LOWEST:g}, too low for doubles; "
                f"lower it to {self.at(LOWEST).neg_elbo:.6g} or less."
            )
        level = exp(brentq(excess, start, other, xtol=1e-14))
        point = self.at(level)
        beta = level / point.variance
        if alpha * (beta - 1) <= 0:  # by rounding: such an ε cannot be told from the least −ELBO
            return self.at(level, inf)
        return self.at(level, alpha / (beta - 1) if alpha > 0 else -alpha * beta / (1 - beta))

    def model(self, optimum: Optimum) -> tuple[LinearGaussian, Tensor, Tensor]:
        """The world and the encoder (A, t) that are at a point of the curve; t_i² = v/μ_i, and z_i is noise where μ_i ≤ v."""
        mu, v = self.eigenvalues[: self.latent], optimum.level
        scale = (mu - v).clamp(min=0).sqrt()
        u = self.vectors[:, : self.latent]
        world = LinearGaussian(u * scale, optimum.variance**0.5, self.cov.double())
        return world, (u * (scale / mu)).mT, (v / mu).clamp(max=1).sqrt()
