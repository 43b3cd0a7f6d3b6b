"""Bounds on I_q(x;z) from several observations of each stored sample (see `lagvae.information.images`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lagvae.information import ImageDistributions, aggregate_bounds, image_bounds, image_distributions
from lagvae.metrics.base import EvaluationData
from lagvae.noise import Noise

AT_ONCE, COORDINATES = 4096, 2**22
"""Largest numbers of samples, and of coordinates of them, that are encoded at once."""

IMAGES = 8
"""Number of images for which the information within an image, I(x;z|m), is estimated."""

EVALUATED = 256
"""Number of draws of each of these images at which the mixture of all its draws is evaluated."""


class Reobserver:
    """Observes stored samples of a split again, with new noise, and returns q(z|x) at each observation x.

    Args:
        data: makes the observations. split: the split of the samples. encoder: q(z|x), Gaussian.
    """

    def __init__(self, data: EvaluationData, split: str, encoder: Any) -> None:
        self.data, self.split, self.encoder, self.step = data, split, encoder, 0
        self.most = max(1, min(AT_ONCE, COORDINATES // data.first_samples(split, 1)[0].numel()))

    @torch.no_grad()
    def __call__(self, index: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of q(z|x) at `times` observations of each sample, each (times, B, d)."""
        images = index.split(max(1, self.most // times))
        parts = [[self._encode(part, n) for n in chunks(times, self.most)] for part in images]
        loc, scale = (torch.cat([torch.cat([encoded[i] for encoded in part]) for part in parts], 1) for i in (0, 1))
        return loc, scale

    def _encode(self, index: Tensor, times: int) -> tuple[Tensor, Tensor]:
        self.step += 1
        x = self.data.reobserve(self.split, index, times, self.step, index.device)
        base = self.encoder(x.flatten(0, 1)).base_dist
        return base.loc.unflatten(0, (times, -1)), base.scale.unflatten(0, (times, -1))


def chunks(n: int, most: int) -> list[int]:
    """Sizes of at most `most` that add up to n."""
    return [min(most, n - start) for start in range(0, n, most)]


def between_images(
    z: Tensor, index: Tensor, images: Tensor, reobserve: Reobserver, times: int, total: int | None
) -> tuple[Tensor, Tensor]:
    """For each sample its term of a bound on I(m;z), and log r(z) with a Gaussian for each image, (n,) in nats each.

    See `image_bounds`.

    Args:
        z, index: samples and their images. images: the distinct images, in increasing order.
        times: number of observations of each image to which its Gaussian is fitted, at least 2.
        total: the number of images of which q(x) is the uniform distribution; None if the images are draws of a population.
            A sample is then evaluated without its own image. The covariance must not depend on that image either, so each half
            of the images uses the covariance of the other half.
    """
    loc, scale = reobserve(images, times)
    image = torch.searchsorted(images, index)
    if total is not None:
        return image_bounds(z, image, image_distributions(loc, scale), total=total)
    information, log_r = (torch.empty(len(z), dtype=torch.float64, device=z.device) for _ in range(2))
    mean = loc.double().mean(0)
    for half in (0, 1):
        other = torch.arange(1 - half, len(images), 2, device=z.device)
        distributions = ImageDistributions(mean, image_distributions(loc[:, other], scale[:, other]).whiten)
        in_half = image % 2 == half
        information[in_half], log_r[in_half] = image_bounds(z[in_half], image[in_half], distributions, leave_out=True)
    return information, log_r


def within_images(images: Tensor, reobserve: Reobserver, times: int, seed: int) -> Tensor:
    """Lower bounds on I(x;z|m) for `IMAGES` images, from `times` observations of each: in nats, each at most log times."""
    noise = Noise(seed, "within images")
    values = []
    for step, image in enumerate(images[noise.permutation("image", 0, len(images))[:IMAGES].to(images.device)]):
        loc, scale = (parameter.squeeze(1) for parameter in reobserve(image.unsqueeze(0), times))
        own = torch.arange(min(EVALUATED, times), device=images.device)
        z = loc[own] + scale[own] * noise.normal("z", step, tuple(loc[own].shape), images.device)
        values.append(aggregate_bounds(z, loc, scale, own)[0].mean())
    return torch.stack(values)
