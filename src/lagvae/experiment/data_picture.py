"""A picture of eight samples, drawn as the data are: images, series as lines, tables as the histogram of each column."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lagvae.data import DataModule
from lagvae.data.conversion import as_float
from lagvae.data.tables import Table
from lagvae.experiment.data_profile import IMAGES, DataProfile, in_own_units
from lagvae.experiment.style import BLUE, ORANGE, STYLE, as_picture, tile
from lagvae.io import write_atomically

SAMPLES = 8

PANELS = 24
"""Number of columns of a table that are drawn."""

CHANNELS = 6
"""Number of values of a series that are drawn."""

ROWS = 5000
"""Number of rows that a histogram is made of."""


def draw_data(path: Path, data: DataModule, profile: DataProfile) -> None:
    """Draw the first eight training samples to a PNG."""
    with matplotlib.rc_context(STYLE):
        if profile.images or len(profile.shape) > 2:
            figure = _images(data, profile)
        elif len(profile.shape) == 2:
            figure = _series(data, profile)
        else:
            figure = _table(data, profile)
        write_atomically(path, lambda part: figure.savefig(part, bbox_inches="tight"), "Name another file with picture=FILE.")


def _stored(data: DataModule, n: int) -> Tensor:
    """The first n training samples in their own units, before any noise of observation."""
    x = as_float(data.arrays.x[data.split["train"][:n]])
    return x if data.standardization is None else in_own_units(x, data.standardization)


def range_of(data: DataModule) -> tuple[float, float]:
    """The least and the largest value of data in their own units; of the first rows where they are standardised."""
    if data.standardization is None:
        return data.value_range
    x = _stored(data, ROWS)
    return float(x.min()), float(x.max())


def as_images(x: Tensor) -> tuple[Tensor, str]:
    """Arrays (N, …, H, W) as images (N, C, H, W) of one or three channels, and in words what of them is left out.

    Of a volume or a video it is the slice or the frame in its middle, whose channels may come first or last.

    Examples:
        >>> as_images(torch.zeros(2, 9, 32, 32))[0].shape, as_images(torch.zeros(2, 5, 8, 8, 3))[0].shape
        (torch.Size([2, 1, 32, 32]), torch.Size([2, 3, 8, 8]))
        >>> as_images(torch.zeros(2, 9, 32, 3))[0].shape  # 9 slices, 3 wide
        torch.Size([2, 1, 32, 3])
    """
    words, video = "", x.dim() > 4
    while x.dim() > 4:
        x, words = x[:, x.shape[1] // 2], ", cut in the middle"
    if video and x.shape[1] not in IMAGES and x.shape[-1] in (3, 4):
        x = x.movedim(-1, 1)
    if x.shape[1] not in IMAGES:
        x, words = x[:, x.shape[1] // 2].unsqueeze(1), ", cut in the middle"
    return (x[:, :3], f"{words} without their alpha channel") if x.shape[1] == 4 else (x, words)


def as_series(x: Tensor) -> Tensor:
    """Series as (N, T, C): of (N, a, b) the longer axis holds the steps, or the first of both where each is long.

    Examples:
        >>> as_series(torch.zeros(2, 40, 3)).shape, as_series(torch.zeros(2, 3, 40)).shape
        (torch.Size([2, 40, 3]), torch.Size([2, 40, 3]))
    """
    return x.mT if x.shape[1] < x.shape[2] and x.shape[1] <= CHANNELS else x


def _images(data: DataModule, profile: DataProfile) -> Figure:
    """A row of the stored images and, where they are binarised, a row as the model sees them."""
    (x, words), (low, high) = as_images(_stored(data, SAMPLES)), range_of(data)
    title = f"{profile.name}: samples of shape {profile.shape}{words}"
    x = (x - low) / (high - low or 1.0)
    rows = [x]
    if data.is_stochastic and not profile.binary and profile.images:
        rows.append(data.first_samples("train", SAMPLES))
        title += "; below, as binarised for one batch"
    if (low, high) != (0.0, 1.0):
        title += f"; black is {low:.3g}, white {high:.3g}"
    figure = Figure(figsize=(8, 1.1 * len(rows) + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(as_picture(tile(torch.cat(rows), len(x))), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, loc="left")
    return figure


def _series(data: DataModule, profile: DataProfile) -> Figure:
    """A panel for each of eight series, a line for each of their values."""
    x = as_series(_stored(data, SAMPLES))
    steps, values = x.shape[1:]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True, squeeze=False).flatten()
    for k, (axis, series) in enumerate(zip(axes, x, strict=False)):
        axis.plot(series[:, :CHANNELS].numpy(), linewidth=1)
        axis.set_title(f"sample {k}", loc="left", fontsize=8)
    shown = f", the first {CHANNELS} drawn" if values > CHANNELS else ""
    figure.suptitle(
        f"{profile.name}: series of {steps} steps with {values} value{'s' if values > 1 else ''}{shown}", x=0.01, ha="left"
    )
    figure.supxlabel("step", fontsize=9)
    return figure


def shortened(name: str, most: int = 18) -> str:
    """The name of a column as it fits above its panel."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def columns_of(x: Tensor, table: Table | None) -> dict[str, Tensor]:
    """Name → the values of a column of rows x (N, D): numbers that are not missing, (n, 1), or categories one-hot, (N, K)."""
    if table is None:
        return {f"column {k}": x[:, k : k + 1] for k in range(x.shape[1])}
    there = {table.numbers - 1 - k: x[:, -1 - k] > 0.5 for k in range(table.missing)}
    return {name: x[:, place][there[k]] if k in there else x[:, place] for k, (name, place) in enumerate(table.slices.items())}


CATEGORY, CATEGORIES = 8, 20
"""The most letters of the name of a category, and of all the names that fit below a panel."""


def name_categories(axis: Axes, column: str, count: int, table: Table | None) -> None:
    """Write the names of categories below their bars, or where there is no room how many there are."""
    names = next((c.categories or () for c in table.columns if c.name == column), ()) if table is not None else ()
    short = [shortened(name, CATEGORY) for name in names]
    if short and len(set(short)) == len(short) and sum(map(len, short)) + len(short) <= CATEGORIES:
        axis.set_xticks(range(count), short, parse_math=False)
        axis.grid(False, axis="x")
        return
    axis.set_xticks([])
    axis.set_xlabel(f"{count} categories", fontsize=7)


def _table(data: DataModule, profile: DataProfile) -> Figure:
    """A histogram for each column, with a tick for each of eight rows; numbers of a table in their own units."""
    x, table, columns = _stored(data, ROWS), data.arrays.table, profile.columns
    found, first = columns_of(x, table), columns_of(x[:SAMPLES], table)
    shown = min(columns, PANELS)
    across = min(shown, 6)
    down = ceil(shown / across)
    figure = Figure(figsize=(1.5 * across + 0.6, 1.25 * down + 0.6), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[shown:]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes, found.items(), strict=False):
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
        axis.set_title(shortened(name), loc="left", fontsize=8, parse_math=False)
        rows = values.double()
        if rows.shape[1] > 1:
            axis.bar(range(rows.shape[1]), rows.sum(0).numpy(), color=BLUE)
            name_categories(axis, name, rows.shape[1], table)
            continue
        axis.hist(rows[:, 0].numpy(), bins=30, color=BLUE)
        axis.plot(first[name][:, 0].numpy(), torch.zeros(len(first[name])), "|", color=ORANGE, markersize=9, clip_on=False)
    which = f", the first {shown} drawn" if columns > shown else ""
    figure.suptitle(
        f"{profile.name}: {columns} column{'s' if columns > 1 else ''}{which}; ticks: the first {SAMPLES} training rows",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    return figure
