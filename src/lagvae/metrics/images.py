"""Bounds on I_q(x;z) image by image: the encoder on stored samples that are observed anew (see `lagvae.information.images`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lagvae.information import ImageDistributions, aggregate_bounds, image_bounds, image_distributions
from lagvae.metrics.base import EvaluationData
from lagvae.noise import Noise

AT_ONCE = 4096
"""Samples that are encoded at once."""

IMAGES = 8
"""Images whose own draws are told from each other."""

EVALUATED = 256
"""Draws of each of them that are judged by all."""


class Redraw:
    """q(z|x) at further draws of x, of a split's samples.

    Args:
        data: gives the draws. split: which samples. encoder: q(z|x), Gaussian.
    """

    def __init__(self, data: EvaluationData, split: str, encoder: Any) -> None:
        self.data, self.split, self.encoder, self.step = data, split, encoder, 0

    @torch.no_grad()
    def __call__(self, index: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """loc and scale, (times, B, d)."""
        images = index.split(max(1, AT_ONCE // times))
        parts = [[self._some(of, n) for n in chunks(times)] for of in images]
        loc, scale = (torch.cat([torch.cat([some[i] for some in part]) for part in parts], 1) for i in (0, 1))
        return loc, scale

    def _some(self, index: Tensor, times: int) -> tuple[Tensor, Tensor]:
        self.step += 1
        x = self.data.reobserve(self.split, index, times, self.step, index.device)
        base = self.encoder(x.flatten(0, 1)).base_dist
        return base.loc.unflatten(0, (times, -1)), base.scale.unflatten(0, (times, -1))


def chunks(n: int) -> list[int]:
    """n as a sum of numbers of at most `AT_ONCE`."""
    return [min(AT_ONCE, n - start) for start in range(0, n, AT_ONCE)]


def between(z: Tensor, index: Tensor, held: Tensor, redraw: Redraw, times: int, total: int | None) -> tuple[Tensor, Tensor]:
    """Samples' bound on I(m;z), and log r(z) of a Gaussian for each image, (n,) in nats (see `image_bounds`).

    Args:
        z, index: samples and their images. held: the images, all different.
        times: draws of each that its Gaussian is fitted to, at least 2.
        total: how many images there are, where these are all images of the law; None: they are draws of a population. A sample
            is then judged without its own image, which the covariance does not know either: each half takes the other's.
    """
    loc, scale = redraw(held, times)
    image = torch.searchsorted(held, index)
    if total is not None:
        return image_bounds(z, image, image_distributions(loc, scale), total=total)
    which, log_r = (torch.empty(len(z), dtype=torch.float64, device=z.device) for _ in range(2))
    mean = loc.double().mean(0)
    for half in (0, 1):
        other = torch.arange(1 - half, len(held), 2, device=z.device)
        joint = ImageDistributions(mean, image_distributions(loc[:, other], scale[:, other]).whiten)
        mine = image % 2 == half
        which[mine], log_r[mine] = image_bounds(z[mine], image[mine], joint, leave_out=True)
    return which, log_r


def within(held: Tensor, redraw: Redraw, times: int, seed: int) -> Tensor:
    """The bound on I(x;z|m) of some images, by `times` draws of each: (images,) in nats, each at most log times."""
    noise = Noise(seed, "within images")
    values = []
    for step, image in enumerate(held[noise.permutation("image", 0, len(held))[:IMAGES].to(held.device)]):
        loc, scale = (each.squeeze(1) for each in redraw(image.unsqueeze(0), times))
        own = torch.arange(min(EVALUATED, times), device=held.device)
        z = loc[own] + scale[own] * noise.normal("z", step, tuple(loc[own].shape), held.device)
        values.append(aggregate_bounds(z, loc, scale, own)[0].mean())
    return torch.stack(values)
