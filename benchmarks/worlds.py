"""Samples of worlds whose I(x;z) is known, as the metrics take them: z, and q(z|x) = N(loc, diag scale²) at each x."""

from __future__ import annotations

from math import exp, expm1, log
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Samples = tuple[Tensor, Tensor, Tensor]


def channel(generator: torch.Generator, k: int, d: int, information: float) -> Samples:
    """z = ρ x + √(1 − ρ²) e, all standard normal: I = −d/2 log(1 − ρ²). The prior is q(z), so the rate is I."""
    rest = exp(-2 * information / d)
    loc = (-expm1(-2 * information / d)) ** 0.5 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    return sampled(generator, loc, rest**0.5)


def clusters(generator: torch.Generator, k: int, d: int, information: float) -> Samples:
    """The channel around one of 8 points of a cube of side 10: I = log 8 + that of the channel, and the prior is not q(z)."""
    z, loc, scale = channel(generator, k, d, information)
    corner = (torch.randint(2, (k, 3), generator=generator) * 2.0 - 1) * 5
    shift = torch.cat([corner, torch.zeros(k, d - 3)], 1)
    return z + shift, loc + shift, scale


def sampled(generator: torch.Generator, loc: Tensor, scale: float) -> Samples:
    """z ∼ N(loc, scale² I)."""
    return loc + scale * torch.randn(loc.shape, generator=generator, dtype=loc.dtype), loc, torch.full_like(loc, scale)


def shown(measure: Any, samples: Samples, index: Tensor) -> None:
    """Let a metric see samples, and which image each is of."""
    z, loc, scale = samples
    law = SimpleNamespace(base_dist=SimpleNamespace(loc=loc, scale=scale))
    measure.update(SimpleNamespace(z_q=z, q_z_given_x=law), index)


class Images:
    """N images m ∼ N(0, 4 I), x = m + draw · u, z = x + noise · e: what a metric knows of data that are observed anew.

    I(x;z|m) = d/2 log(1 + draw²/noise²); I(m;z) from q(z|m) = N(m, (draw² + noise²) I), by `truth`.
    """

    def __init__(self, n: int, d: int, draw: float, noise: float, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.m = 2 * torch.randn(n, d, generator=self.generator, dtype=torch.float64)
        self.draw, self.noise = draw, noise

    def size(self, split: str) -> int:
        return len(self.m)

    def first_samples(self, split: str, n: int) -> Tensor:
        """The first images, whose shape the metrics look at."""
        return self.m[:n]

    def reobserve(self, split: str, index: Tensor, times: int, step: int, device: Any = "cpu") -> Tensor:
        x = self.m[index]
        return x + self.draw * torch.randn(times, *x.shape, generator=self.generator, dtype=torch.float64)

    def encoder(self, x: Tensor) -> Any:
        """q(z|x), with loc and scale where the metrics look for them."""
        return SimpleNamespace(base_dist=SimpleNamespace(loc=x, scale=torch.full_like(x, self.noise)))

    def samples(self, times: int) -> tuple[Samples, Tensor]:
        """z, loc, scale of `times` draws of each image, and which image each is of."""
        index = torch.arange(len(self.m))
        loc = self.reobserve("train", index, times, 0).flatten(0, 1)
        return sampled(self.generator, loc, self.noise), index.repeat(times)

    def truth(self, n: int = 4000) -> float:
        """I(x;z) in nats, by n samples of I(m;z) under the exact law."""
        m, s = self.m, (self.draw**2 + self.noise**2) ** 0.5
        image = torch.randint(len(m), (n,), generator=self.generator)
        z = m[image] + s * torch.randn(n, m.shape[1], generator=self.generator, dtype=torch.float64)
        apart = -torch.cdist(z, m).square() / (2 * s * s)
        of_images = (apart.gather(1, image[:, None])[:, 0] - apart.logsumexp(-1)).mean() + log(len(m))
        return float(of_images) + m.shape[1] / 2 * log(1 + (self.draw / self.noise) ** 2)
