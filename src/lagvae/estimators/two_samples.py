"""Divergences that compare samples of q(z) and p(z) directly, without a critic."""

from __future__ import annotations

from torch import Tensor

from lagvae.divergences import STATISTICS, Kernel, mmd, sliced_wasserstein
from lagvae.errors import SettingError
from lagvae.estimators.base import Divergence
from lagvae.laws import JointSamples


class MMD(Divergence):
    """The squared MMD between q(z) and p(z), without unit (see `lagvae.divergences.mmd`).

    Args:
        kernel: the kernel.
        statistic: "u" (unbiased, may be negative) or "v".

    Over several ranks the samples of all of them are joined first: it is the MMD of the global batch.
    """

    needs = frozenset({"z_q", "z_p"})
    nats = False
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


class SlicedWasserstein(Divergence):
    """The squared sliced Wasserstein-2 distance between q(z) and p(z), along as many random directions as the batch is large.

    See `lagvae.divergences.sliced_wasserstein`: ≥ 0, without unit, biased upwards by finite batches.
    """

    needs = frozenset({"z_q", "z_p", "slices_z"})
    nats = False
    symbol = "SW(q(z)||p(z))"

    def __call__(self, samples: JointSamples) -> Tensor:
        return sliced_wasserstein(samples.gather(samples.z_q), samples.gather(samples.z_p), samples.noise["slices_z"])

    def __repr__(self) -> str:
        return "SlicedWasserstein(W₂²)"
