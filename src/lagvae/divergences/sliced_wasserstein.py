"""The sliced Wasserstein-2 distance between q(z) and p(z)."""

from __future__ import annotations

from torch import Tensor

from lagvae.distributions import JointSamples
from lagvae.divergences.base import Divergence
from lagvae.errors import SettingError


def sorted_distance(a: Tensor, b: Tensor, power: int = 1) -> Tensor:
    """W_p^p between two empirical distributions on the line: the mean of |a_(i) − b_(i)|^p over order statistics.

    Shapes: (…, n), (…, n) → (…,), in the unit of the samples to the power p.

    Raises: SettingError for samples of different sizes.

    Examples:
        >>> import torch
        >>> sorted_distance(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 3.0]))  # of 1 and 3, and of 2 and 4
        tensor(2.)
    """
    if a.shape[-1] != b.shape[-1]:
        raise SettingError(
            f"Sorted samples are compared one to one, so both sizes must be equal, not {a.shape[-1]} and {b.shape[-1]}."
        )
    return (a.sort(-1).values - b.sort(-1).values).abs().pow(power).mean(-1)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """The squared sliced Wasserstein-2 distance: the mean of W₂² between projections of the samples.

    Args:
        a: samples of q, (n, d).
        b: samples of p, (n, d).
        directions: vectors to project onto, (k, d), of any norm but 0.

    Returns: a scalar ≥ 0 in the squared unit of the samples. It is biased upwards: between two finite samples of the same
        distribution it is positive, of the order of their variance divided by n.

    Raises: SettingError for samples of different sizes.

    Reference: Bonneel et al., J. Math. Imaging and Vision 2015; Kolouri et al., Sliced Wasserstein Auto-Encoders, ICLR 2019.

    Examples:
        >>> import torch
        >>> a = torch.zeros(10, 2)
        >>> sliced_wasserstein(a, a + torch.tensor([3.0, 0.0]), torch.eye(2))  # 9 along one axis, 0 along the other
        tensor(4.5000)
    """
    unit = directions / directions.norm(dim=-1, keepdim=True)
    return sorted_distance((a @ unit.mT).mT, (b @ unit.mT).mT, 2).mean()


class SlicedWasserstein(Divergence):
    """The squared sliced Wasserstein-2 distance between q(z) and p(z), with one random direction per sample of the batch.

    The value is ≥ 0, not in nats, and biased upwards on finite batches (see `sliced_wasserstein`).

    Examples:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> z, noise = torch.zeros(2, 2), {"slices_z": torch.eye(2)}
        >>> samples = SimpleNamespace(z_q=z, z_p=z + torch.tensor([3.0, 0.0]), noise=noise, gather=lambda t: t)
        >>> SlicedWasserstein()(samples)  # 9 along one axis, 0 along the other
        tensor(4.5000)
    """

    required_noise = frozenset({"z_q", "z_p", "slices_z"})
    nats = False
    smallest = 0.0
    symbol = "SW(q(z)||p(z))"

    def __call__(self, samples: JointSamples) -> Tensor:
        return sliced_wasserstein(samples.gather(samples.z_q), samples.gather(samples.z_p), samples.noise["slices_z"])

    def __repr__(self) -> str:
        return "SlicedWasserstein(W₂²)"
