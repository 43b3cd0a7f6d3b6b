"""Arrays of any type and layout as x: the one rule for training data, for scikit-learn and for a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lagvae.errors import DataError

FULL = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
"""Type of levels → the largest level, which is taken as 1. Arrays of all other types are numbers, used as they are."""

LAYOUTS = ("auto", "channels_first", "channels_last", "grey", "as_is")
"""(N, C, H, W) and (N, H, W, C) and (N, H, W) become (N, C, H, W); as_is leaves an array as it is; auto recognises them."""

CHANNELS = (1, 3, 4)
"""Numbers of channels that are recognised: grey, colour, colour with an alpha channel."""

SMALLEST_IMAGE = 5
"""Arrays (N, H, W) of levels are images from this height and width on; below it, they may be a few columns."""

EXTREME = 1e6
"""A number is refused where it is this many times larger than is typical, or than 1 where that is less."""

ROUNDED = 0.01
"""A column is refused where neighbouring floats of 32 bits are further apart than this share of its standard deviation."""

LONG = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
"""Types with numbers that floats of 32 bits round."""

ALLOWED = ("extreme", "rounding")
"""What is refused unless data.allow has it: values that are absurdly large, and columns that 32 bits cannot resolve."""

SOME_ROWS = 1000
"""Number of rows by which the typical size of a column is found."""


@dataclass(frozen=True)
class Standardization:
    """Numbers less their mean, divided by their standard deviation, both found in the training rows; and back.

    Attributes:
        mean, scale: of the shape of one x, float64.

    Examples:
        >>> units = Standardization.of(torch.tensor([[1.0, 7.0], [3.0, 7.0], [torch.nan, 7.0]]))
        >>> units.mean.tolist(), units.scale.tolist()  # a constant column has no scale of its own
        ([2.0, 7.0], [1.0, 1.0])
        >>> units.undo(units.apply(torch.tensor([[5.0, 8.0]]))).tolist()
        [[5.0, 8.0]]
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, columns: int | None = None) -> Standardization:
        """That of rows x, (N, *shape), without NaN; with `columns` all but so many first columns keep their values."""
        x = x.double()
        mean = x.nanmean(0)
        scale = (x - mean).square().nanmean(0).sqrt()
        # Rounding leaves a trace of a deviation in a column of one value.
        scale = torch.where(scale > 1e-14 * mean.abs(), scale, torch.ones_like(scale))
        if columns is not None:
            mean[columns:], scale[columns:] = 0.0, 1.0
        return cls(mean, scale)

    def apply(self, x: Tensor) -> Tensor:
        """x (N, *shape) in standard deviations from the mean, float32."""
        return ((x.double() - self.mean.to(x.device)) / self.scale.to(x.device)).float()

    def undo(self, x: Tensor) -> Tensor:
        """x (N, *shape) in its own units, float64."""
        return x.double() * self.scale.to(x.device) + self.mean.to(x.device)

    def as_dict(self) -> dict[str, list[Any]]:
        """The numbers as plain values, which a checkpoint holds."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Standardization:
        """What `as_dict` described."""
        return cls(*(torch.tensor(plain[name], dtype=torch.float64) for name in ("mean", "scale")))


def as_tensor(x: Any, named: str, wanted: str = "a dense array of real numbers") -> Tensor:
    """A dense tensor that shares memory with x where that is possible. Raises DataError for anything but real numbers."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        plain = np.float64 if x.dtype.kind == "f" and x.dtype.itemsize > 8 else x.dtype.newbyteorder("=")
        x = np.ascontiguousarray(x, plain).reshape(x.shape)  # ascontiguousarray gives a number an axis
        x = torch.from_numpy(x if x.flags.writeable else x.copy())
    if isinstance(x, Tensor) and not x.is_complex() and x.layout is torch.strided:
        return x.detach()
    sparse = isinstance(x, Tensor) and x.layout is not torch.strided
    kind = f"{x.layout} {x.dtype}" if sparse else getattr(x, "dtype", type(x).__name__)
    raise DataError(f"{named} is {kind}; it must be {wanted}.")


def type_name(x: Tensor) -> str:
    """The type as numpy calls it."""
    return str(x.dtype).removeprefix("torch.")


def divisor(*parts: Tensor) -> int:
    """What arrays of one type are divided by: 1 for numbers, and for levels that are all 0 or 1; otherwise the largest level.

    Examples:
        >>> levels = torch.tensor([[0, 128]], dtype=torch.uint8)
        >>> divisor(levels), divisor(levels // 128), divisor(levels.long())
        (255, 1, 1)
    """
    full = FULL.get(parts[0].dtype, 1)
    return full if full > 1 and any(largest(x) > 1 for x in parts) else 1


def value_words(x: Tensor, by: int) -> str | None:
    """What becomes of the values of an array that is divided by `by`, in words; None for floats, which stay as they are."""
    kind = type_name(x)
    if by > 1:
        return f"{kind} levels 0 … {by} are divided by {by}"
    if x.dtype in FULL:
        return f"{kind} of zeros and ones is taken as 0 and 1"
    return None if x.is_floating_point() else f"{kind} numbers are used as they are"


def layout_words(x: Tensor, found: Tensor) -> str | None:
    """How the axes of an array were arranged, in words; None where they are as they were."""
    if found.shape == x.shape:
        return None
    kind = "images without channels" if found.ndim > x.ndim else "images with channels last"
    return f"({', '.join(map(str, ('N', *x.shape[1:])))}) are {kind}, so x is {tuple(found.shape[1:])}"


def largest(x: Tensor) -> float:
    """The largest value, 0 where there is none."""
    x = x.double() if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x  # torch has few operations for these types
    return float(x.max()) if x.numel() else 0.0


def stored(x: Tensor, by: int) -> Tensor:
    """x / by in the form in which samples are kept: uint8 that stands for x / 255 where that holds all levels, else float32.

    Examples:
        >>> stored(torch.tensor([True, False]), 1)
        tensor([255,   0], dtype=torch.uint8)
    """
    if x.dtype == torch.uint8 and by == 255:
        return x
    if x.dtype in (torch.bool, torch.uint8):
        return x.to(torch.uint8) * 255
    return x.float() / by if by > 1 else x.float()


def as_float(x: Tensor) -> Tensor:
    """Stored samples as floating point numbers: uint8 is divided by 255, others are returned as they are.

    Examples:
        >>> as_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return x.float() / 255 if x.dtype == torch.uint8 else x


def arranged(x: Tensor, layout: str, named: str) -> Tensor:
    """An array in the layout (N, C, H, W) where it holds images, otherwise as it is.

    Args:
        layout: one of `LAYOUTS`. named: what holds the array, for messages.

    Raises: DataError where "auto" has two readings, or for an array that has not the axes of the layout.

    Examples:
        >>> arranged(torch.zeros(9, 32, 32, 3), "auto", "x").shape
        torch.Size([9, 3, 32, 32])
    """
    if layout == "auto":
        layout = recognised(x, named)
    axes = {"channels_first": 4, "channels_last": 4, "grey": 3}.get(layout, x.ndim)
    if x.ndim != axes:
        raise DataError(
            f"{named} has the shape {tuple(x.shape)}, and data.layout={layout} is for arrays with {axes} axes; leave it out, "
            "or set data.layout=as_is."
        )
    if layout == "channels_last":
        return x.movedim(-1, 1).contiguous()
    return x.unsqueeze(1) if layout == "grey" else x


def recognised(x: Tensor, named: str) -> str:
    """The layout of an array. Raises DataError where there are two readings."""
    if x.ndim == 3:
        height, width = x.shape[1:]
        images = height == width > 1 or (x.dtype in FULL and min(height, width) >= SMALLEST_IMAGE)
        return "grey" if images else "as_is"
    if x.ndim != 4:
        return "as_is"
    a, b, c = x.shape[1:]
    first, last = a in CHANNELS, c in CHANNELS
    if first and last and not a == b == c == 1:
        if (b == c) == (a == b):  # neither reading or both are square images
            raise DataError(
                f"{named} has the shape {tuple(x.shape)}, whose channels may come first or last; say which with "
                "data.layout=channels_first or data.layout=channels_last."
            )
        first = b == c
    return "channels_last" if last and not first else "as_is"


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows for a model of x with `shape`: images with channels last or without channels are arranged as it takes them."""
    # An x of `shape` itself, which for one channel could also be a row (1, H, W), is one without its axis of rows.
    if x.ndim and shape not in (x.shape, x.shape[1:]) and len(shape) == 3 and shape[0] in CHANNELS:
        if x.shape[1:] == (*shape[1:], shape[0]):
            return x.movedim(-1, 1)
        if shape[0] == 1 and x.shape[1:] == shape[1:]:
            return x.unsqueeze(1)
    return x


def place(index: Tensor, names: Sequence[str] | None = None) -> str:
    """Where in an array (N, …) a value is, in words; counted from 0 where columns have no `names`."""
    row, *rest = index.tolist()
    if names is not None:
        return f"row {row}, column {names[rest[0]]!r}"
    return f"row {row}, column {rest[0]}" if len(rest) == 1 else f"row {row}, position {tuple(rest)}"


def column(k: int, shape: tuple[int, ...], names: Sequence[str] | None = None) -> str:
    """The k-th value of a sample of some shape, in words; counted from 0 where columns have no `names`."""
    if names is not None:
        return f"column {names[k]!r}"
    where = tuple(map(int, np.unravel_index(k, shape)))
    return f"column {k}" if len(shape) == 1 else f"position {where}"


def check_numbers(x: Tensor, given: Tensor, named: str, allow: Sequence[str] = (), names: Sequence[str] | None = None) -> None:
    """Raise DataError for an array (N, …) of numbers that cannot be used, or not without a change.

    That is NaN, infinite values, and, unless `allow` has them (see `ALLOWED`), values that are absurdly large and columns whose
    differences are lost in floats of 32 bits.

    Args:
        x: the numbers as they are kept, float32. given: as they were given. names: of the columns.
    """
    bad = ~x.isfinite()
    if count := int(bad.sum()):
        index = bad.nonzero()[0]
        finite = bool(given[tuple(index)].isfinite())
        what = "values that are too large for floats of 32 bits" if finite else "NaN or infinite values"
        cure = "rescale them, such as by their logarithm" if finite else "remove or replace them"
        raise DataError(
            f"{named} has {what}, {count} of {x.numel()}, the first in {place(index, names)}, counted from 0; {cure}."
        )
    rows = x.flatten(1)
    step = max(1, len(rows) // SOME_ROWS)
    most = torch.maximum(rows.amax(0), -rows.amin(0))
    if "extreme" not in allow:
        some = rows[::step].abs()
        some = torch.where(some > 0, some, torch.nan)  # a column of few values other than 0 is nothing unusual
        typical = torch.fmax(some.nanmedian(0).values, some.nanmedian()).fmax(torch.ones(()))
        if (above := most > EXTREME * typical).any():
            k = int(above.nonzero()[0])
            row = int(rows[:, k].abs().argmax())
            raise DataError(
                f"{named} has an extreme value: row {row}, {column(k, tuple(x.shape[1:]), names)}, counted from 0, is "
                f"{float(rows[row, k]):g}, where the typical size is {float(some[:, k].nanmedian()):.2g}. Correct or remove "
                "it, or rescale the column, such as by its logarithm; data.allow=[extreme] takes such values as they are."
            )
    if "rounding" in allow or given.dtype not in LONG:
        return
    spread = given.flatten(1)[::step].double().std(0)
    apart = torch.from_numpy(np.spacing(most.numpy())).double()
    if (coarse := (spread > 0) & (apart > ROUNDED * spread)).any():
        k = int(coarse.nonzero()[0])
        raise DataError(
            f"{named} would be rounded: {column(k, tuple(x.shape[1:]), names)}, counted from 0, has values up to "
            f"{float(most[k]):g} with a standard deviation of {float(spread[k]):.3g}, and floats of 32 bits are "
            f"{float(apart[k]):.3g} apart there. Set data.standardize=true, or subtract its mean and divide by its standard "
            "deviation; data.allow=[rounding] takes rounded values."
        )
