"""The linear-Gaussian model x = W z + s e, with a linear Gaussian encoder q(z|x) = N(A x, diag t²).

All quantities are closed forms, evaluated in double precision, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from lagvae.errors import SettingError

SINGULAR = 1e-12
"""Smallest ratio of the smallest to the largest eigenvalue at which a covariance counts as nonsingular in double precision."""


def check_covariance(cov: Tensor, name: str) -> None:
    """Raise SettingError unless a matrix is a covariance of full rank; the message states its name and smallest eigenvalue."""
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or not cov.isfinite().all() or not torch.allclose(cov, cov.mT):
        raise SettingError(f"{name} of shape {tuple(cov.shape)} must be a symmetric matrix of finite numbers.")
    eigenvalues = torch.linalg.eigvalsh(cov.detach().double())
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if not smallest > SINGULAR * max(largest, 0.0):
        raise SettingError(
            f"{name} is singular: its smallest eigenvalue is {smallest:.3g}, its largest {largest:.3g}. "
            "Leave out coordinates that the others determine, or add noise to them."
        )


def gaussian_kl(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """KL(N(mean_q, cov_q) ‖ N(mean_p, cov_p)) in nats, for means (d,) and covariances (d, d).

    Raises: SettingError for a singular covariance.

    Examples:
        >>> gaussian_kl(torch.ones(1), torch.eye(1), torch.zeros(1), torch.eye(1))  # half the squared distance of the means
        tensor(0.5000)
    """
    check_covariance(cov_q, "The covariance of q")
    check_covariance(cov_p, "The covariance of p")
    d = mean_q.shape[-1]
    inverse = torch.linalg.inv(cov_p)
    shift = mean_p - mean_q
    trace = (inverse * cov_q.mT).sum()
    return 0.5 * (trace + shift @ inverse @ shift - d + torch.logdet(cov_p) - torch.logdet(cov_q))


def conditional_kl(gain_q: Tensor, cov_q: Tensor, gain_p: Tensor, cov_p: Tensor, given: Tensor) -> Tensor:
    """E KL(N(G_q y, cov_q) ‖ N(G_p y, cov_p)) in nats over y of mean 0 and covariance `given`.

    It equals KL(N(0, cov_q) ‖ N(0, cov_p)) + ½ tr(cov_p⁻¹ (G_q − G_p) given (G_q − G_p)ᵀ).

    Raises: SettingError for a singular covariance.
    """
    zero, shift = torch.zeros(len(cov_q), dtype=cov_q.dtype), gain_q - gain_p
    return gaussian_kl(zero, cov_q, zero, cov_p) + 0.5 * torch.linalg.solve(cov_p, shift @ given @ shift.mT).trace()


def gaussian_entropy(cov: Tensor) -> Tensor:
    """Entropy of N(·, cov) in nats. SettingError where cov is singular."""
    check_covariance(cov, "The covariance")
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
    """p(z) = N(0, I_d), p(x|z) = N(W z, noise² I_n), and data of mean 0 under q(x) = N(0, Σ).

    Args:
        weight: W, (n, d).
        noise: s > 0.
        data: Σ, (n, n); by default the model's own W Wᵀ + s² I, so that p(x) = q(x).

    Raises: SettingError where s is not positive, or Σ is singular.

    Examples:
        >>> world = LinearGaussian(weight=torch.eye(2), noise=0.5)
        >>> world.i_p  # twice ½ log 5
        tensor(1.6094)
    """

    weight: Tensor
    noise: float
    data: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise SettingError(f"noise={self.noise:g} must be positive: without noise the covariance of x is singular.")
        if self.data is not None:
            check_covariance(self.data, "The covariance of the data")

    @classmethod
    def random(cls, dim: int, latent: int, noise: float, seed: int) -> LinearGaussian:
        """A model with standard normal weights."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(dim, latent, generator=generator, dtype=torch.float64), noise)

    def sample(self, z: Tensor, e: Tensor) -> Tensor:
        """x = W z + s e for standard normal z (N, d), e (N, n)."""
        return z @ self.weight.to(z.dtype).mT + self.noise * e

    @property
    def cov_x(self) -> Tensor:
        """Covariance of x under q, (n, n)."""
        return self.cov_p_x if self.data is None else self.data

    @property
    def cov_p_x(self) -> Tensor:
        """Covariance of x under p, W Wᵀ + s² I."""
        n = self.weight.shape[0]
        return self.weight @ self.weight.mT + self.noise**2 * torch.eye(n, dtype=self.weight.dtype)

    @property
    def entropy_x(self) -> Tensor:
        """H_q(x)."""
        return gaussian_entropy(self.cov_x)

    @property
    def i_p(self) -> Tensor:
        """I_p(x;z) = ½ log |W Wᵀ + s² I| − n log s."""
        return 0.5 * torch.logdet(self.cov_p_x) - self.weight.shape[0] * log(self.noise)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """The posterior p(z|x) = N(A x, S): A (d, n) and S (d, d). S is diagonal only if the columns of W are orthogonal."""
        d = self.weight.shape[1]
        cov = torch.linalg.inv(torch.eye(d, dtype=self.weight.dtype) + self.weight.mT @ self.weight / self.noise**2)
        return cov @ self.weight.mT / self.noise**2, cov

    @property
    def kl_q_x(self) -> Tensor:
        """KL(q(x) ‖ p(x)) ≥ 0 in nats."""
        zero = torch.zeros(len(self.weight), dtype=self.weight.dtype)
        return gaussian_kl(zero, self.cov_x, zero, self.cov_p_x)

    # ---- with an encoder q(z|x) = N(A x, diag t²): A (d, n), t (d,)

    def cov_q_z(self, a: Tensor, t: Tensor) -> Tensor:
        """Covariance of the aggregate posterior q(z)."""
        return a @ self.cov_x @ a.mT + torch.diag(t.square())

    def i_q(self, a: Tensor, t: Tensor) -> Tensor:
        """I_q(x;z) = ½ log |Cov q(z)| − Σ log t."""
        return 0.5 * torch.logdet(self.cov_q_z(a, t)) - t.log().sum()

    def kl_q_z(self, a: Tensor, t: Tensor) -> Tensor:
        """KL(q(z) ‖ p(z)): the gap between the rate and I_q."""
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

    def cov_q(self, a: Tensor, t: Tensor) -> Tensor:
        """Covariance of (x, z) under q, (n + d, n + d)."""
        cross = a @ self.cov_x
        return torch.cat([torch.cat([self.cov_x, cross.mT], 1), torch.cat([cross, self.cov_q_z(a, t)], 1)])

    @property
    def cov_p(self) -> Tensor:
        """Covariance of (x, z) under p, (n + d, n + d)."""
        eye = torch.eye(self.weight.shape[1], dtype=self.weight.dtype)
        return torch.cat([torch.cat([self.cov_p_x, self.weight], 1), torch.cat([self.weight.mT, eye], 1)])

    def kl_q_xz(self, a: Tensor, t: Tensor) -> Tensor:
        """KL(q(x,z) ‖ p(x,z)) in nats, from the joint covariances; it equals −ELBO − H_q(x)."""
        cov = self.cov_q(a, t)
        zero = torch.zeros(len(cov), dtype=cov.dtype)
        return gaussian_kl(zero, cov, zero, self.cov_p)

    def kl_q_z_given_x(self, a: Tensor, t: Tensor) -> Tensor:
        """E_q(x) KL(q(z|x) ‖ p(z|x)) in nats: the gap between −ELBO and −E_q log p(x)."""
        gain, cov = self.posterior()
        return conditional_kl(a, torch.diag(t.square()), gain, cov, self.cov_x)

    def kl_q_x_given_z(self, a: Tensor, t: Tensor) -> Tensor:
        """E_q(z) KL(q(x|z) ‖ p(x|z)) in nats: the gap between I_q and its lower bound H_q(x) − distortion."""
        cov_z, cross = self.cov_q_z(a, t), a @ self.cov_x
        gain = torch.linalg.solve(cov_z, cross).mT
        noise = self.noise**2 * torch.eye(len(self.weight), dtype=self.weight.dtype)
        return conditional_kl(gain, self.cov_x - gain @ cross, self.weight, noise, cov_z)
