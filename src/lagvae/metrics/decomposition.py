"""The rate as information, total correlation and the KL divergences of the coordinates, from samples of q(z|x)."""

from __future__ import annotations

from math import log1p

import torch
from torch import Tensor

from lagvae.distributions import JointModel, StandardNormalPrior
from lagvae.errors import SettingError
from lagvae.information import aggregate, gaussian_log_density
from lagvae.metrics.base import KERNEL, EvaluationData, Sizes, mean_and_stderr, share_of
from lagvae.metrics.information import LEAST, PosteriorSamples, count_earlier_draws

LABELS = {
    f"{part}_{end}": f"{name} {end} (nats)"
    for part, name in (
        ("index_code", "index code"),
        ("total_correlation", "TC of q(z)"),
        ("dimension_wise_kl", "KL of z_k"),
    )
    for end in ("lower", "upper")
}
"""What reports call the values."""


class RateDecomposition(PosteriorSamples):
    """The parts of the rate, each as an interval between a lower and an upper bound, in nats.

        E_q KL(q(z|x)‖p(z)) = I_q(x;z) + KL(q(z)‖Π_k q(z_k)) + Σ_k KL(q(z_k)‖p(z_k))

    index_code_lower, index_code_upper: I_q(x;z), the information of the code about the index of a sample.
    total_correlation_lower, _upper: the dependence between the coordinates of z.
    dimension_wise_kl_lower, _upper: how far the coordinates are from the prior, each by itself.

    Each has its standard error. E log q(z) is at least the mean of log 1/K Σ_{j≠i} q(z_i|x_j), which leaves out the own draw,
    or on held-out splits the own image, and at most that of the mixture with it; the same holds for each q(z_k). Where x is one
    of N fixed samples, all of which are used, the mixture is q(z) and both ends are the same number. Elsewhere an interval
    may be wide: in many dimensions a code may have no neighbour but its own q(z|x).

    The bounds of I_q are those of `Information` that are called inclusive and leave-one-out; its interval may be narrower.

    Args:
        most: the largest number of draws, K; the time is O(K² d).

    Raises: SettingError for fewer than four draws.

    Reference: Hoffman & Johnson, ELBO Surgery, 2016; Chen, Li, Grosse, Duvenaud, NeurIPS 2018.

    Examples:
        >>> from torch import nn
        >>> from torch.distributions import Independent, Normal
        >>> from types import SimpleNamespace
        >>> from lagvae.distributions import JointSamples
        >>> class Channel(nn.Module):  # q(z|x) = N(x, 1), p(x|z) = N(z, 1)
        ...     def forward(self, given):
        ...         return Independent(Normal(given, 1.0), 1)
        >>> x, noise = torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0))
        >>> x, noise = x.repeat(1, 2), torch.cat([noise, noise.flip(0)], 1)  # z_1 and z_2 have the same x and other noise
        >>> samples = JointSamples(JointModel(StandardNormalPrior(2), Channel(), Channel()), x, {"z_q": noise})
        >>> parts = RateDecomposition()
        >>> parts.is_applicable(samples.joint, SimpleNamespace(size=lambda split: 1000, is_stochastic=False), "test")
        True
        >>> parts.update(samples, torch.arange(1000))
        >>> value = parts.compute()
        >>> bool(value["total_correlation_lower"] - 0.05 < 0.144 < value["total_correlation_upper"] + 0.05)  # −½ log (1 − ¼)
        True
    """

    labels = LABELS

    def __init__(self, most: int = 4000) -> None:
        if most < 4:
            raise SettingError(f"The decomposition of the rate needs at least 4 samples, not most={most}.")
        super().__init__(most)
        self._total: int | None = None
        self._stochastic = True

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        self._total = data.size(split) if split == "train" else None
        self._stochastic = data.is_stochastic
        return super().is_applicable(joint, data, split) and isinstance(joint.prior, StandardNormalPrior)

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked, self.most = self.most, share_of(self.most, share**0.5, LEAST)
        return {"most": (asked, self.most)}

    def cost(self, sizes: Sizes) -> float:
        k = min(self.most, sizes.draws if self._stochastic else sizes.images)
        return k * k * (4.0 * sizes.z + (1 + sizes.z) * KERNEL)

    def compute(self) -> dict[str, Tensor]:
        z, loc, scale, index = self._all()
        if not self._stochastic:  # repeating the same x adds no information
            first = count_earlier_draws(index) == 0
            z, loc, scale, index = z[first], loc[first], scale[first], index[first]
        k, groups = len(z), index if self._total is None else None
        whole = not self._stochastic and k == self._total

        def ends(over: slice) -> tuple[Tensor, Tensor, Tensor]:
            """log q(z|x), and values of log q(z) whose means are at most and at least its mean, each (K,)."""
            own, inclusive, others = aggregate(z[:, over], loc[:, over], scale[:, over], groups=groups)
            # The other images of a training split are not draws of q(x): see `Information`.
            least = inclusive if whole else others if self._total is None else others + log1p(-1 / k)
            return own, least, inclusive

        own, low, high = ends(slice(None))
        each = [ends(slice(d, d + 1))[1:] for d in range(z.shape[1])]
        low_k, high_k = (torch.stack(side).sum(0) for side in zip(*each, strict=True))
        log_p = gaussian_log_density(z.double(), torch.zeros_like(z[0]), torch.ones_like(z[0]))
        parts = {
            "index_code": (own - high, own - low),
            "total_correlation": (low - high_k, high - low_k),
            "dimension_wise_kl": (low_k - log_p, high_k - log_p),
        }
        result = {}
        for part, bounds in parts.items():
            for end, values in zip(("lower", "upper"), bounds, strict=True):
                result[f"{part}_{end}"], result[f"{part}_{end}_stderr"] = mean_and_stderr(values, index)
        return result
