"""The linear-Gaussian world: x = W z + s e, with a linear Gaussian encoder q(z|x) = N(A x + b, diag t²).

All quantities are in nats and exact, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor


def gaussian_kl(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """KL(N(mean_q, cov_q) ‖ N(mean_p, cov_p)) in nats, for means (d,) and covariances (d, d)."""
    d = mean_q.shape[-1]
    inverse = torch.linalg.inv(cov_p)
    shift = mean_p - mean_q
    trace = (inverse * cov_q.mT).sum()
    return 0.5 * (trace + shift @ inverse @ shift - d + torch.logdet(cov_p) - torch.logdet(cov_q))


def gaussian_entropy(cov: Tensor) -> Tensor:
    """Entropy of N(·, cov) in nats."""
    return 0.5 * (cov.shape[-1] * (1 + log(2 * pi)) + torch.logdet(cov))


def rbf_mmd(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor, scale: float) -> Tensor:
    """Squared MMD between two Gaussians under k(a, b) = exp(−‖a − b‖² / scale).

    E k(z, w) for z − w ∼ N(m, C) is |I + 2C/scale|^(−1/2) exp(−mᵀ (scale I + 2C)^(−1) m).
    """

    def mean_kernel(mean: Tensor, cov: Tensor) -> Tensor:
        eye = torch.eye(len(mean), dtype=cov.dtype)
        quadratic = mean @ torch.linalg.solve(scale * eye + 2 * cov, mean)
        return torch.exp(-quadratic) / torch.linalg.det(eye + 2 * cov / scale).sqrt()

    zero = torch.zeros_like(mean_q)
    return mean_kernel(zero, 2 * cov_q) + mean_kernel(zero, 2 * cov_p) - 2 * mean_kernel(mean_q - mean_p, cov_q + cov_p)


@dataclass
class LinearGaussian:
    """p(z) = N(0, I_d), p(x|z) = N(W z, noise² I_n); the data law q(x) is the model's own N(0, W Wᵀ + noise² I).

    Args:
        weight: W, (n, d).
        noise: s > 0.
    """

    weight: Tensor
    noise: float

    @classmethod
    def random(cls, dim: int, latent: int, noise: float, seed: int) -> LinearGaussian:
        """A world with standard normal weights."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(dim, latent, generator=generator, dtype=torch.float64), noise)

    def sample(self, z: Tensor, e: Tensor) -> Tensor:
        """x = W z + s e for standard normal z (N, d), e (N, n)."""
        return z @ self.weight.to(z.dtype).mT + self.noise * e

    @property
    def cov_x(self) -> Tensor:
        """Covariance of x, (n, n)."""
        n = self.weight.shape[0]
        return self.weight @ self.weight.mT + self.noise**2 * torch.eye(n, dtype=self.weight.dtype)

    @property
    def entropy_x(self) -> Tensor:
        """H_q(x)."""
        return gaussian_entropy(self.cov_x)

    @property
    def i_p(self) -> Tensor:
        """I_p(x;z) = ½ log |W Wᵀ + s² I| − n log s."""
        return 0.5 * torch.logdet(self.cov_x) - self.weight.shape[0] * log(self.noise)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """p(z|x) = N(A x, S): A (d, n) and S (d, d). S is diagonal only where the columns of W are orthogonal."""
        d = self.weight.shape[1]
        cov = torch.linalg.inv(torch.eye(d, dtype=self.weight.dtype) + self.weight.mT @ self.weight / self.noise**2)
        return cov @ self.weight.mT / self.noise**2, cov

    # ---- with an encoder q(z|x) = N(A x, diag t²)

    def cov_q_z(self, a: Tensor, t: Tensor) -> Tensor:
        """Covariance of the aggregate posterior q(z)."""
        return a @ self.cov_x @ a.mT + torch.diag(t.square())

    def i_q(self, a: Tensor, t: Tensor) -> Tensor:
        """I_q(x;z) = ½ log |Cov q(z)| − Σ log t."""
        return 0.5 * torch.logdet(self.cov_q_z(a, t)) - t.log().sum()

    def kl_q_z(self, a: Tensor, t: Tensor) -> Tensor:
        """KL(q(z) ‖ p(z)), the gap between the rate and I_q."""
        d = len(t)
        zero, eye = torch.zeros(d, dtype=t.dtype), torch.eye(d, dtype=t.dtype)
        return gaussian_kl(zero, self.cov_q_z(a, t), zero, eye)

    def rate(self, a: Tensor, t: Tensor) -> Tensor:
        """E_q(x) KL(q(z|x) ‖ p(z)) = ½ [tr(A Σ_x Aᵀ) + Σ (t² − 1 − 2 log t)]."""
        return 0.5 * ((a @ self.cov_x @ a.mT).trace() + (t.square() - 1 - 2 * t.log()).sum())

    def distortion(self, a: Tensor, t: Tensor) -> Tensor:
        """−E_q log p(x|z), with the residual x − W z = (I − W A) x − W (t · e)."""
        n = self.weight.shape[0]
        residual = torch.eye(n, dtype=self.weight.dtype) - self.weight @ a
        cov = residual @ self.cov_x @ residual.mT + self.weight @ torch.diag(t.square()) @ self.weight.mT
        return 0.5 * (n * log(2 * pi * self.noise**2) + cov.trace() / self.noise**2)

    def neg_elbo(self, a: Tensor, t: Tensor) -> Tensor:
        """−ELBO = rate + distortion ≥ H_q(x)."""
        return self.rate(a, t) + self.distortion(a, t)
