"""The squared maximum mean discrepancy (MMD) between q(z) and p(z), and its kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lagvae.distributions import JointSamples
from lagvae.divergences.base import Divergence
from lagvae.errors import SettingError


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """The squared distances ‖a_i − b_j‖² ≥ 0, (…, n, d), (…, m, d) → (…, n, m), in the squared unit of the samples.

    Examples:
        >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[25.,  1.]])
    """
    aa = a.square().sum(-1, keepdim=True)
    bb = b.square().sum(-1).unsqueeze(-2)
    return (aa + bb).sub(a @ b.mT, alpha=2).clamp(min=0)


class Kernel(ABC):
    """Base class of positive definite kernels k(a, b) that are functions of ‖a − b‖² / scale."""

    def prepare(self, a: Tensor, b: Tensor) -> Tensor | float:
        """The scale by which squared distances are divided, for samples a (…, n, d) and b (…, m, d)."""
        return self.scale(a.shape[-1])

    def scale(self, d: int) -> float:
        """The scale in d dimensions of a kernel that does not depend on the samples."""
        return float(d)

    @abstractmethod
    def __call__(self, ratio: Tensor) -> Tensor:
        """k as a function of ‖a − b‖² / scale, elementwise, without unit."""

    def __repr__(self) -> str:
        return type(self).__name__


def _positive(name: str, value: float) -> float:
    if not value > 0 or value == float("inf"):
        raise SettingError(f"{name}={value} must be a positive number.")
    return float(value)


class RBF(Kernel):
    """k = exp(−‖a − b‖² / (2 d ℓ²)).

    For ℓ = 1 the exponent is −1 at 2d, the mean squared distance of two standard normal samples, in any dimension.

    Raises: SettingError for a lengthscale ℓ that is not positive and finite.

    Examples:
        >>> RBF(lengthscale=1.0).scale(d=16)
        32.0
    """

    def __init__(self, lengthscale: float = 1.0) -> None:
        self.lengthscale = _positive("kernel.lengthscale", lengthscale)

    def scale(self, d: int) -> float:
        return 2 * d * self.lengthscale**2

    def __call__(self, ratio: Tensor) -> Tensor:
        return torch.exp(-ratio)

    def __repr__(self) -> str:
        return f"RBF(ℓ={self.lengthscale:g})"


class MedianRBF(Kernel):
    """k = exp(−‖a − b‖² / m) with the median m of ‖a_i − b_j‖² over a batch, which is detached from the gradient.

    m is at least 1e−6 times the mean, because the median is 0 if most samples coincide.

    Examples:
        >>> MedianRBF().prepare(torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [3.0]]))  # the median of 1, 4 and 9
        tensor(4.)
    """

    def prepare(self, a: Tensor, b: Tensor) -> Tensor:
        distances = squared_distances(a.detach(), b.detach()).flatten(-2)
        return torch.maximum(distances.median(-1).values, 1e-6 * distances.mean(-1)).clamp(min=1e-12)

    def __call__(self, ratio: Tensor) -> Tensor:
        return torch.exp(-ratio)

    def __repr__(self) -> str:
        return "RBF(median)"


class MixtureRBF(Kernel):
    """The mean of `RBF` kernels with several lengthscales ℓ.

    Raises: SettingError for no lengthscale, or one that is not positive and finite.

    Examples:
        >>> MixtureRBF([1.0])(torch.tensor(1.0)), RBF(1.0)(torch.tensor(1.0))  # exp(−1)
        (tensor(0.3679), tensor(0.3679))
    """

    def __init__(self, lengthscales: Sequence[float] = (0.5, 1.0, 2.0)) -> None:
        if not lengthscales:
            raise SettingError("kernel.lengthscales is empty; give at least one, such as [0.5,1,2].")
        self.lengthscales = [_positive("kernel.lengthscales", length) for length in lengthscales]

    def scale(self, d: int) -> float:
        return 2.0 * d

    def __call__(self, ratio: Tensor) -> Tensor:
        total = torch.exp(ratio * -(self.lengthscales[0] ** -2))
        for length in self.lengthscales[1:]:
            total = total + torch.exp(ratio * -(length**-2))
        return total / len(self.lengthscales)

    def __repr__(self) -> str:
        return f"RBF mixture(ℓ={', '.join(f'{length:g}' for length in self.lengthscales)})"


class IMQ(Kernel):
    """The inverse multiquadric k = 1 / (1 + ‖a − b‖² / (2 d ℓ²)).

    Raises: SettingError for a lengthscale ℓ that is not positive and finite.

    Reference: Tolstikhin et al., Wasserstein Auto-Encoders, ICLR 2018.

    Examples:
        >>> IMQ()(torch.tensor(1.0))  # at a squared distance of 2 d
        tensor(0.5000)
    """

    def __init__(self, lengthscale: float = 1.0) -> None:
        self.lengthscale = _positive("kernel.lengthscale", lengthscale)

    def scale(self, d: int) -> float:
        return 2 * d * self.lengthscale**2

    def __call__(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + ratio)

    def __repr__(self) -> str:
        return f"IMQ(ℓ={self.lengthscale:g})"


class ReferenceRBF(Kernel):
    """k = exp(−‖a − b‖² / d²), the kernel of the paper's reference code. For large d it is insensitive to differences.

    Examples:
        >>> ReferenceRBF().scale(d=16)
        256.0
    """

    def scale(self, d: int) -> float:
        return float(d * d)

    def __call__(self, ratio: Tensor) -> Tensor:
        return torch.exp(-ratio)

    def __repr__(self) -> str:
        return "RBF(reference, exp(−r/d²))"


STATISTICS = ("u", "v")


def mmd(z: Tensor, w: Tensor, kernel: Kernel, statistic: str = "u") -> Tensor:
    """Estimate the squared maximum mean discrepancy E k(z,z') + E k(w,w') − 2 E k(z,w) from samples of q and p.

    Args:
        z: samples of q, (n, d).
        w: samples of p, (m, d).
        kernel: the kernel k.
        statistic: "u" for the U-statistic, which leaves out the diagonals of k(z,z) and k(w,w) and is unbiased but may be
            negative; "v" for the V-statistic, which is never negative but biased upwards by
            (1 − E k(z,z'))/n + (1 − E k(w,w'))/m for kernels with k(z,z) = 1.

    Returns: a scalar without unit, in single precision at least.

    Raises: SettingError for an unknown statistic, or fewer than two samples with "u".

    Reference: Gretton et al., A Kernel Two-Sample Test, JMLR 2012.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z, w = torch.randn(2, 1000, 4, generator=generator)
        >>> equal, different = mmd(z, w, MixtureRBF()), mmd(2 * z, w, MixtureRBF())
        >>> abs(equal) < 0.01 < different
        tensor(True)
    """
    if statistic not in STATISTICS:
        raise SettingError(f"statistic={statistic!r} is unknown; choose one of {', '.join(STATISTICS)}.")
    n, m = z.shape[-2], w.shape[-2]
    if statistic == "u" and min(n, m) < 2:
        raise SettingError(
            f"The U-statistic of MMD needs at least two samples of each distribution, not {n} and {m}. A DataLoader with "
            "drop_last=True leaves out a last batch that is smaller."
        )
    with torch.autocast(z.device.type, enabled=False):
        z, w = z.float() if z.dtype != torch.float64 else z, w.float() if w.dtype != torch.float64 else w
        # Scaling the samples, (n, d), is cheaper than scaling their distances, (n, n).
        scale = kernel.prepare(z, w) ** 0.5
        z, w = z / scale, w / scale
        k_zz = kernel(squared_distances(z, z))
        k_ww = kernel(squared_distances(w, w))
        k_zw = kernel(squared_distances(z, w))
        if statistic == "v":
            return k_zz.mean() + k_ww.mean() - 2 * k_zw.mean()
        off_zz = (k_zz.sum() - k_zz.diagonal(dim1=-2, dim2=-1).sum()) / (n * (n - 1))
        off_ww = (k_ww.sum() - k_ww.diagonal(dim1=-2, dim2=-1).sum()) / (m * (m - 1))
        return off_zz + off_ww - 2 * k_zw.mean()


class MMD(Divergence):
    """The squared MMD between q(z) and p(z), without unit (see `mmd`).

    With several ranks the samples of all of them are gathered, which gives the MMD of the global batch.

    Args:
        kernel: the kernel.
        statistic: "u" (unbiased, may be negative) or "v" (biased, never negative).

    Raises: SettingError for an unknown statistic.

    Examples:
        >>> MMD(MixtureRBF([0.5, 1, 2]))
        MMD(U-statistic, RBF mixture(ℓ=0.5, 1, 2))
        >>> sorted(MMD(RBF()).required_noise)
        ['z_p', 'z_q']
    """

    required_noise = frozenset({"z_q", "z_p"})
    nats = False
    smallest = 0.0
    symbol = "MMD(q(z)||p(z))"

    def __init__(self, kernel: Kernel, statistic: str = "u") -> None:
        if statistic not in STATISTICS:
            raise SettingError(f"statistic={statistic!r} is unknown; choose one of {', '.join(STATISTICS)}.")
        self.kernel = kernel
        self.statistic = statistic

    def __call__(self, samples: JointSamples) -> Tensor:
        return mmd(samples.gather(samples.z_q), samples.gather(samples.z_p), self.kernel, self.statistic)

    def __repr__(self) -> str:
        return f"MMD({self.statistic.upper()}-statistic, {self.kernel})"
