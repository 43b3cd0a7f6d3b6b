"""The sliced Wasserstein-2 distance between q(z) and p(z)."""

from __future__ import annotations

from torch import Tensor

from lagvae.distributions import JointSamples
from lagvae.divergences.base import Divergence
from lagvae.errors import SettingError


def sorted_distance(a: Tensor, b: Tensor, power: int = 1) -> Tensor:
    """W_p^p between two empirical laws on a line, mean |a_(i) − b_(i)|^p over order statistics; (…, n), (…, n) → (…,)."""
    if a.shape[-1] != b.shape[-1]:
        raise SettingError(
            f"Sorted samples are compared one to one, so both need as many, not {a.shape[-1]} and {b.shape[-1]}."
        )
    return (a.sort(-1).values - b.sort(-1).values).abs().pow(power).mean(-1)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """The squared sliced Wasserstein-2 distance, the mean of W₂² of projections onto directions.

    Args:
        a: samples of q, (n, d). b: samples of p, (n, d). directions: (k, d), of any length but zero.

    Returns: (), without unit, ≥ 0. Between finite samples of one law it is above 0, by about 1/n of their variance.

    Reference: Bonneel et al., J. Math. Imaging and Vision 2015; Kolouri et al., ICLR 2019.
    """
    unit = directions / directions.norm(dim=-1, keepdim=True)
    return sorted_distance((a @ unit.mT).mT, (b @ unit.mT).mT, 2).mean()


class SlicedWasserstein(Divergence):
    """The squared sliced Wasserstein-2 distance between q(z) and p(z), along as many random directions as the batch is large.

    See `lagvae.divergences.sliced_wasserstein`: ≥ 0, without unit, biased upwards by finite batches.
    """

    required_noise = frozenset({"z_q", "z_p", "slices_z"})
    nats = False
    symbol = "SW(q(z)||p(z))"

    def __call__(self, samples: JointSamples) -> Tensor:
        return sliced_wasserstein(samples.gather(samples.z_q), samples.gather(samples.z_p), samples.noise["slices_z"])

    def __repr__(self) -> str:
        return "SlicedWasserstein(W₂²)"
