"""The interface of the estimators that constraints bound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

from torch import Tensor, nn

from lagvae.distributions import JointModel, JointSamples, part_name
from lagvae.errors import SettingError


class Divergence(ABC):
    """Base class of estimators: a divergence, or another scalar, estimated from a batch of samples.

    Ensembles map an estimate over their members, so it must work under `torch.func.vmap`: no `.item()`, no branch on a
    value.

    Examples:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> class SecondMoment(Divergence):  # E ‖z‖² for z ∼ q(z)
        ...     nats, smallest = False, 0.0
        ...     def __call__(self, samples):
        ...         return samples.z_q.square().sum(-1).mean()
        >>> SecondMoment()(SimpleNamespace(z_q=torch.tensor([[3.0, 4.0]])))
        tensor(25.)
    """

    required_noise: frozenset[str] = frozenset({"z_q"})
    """Names of the noise that the estimate needs (see `draw_noise`)."""
    nats: bool = True
    """Whether the value is in nats."""
    largest: float = inf
    """The upper limit of the divergence."""
    smallest: float = -inf
    """The lower limit of the divergence: 0 if it is never negative, although its estimate may be."""
    critic: nn.Module | None = None
    """The critic ψ of the estimate, which `prepare` builds; None if it needs no critic."""
    uses_critic: bool = False
    """Whether `prepare` builds a critic. The class says so, because a sweep is planned before anything is built."""
    size: int | None = None
    """The number of training samples, which a run sets; None where it is not known."""
    uses_attribute: bool = False
    """Whether the estimate needs the attribute u of x, which batches then have."""
    attribute_shares: Sequence[float] | None = None
    """The share of each value of u in the training split, which a run sets before `prepare`; None where there is no u."""
    symbol: str = ""
    """The estimated quantity in the notation of `lagvae.algebra`."""

    @abstractmethod
    def __call__(self, samples: JointSamples) -> Tensor:
        """The estimate on a batch, (), in nats or, where `nats` is False, in a unit of its own."""

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:  # noqa: B027 - optional
        """Check that the joint model supports the estimate, and build the critics, whose shapes depend on it.

        Args:
            name: name of the constraint, for error messages.
            joint: the joint model.
            shape: shape of one x.

        Raises: SettingError that names the constraint, the incompatible distribution and an alternative.
        """

    def __repr__(self) -> str:
        return type(self).__name__


def require(holds: bool, name: str, what: str, distribution: nn.Module, instead: str) -> None:
    """Raise SettingError unless `holds`: constraint `name` needs `what`, which `distribution` does not have."""
    if not holds:
        raise SettingError(f"constraints.{name} needs {what}, which {part_name(distribution)} does not have; {instead}.")
