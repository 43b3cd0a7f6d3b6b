"""Batches by step: the samples of the batch of step t are a pure function of (seed, t)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lagvae.noise import Noise


class Batch(NamedTuple):
    """A batch: x (B, *shape), stored or observed; index (B,), the positions of the samples in their split; and its step.

    Where an objective needs an attribute of x, u (B,) has it as whole numbers from 0.
    """

    x: Tensor
    index: Tensor  # type: ignore[assignment]
    step: int
    u: Tensor | None = None


class Store(Protocol):
    """Holds samples: a tensor, or files that are read on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor: ...


class TrainOrder:
    """The infinite sequence of training batches: every epoch is a new permutation, divided into full batches.

    Args:
        n: number of samples. batch: size of the global batch; the incomplete batch at the end of an epoch is dropped.
        noise: source of the permutations; its rank and world size determine the part of a global batch that this rank takes.
        device: where the indices are; on that of the samples no step waits for them.

    Examples:
        >>> order = TrainOrder(n=10, batch=4, noise=Noise(seed=0))
        >>> order.per_epoch, len(torch.cat([order(0), order(1)]).unique())  # two batches of different samples in an epoch
        (2, 8)
    """

    def __init__(self, n: int, batch: int, noise: Noise, device: torch.device | str = "cpu") -> None:
        self.n, self.batch, self.noise, self.device = n, batch, noise, device
        self.per_epoch = n // batch
        part = batch // noise.world
        self.part = slice(noise.rank * part, (noise.rank + 1) * part)
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Indices of the batch of a step, (batch / world,)."""
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.noise.permutation("order", epoch, self.n).to(self.device)
        return self._order[k * self.batch : (k + 1) * self.batch][self.part]


class SplitOrder:
    """The samples of a split in order, repeated without end, for evaluation; the last batch of a pass may be smaller.

    Examples:
        >>> order = SplitOrder(n=5, batch=2)
        >>> [order(step).tolist() for step in range(4)]
        [[0, 1], [2, 3], [4], [0, 1]]
    """

    def __init__(self, n: int, batch: int) -> None:
        self.n, self.batch = n, batch
        self.per_pass = -(-n // batch)

    def __call__(self, step: int) -> Tensor:
        """Indices of the batch of a step."""
        start = step % self.per_pass * self.batch
        return torch.arange(start, min(start + self.batch, self.n))


class StepDataset(Dataset[Batch]):
    """Maps a step to its batch.

    Args:
        subset: positions in the split → positions in the store. u: the attribute of each sample of the split.
    """

    def __init__(self, store: Store, subset: Tensor, order: Callable[[int], Tensor], u: Tensor | None = None) -> None:
        self.store, self.subset, self.order, self.u = store, subset, order, u

    def __getitem__(self, step: int) -> Batch:
        index = self.order(step)
        return Batch(self.store[self.subset[index]], index, step, None if self.u is None else self.u[index])


class Steps(Sampler[int]):
    """The steps of a pass, asked for at its start."""

    def __init__(self, steps: Callable[[], range]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps())


class StepLoader:
    """Iterates over the batches of a range of steps. It has no length, since the last range of a run may be shorter.

    Args:
        dataset: step → batch.
        steps: returns the range; it is called at the start of every pass, so that a resumed run continues at its own step.
        workers: number of processes that load in advance, which start with the first pass and end with this object; 0 if the
            store is in memory.
    """

    def __init__(self, dataset: StepDataset, steps: Callable[[], range], workers: int = 0) -> None:
        self.dataset, self.steps, self.workers = dataset, steps, workers

    def __iter__(self) -> Iterator[Batch]:
        if self.workers == 0:
            return (self.dataset[step] for step in self.steps())
        with warnings.catch_warnings():
            # On a machine of few cores too, processes read the next files while this one computes.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            return iter(self._loader)

    @cached_property
    def _loader(self) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset,
            batch_size=None,
            sampler=Steps(self.steps),
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=True,
        )


class EvalLoader(StepLoader):
    """A loader over a fixed range of steps, with a length."""

    def __len__(self) -> int:
        return len(self.steps())
