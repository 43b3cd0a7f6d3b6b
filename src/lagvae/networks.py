"""Networks that parameterise laws: tensors in, tensors out, no probability in here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from lagvae.errors import SettingError


class LeakyReLU(nn.LeakyReLU):
    """The usual activation of critics, with slope 0.2 below zero."""

    def __init__(self) -> None:
        super().__init__(0.2)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "leaky_relu": LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_named(name: str) -> type[nn.Module]:
    """The activation class of that name; SettingError where there is none."""
    if name not in ACTIVATIONS:
        raise SettingError(f"activation={name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """A fully connected network between two shapes.

    Args:
        shape_in: shape of one input, without the batch axis.
        shape_out: shape of one output, without the batch axis.
        hidden: units of each hidden layer.
        activation: a key of `ACTIVATIONS`.

    Shapes: (B, *shape_in) → (B, *shape_out).
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        act = activation_named(activation)
        widths = [prod(shape_in), *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), act()]
        layers.append(nn.Linear(widths[-1], prod(shape_out)))
        self.layers = nn.Sequential(*layers)
        self.shape_out = tuple(shape_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.flatten(1))
        return out if len(self.shape_out) == 1 else out.unflatten(1, self.shape_out)


class ConvEncoder(nn.Module):
    """Strided convolutions that halve an image, then a linear layer.

    Shapes: (B, C, H, W) → (B, *shape_out). H and W must be at least 2 ** len(channels).
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        c, h, w = _image_shape(shape_in, len(channels))
        act = activation_named(activation)
        layers: list[nn.Module] = []
        for width in channels:
            layers += [nn.Conv2d(c, width, 4, stride=2, padding=1), act()]
            c, h, w = width, h // 2, w // 2
        layers += [nn.Flatten(), nn.Linear(c * h * w, hidden), act(), nn.Linear(hidden, prod(shape_out))]
        self.layers = nn.Sequential(*layers)
        self.shape_out = tuple(shape_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out.unflatten(1, self.shape_out)


class ConvDecoder(nn.Module):
    """A linear layer, then transposed convolutions that double an image, cut to size.

    Shapes: (B, *shape_in) → (B, C, H, W) = (B, *shape_out).
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        out, h, w = _image_shape(shape_out, len(channels))
        act = activation_named(activation)
        factor = 2 ** len(channels)
        start = (channels[0], -(-h // factor), -(-w // factor))
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(prod(shape_in), hidden),
            act(),
            nn.Linear(hidden, prod(start)),
            act(),
            nn.Unflatten(1, start),
        ]
        for a, b in pairwise(channels):
            layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), act()]
        layers.append(nn.ConvTranspose2d(channels[-1], out, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)
        self.size = (h, w)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.layers(z)
        return out[..., : self.size[0], : self.size[1]]


class SquareMotion(nn.Module):
    """A translation of square images: one of the eight symmetries of the square, chosen softly, then a map of tones.

    The image is a mean of its eight turned and mirrored copies under learned weights (a softmax that starts uniform), and
    then every pixel goes through one small perceptron. For domains that differ by a motion and by tone: a general network has
    nothing that would tell the true translation from the many others that map one law to the other.

    Args:
        shape_in, shape_out: (C, H, H), or the same numbers flat.
        hidden: units of the map of tones.
        sharpness: how fast the choice becomes sure: the weights are softmax(sharpness · a).

    Raises: SettingError where neither shape is of square images.
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        hidden: int = 16,
        sharpness: float = 2.0,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        image = next((tuple(s) for s in (shape_in, shape_out) if len(s) == 3), None)
        if image is None or image[1] != image[2] or prod(shape_in) != prod(image) or prod(shape_out) != prod(image):
            raise SettingError(
                "A translation of square images takes and gives images (C, H, H), not "
                f"{tuple(shape_in)} and {tuple(shape_out)}; use model=mlp."
            )
        self.image, self.shape_out, self.sharpness = image, tuple(shape_out), sharpness
        self.choice = nn.Parameter(torch.zeros(8))
        channels, act = image[0], activation_named(activation)
        self.tones = nn.Sequential(nn.Conv2d(channels, hidden, 1), act(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, *self.image)
        copies = [torch.rot90(side, k, (-2, -1)) for side in (x, x.flip(-1)) for k in range(4)]
        weights = (self.sharpness * self.choice).softmax(0)
        moved = torch.stack([w * copy for w, copy in zip(weights, copies, strict=True)]).sum(0)
        out: Tensor = self.tones(moved)
        return out.reshape(-1, *self.shape_out)


def _image_shape(shape: Sequence[int], halvings: int) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise SettingError(
            f"A convolutional network needs data of shape (channels, height, width), not {tuple(shape)}; use model=mlp."
        )
    c, h, w = shape
    if min(h, w) < 2**halvings:
        raise SettingError(f"Images of {h}×{w} are too small for {halvings} halvings; use fewer channels or model=mlp.")
    return c, h, w
