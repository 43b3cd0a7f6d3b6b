"""A two-sample test: whether samples of the model can be told from data."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import EmpiricalPrior, JointSamples
from lagvae.divergences import Kernel, MedianRBF, squared_distances
from lagvae.errors import SettingError
from lagvae.metrics.base import LatentMetric
from lagvae.noise import Noise

VARIABLES = ("x", "z")


def permutation_p_value(a: Tensor, b: Tensor, kernel: Kernel, permutations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """MMD² between two samples (V-statistic), and the p-value of "both are of one law" by permuting them.

    The kernel matrix of all samples is made once; a permutation is a vector w of ±1/n, and MMD² = wᵀ K w.
    p = (1 + #{permuted ≥ observed}) / (1 + permutations), valid for any number of permutations.

    Args:
        a, b: (n, d) each, independent draws of one law each: a sample that is there twice makes p too small.
        kernel: held fixed over permutations, since it looks at all samples alike.

    Raises: SettingError where the samples are not as many.

    Reference: Gretton et al., A Kernel Two-Sample Test, JMLR 2012; Phipson & Smyth, 2010 (the ones).
    """
    n = len(a)
    if len(b) != n:
        raise SettingError(f"The two-sample test compares as many samples of both, not {n} and {len(b)}.")
    z = torch.cat([a, b]).double()
    z = z - z[0]  # distances of equal samples are then exact
    k = kernel(squared_distances(z, z) / kernel.prepare(z, z))
    noise = Noise(seed, "two-sample")
    orders = torch.stack([noise.permutation("order", t, 2 * n) for t in range(permutations)])
    first = (orders < n).double().to(z.device)  # a random half of all samples is called "a"
    identity = (torch.arange(2 * n, device=z.device) < n).double().unsqueeze(0)
    w = (2 * torch.cat([identity, first]) - 1) / n
    values = ((w @ k) * w).sum(-1)
    # The observed value is one of the permuted ones: equality but for rounding (of sums of k ≤ 1) counts as not below.
    p = (values >= values[0] - 1e-12).double().mean()
    return values[0], p


class TwoSampleTest(LatentMetric):
    """two_sample_x: MMD² between x ∼ p and the split's data; two_sample_x_p its p-value; of z: between q(z) and p(z).

    Args:
        variable: "x" or "z".
        samples: of each law, at most. permutations: how many; the least p-value is 1 / (1 + permutations).

    Kernel: RBF at the median distance. Each image, and each row of an `EmpiricalPrior`, is used once: as draws of the laws
    behind them they are independent only then. Nothing is reported of a single sample.
    """

    a: list[Tensor]
    b: list[Tensor]

    def __init__(self, variable: str = "x", samples: int = 500, permutations: int = 500) -> None:
        if variable not in VARIABLES:
            raise SettingError(f"variable={variable!r} is unknown; choose one of {', '.join(VARIABLES)}.")
        if min(samples, permutations) < 20:
            raise SettingError(
                f"The two-sample test needs at least 20 samples and permutations, not {samples}, {permutations}."
            )
        super().__init__()
        self.variable, self.samples, self.permutations = variable, samples, permutations
        self._images, self._drawn = FirstOccurrences(samples), FirstOccurrences(samples)
        for name in ("a", "b"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: JointSamples, index: Tensor) -> None:
        prior = samples.joint.prior
        if self.variable == "z" and isinstance(prior, EmpiricalPrior):
            drawn = prior.row(samples.noise["z_p"]).tolist()
        else:
            drawn = [object() for _ in index]  # none is like another
        for held, side, once, names in ((self.a, "q", self._images, index.tolist()), (self.b, "p", self._drawn, drawn)):
            if new := once(names):
                held.append(getattr(samples, f"{self.variable}_{side}")[new].flatten(1))

    def reset(self) -> None:
        super().reset()
        self._images, self._drawn = FirstOccurrences(self.samples), FirstOccurrences(self.samples)

    def compute(self) -> dict[str, Tensor]:
        a, b = dim_zero_cat(self.a), dim_zero_cat(self.b)
        n = min(len(a), len(b))
        if n < 2:
            return {}
        value, p = permutation_p_value(a[:n], b[:n], MedianRBF(), self.permutations)
        return {f"two_sample_{self.variable}": value, f"two_sample_{self.variable}_p": p}


class FirstOccurrences:
    """Which of the names that come were not there yet, until `most` of them were."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: set[Hashable] = set()

    def __call__(self, names: Iterable[Hashable]) -> list[int]:
        """Their positions."""
        new = []
        for i, name in enumerate(names):
            if len(self.seen) < self.most and name not in self.seen:
                self.seen.add(name)
                new.append(i)
        return new
