"""Batches by step: which samples make the batch of step t is a pure function of (seed, t)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lagvae.noise import Noise


class Batch(NamedTuple):
    """x (B, *shape), as stored or as observed; index (B,) of the samples in their split; the step it belongs to."""

    x: Tensor
    index: Tensor  # type: ignore[assignment]
    step: int


class Store(Protocol):
    """What holds samples: a tensor, or files that are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor: ...


class TrainOrder:
    """The endless order of training batches: every epoch a new permutation, cut into whole batches.

    Args:
        n: samples. batch: size of the global batch; what is left of an epoch's permutation is dropped.
        noise: where permutations come from, and the rank's part of a global batch.
    """

    def __init__(self, n: int, batch: int, noise: Noise) -> None:
        self.n, self.batch, self.noise = n, batch, noise
        self.per_epoch = n // batch
        part = batch // noise.world
        self.part = slice(noise.rank * part, (noise.rank + 1) * part)
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Indices of the batch of a step, (batch / world,)."""
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.noise.permutation("order", epoch, self.n)
        return self._order[k * self.batch : (k + 1) * self.batch][self.part]


class SplitOrder:
    """A split in its own order, over and over, for evaluation; the last batch of a pass may be smaller."""

    def __init__(self, n: int, batch: int) -> None:
        self.n, self.batch = n, batch
        self.per_pass = -(-n // batch)

    def __call__(self, step: int) -> Tensor:
        """Indices of the batch of a step."""
        start = step % self.per_pass * self.batch
        return torch.arange(start, min(start + self.batch, self.n))


class StepDataset(Dataset[Batch]):
    """step → Batch. `subset` maps positions in the split to positions in the store."""

    def __init__(self, store: Store, subset: Tensor, order: Callable[[int], Tensor]) -> None:
        self.store, self.subset, self.order = store, subset, order

    def __getitem__(self, step: int) -> Batch:
        index = self.order(step)
        return Batch(self.store[self.subset[index]], index, step)


class StepLoader:
    """Iterates over the batches of a range of steps. Without a length: the last range of a run may be shorter.

    Args:
        dataset: step → Batch.
        steps: the range, asked for at every pass, so that a resumed run goes on where it was.
        workers: processes that read ahead; 0 where the store is in memory and a batch is one index away.
    """

    def __init__(self, dataset: StepDataset, steps: Callable[[], range], workers: int = 0) -> None:
        self.dataset, self.steps, self.workers = dataset, steps, workers

    def __iter__(self) -> Iterator[Batch]:
        steps = self.steps()
        if self.workers == 0:
            return (self.dataset[step] for step in steps)
        return iter(
            DataLoader(
                self.dataset,
                batch_size=None,
                sampler=steps,
                num_workers=self.workers,
                pin_memory=torch.cuda.is_available(),
            )
        )


class EvalLoader(StepLoader):
    """A fixed range of steps, of known length."""

    def __len__(self) -> int:
        return len(self.steps())
