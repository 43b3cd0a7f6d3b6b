"""The optimum of the constrained problem for linear networks on Gaussian data, in closed form, for both signs of α.

The problem is to minimise α · rate (α > 0) or |α| · distortion (α < 0) subject to −ELBO ≤ ε. The data are x ∼ N(0, Σ), the
encoder q(z|x) is Gaussian with a linear mean, p(z) = N(0, I_d) and p(x|z) = N(W z, s² I_n), where W and s are free. For either
sign the Lagrangian is a multiple of β · rate + distortion: with L = α rate + λ (−ELBO − ε), β = 1 + α/λ; with
L = |α| distortion + λ (−ELBO − ε), β = λ/(λ + |α|). For a given β:

1. given W and s, the best q(z|x) is proportional to p(z) p(x|z)^(1/β), and β · rate + distortion becomes β times the
   negative log likelihood of N(0, W Wᵀ + v I), v = β s², plus a function of s;
2. given s, the best W has columns √(μ_i − v) u_i for the d largest eigenvalues μ_i > v of Σ (Tipping & Bishop, 1999);
3. then rate = ½ Σ log(μ_i / min(μ_i, v)) over the first d, and the squared error of x is n s² = Σ min(μ_i, v) over the first
   d plus Σ μ_i over the others. This is reverse water-filling at the level v, one eigenvector at a time.

v / s² grows with v, so each β > 0 has one level, and each level minimises the Lagrangian of one λ ≥ 0: there is no duality
gap within this model, for either sign. −ELBO is smallest where v = s² (principal component analysis) and grows on both sides
of it. A bound on −ELBO is therefore met with equality at one level on each side, which a one-dimensional search finds.

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
"""The lowest water level that is searched; the smallest normal double is 2.2e-308."""


@dataclass(frozen=True)
class Optimum:
    """A solution of the problem.

    Attributes:
        rate, distortion: in nats. multiplier: λ*, in nats per nat.
        level: the water level v. variance: s², the variance of p(x|z).

    At a solution q(z) = p(z), so that I_q(x;z) equals the rate.
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
    """The rate–distortion curve of linear networks on Gaussian data.

    Args:
        cov: Σ, the covariance of x, (n, n).
        latent: d, the dimension of z.

    Raises: SettingError where Σ is singular, or d is not between 1 and n − 1. With d ≥ n the noise of p(x|z) may vanish in
        all directions, and information is unbounded at any −ELBO.

    Examples:
        >>> curve = WaterFilling(torch.diag(torch.tensor([4.0, 1.0])), latent=1)
        >>> print(f"{curve.least.rate:.4f} {curve.collapsed.rate:.4f}")  # ½ log 4, and none
        0.6931 0.0000
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
        """The point of the curve at a water level v > 0.

        A direction with μ_i ≤ v contributes exactly zero to the rate, so that the rate at v ≥ μ_1 is exactly zero.
        """
        n, coded = len(self.cov), self.eigenvalues[: self.latent]
        error = float(coded.clamp(max=level).sum() + self.eigenvalues[self.latent :].sum())
        rate = 0.5 * float(torch.where(coded > level, (coded / level).log(), 0.0).sum())
        return Optimum(rate, 0.5 * n * (log(2 * pi * error / n) + 1), multiplier, level, error / n)

    @property
    def least(self) -> Optimum:
        """The point of the smallest −ELBO: v = s², the mean of the n − d smallest eigenvalues (Tipping & Bishop, 1999)."""
        return self.at(float(self.eigenvalues[self.latent :].mean()))

    @property
    def collapsed(self) -> Optimum:
        """The point where z carries no information: v is the largest eigenvalue, and the rate is exactly zero."""
        return self.at(float(self.eigenvalues[0]))

    def optimum(self, alpha: float, epsilon: float) -> Optimum:
        """The minimum of α · rate (α > 0) or |α| · distortion (α < 0) subject to −ELBO ≤ ε, with λ* = −d minimum / dε.

        At the smallest −ELBO itself λ* is infinite. With α > 0 and ε at or above the −ELBO of the collapsed model the bound is
        inactive: the collapsed model is optimal and λ* = 0.

        Raises: SettingError where α is 0, α or ε is not finite, ε is below the smallest −ELBO, or, with α < 0, ε is so large
            that the level is below the range of doubles.
        """
        for name, number in (("alpha", alpha), ("epsilon", epsilon)):
            if not isfinite(number):
                raise SettingError(f"{name}={number} must be a finite number.")
        if alpha == 0:
            raise SettingError("alpha=0 has no preference to optimise; give alpha > 0 (minimise) or alpha < 0 (maximise).")
        least, collapsed = self.least, self.collapsed
        if not epsilon >= least.neg_elbo:
            raise SettingError(f"epsilon={epsilon:g} is out of reach: the least −ELBO is {least.neg_elbo:.6g} nats.")
        if alpha > 0 and epsilon >= collapsed.neg_elbo:
            return collapsed
        start, top = log(least.level), log(collapsed.level)

        def level_at(log_level: float) -> float:
            """exp, but exact at the upper end, where exp(log v) would be off by rounding."""
            return collapsed.level if log_level >= top else exp(log_level)

        def excess(log_level: float) -> float:
            return self.at(level_at(log_level)).neg_elbo - epsilon

        if epsilon <= least.neg_elbo or excess(start) >= 0:
            return self.at(least.level, inf)
        other = top if alpha > 0 else log(LOWEST)
        if excess(other) < 0:
            raise SettingError(
                f"epsilon={epsilon:g} takes a level below {LOWEST:g}, too low for doubles; "
                f"lower it to {self.at(LOWEST).neg_elbo:.6g} or less."
            )
        level = level_at(brentq(excess, start, other, xtol=1e-14))
        point = self.at(level)
        beta = level / point.variance
        if alpha * (beta - 1) <= 0:  # ε differs from the smallest −ELBO by less than rounding
            return self.at(level, inf)
        return self.at(level, alpha / (beta - 1) if alpha > 0 else -alpha * beta / (1 - beta))

    def model(self, optimum: Optimum) -> tuple[LinearGaussian, Tensor, Tensor]:
        """The model and the encoder (A, t) of a point of the curve; t_i² = v/μ_i, and z_i is pure noise where μ_i ≤ v."""
        mu, v = self.eigenvalues[: self.latent], optimum.level
        scale = (mu - v).clamp(min=0).sqrt()
        u = self.vectors[:, : self.latent]
        world = LinearGaussian(u * scale, optimum.variance**0.5, self.cov.double())
        return world, (u * (scale / mu)).mT, (v / mu).clamp(max=1).sqrt()
