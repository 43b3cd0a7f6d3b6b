"""What a constraint bounds: which quantity, over which variables, estimated how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

from torch import Tensor, nn

from lagvae.distributions import JointModel, JointSamples
from lagvae.errors import SettingError


class Divergence(ABC):
    """A scalar estimate of a divergence from a batch of samples: its mean, in nats or without unit."""

    required_noise: frozenset[str] = frozenset({"z_q"})
    """Names of the noise that the estimate draws on (see `draw_noise`)."""
    nats: bool = True
    """Whether the value is in nats; otherwise it has no unit."""
    largest: float = inf
    """The largest value that the divergence can have."""
    critic: nn.Module | None = None
    """The network ψ that the estimate takes, where it takes one: made by `prepare`."""
    symbol: str = ""
    """What is estimated, in the words of `lagvae.algebra`."""

    @abstractmethod
    def __call__(self, samples: JointSamples) -> Tensor:
        """The estimate, shape ()."""

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:  # noqa: B027 - most need nothing
        """Check that the laws give what the estimate takes, and make what depends on their shapes.

        Raises: SettingError that names the constraint, the law, and an estimator that would do.
        """

    def __repr__(self) -> str:
        return type(self).__name__


def require(holds: bool, name: str, what: str, distribution: object, instead: str) -> None:
    """Raise SettingError unless `holds`: the constraint needs something that a law has not."""
    if not holds:
        raise SettingError(f"constraints.{name} needs {what}, which {type(distribution).__name__} has not; {instead}.")
