"""The base class of metrics, the data that they may use, and the mean with its standard error.

`update(samples, index)` takes a batch and the positions of its samples in their split. `compute()` returns name → value
(0-dim tensors, information in nats), and for each estimate x its standard error as "x_stderr".
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from lagvae.distributions import JointModel, JointSamples


class EvaluationData(Protocol):
    """Properties of the data that only evaluation uses (see `lagvae.data.DataModule`)."""

    def labels(self, split: str) -> Tensor | None: ...

    def second(self, split: str) -> Tensor | None: ...

    def probe(self, split: str, n: int) -> Tensor: ...

    def size(self, split: str) -> int: ...

    @property
    def is_stochastic(self) -> bool: ...

    def reobserve(self, split: str, index: Tensor, times: int, step: int, device: torch.device | str = "cpu") -> Tensor: ...


class LatentMetric(Metric):
    """Base of the metrics: it takes samples of both joints and computes named values."""

    full_state_update = False
    count_images_once = False
    """Whether each held-out image may count only once. (On the training split q(x) is the distribution of its images, which may
    be drawn repeatedly.)"""

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        """Whether the metric is defined for a joint model on a split of the data; otherwise it is not reported."""
        return True

    def check(self, data: EvaluationData, key: str) -> None:
        """Raise SettingError, naming the setting `key`, if the data do not suffice for the requested estimate."""

    @abstractmethod
    def update(self, samples: JointSamples, index: Tensor) -> None: ...

    @abstractmethod
    def compute(self) -> dict[str, Tensor]: ...


def mean_and_stderr(values: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean over samples, and its standard error with every *image* as one independent observation.

    Several draws of the same image (with new noise) form one observation, the mean of their values. Without `index` all values
    are independent.

    Args:
        values, index: (N,), index being the image of each value.

    Examples:
        >>> mean, stderr = mean_and_stderr(torch.tensor([1.0, 3.0, 1.0, 3.0]), index=torch.tensor([0, 0, 1, 1]))
        >>> float(mean), float(stderr)  # both images have the mean 2
        (2.0, 0.0)
    """
    values = values.double()
    index = torch.arange(len(values), device=values.device) if index is None else index
    _, inverse = index.unique(return_inverse=True)
    n = int(inverse.max()) + 1
    count = torch.zeros(n, dtype=torch.float64, device=values.device).index_add_(0, inverse, torch.ones_like(values))
    by_image = torch.zeros_like(count).index_add_(0, inverse, values) / count
    stderr = by_image.std() / n**0.5 if n > 1 else by_image.new_tensor(float("nan"))
    return values.mean(), stderr
