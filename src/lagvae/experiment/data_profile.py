"""What is to be known of data before a model is trained on them: what they are, and what in them is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from torch import Tensor

from lagvae.data import DataModule
from lagvae.data.conversion import Standardization, as_float, column
from lagvae.data.datamodule import LARGE_SPREAD, UNUSED_LEVELS
from lagvae.data.sources import ImageFiles
from lagvae.data.tables import Table, column_statistics
from lagvae.terminal import command, print_line, print_note, short_path

MOST_VALUES = 2**26
"""Number of values that are looked at; of larger data every k-th row is."""

SOME_VALUES = 2**20
"""Number of values by which quartiles, standard deviations and the mean are found."""

STREAMED = 200
"""Number of images that are read again where a folder is streamed."""

OUTLYING = 20.0
"""A number is an outlier where it is this many interquartile ranges outside of the quartiles of its column."""

UNUSUAL = 0.01
"""Share of the rows of a split from which on repeated rows are noted."""

FAR_APART = 100.0
"""Ratio of the standard deviations of two columns from which on it is noted."""

FEW_VALUES = 20
"""A column of more values than this is an amount; rows of amounts do not repeat by chance."""

DARK = 1 / UNUSED_LEVELS
"""Largest value of images in [0, 1] up to which they probably have fewer levels than their type allows."""

TINY = 0.03
"""Largest standard deviation of a column up to which the smallest scale of a Normal p(x|z), 0.01, is no longer small."""

NEARLY_ALL = 0.998
"""Share of pixels that are all set, or all not set, from which on it is noted."""

MOST_DETAILS = 40
"""Number of columns of a table whose content is said."""

NAMED = 5
"""Number of columns that a message names."""

IMAGES = {1: "grey images", 3: "colour images", 4: "images of four channels"}
"""Number of channels → what x is."""


@dataclass
class DataProfile:
    """What data are.

    Attributes:
        name: of the data. kind: what a sample is. shape: of one. stored: the type that the source gave. range: of x.
        streamed: whether x is image files, of which few were looked at and all were read.
        rows: split → number of samples. every: every so many-th row was looked at. classes: number of labels, if any.
        mean: of x, which for zeros and ones is the share that is set. binary: whether all values are 0 or 1.
        constant: columns that have one value. columns: number of columns.
        repeated: split → number of its rows that the training split also has, for "train" before them.
        distinct: number of different rows in the training split. by_chance: whether x takes so few values that rows of
            different samples may well be alike.
        outliers: (row, column, value, distance from the quartiles in interquartile ranges), the furthest first; their number.
        spread: least and largest standard deviation of a column that is not constant, and these columns.
        counting: columns that number the rows.
        names: of the values of a row, where it is one of a table. details: (column, what is in it in words), likewise.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    stored: str
    range: tuple[float, float]
    rows: dict[str, int]
    mean: float
    binary: bool
    columns: int
    streamed: bool = False
    every: int = 1
    classes: int | None = None
    constant: list[int] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)
    distinct: int = 0
    by_chance: bool = False
    outliers: list[tuple[int, int, float, float]] = field(default_factory=list)
    outlying: int = 0
    spread: tuple[float, float, int, int] | None = None
    counting: list[int] = field(default_factory=list)
    names: list[str] | None = None
    details: list[tuple[str, str]] = field(default_factory=list)

    def column(self, k: int) -> str:
        """The k-th value of a sample, in words."""
        return column(k, self.shape, self.names)

    @property
    def in_unit(self) -> bool:
        """Whether x lies in [0, 1]."""
        return 0 <= self.range[0] <= self.range[1] <= 1

    @property
    def images(self) -> bool:
        """Whether x is an image."""
        return len(self.shape) == 3 and self.shape[0] in IMAGES


def kind_of(shape: tuple[int, ...]) -> str:
    """What a sample of a shape is, in words."""
    if len(shape) == 3:
        return IMAGES.get(shape[0], "arrays")
    return {1: "rows", 2: "series"}.get(len(shape), "arrays")


def profile_data(data: DataModule) -> DataProfile:
    """Look at data: at all rows up to `MOST_VALUES` values, otherwise at every k-th."""
    arrays, shape = data.arrays, data.shape
    columns, kind = int(np.prod(shape)), kind_of(shape)
    streamed = not isinstance(arrays.x, Tensor)
    if isinstance(arrays.x, Tensor):
        every = ceil(arrays.x.numel() / MOST_VALUES)
        rows = arrays.x[::every].flatten(1)
    else:
        every = ceil(len(arrays.x) / STREAMED)
        rows = arrays.x[torch.arange(0, len(arrays.x), every)].flatten(1)
    some = as_float(rows[:: max(1, ceil(rows.numel() / SOME_VALUES))])
    full = 255 if rows.dtype == torch.uint8 else 1
    profile = DataProfile(
        name=str(data.name),
        kind=kind,
        shape=shape,
        stored=data.kind,
        range=_extremes(rows if streamed or not isinstance(arrays.x, Tensor) else arrays.x),
        rows={split: data.size(split) for split in data.split},
        mean=float(some.mean()),
        binary=all(bool(((part == 0) | (part == full)).all()) for part in (some * full, rows)),
        columns=columns,
        streamed=streamed,
        every=every,
        classes=None if arrays.labels is None else len(arrays.labels.unique()),
        by_chance=has_few_rows(some),
    )
    if arrays.table is not None:
        _describe_table(profile, data, arrays.table, rows)
        return profile
    if not streamed:
        profile.constant = (rows.amin(0) == rows.amax(0)).nonzero().flatten().tolist()
        _count_repeated(profile, data, _hashes(rows))
    elif isinstance(arrays.x, ImageFiles) and arrays.x.digests:
        _count_repeated(profile, data, np.array([hash(digest) for digest in arrays.x.digests]))
    if rows.is_floating_point() and not profile.images:
        _find_outliers(profile, rows, some)
        spread = some.double().std(0)
        spread[profile.constant] = 0
        if (varied := (spread > 0).nonzero().flatten()).numel():
            least, most = (int(varied[at]) for at in (spread[varied].argmin(), spread[varied].argmax()))
            profile.spread = (float(spread[least]), float(spread[most]), least, most)
        if len(shape) == 1 and every == 1 and len(rows) > 2:
            candidates = (rows[1:3].double() - rows[0].double() == torch.tensor([[1.0], [2.0]])).all(0).nonzero().flatten()
            profile.counting = [k for k in candidates.tolist() if bool((rows[:, k].diff() == 1).all())]
    return profile


def _extremes(x: Tensor) -> tuple[float, float]:
    """The least and the largest value of stored samples."""
    low, high = as_float(torch.stack([x.min(), x.max()])).tolist()
    return low, high


def has_few_rows(rows: Tensor) -> bool:
    """Whether columns (N, D) take so few values that there are not many more different rows than N.

    Examples:
        >>> has_few_rows(torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])), has_few_rows(torch.randn(99, 2))
        (True, False)
    """
    values = 1 + (rows.sort(0).values.diff(dim=0) != 0).sum(0)
    return bool(values.max() <= FEW_VALUES and values.double().log().sum() < log(100 * len(rows)))


def _describe_table(profile: DataProfile, data: DataModule, table: Table, rows: Tensor) -> None:
    """Look at the rows of a table: at outliers among its numbers, and at what is constant in training."""
    units, n = data.standardization, table.numbers
    own = rows if units is None else in_own_units(rows, units)
    profile.kind, profile.names, profile.binary = f"rows of {table.describe()}, x", table.names, False
    profile.columns, profile.details = len(table.columns), list(column_statistics(table, own))
    assert isinstance(data.arrays.x, Tensor)
    train = data.arrays.x[data.split["train"]]
    profile.constant = (train[:, :n].amin(0) == train[:, :n].amax(0)).nonzero().flatten().tolist() if n else []
    profile.constant += [at.start for at in table.slices.values() if at.start >= n and at.stop == at.start + 1]
    _count_repeated(profile, data, _hashes(rows))
    if n:
        numbers = rows[:, :n]
        _find_outliers(profile, numbers, numbers[:: max(1, ceil(numbers.numel() / SOME_VALUES))])
        if units is not None:
            profile.outliers = [(row, k, float(own[row // profile.every, k]), far) for row, k, _, far in profile.outliers]


def in_own_units(rows: Tensor, units: Standardization) -> Tensor:
    """Standardised rows (N, *shape) in their own units, without the traces of rounding, by which a 0 would be 1e-06; float64.

    float32 keeps a value to 2^-24 of its distance from the mean of its column. What is rounded are the decimals below that.

    Examples:
        >>> x = torch.tensor([[0.0], [70.0], [255.0]])
        >>> units = Standardization.of(x)
        >>> bool(units.undo(units.apply(x))[0] == 0), in_own_units(units.apply(x), units).flatten().tolist()
        (False, [0.0, 70.0, 255.0])
    """
    own = units.undo(rows)
    distance = (own - units.mean).abs().amax(0)
    known = 10.0 ** -(distance.clamp(min=1e-200) / 2**23).log10().ceil()
    return torch.where(distance > 0, (own * known).round() / known, own) + 0.0  # and no -0


def _count_repeated(profile: DataProfile, data: DataModule, hashed: np.ndarray) -> None:
    """Count the rows that the training split has several times, and those of other splits that it also has."""
    own, every = data.arrays.test, 1 if data.streams else profile.every
    place = {split: index[index % every == 0] // every for split, index in data.split.items()}
    train = np.unique(hashed[place["train"]])
    profile.distinct = len(train)
    profile.repeated["train"] = len(place["train"]) - len(train)
    for split in ("val", "test"):
        theirs = hashed[place[split]] if own is None or split == "val" else _hashes(own.flatten(1))
        profile.repeated[split] = int(np.isin(theirs, train).sum())


def _hashes(rows: Tensor) -> np.ndarray:
    """A hash of each row; rows that differ have another one but for a chance of 1 in 2^64."""
    return np.fromiter((hash(row.tobytes()) for row in rows.numpy()), np.int64, len(rows))


def _find_outliers(profile: DataProfile, rows: Tensor, some: Tensor) -> None:
    low, high = torch.from_numpy(np.quantile(some.double().numpy(), (0.25, 0.75), axis=0)).float()
    width = high - low
    width[width == 0] = torch.inf  # most values are the same: there is no scale by which others would be far away
    beyond = torch.maximum(rows.amax(0) - high, low - rows.amin(0)) / width
    for k in (beyond > OUTLYING).nonzero().flatten().tolist():
        distance = torch.maximum(rows[:, k] - high[k], low[k] - rows[:, k]) / width[k]
        row = int(distance.argmax())
        profile.outlying += int((distance > OUTLYING).sum())
        profile.outliers.append((row * profile.every, k, float(rows[row, k]), float(distance[row])))
    profile.outliers.sort(key=lambda found: -found[3])


def _names(columns: Sequence[int], profile: DataProfile) -> str:
    named = [profile.column(k) for k in columns[:NAMED]]
    return ", ".join(named) + (f" and {len(columns) - NAMED} more" if len(columns) > NAMED else "")


def warnings_of(profile: DataProfile, likelihood: str) -> list[str]:
    """What is unusual in data, in words, with what to do about it.

    Args:
        likelihood: that of the data, "bernoulli" or "normal".
    """
    named, found, p = f"data={profile.name}", [], profile
    if p.binary and likelihood == "normal":
        found.append(
            f"{named} holds only 0 and 1, for which a Normal p(x|z) has a density without limit; set data.likelihood=bernoulli."
        )
    if p.images and p.in_unit and not NEARLY_ALL > p.mean > 1 - NEARLY_ALL:
        found.append(
            f"{named}: the mean of all pixels is {p.mean:.2g}, so nearly all are {'light' if p.mean > 0.5 else 'dark'}. Look "
            f"at the picture that {command('data')} makes; levels may have been divided twice."
        )
    if p.images and p.in_unit and 0 < p.range[1] <= DARK and p.stored not in ("uint8", "uint16"):
        found.append(
            f"{named}: x is at most {p.range[1]:.2g}. Levels of fewer bits than their type has are divided by too much; save "
            "them as float32, divided by their largest level."
        )
    if likelihood == "normal" and p.spread is not None and p.spread[1] < TINY:
        found.append(
            f"{named}: no column has a standard deviation above {p.spread[1]:.2g}, and the scale of a Normal p(x|z) is at "
            "least 0.01, so that little of x is seen; standardise the columns with data.standardize=true."
        )
    every = 1 if p.streamed else p.every
    if not p.by_chance or p.distinct > p.rows["train"] / every / 2:
        for split, count in p.repeated.items():
            if count < UNUSUAL * p.rows[split] / (every if split == "train" else 1):
                continue
            n = p.rows[split]
            if split == "train":
                found.append(f"{named}: {count:,} of {n:,} training rows repeat others; remove them where that is by mistake.")
            else:
                found.append(
                    f"{named}: {count:,} of {n:,} {NAMES[split]} rows are also training rows, so what is measured on them is "
                    "not of new data. Remove repeated rows, or give a test set that has none."
                )
    if p.constant and not p.images:
        found.append(
            f"{named}: {_names(p.constant, p)} {'is' if len(p.constant) == 1 else 'are'} constant, which tells the "
            "model nothing and lowers the scale that p(x|z) learns; leave constant columns out"
            f"{'' if p.names is None else ' with data.source.drop'}."
        )
    if p.counting:
        found.append(f"{named}: {_names(p.counting, p)} numbers the rows; leave it out where it is an index.")
    if p.outliers:
        row, k, value, distance = p.outliers[0]
        found.append(
            f"{named} has {p.outlying:,} outlier{'s' if p.outlying > 1 else ''}, more than {OUTLYING:g} interquartile ranges "
            f"beyond the quartiles of a column: row {row}, {p.column(k)}, counted from 0, is {value:g}, "
            f"{distance:.3g} ranges away. They may outweigh all other rows; take the logarithm of such a "
            "column, or correct them."
        )
    if likelihood == "normal" and p.spread is not None and LARGE_SPREAD >= p.spread[1] > FAR_APART * p.spread[0]:
        least, most, low, high = p.spread
        found.append(
            f"{named}: the standard deviation is {least:.2g} in {p.column(low)} and {most:.2g} in "
            f"{p.column(high)}. A Normal p(x|z) has one scale for all, and so hardly sees the small ones; standardise "
            "the columns with data.standardize=true."
        )
    return found


NAMES = {"train": "training", "val": "validation", "test": "test"}
"""Split → what it is called in a sentence."""


def describe_likelihood(decoder: str, data: DataModule) -> str:
    """The p(x|z) of a run, and why it has it.

    Args:
        decoder: its name.
    """
    if data.is_stochastic:
        return f"{decoder} p(x|z) (data.likelihood=bernoulli: values are chances of 1, drawn anew in every batch)"
    if data.likelihood == "table":
        units = "standardised by the training rows" if data.standardize else "as they are"
        own = "" if decoder == "Table" else f"{decoder} "
        return f"{own}p(x|z) of a table (data.likelihood=table: Normal for numbers, {units}, and categorical for the others)"
    if data.standardize:
        return f"{decoder} p(x|z) (data.likelihood=normal: values are standardised by the training rows)"
    return f"{decoder} p(x|z) (data.likelihood=normal: values are used as they are)"


def describe_data(profile: DataProfile, likelihood: str, stochastic: bool) -> str:
    """A line that says what data are.

    Args:
        likelihood: what `describe_likelihood` returns. stochastic: whether x is binarised.
    """
    p = profile
    rows = ", ".join(f"{n:,} for {NAMES[split]}" for split, n in p.rows.items())
    low, high = p.range
    share = f", {p.mean:.1%} of pixels set" if p.images and stochastic else ""
    return f"data={p.name}: {p.kind} of shape {p.shape}, {rows}; x from {low:g} to {high:g}{share}; {likelihood}."


def describe_in_full(profile: DataProfile, data: DataModule, likelihood: str) -> list[tuple[str, str]]:
    """All that was found, as (label, words)."""
    p = profile
    own = data.arrays.test is not None
    looked = "" if p.every == 1 else f" (of every {p.every}-th row)"
    share, constant = p.images and (data.is_stochastic or p.binary), len(p.constant)
    lines = [
        ("x", f"{p.kind} of shape {p.shape}, stored as {p.stored}"),
        ("rows", ", ".join(f"{n:,} for {NAMES[s]}" for s, n in p.rows.items()) + (" (a test set of its own)" if own else "")),
        ("range", f"{p.range[0]:g} to {p.range[1]:g}, mean {p.mean:.3g}"),
        *([("pixels set", f"{p.mean:.1%}" + (", all values are 0 or 1" if p.binary else ""))] if share else []),
        *([("labels", f"{p.classes} different")] if p.classes is not None else []),
        ("likelihood", likelihood),
        ("changed", "; ".join(data.conversions) or "nothing"),
    ]
    if not data.streams:
        lines.append(("constant", f"{constant:,} of {p.columns:,} {'pixels' if p.images else 'columns'}{looked}"))
    lines.append(
        (
            "repeated",
            f"{p.repeated['train']:,} training rows repeat others; {p.repeated['val']:,} validation and "
            f"{p.repeated['test']:,} test rows are also training rows{'' if data.streams else looked}",
        )
    )
    lines += [(f"column {name}", words) for name, words in p.details[:MOST_DETAILS]]
    if len(p.details) > MOST_DETAILS:
        lines.append(("columns", f"{len(p.details) - MOST_DETAILS} more"))
    if p.spread is not None:
        lines.append(("spread", f"standard deviations of columns from {p.spread[0]:.3g} to {p.spread[1]:.3g}"))
    if not p.images:
        lines.append(("outliers", f"{p.outlying:,} beyond {OUTLYING:g} interquartile ranges{looked}"))
    return lines


def print_data(profile: DataProfile, data: DataModule, likelihood: str) -> None:
    """Print what data are, what was changed in them, and what is unusual."""
    print_line(escape(describe_data(profile, likelihood, data.is_stochastic)))
    if data.conversions:
        print_line(escape(f"data={data.name}: {'; '.join(data.conversions)}."))
    print_unusual(profile, data)


def print_profile(profile: DataProfile, data: DataModule, likelihood: str, picture: Path) -> None:
    """Print all that was found in data, and the file of their picture."""
    print_line(f"[bold]data={escape(profile.name)}[/]")
    for label, words in (*describe_in_full(profile, data, likelihood), ("picture", short_path(picture))):
        print_line(f"  {escape(label):<12}  {escape(words)}")
    print_unusual(profile, data)


def print_unusual(profile: DataProfile, data: DataModule) -> None:
    """Print what is unusual in data, as notes."""
    for text in (*data.hints, *warnings_of(profile, data.likelihood)):
        print_note(text)
