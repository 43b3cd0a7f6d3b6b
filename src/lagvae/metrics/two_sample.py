"""A two-sample test: whether samples of the model can be told from data."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.divergences import Kernel, MedianRBF, squared_distances
from lagvae.errors import SettingError
from lagvae.laws import JointSamples
from lagvae.metrics.base import Measure
from lagvae.noise import Noise

VARIABLES = ("x", "z")


def permutation_p_value(a: Tensor, b: Tensor, kernel: Kernel, permutations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """MMD² between two samples (V-statistic), and the p-value of "both are of one law" by permuting them.

    The kernel matrix of all samples is made once; a permutation is a vector w of ±1/n, and MMD² = wᵀ K w.
    p = (1 + #{permuted ≥ observed}) / (1 + permutations), valid for any number of permutations.

    Args:
        a, b: (n, d) each. kernel: held fixed over permutations, since it looks at all samples alike.

    Raises: SettingError where the samples are not as many.

    Reference: Gretton et al., A Kernel Two-Sample Test, JMLR 2012; Phipson & Smyth, 2010 (the ones).
    """
    n = len(a)
    if len(b) != n:
        raise SettingError(f"The two-sample test compares as many samples of both, not {n} and {len(b)}.")
    z = torch.cat([a, b]).double()
    k = kernel(squared_distances(z, z) / kernel.prepare(z, z))
    noise = Noise(seed, "two-sample")
    orders = torch.stack([noise.permutation("order", t, 2 * n) for t in range(permutations)])
    first = (orders < n).double().to(z.device)  # a random half of all samples is called "a"
    identity = (torch.arange(2 * n, device=z.device) < n).double().unsqueeze(0)
    w = (2 * torch.cat([identity, first]) - 1) / n
    values = ((w @ k) * w).sum(-1)
    # The observed value is one of the permuted ones: equality but for rounding counts as not below.
    p = (values >= values[0] * (1 - 1e-12)).double().mean()
    return values[0], p


class TwoSampleTest(Measure):
    """two_sample_x: MMD² between x ∼ p and the split's data; two_sample_x_p its p-value; of z: between q(z) and p(z).

    Args:
        variable: "x" or "z".
        samples: of each law, at most. permutations: how many; the least p-value is 1 / (1 + permutations).

    Kernel: RBF at the median distance. Each held-out image is used once.
    """

    each_image_once = True
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
        self._held = 0
        for name in ("a", "b"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: JointSamples, index: Tensor) -> None:
        room = self.samples - self._held
        if room <= 0:
            return
        for held, side in ((self.a, "q"), (self.b, "p")):
            held.append(getattr(samples, f"{self.variable}_{side}")[:room].flatten(1))
        self._held += len(self.a[-1])

    def reset(self) -> None:
        super().reset()
        self._held = 0

    def compute(self) -> dict[str, Tensor]:
        a, b = dim_zero_cat(self.a), dim_zero_cat(self.b)
        value, p = permutation_p_value(a, b, MedianRBF(), self.permutations)
        return {f"two_sample_{self.variable}": value, f"two_sample_{self.variable}_p": p}
