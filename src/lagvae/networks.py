"""Neural networks that parameterise distributions and critics. They map tensors to tensors, without randomness.

A network is built as `network(shape_in, shape_out)`. That of a decoder is built for (d,) and the shape of x, that of an
encoder for the shape of x and what q(z|x) needs: (2, d) for posterior=gaussian, μ and σ; (4, d) for implicit; (d,) for point,
normal and laplace; one output for each class and each uniform code for codes. Ensembles map a network over their members, so it
must work under `torch.func.vmap`: no branch on a value, and no batch normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lagvae.errors import LagvaeError, SettingError
from lagvae.introspection import device_of, evaluating, first_line, full_name, is_of_lagvae

Network = Callable[..., nn.Module]  # (shape_in, shape_out) -> module


def build_network(network: Network, shape_in: Sequence[int], shape_out: Sequence[int], key: str) -> nn.Module:
    """Build a network, and try a user-defined one on a batch.

    Args:
        network: a class, or a partial of one. key: the setting that names it, for messages.

    Raises: SettingError, with the class and the shapes, if it cannot be built, fails, or gives outputs of another shape.

    Examples:
        >>> build_network(MLP, (1, 8, 8), (2, 16), key="model.encoder")(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2, 16])
    """
    given, wanted, name = tuple(shape_in), tuple(shape_out), full_name(network)
    if is_of_lagvae(network):
        return network(given, wanted)
    try:
        module = network(given, wanted)
    except LagvaeError:
        raise
    except Exception as error:  # user code can raise anything
        raise SettingError(
            f"{key}: {name} cannot be built from (shape_in, shape_out) = ({given}, {wanted}): {first_line(error)}."
        ) from error
    batch = torch.zeros(2, *given, device=device_of(module))
    try:
        with evaluating(module):
            out: Any = module(batch)
    except Exception as error:
        raise SettingError(
            f"{key}: {name} fails on a batch of shape {(2, *given)}: {first_line(error)}. It gets (B, *shape_in) and must give "
            f"(B, *shape_out), with shape_in = {given} and shape_out = {wanted}."
        ) from error
    found = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
    if found != (2, *wanted):
        raise SettingError(
            f"{key}: {name} gives {found} for a batch of shape {(2, *given)}; it must give {(2, *wanted)}, a tensor of shape "
            f"(B, *shape_out) with shape_out = {wanted}."
        )
    return module


class LeakyReLU(nn.LeakyReLU):
    """Leaky ReLU with slope 0.2 for negative inputs, the usual activation of critics."""

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
    """Return the activation class with a given name.

    Raises: SettingError for an unknown name.

    Examples:
        >>> activation_named("gelu")
        <class 'torch.nn.modules.activation.GELU'>
    """
    if name not in ACTIVATIONS:
        raise SettingError(f"activation={name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def _check_widths(name: str, widths: Sequence[int], least: int = 0) -> None:
    """Raise SettingError for widths of layers that are not positive, or for fewer than `least` of them."""
    if len(widths) < least or any(width < 1 for width in widths):
        count = ", and at least one of them" if least else ""
        raise SettingError(f"{name}={list(widths)} must be widths of layers, each at least 1{count}.")


def _check_convolutions(channels: Sequence[int], hidden: int, blocks: int) -> None:
    _check_widths("channels", channels, least=1)
    _check_widths("hidden", [hidden])
    if blocks < 0:
        raise SettingError(f"blocks={blocks} must be a number of residual blocks, at least 0.")


class MLP(nn.Module):
    """A multilayer perceptron that maps inputs of one shape to outputs of another.

    Args:
        shape_in: shape of one input, without the batch axis.
        shape_out: shape of one output, without the batch axis.
        hidden: widths of the hidden layers.
        activation: a key of `ACTIVATIONS`.

    Shapes: (B, *shape_in) → (B, *shape_out).

    Raises: SettingError for an unknown activation.

    Examples:
        >>> network = MLP((1, 8, 8), (2, 16), hidden=[64])
        >>> network(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2, 16])
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
        _check_widths("hidden", hidden)
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


class ResidualBlock(nn.Module):
    """x + g · conv₁ₓ₁(act(conv₃ₓ₃(act(x)))), with half as many channels in between, and a learned factor g that starts at 0.

    Without normalisation, since a block starts as the identity (SkipInit).

    Args:
        channels: C, of input and output.
        act: class of the activation.

    Shapes: (B, C, H, W) → (B, C, H, W).

    Reference: van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS 2017 (the block); De, Smith,
        Batch Normalization Biases Residual Blocks Towards the Identity Function, NeurIPS 2020 (the factor).

    Examples:
        >>> x = torch.randn(5, 8, 4, 4)
        >>> bool((ResidualBlock(8, nn.GELU)(x) == x).all())
        True
    """

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.branch = nn.Sequential(act(), nn.Conv2d(channels, inner, 3, padding=1), act(), nn.Conv2d(inner, channels, 1))
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.branch(x)


class ConvEncoder(nn.Module):
    """A residual network: strided convolutions, each of which halves height and width and is followed by residual blocks.

    A perceptron with one hidden layer comes last.

    Args:
        shape_in: (C, H, W), shape of one image; H and W must be at least 2 ** len(channels).
        shape_out: shape of one output, without the batch axis.
        channels: output channels of each strided convolution; None for `default_channels`.
        hidden: width of the hidden layer.
        activation: a key of `ACTIVATIONS`.
        blocks: number of residual blocks after each strided convolution.

    Shapes: (B, C, H, W) → (B, *shape_out).

    Raises: SettingError for inputs that are not images or are too small, or an unknown activation.

    Examples:
        >>> ConvEncoder((3, 32, 32), (2, 16), blocks=1)(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 2, 16])
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        channels: Sequence[int] | None = (32, 64),
        hidden: int = 256,
        activation: str = "gelu",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        channels = default_channels(shape_in) if channels is None else channels
        c, h, w = _image_shape(shape_in, len(channels))
        act = activation_named(activation)
        _check_convolutions(channels, hidden, blocks)
        layers: list[nn.Module] = []
        for width in channels:
            layers += [nn.Conv2d(c, width, 4, stride=2, padding=1), *(ResidualBlock(width, act) for _ in range(blocks)), act()]
            c, h, w = width, h // 2, w // 2
        layers += [nn.Flatten(), nn.Linear(c * h * w, hidden), act(), nn.Linear(hidden, prod(shape_out))]
        self.layers = nn.Sequential(*layers)
        self.shape_out = tuple(shape_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out.unflatten(1, self.shape_out)


class ConvDecoder(nn.Module):
    """A residual network: a perceptron with one hidden layer, then residual blocks before each of some transposed convolutions.

    Each transposed convolution doubles height and width. The result is cropped to H × W.

    Args:
        shape_in: shape of one input, without the batch axis.
        shape_out: (C, H, W), shape of one image; H and W must be at least 2 ** len(channels).
        channels: input channels of each transposed convolution; None for `default_channels` in the reverse order.
        hidden: width of the hidden layer.
        activation: a key of `ACTIVATIONS`.
        blocks: number of residual blocks before each transposed convolution.

    Shapes: (B, *shape_in) → (B, C, H, W).

    Raises: SettingError for outputs that are not images or are too small, or an unknown activation.

    Examples:
        >>> ConvDecoder((16,), (3, 32, 32), blocks=1)(torch.zeros(5, 16)).shape
        torch.Size([5, 3, 32, 32])
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        channels: Sequence[int] | None = (64, 32),
        hidden: int = 256,
        activation: str = "gelu",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        channels = default_channels(shape_out)[::-1] if channels is None else channels
        out, h, w = _image_shape(shape_out, len(channels))
        act = activation_named(activation)
        _check_convolutions(channels, hidden, blocks)
        factor = 2 ** len(channels)
        start = (channels[0], -(-h // factor), -(-w // factor))
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(prod(shape_in), hidden), act(), nn.Linear(hidden, prod(start))]
        layers.append(nn.Unflatten(1, start))
        for a, b in pairwise([*channels, out]):
            layers += [*(ResidualBlock(a, act) for _ in range(blocks)), act()]
            layers.append(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)
        self.size = (h, w)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.layers(z)
        return out[..., : self.size[0], : self.size[1]]


def default_channels(shape: Sequence[int]) -> tuple[int, ...]:
    """The channels of a convolutional network for images (C, H, W): so many halvings that the shorter side becomes 4 to 7.

    Examples:
        >>> default_channels((1, 28, 28)), default_channels((3, 64, 64))
        ((32, 64), (32, 64, 128, 128))
    """
    halvings = max((min(shape[-2:]) // 4).bit_length() - 1, 1) if len(shape) == 3 else 1
    return tuple(min(32 * 2**k, 128) for k in range(halvings))


class SquareMotion(nn.Module):
    """Translates square images by a soft choice among the eight symmetries of the square, followed by a map of pixel values.

    The eight rotated and reflected copies of an image are averaged with learned weights (a softmax, uniform at the start), and
    every pixel of the average then passes through one small perceptron. Meant for two image domains that differ by a rotation
    or reflection and by their pixel values: many maps transport one distribution to the other, and an unrestricted network
    has no reason to prefer the true one.

    Args:
        shape_in, shape_out: (C, H, H), or the flattened shape (C·H·H,); at least one of them must be (C, H, H).
        hidden: width of the perceptron that is applied to every pixel.
        sharpness: factor of the softmax's logits a: the weights are softmax(sharpness · a).
        activation: a key of `ACTIVATIONS`.

    Shapes: (B, *shape_in) → (B, *shape_out).

    Raises: SettingError if neither shape is that of square images, or if their sizes differ.

    Examples:
        >>> motion, x = SquareMotion((1, 8, 8), (64,)), torch.rand(5, 1, 8, 8)
        >>> motion(x).shape
        torch.Size([5, 64])
        >>> torch.allclose(motion(x), motion(torch.rot90(x, 1, (-2, -1))), atol=1e-5)  # all weigh the same at the start
        True
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
                "A translation of square images maps images of shape (C, H, H) to images of the same shape, not "
                f"{tuple(shape_in)} to {tuple(shape_out)}; use model=mlp."
            )
        self.image, self.shape_out, self.sharpness = image, tuple(shape_out), sharpness
        self.choice = nn.Parameter(torch.zeros(8))
        channels, act = image[0], activation_named(activation)
        self.tones = nn.Sequential(nn.Conv2d(channels, hidden, 1), act(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, *self.image)
        copies = [torch.rot90(side, k, (-2, -1)) for side in (x, x.flip(-1)) for k in range(4)]
        weights = (self.sharpness * self.choice).softmax(0)
        average = torch.stack([w * copy for w, copy in zip(weights, copies, strict=True)]).sum(0)
        out: Tensor = self.tones(average)
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
