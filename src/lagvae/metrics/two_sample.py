"""A kernel two-sample test of whether samples of the model and data have the same distribution."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import EmpiricalPrior, JointSamples, with_gaps_of
from lagvae.divergences import Kernel, MedianRBF, squared_distances
from lagvae.errors import SettingError
from lagvae.metrics.base import KERNEL, LatentMetric, Sizes, share_of
from lagvae.noise import Noise

VARIABLES = ("x", "z")

LEAST = 50
"""Smallest number of samples to which the evaluation's budget reduces a test."""


def permutation_p_value(a: Tensor, b: Tensor, kernel: Kernel, permutations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """MMD² between two samples (V-statistic), and the permutation p-value of the hypothesis that their distributions are equal.

    The kernel matrix of all samples is computed once; a permutation is a vector w of ±1/n, and MMD² = wᵀ K w.
    p = (1 + #{permuted ≥ observed}) / (1 + permutations), which is valid for any number of permutations.

    Args:
        a, b: (n, d) each; each holds independent draws. Repeated draws make p too small.
        kernel: the same for all permutations, since it is symmetric in all samples.

    Raises: SettingError if the samples are not equally large.

    Reference: Gretton et al., A Kernel Two-Sample Test, JMLR 2012; Phipson & Smyth, 2010 (the added ones).

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(2, 100, 2, generator=generator)
        >>> _, p = permutation_p_value(a, b + 2, MedianRBF(), permutations=99)
        >>> round(float(p), 2)  # none of 99 permutations comes near
        0.01
    """
    n = len(a)
    if len(b) != n:
        raise SettingError(f"The two-sample test needs as many samples of one as of the other, not {n} and {len(b)}.")
    z = torch.cat([a, b]).double()
    z -= z[0].clone()  # makes the distances of equal samples exact
    k = kernel(squared_distances(z, z) / kernel.prepare(z, z))
    noise = Noise(seed, "two-sample")
    orders = torch.stack([noise.permutation("order", t, 2 * n) for t in range(permutations)])
    first = (orders < n).double().to(z.device)  # the permuted "a" is a random half of all samples
    identity = (torch.arange(2 * n, device=z.device) < n).double().unsqueeze(0)
    w = (2 * torch.cat([identity, first]) - 1) / n
    values = ((w @ k) * w).sum(-1)
    # Values equal to the observed one up to rounding (of sums of k ≤ 1) count as at least as large.
    p = (values >= values[0] - 1e-12).double().mean()
    return values[0], p


class TwoSampleTest(LatentMetric):
    """two_sample_x: MMD² between x ∼ p and the data of the split; two_sample_x_p: its p-value. For z: between q(z) and p(z).

    The kernel is an RBF at the median distance. Each image, and each row of an `EmpiricalPrior`, is used once, because repeated
    draws of it would not be independent. With a single sample nothing is reported. Rows of a table are compared with samples
    that lack what is missing in them.

    Args:
        variable: "x" or "z".
        samples: the largest number of samples of each distribution.
        permutations: their number; the smallest possible p-value is 1 / (1 + permutations).

    Raises: SettingError for another variable, or fewer than 20 samples or permutations.

    Examples:
        >>> from types import SimpleNamespace
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(2, 100, 2, generator=generator)
        >>> test = TwoSampleTest("z", permutations=99)
        >>> samples = SimpleNamespace(z_q=z[0] + 2, z_p=z[1], joint=SimpleNamespace(prior=None))
        >>> test.update(samples, torch.arange(100))
        >>> round(float(test.compute()["two_sample_z_p"]), 2)
        0.01
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
        self._images, self._rows = FirstOccurrences(samples), FirstOccurrences(samples)
        for name in ("a", "b"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @property
    def uses_model(self) -> bool:  # type: ignore[override]
        return self.variable == "x"

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked, self.samples = self.samples, share_of(self.samples, share**0.5, LEAST)
        self.reset()
        return {"samples": (asked, self.samples)}

    def cost(self, sizes: Sizes) -> float:
        coordinates = sizes.x if self.variable == "x" else sizes.z
        return 4 * min(self.samples, sizes.images, sizes.draws) ** 2 * (2 * coordinates + KERNEL + self.permutations)

    def update(self, samples: JointSamples, index: Tensor) -> None:
        prior = samples.joint.prior
        if self.variable == "z" and isinstance(prior, EmpiricalPrior):
            rows = prior.row(samples.noise["z_p"]).tolist()
        else:
            rows = [object() for _ in index]  # all draws are distinct
        for state, side, once, keys in ((self.a, "q", self._images, index.tolist()), (self.b, "p", self._rows, rows)):
            if new := once(keys):
                drawn = getattr(samples, f"{self.variable}_{side}")[new]
                if (self.variable, side) == ("x", "p"):
                    drawn = with_gaps_of(samples.x_q[new], drawn, samples.joint)
                state.append(drawn.flatten(1))

    def reset(self) -> None:
        super().reset()
        self._images, self._rows = FirstOccurrences(self.samples), FirstOccurrences(self.samples)

    def compute(self) -> dict[str, Tensor]:
        a, b = dim_zero_cat(self.a), dim_zero_cat(self.b)
        n = min(len(a), len(b))
        if n < 2:
            return {}
        value, p = permutation_p_value(a[:n], b[:n], MedianRBF(), self.permutations)
        return {f"two_sample_{self.variable}": value, f"two_sample_{self.variable}_p": p}


class FirstOccurrences:
    """Selects the keys that did not occur before, until `most` distinct keys have occurred."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: set[Hashable] = set()

    def __call__(self, keys: Iterable[Hashable]) -> list[int]:
        """The positions of the new keys."""
        new = []
        for i, key in enumerate(keys):
            if len(self.seen) < self.most and key not in self.seen:
                self.seen.add(key)
                new.append(i)
        return new
