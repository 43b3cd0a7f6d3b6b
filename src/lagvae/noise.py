"""Random numbers as a pure function of (seed, purpose, stream, step).

The random numbers of training and evaluation are drawn here and passed to the distributions as arguments. User-defined code
and dropout draw from generators of torch, which `generators_seeded` sets by the same rule. Step t of a run draws the same
numbers whether the run is new, resumed, distributed over several ranks, or one member of an ensemble. Checkpoints therefore
need not store the state of any generator.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


@contextmanager
def generators_seeded(text: str, device: torch.device) -> Iterator[None]:
    """A context in which torch's own generators are in a state that depends on `text` alone; afterwards they are as before.

    For user code, which takes no noise: dropout, and distributions that only have rsample.
    """
    seed = zlib.crc32(text.encode())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def _mix(value: int) -> int:
    """The 32-bit finaliser of MurmurHash3. It is a bijection, so distinct steps have distinct seeds."""
    value &= _MASK
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)


class Noise:
    """Named streams of random numbers, indexed by the training or evaluation step.

    Args:
        seed: the seed of the run, or of a member of an ensemble.
        purpose: separates uses of the same seed, such as "train" and "val".
        rank, world: index of this process, and the number of processes that share every batch. Each process draws the
            numbers of the global batch and returns the `rank`-th part of axis 0, so that all processes together use the
            numbers that a single process would.

    For a given (seed, purpose, stream), no two steps below 2**32 have the same generator state.

    Examples:
        >>> noise = Noise(seed=0, purpose="example")
        >>> torch.equal(noise.normal("z", 3, (2, 4)), noise.normal("z", 3, (2, 4)))
        True
        >>> torch.equal(noise.normal("z", 3, (2, 4)), noise.normal("z", 4, (2, 4)))
        False
    """

    def __init__(self, seed: int, purpose: str = "train", rank: int = 0, world: int = 1) -> None:
        self.seed, self.purpose = seed, purpose
        self.rank, self.world = rank, world
        self._generators: dict[torch.device, torch.Generator] = {}
        self._bases: dict[str, int] = {}

    def generator(self, stream: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator whose state depends on (seed, purpose, stream, step) alone. It is valid until the next call."""
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
        """Standard normal numbers of a given shape, which is that of one rank."""
        return self._part(torch.randn, stream, step, shape, device)

    def uniform(self, stream: str, step: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """Uniform numbers on [0, 1) of a given shape, which is that of one rank."""
        return self._part(torch.rand, stream, step, shape, device)

    def _part(
        self, draw: Callable[..., Tensor], stream: str, step: int, shape: tuple[int, ...], device: torch.device | str
    ) -> Tensor:
        whole = (shape[0] * self.world, *shape[1:])
        drawn = draw(whole, generator=self.generator(stream, step, device), device=device)
        return drawn if self.world == 1 else drawn[self.rank * shape[0] : (self.rank + 1) * shape[0]]

    def permutation(self, stream: str, step: int, n: int) -> Tensor:
        """A random permutation of 0, …, n − 1, (n,), always drawn on the CPU so that batches do not depend on the device."""
        return torch.randperm(n, generator=self.generator(stream, step))
