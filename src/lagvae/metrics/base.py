"""The base class of metrics, the data that they may use, and the mean with its standard error.

`update(samples, index)` takes a batch and the positions of its samples in their split. `compute()` returns name → value
(0-dim tensors, information in nats), and for each estimate x its standard error as "x_stderr".
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from lagvae.distributions import JointModel, JointSamples, mean_of
from lagvae.errors import SettingError
from lagvae.introspection import full_name


class EvaluationData(Protocol):
    """Properties of the data that only evaluation uses (see `lagvae.data.DataModule`)."""

    def labels(self, split: str) -> Tensor | None: ...

    def factors(self, split: str) -> Tensor | None: ...

    def attribute(self, split: str) -> Tensor | None: ...

    @property
    def attribute_shares(self) -> list[float] | None: ...

    def second(self, split: str) -> Tensor | None: ...

    def first_samples(self, split: str, n: int) -> Tensor: ...

    def size(self, split: str) -> int: ...

    def draws_of(self, split: str) -> int: ...

    @property
    def is_stochastic(self) -> bool: ...

    def reobserve(self, split: str, index: Tensor, times: int, step: int, device: torch.device | str = "cpu") -> Tensor: ...


class Sizes(NamedTuple):
    """What the cost of an estimate depends on: multiply-adds of encoding and of decoding one sample, the numbers of coordinates
    of x and of z, the number of images in the split, and the number of its draws that are evaluated."""

    encode: float
    decode: float
    x: int
    z: int
    images: int
    draws: int


KERNEL = 20
"""The cost of an exponential, in multiply-adds."""


def share_of(number: int, share: float, least: int) -> int:
    """A share of a number of draws, rounded down, but not below `least` unless the number itself is.

    Examples:
        >>> share_of(1000, 0.25, 64), share_of(1000, 0.01, 64), share_of(10, 0.5, 64)
        (250, 64, 10)
    """
    return min(number, max(least, int(number * share)))


class LatentMetric(Metric):
    """Base of the metrics: it takes samples of both joints and computes named values."""

    full_state_update = False
    labels: Mapping[str, str] = {}
    """Value → what reports call it, where the report has no row of its own for it."""
    uses_model = False
    """Whether it takes samples x ∼ p(x|z) or what follows from them, for which the networks are evaluated once more."""
    count_images_once = False
    """Whether each held-out image may count only once. (On the training split q(x) is the distribution of its images, which may
    be drawn repeatedly.)"""

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        """Whether the metric is defined for a joint model on a split of the data; otherwise it is not reported."""
        return True

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        """Use a share of the draws, before the first update. Returns setting → (number that was asked for, number used)."""
        return {}

    def cost(self, sizes: Sizes) -> float:
        """Multiply-adds that the estimate takes beyond one evaluation of every network at every draw."""
        return 0.0

    def check(self, data: EvaluationData, key: str) -> None:
        """Raise SettingError, naming the setting `key`, if the data do not suffice for the requested estimate."""

    @abstractmethod
    def update(self, samples: JointSamples, index: Tensor) -> None: ...

    @abstractmethod
    def compute(self) -> dict[str, Tensor]: ...


class OwnMetric(LatentMetric):
    """A plain `torchmetrics.Metric` as a metric of a latent variable model.

    If its update takes `preds` and `target`, these are the reconstructions E[x|z] with z ∼ q(z|x), and x; otherwise it gets the
    `JointSamples`, and their positions in the split if it takes a second argument. A single value has the name of the metric.
    Reports call a value `labels[value]` of the metric, a single one its `label`, where it has such an attribute.

    Args:
        name: of the metric in the config. metric: user-defined, or one of torchmetrics.

    Raises: SettingError from `compute` for a result that is not a number.

    Examples:
        >>> from torchmetrics import MeanSquaredError
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> error = OwnMetric("error", MeanSquaredError())
        >>> error.update(JointSamples(joint, torch.tensor([[1.0, 3.0]]), {"z_q": torch.zeros(1, 2)}), torch.arange(1))
        >>> error.compute(), error.labels
        ({'error': tensor(5.)}, {'error': 'error'})
    """

    def __init__(self, name: str, metric: Metric) -> None:
        super().__init__()
        self.name, self.metric = name, metric
        self.parameters_of_update = list(inspect.signature(metric.update).parameters)
        self.labels: dict[str, str] = {}

    def update(self, samples: JointSamples, index: Tensor) -> None:
        if {"preds", "target"} <= set(self.parameters_of_update):
            self.metric.update(preds=mean_of(samples.p_x_given_z_q), target=samples.x_q)
        else:
            self.metric.update(*(samples, index)[: len(self.parameters_of_update)])

    def compute(self) -> dict[str, Tensor]:
        value = self.metric.compute()
        values = dict(value) if isinstance(value, Mapping) else {self.name: value}
        for key, each in values.items():
            if not (isinstance(each, int | float) or (isinstance(each, Tensor) and each.numel() == 1)):
                shape = f"a tensor of shape {tuple(each.shape)}" if isinstance(each, Tensor) else f"a {type(each).__name__}"
                raise SettingError(
                    f"{full_name(self.metric)}.compute returns {shape} for {key}; it must return a number, or a dict of them."
                )
        given = {self.name: getattr(self.metric, "label", self.name)} | dict(getattr(self.metric, "labels", {}))
        self.labels = {key: given.get(key, key) for key in values if not key.endswith("_stderr")}
        return {key: torch.as_tensor(each) for key, each in values.items()}

    def reset(self) -> None:
        super().reset()
        self.metric.reset()


def as_latent_metric(name: str, metric: Any, key: str | None = None) -> LatentMetric:
    """The metric itself, or a plain one of torchmetrics as one of a latent variable model.

    Each process of a data-parallel run measures whole splits, so no state is collected from the others.

    Args:
        name: of the metric in the config. metric: what a config names. key: the setting that names it, for messages.

    Raises: SettingError for anything that is not a torchmetrics.Metric.

    Examples:
        >>> from torchmetrics import MeanSquaredError
        >>> as_latent_metric("error", MeanSquaredError()).name
        'error'
        >>> as_latent_metric("error", torch.nn.MSELoss(), key="callbacks.final.error")
        Traceback (most recent call last):
        lagvae.errors.SettingError: callbacks.final.error: torch.nn.modules.loss.MSELoss is no torchmetrics.Metric; derive ...
    """
    if not isinstance(metric, Metric):
        raise SettingError(
            f"{key or name}: {full_name(type(metric))} is no torchmetrics.Metric; derive a metric from that class."
        )
    for part in metric.modules():
        if isinstance(part, Metric):
            part.distributed_available_fn = lambda: False
    return metric if isinstance(metric, LatentMetric) else OwnMetric(name, metric)


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
