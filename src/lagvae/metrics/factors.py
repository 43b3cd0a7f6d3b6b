"""How well the coordinates of z stand for the known factors that data were made from: MIG and DCI."""

from __future__ import annotations

from math import log, log2
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import JointModel, JointSamples, mean_of
from lagvae.errors import SettingError
from lagvae.metrics.base import KERNEL, EvaluationData, LatentMetric, Sizes, share_of
from lagvae.metrics.two_sample import FirstOccurrences

LEAST = 1000
"""Smallest number of samples to which a budget reduces the scores."""


def mutual_information_gap(codes: Tensor, factors: Tensor, bins: int = 20) -> Tensor:
    """MIG: the mean over factors of (I₁ − I₂) / H, from the two coordinates with the most information about the factor.

    I(z_j; v) is that of counts, with z_j in `bins` bins of equal width, and H the entropy of v. It lies in [0, 1]: 1 where each
    factor is known from one coordinate and from no other, 0 where two coordinates say as much. Counts of N samples overestimate
    I by about (bins − 1) (values of v − 1) / 2N nats.

    Args:
        codes: (N, d). factors: whole numbers, (N, F), of which each takes more than one value.

    Reference: Chen, Li, Grosse, Duvenaud, Isolating Sources of Disentanglement in VAEs, NeurIPS 2018; bins as in Locatello et
        al., Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations, ICML 2019.

    Examples:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(10, 1)
        >>> aligned = factors.float()
        >>> rotated = torch.stack([aligned.sum(1), aligned[:, 0] - aligned[:, 1]], 1)
        >>> [round(float(mutual_information_gap(codes, factors)), 3) for codes in (aligned, rotated)]
        [1.0, 0.0]
    """
    from sklearn.metrics import mutual_info_score

    columns = []
    for code in codes.double().T.numpy():
        columns.append(np.digitize(code, np.linspace(code.min(), code.max(), bins + 1)[1:-1]))
    gaps = []
    for factor in factors.T.numpy():
        known = sorted((mutual_info_score(factor, column) for column in columns), reverse=True)
        gaps.append((known[0] - (known[1] if len(known) > 1 else 0.0)) / mutual_info_score(factor, factor))
    return torch.tensor(float(np.mean(gaps)), dtype=torch.float64)


def dci_scores(codes: Tensor, factors: Tensor, trees: int = 20) -> dict[str, Tensor]:
    """DCI: disentanglement, completeness and informativeness, all in [0, 1], by a random forest for each factor.

    R_ij is the importance of z_i for predicting factor v_j. Disentanglement is 1 minus the entropy of row i over factors, as a
    share of the largest, weighted by the importance of z_i; completeness the same for columns, over coordinates, unweighted.
    Informativeness is the accuracy of the predictions on samples that the forest has not seen. The forests are fitted to the
    first half of the samples.

    Args:
        codes: (N, d), in random order. factors: whole numbers, (N, F), of which each takes more than one value.

    Reference: Eastwood & Williams, A Framework for the Quantitative Evaluation of Disentangled Representations, ICLR 2018.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> factors = torch.randint(4, (400, 2), generator=generator)
        >>> scores = dci_scores(factors.double(), factors)  # each coordinate is a factor
        >>> {name: round(float(value), 1) for name, value in scores.items()}
        {'dci_disentanglement': 1.0, 'dci_completeness': 1.0, 'dci_informativeness': 1.0}
    """
    from sklearn.ensemble import RandomForestClassifier

    x, half = codes.numpy(), len(codes) // 2
    importance, accuracy = [], []
    for factor in factors.T.numpy():
        forest = RandomForestClassifier(trees, max_features=None, random_state=0).fit(x[:half], factor[:half])
        importance.append(forest.feature_importances_)
        accuracy.append(float((forest.predict(x[half:]) == factor[half:]).mean()))
    r = torch.from_numpy(np.stack(importance, 1)).double()
    rows, columns = concentration(r), concentration(r.T)
    return {
        "dci_disentanglement": (rows * r.sum(1)).sum() / r.sum().clamp(min=1e-12),
        "dci_completeness": columns.mean(),
        "dci_informativeness": torch.tensor(np.mean(accuracy), dtype=torch.float64),
    }


def concentration(weights: Tensor) -> Tensor:
    """1 minus the entropy of each row of weights ≥ 0, (n, k), as a share of log k: 1 for a single one, 0 for equal ones.

    Examples:
        >>> concentration(torch.tensor([[1.0, 0.0], [2.0, 2.0]]))
        tensor([1., 0.])
    """
    if weights.shape[1] == 1:
        return torch.ones_like(weights[:, 0])
    p = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
    return 1 + torch.xlogy(p, p).sum(1) / log(weights.shape[1])


class FactorScores(LatentMetric):
    """mig and dci_disentanglement, dci_completeness, dci_informativeness of E[z|x], where the factors of the data are known.

    A factor that has one value only is left out. Each image of a split counts once.

    Args:
        samples: the largest number of images. bins, trees: see `mutual_information_gap` and `dci_scores`.

    Raises: SettingError for numbers that are too small.

    Examples:
        >>> from torch.distributions import Normal
        >>> from types import SimpleNamespace
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(20, 1)
        >>> data = SimpleNamespace(factors=lambda split: factors)
        >>> scores = FactorScores()
        >>> scores.is_applicable(SimpleNamespace(prior=SimpleNamespace(has_density=True)), data, "test")
        True
        >>> scores.update(SimpleNamespace(q_z_given_x=Normal(factors.double(), 1.0)), torch.arange(320))
        >>> {name: round(float(value), 1) for name, value in scores.compute().items()}  # each coordinate is a factor
        {'mig': 1.0, 'dci_disentanglement': 1.0, 'dci_completeness': 1.0, 'dci_informativeness': 1.0}
    """

    code: list[Tensor]
    factor: list[Tensor]

    def __init__(self, samples: int = 10_000, bins: int = 20, trees: int = 20) -> None:
        super().__init__()
        for name, value, least in (("samples", samples, 2), ("bins", bins, 2), ("trees", trees, 1)):
            if value < least:
                raise SettingError(f"callbacks.final.factors.{name}={value} must be at least {least}.")
        self.samples, self.bins, self.trees = samples, bins, trees
        self.add_state("code", [], dist_reduce_fx="cat")
        self.add_state("factor", [], dist_reduce_fx="cat")
        self._factors: Any = None

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        factors = data.factors(split)
        if factors is None or not joint.prior.has_density:
            return False
        self._factors = factors[:, (factors != factors[:1]).any(0)]
        return bool(self._factors.shape[1])

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked, self.samples = self.samples, share_of(self.samples, share, LEAST)
        return {"samples": (asked, self.samples)}

    def cost(self, sizes: Sizes) -> float:
        n = min(self.samples, sizes.images)
        return KERNEL * self.trees * n * log2(max(n, 2)) * sizes.z * self._factors.shape[1]

    def update(self, samples: JointSamples, index: Tensor) -> None:
        if not self.code:
            self._new = FirstOccurrences(self.samples)
        new = self._new(index.tolist())
        self.code.append(mean_of(samples.q_z_given_x)[new].flatten(1).cpu())
        self.factor.append(self._factors[index[new].cpu()])

    def compute(self) -> dict[str, Tensor]:
        codes, factors = dim_zero_cat(self.code), dim_zero_cat(self.factor)
        varies = (factors != factors[:1]).any(0)
        factors = factors[:, varies]
        return {"mig": mutual_information_gap(codes, factors, self.bins), **dci_scores(codes, factors, self.trees)}
