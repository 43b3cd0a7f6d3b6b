"""Randomness as a pure function of (seed, step, stream).

Every random number that training or evaluation uses is drawn here and handed to the laws as an
argument. Step `t` of a run draws the same numbers whether the run is plain, resumed, split over
ranks or one member of an ensemble, so nothing random has to be saved with a checkpoint.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(value: int) -> int:
    """The finaliser of MurmurHash3: a bijection of 32 bits, so distinct steps keep distinct seeds."""
    value &= _MASK
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)


class Noise:
    """Named streams of random numbers, indexed by step.

    Args:
        seed: the seed of the run (or of the member of an ensemble).
        purpose: keeps apart users of one seed, e.g. "train" and "val".
        rank, world: of `world` processes that share every batch, this one draws the whole batch's numbers and
            keeps the `rank`-th part of axis 0, so that together they hold what one process would.

    Within one `(seed, purpose, stream)` no two steps below 2**32 share a generator state.
    """

    def __init__(self, seed: int, purpose: str = "train", rank: int = 0, world: int = 1) -> None:
        self.seed, self.purpose = seed, purpose
        self.rank, self.world = rank, world
        self._generators: dict[torch.device, torch.Generator] = {}
        self._bases: dict[str, int] = {}

    def generator(self, stream: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator set to the state of `(seed, purpose, stream, step)`."""
        device = torch.device(device)
        generator = self._generators.get(device)
        if generator is None:
            generator = self._generators[device] = torch.Generator(device)
        base = self._bases.get(stream)
        if base is None:
            base = zlib.crc32(f"{self.seed}/{self.purpose}/{stream}".encode())
            self._bases[stream] = base
        generator.manual_seed(_mix(base ^ _mix(step)))
        return generator

    def normal(self, stream: str, step: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers of the given (per-rank) shape."""
        return self._part(torch.randn, stream, step, shape, device)

    def uniform(self, stream: str, step: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """Numbers uniform on [0, 1) of the given (per-rank) shape."""
        return self._part(torch.rand, stream, step, shape, device)

    def _part(
        self, draw: Callable[..., Tensor], stream: str, step: int, shape: tuple[int, ...], device: torch.device | str
    ) -> Tensor:
        whole = (shape[0] * self.world, *shape[1:])
        drawn = draw(whole, generator=self.generator(stream, step, device), device=device)
        return drawn if self.world == 1 else drawn[self.rank * shape[0] : (self.rank + 1) * shape[0]]

    def permutation(self, stream: str, step: int, n: int) -> Tensor:
        """A random order of 0 … n − 1, always on the CPU, so that batches do not depend on the device."""
        return torch.randperm(n, generator=self.generator(stream, step))
