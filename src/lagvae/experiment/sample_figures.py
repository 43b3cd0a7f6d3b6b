"""Figures of what a run made of series and of tables, and of its codes in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lagvae.data import DataModule
from lagvae.data.tables import Table
from lagvae.distributions import EmpiricalPrior, mean_of
from lagvae.errors import LagvaeError
from lagvae.experiment.data_picture import CHANNELS, PANELS, as_series, columns_of, name_categories, shortened
from lagvae.experiment.style import BLUE, ORANGE, SERIES
from lagvae.model import LatentVariableModel

ROWS = 2000
"""Number of rows, and of samples, that histograms and correlations are made of."""

CODES = 600
"""Number of test samples whose codes are drawn."""

NAMED_LABELS = 20
"""The largest number of labels that are drawn as texts, each in its colour."""

NAMED_COLUMNS = 16
"""The largest number of columns whose names stand beside their correlations."""


def rows_in_units(data: DataModule, n: int) -> Tensor:
    """The first n test samples in the units of the data."""
    x = data.first_samples("test", n)
    return x if data.standardization is None else data.standardization.undo(x)


def samples_of(model: LatentVariableModel, n: int, means: bool) -> Tensor | None:
    """Samples of a model, or the means of p(x|z); None where p(z) is the data of a second domain."""
    return None if isinstance(model.eval_model.prior, EmpiricalPrior) else model.sample(n, means=means).cpu()


def series_figures(model: LatentVariableModel, data: DataModule) -> dict[str, Figure]:
    """Series as lines: test series beside samples, and below their reconstructions."""
    x = rows_in_units(data, 8)
    figures = {}
    means = samples_of(model, 4, means=True)
    if means is not None:
        figure, axes = _panels("Test series (above) and samples E[x|z], z ∼ p(z) (below)")
        for axis, lines, colour in zip(axes, [*as_series(x)[:4], *as_series(means)], [BLUE] * 4 + [ORANGE] * 4, strict=False):
            _draw_lines(axis, lines, colour if lines.shape[1] == 1 else None)
        figures["samples"] = figure
    made = as_series(model.reconstruct(x))
    figure, axes = _panels("Test series (solid) and reconstructions (dashed)")
    for axis, true, again in zip(axes, as_series(x), made, strict=False):
        _draw_lines(axis, true, BLUE if true.shape[1] == 1 else None)
        _draw_lines(axis, again, ORANGE if true.shape[1] == 1 else None, linestyle="--")
    figures["reconstructions"] = figure
    return figures


def _panels(title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    figure.supxlabel("step", fontsize=9)
    return figure, [*axes.flatten()]


def _draw_lines(axis: Axes, lines: Tensor, colour: str | None, linestyle: str = "-") -> None:
    axis.set_prop_cycle(color=SERIES)  # solid and dashed lines of one value have the same colour
    axis.plot(lines[:, :CHANNELS].cpu().numpy(), color=colour, linestyle=linestyle, linewidth=1)


def table_figures(model: LatentVariableModel, data: DataModule) -> dict[str, Figure]:
    """Test rows and samples x ∼ p(x): a histogram for each column, and the correlations of numbers."""
    rows, drawn = rows_in_units(data, ROWS), samples_of(model, ROWS, means=False)
    if drawn is None:
        return {}
    x, samples = columns_of(rows, data.arrays.table), columns_of(drawn, data.arrays.table)
    figures = {"marginals": marginals(x, samples, data.arrays.table)}
    numbers = [name for name, values in x.items() if values.shape == (len(rows), 1)]  # without gaps
    if len(numbers) > 1:
        figures["correlations"] = correlations(*({name: of[name] for name in numbers[:PANELS]} for of in (x, samples)))
    return figures


def marginals(x: Mapping[str, Tensor], samples: Mapping[str, Tensor], table: Table | None = None) -> Figure:
    """A panel for each column with the distributions of its values in data and in samples.

    Args:
        x, samples: name → numbers (n, 1), or categories one-hot, (n, K), by `columns_of`.
        table: what the categories are called.
    """
    names = list(x)[:PANELS]
    across = min(len(names), 6)
    down = ceil(len(names) / across)
    figure = Figure(figsize=(1.5 * across + 0.6, 1.25 * down + 0.8), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(shortened(name), loc="left", fontsize=8, parse_math=False)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
        axis.xaxis.get_offset_text().set_fontsize(7)
        true, made = x[name].double(), samples[name].double()
        if true.shape[1] > 1:
            places = torch.arange(true.shape[1])
            axis.bar(places - 0.2, true.mean(0), 0.4, color=BLUE, label="test data")
            axis.bar(places + 0.2, made.mean(0), 0.4, color=ORANGE, label="samples")
            name_categories(axis, name, len(places), table)
            continue
        shares = torch.tensor([0.002, 0.998], dtype=torch.float64)
        low, high = torch.cat([true.flatten(), made.flatten()]).quantile(shares).tolist()
        count = min(30, ceil(2 * len(true) ** (1 / 3)))  # by Rice's rule
        axis.locator_params(axis="x", nbins=3)
        axis.ticklabel_format(axis="x", scilimits=(-3, 4))
        bins = torch.linspace(low, high, count + 1).numpy() if low < high else count
        axis.hist(true.flatten().numpy(), bins, density=True, color=BLUE, alpha=0.5, label="test data")
        axis.hist(made.flatten().numpy(), bins, density=True, color=ORANGE, histtype="step", linewidth=1.3, label="samples")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8)
    which = f", the first {len(names)} of {len(x)} columns" if len(x) > len(names) else ""
    figure.suptitle(f"Test data and samples x ∼ p(x){which}", x=0.01, ha="left", fontsize=9)
    return figure


def correlations(x: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Figure:
    """The correlations of columns of numbers, in data and in samples."""
    names = list(x)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, columns, title in zip(axes, (x, samples), ("Test data", "Samples x ∼ p(x)"), strict=True):
        matrix = torch.corrcoef(torch.cat([columns[name].double() for name in names], 1).mT).nan_to_num()
        shown = axis.imshow(matrix.numpy(), cmap="PuOr", vmin=-1, vmax=1)
        axis.set_title(f"{title}: correlations", loc="left")
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
    if len(names) <= NAMED_COLUMNS:
        axes[0].set_yticks(range(len(names)), [shortened(name) for name in names], fontsize=7, parse_math=False)
    figure.colorbar(shown, ax=axes, shrink=0.7)
    return figure


def mean_codes(model: LatentVariableModel, x: Tensor) -> Tensor | None:
    """The means of q(z|x), (N, d), on the CPU; None where they are not defined, not finite or of a single coordinate."""
    try:
        z = mean_of(model.eval_model.encoder(x)).flatten(1).cpu()
    except LagvaeError:
        return None
    return z if z.shape[1] > 1 and bool(z.isfinite().all()) else None


def codes_plane(model: LatentVariableModel, data: DataModule) -> Figure | None:
    """The mean codes of test samples in the plane of the two coordinates that vary most, each with its label."""
    z = mean_codes(model, data.first_samples("test", CODES, model.device))
    if z is None:
        return None
    first, second = z.var(0).argsort(descending=True)[:2].tolist()
    labels = data.labels("test")
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    known = [] if labels is None else sorted(set(labels[: len(z)].tolist()))
    if labels is None or len(known) > NAMED_LABELS:
        values = {"c": BLUE} if labels is None else {"c": labels[: len(z)].numpy(), "cmap": "viridis"}
        shown = axis.scatter(z[:, first], z[:, second], s=8, **values)
        if labels is not None:
            figure.colorbar(shown, ax=axis, label="label")
    else:
        colour = matplotlib.colormaps["viridis"]  # without its end, which is light
        for k, label in enumerate(known):
            rows = z[labels[: len(z)] == label]
            axis.scatter(
                rows[:, first], rows[:, second], s=28, color=colour(0.85 * k / len(known)), marker=f"${label}$", linewidths=0.2
            )
    axis.set_xlabel(f"z[{first}]")
    axis.set_ylabel(f"z[{second}]")
    axis.set_title("Mean codes of test samples" + (", by label" if labels is not None else ""), loc="left")
    return figure
