"""Tables with named columns of numbers and of categories, some of whose values are missing, as rows x.

A row x of D values has the numbers first, then each column of categories one-hot, and at the end, for each number that may be
missing, 1 where it is there and 0 where it is missing. Of a category that is missing all values are 0.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lagvae.data.cells import (
    MISSING,
    NAMED,
    Cells,
    as_texts,
    cells_of,
    gaps_of,
    is_number,
    listed,
    named_few,
    number_text,
    numbers_rows,
    others,
    place_of_row,
    plain_text,
    read_cells,
)
from lagvae.data.sources import Arrays
from lagvae.errors import DataError

MOST_NUMBERS = 0.9
"""A column of text is refused where at least this share of its values are numbers: some of them are then probably slips."""

FEW = 10
"""Whole numbers with at most so many different values may be codes, which is noted."""


@dataclass(frozen=True)
class Column:
    """A column of a table: of numbers, or of `categories`. missing: whether values of it may be missing."""

    name: str
    categories: tuple[str, ...] | None = None
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """The columns of a table, by which rows become x, (N, D), and x becomes rows.

    Attributes:
        columns: in the order of the file. absent: the texts that mean that a value is missing.
        lines, notes: of the file that the columns were found in: the line of each row; what is unusual in it, in words.

    Examples:
        >>> table = Table((Column("age", missing=True), Column("sex", ("f", "m"))))
        >>> x = table.encode({"age": [30.0, None], "sex": ["m", "f"]})
        >>> x.tolist()
        [[30.0, 0.0, 1.0, 1.0], [nan, 1.0, 0.0, 0.0]]
        >>> table.decode(x)
        {'age': [30.0, None], 'sex': ['m', 'f']}
    """

    columns: tuple[Column, ...]
    absent: tuple[str, ...] = MISSING
    lines: list[int] | None = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    # ---- where the columns are in x

    @cached_property
    def ordered(self) -> list[Column]:
        """The columns in the order of x: complete numbers, numbers that may be missing, categories."""
        return sorted(self.columns, key=lambda c: (c.categories is not None, c.categories is None and c.missing))

    @property
    def numbers(self) -> int:
        """How many columns are numbers: the first values of x."""
        return sum(c.categories is None for c in self.columns)

    @property
    def missing(self) -> int:
        """How many numbers may be missing: the last ones, for each of which x ends with a value."""
        return sum(c.categories is None and c.missing for c in self.columns)

    @property
    def sizes(self) -> list[int]:
        """The number of categories of each column that has them, in the order of x."""
        return [len(c.categories) for c in self.ordered if c.categories is not None]

    @property
    def width(self) -> int:
        """D, the number of values of x."""
        return self.numbers + sum(self.sizes) + self.missing

    @property
    def plain(self) -> bool:
        """Whether all columns are numbers, none of which may be missing."""
        return self.width == self.numbers

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Name → the values of x that its column has."""
        found, at = {}, 0
        for c in self.ordered:
            size = 1 if c.categories is None else len(c.categories)
            found[c.name] = slice(at, at + size)
            at += size
        return found

    @cached_property
    def names(self) -> list[str]:
        """What each value of x is called."""
        own = [c.name if c.categories is None else f"{c.name}={value}" for c in self.ordered for value in c.categories or ("",)]
        return own + [f"{c.name} is there" for c in self.ordered if c.categories is None and c.missing]

    # ---- from rows to x, and back

    def encode(self, rows: Any) -> Tensor:
        """Rows as x, (N, D), float64, with NaN for a number that is missing.

        Args:
            rows: a data frame, or a mapping of names to columns, or `Cells`. Further columns are ignored.

        Raises: DataError for a column that is missing, a text among numbers, an unknown category, and for a value that is
            missing in a column of which none was missing before.
        """
        cells = rows if isinstance(rows, Cells) else cells_of(rows, self.absent)
        x = torch.zeros(len(cells), self.width, dtype=torch.float64)
        signs = self.width - self.missing
        for c in self.ordered:
            values = cells.column(c.name, "give it all columns that the model was trained on")
            gaps = np.flatnonzero(gaps_of(values))
            if len(gaps) and not c.missing:
                raise DataError(
                    f"{cells.named}: {cells.place(gaps[0], c.name)} has no value{others(gaps)}, and in training every row had "
                    "one; fill such values in, or leave these rows out."
                )
            at = self.slices[c.name]
            if c.categories is not None:
                x[:, at] = torch.from_numpy(self._one_hot(cells, c, values))
                continue
            x[:, at.start] = torch.from_numpy(self._numbers(cells, c, values))
            if c.missing:
                x[:, signs] = 1.0
                x[torch.from_numpy(gaps), signs] = 0.0
                signs += 1
        return x

    def _numbers(self, cells: Cells, c: Column, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind != "f":
            if all(v is None for v in values):
                return np.full(len(values), np.nan)
            row = next(r for r, v in enumerate(values) if v is not None and not is_number(v))
            raise DataError(
                f"{cells.named}: {cells.place(row, c.name)} is {values[row]!r}, and this column has numbers; correct it."
            )
        return values

    def _one_hot(self, cells: Cells, c: Column, values: np.ndarray) -> np.ndarray:
        assert c.categories is not None
        known = {plain_text(value): k for k, value in enumerate(c.categories)} | {v: k for k, v in enumerate(c.categories)}
        result = np.zeros((len(values), len(c.categories)))
        texts = as_texts(values)
        codes = np.array([-1 if t is None else known.get(t, known.get(plain_text(t), -2)) for t in texts])
        if len(unknown := np.flatnonzero(codes == -2)):
            raise DataError(
                f"{cells.named}: {cells.place(unknown[0], c.name)} has the unknown category {texts[unknown[0]]!r}"
                f"{others(unknown)}; the model knows {named_few([repr(v) for v in c.categories])}. Correct it, or leave such "
                "rows out."
            )
        there = codes >= 0
        result[there, codes[there]] = 1.0
        return result

    def decode(self, x: Tensor | np.ndarray) -> dict[str, list[Any]]:
        """The rows of x, (N, D): name → values, in the order of the file. A value that is missing is None.

        Of the probabilities of categories the most probable one is taken. pandas.DataFrame makes a data frame of it.
        """
        x = torch.as_tensor(x).double()
        signs, found, sign = x[:, self.width - self.missing :], {}, 0
        for c in self.ordered:
            part = x[:, self.slices[c.name]]
            if c.categories is not None:
                kinds, there = part.argmax(1).tolist(), (part > 0).any(1).tolist()
                found[c.name] = [c.categories[k] if is_there else None for k, is_there in zip(kinds, there, strict=True)]
                continue
            values: list[Any] = part[:, 0].tolist()
            if c.missing:
                values = [v if s > 0.5 else None for v, s in zip(values, signs[:, sign].tolist(), strict=True)]
                sign += 1
            found[c.name] = values
        return {c.name: found[c.name] for c in self.columns}

    def read(self, path: str | Path, named: str | None = None) -> Tensor:
        """The rows of a CSV or Parquet file as x, (N, D): see `encode`."""
        return self.encode(read_cells(path, named or str(path), self.absent))

    def write(self, path: Path, x: Tensor | np.ndarray) -> None:
        """Write the rows of x as a CSV file with the columns of the table."""
        columns = self.decode(x)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow(["" if v is None else f"{v:.9g}" if isinstance(v, float) else v for v in row])

    def filled(self, x: Tensor, mean: Tensor | None) -> Tensor:
        """x, (N, D), with `mean` (D,), or 0, in place of a number that is missing; other NaN stay."""
        first, last = self.numbers - self.missing, self.numbers
        if not self.missing or x.shape[1:] != (self.width,):
            return x
        x = x.clone()
        signs = x[:, self.width - self.missing :]
        signs[x[:, first:last].isnan()] = 0.0
        instead = torch.zeros(self.missing, dtype=x.dtype) if mean is None else mean[first:last].to(x.dtype)
        x[:, first:last] = torch.where(signs > 0.5, x[:, first:last], instead.to(x.device))
        return x

    # ---- as plain values, and in words

    def as_dict(self) -> dict[str, Any]:
        """The table as plain values, which a checkpoint holds."""
        columns = [[c.name, None if c.categories is None else list(c.categories), c.missing] for c in self.columns]
        return {"columns": columns, "absent": list(self.absent)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Table:
        """The table that `as_dict` described."""
        columns = (Column(name, None if found is None else tuple(found), missing) for name, found, missing in plain["columns"])
        return cls(tuple(columns), tuple(plain["absent"]))

    @property
    def text(self) -> str:
        """The table as a text that is the same for equal tables."""
        return json.dumps(self.as_dict())

    def describe(self) -> str:
        """What the columns are, in words."""
        n, kinds = self.numbers, [f"{c.name} ({len(c.categories)})" for c in self.columns if c.categories is not None]
        parts = [f"{n} of numbers"] if n else []
        if kinds:
            parts.append(f"{len(kinds)} of categories: {named_few(kinds, NAMED)}")
        gaps = [c.name for c in self.columns if c.missing]
        if gaps:
            parts.append(f"values missing in {named_few(gaps, NAMED)}")
        return f"{len(self.columns)} column{'s' if len(self.columns) > 1 else ''} ({'; '.join(parts)})"

    def check_training(self, x: Tensor, train: Tensor, named: str) -> list[str]:
        """What of the training rows makes columns useless, in words.

        Args:
            x: all rows, (N, D), with NaN where a number is missing. train: positions of the training rows.

        Raises: DataError for a column without any value in the training rows.
        """
        rows, found = x[train], []
        for c in self.ordered:
            at = self.slices[c.name]
            counts = rows[:, at].nansum(0) if c.categories is not None else (~rows[:, at].isnan()).sum(0)
            if not counts.any():
                raise DataError(
                    f"{named}: column {c.name!r} has no value in any training row; leave it out with data.source.drop="
                    f"{listed(c.name)}, or take another split with data.split_seed."
                )
            if c.categories is not None and len(absent := (counts == 0).nonzero().flatten().tolist()):
                row = int(x[:, at.start + absent[0]].nonzero()[0])
                more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
                found.append(
                    f"{named}: column {c.name!r} has the category {c.categories[absent[0]]!r} "
                    f"({place_of_row(row, self.lines)}){more} "
                    "in no training row, so that the model cannot learn it, and rows with it look improbable. Merge rare "
                    "categories, leave these rows out, or take another split with data.split_seed."
                )
        return found


# ---- the source


def table(
    path: str,
    test: str | None = None,
    label: str | None = None,
    attribute: str | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    missing: Sequence[str | float] = MISSING,
    max_categories: int = 50,
) -> Any:
    """A user's own table from a CSV or Parquet file: rows x as `Table` describes them, not yet standardised.

    A column of which all values are numbers is one of numbers, unless it has exactly two different whole ones, or is named in
    `categorical`; any other is one of categories, which are sorted.

    Args:
        path: the file, whose columns have names. test: a file with the same columns, used as the test set.
        label: the column with the labels of the rows, used for evaluation only. attribute: the column u of an objective with
            I(z;u). Neither is in x. drop: columns that are left out.
        missing: the texts and numbers of cells that mean that a value is missing. In a column of numbers "-999" is -999.0, too.
        max_categories: largest number of categories of a column.

    Raises: DataError for a file that cannot be read, and for columns that cannot be used, with their names, values and lines.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("people.csv").write_text("age,sex\\n30,m\\n,f\\n41,f\\n52,m\\n")
        >>> table("people.csv").table.describe()
        '2 columns (1 of numbers; 1 of categories: sex (2); values missing in age)'
    """
    if not path:
        raise DataError("data=table needs data.source.path=FILE (.csv, .tsv or .parquet).")
    absent = tuple(str(value) for value in missing if value is not None)
    cells = read_cells(path, f"data.source.path={path}", absent)
    aside = {key: [name] for key, name in (("label", label), ("attribute", attribute)) if name is not None}
    for key, names in (("drop", drop), ("categorical", categorical), *aside.items()):
        for name in names:
            cells.column(str(name), f"correct data.source.{key}")
    said = ["the first column, which has no name and numbers the rows, is left out"] if cells.extra else []
    whole = {key: _labels_of(cells, name, None, key) for key, (name,) in aside.items()}
    left = {str(name) for name in drop}.union(*aside.values())
    names = [name for name in cells.columns if name not in left]
    if not names:
        raise DataError(f"{cells.named} has no column for x; correct data.source.drop, label or attribute.")
    columns, notes = [], []
    if numbers := [name for name in cells.columns if is_number(name)]:
        notes.append(
            f"{cells.named}: names of columns are numbers, such as {numbers[0]!r}. Where the first line is a row, add a line "
            "with names before it."
        )
    for name in names:
        column, note = _column_of(cells, name, name in {str(c) for c in categorical}, max_categories)
        columns.append(column)
        notes += note
    found = Table(tuple(columns), absent, cells.lines, tuple(notes))
    labels, u = (whole[key][0] if key in whole else None for key in ("label", "attribute"))
    arrays = Arrays(found.encode(cells), labels=labels, attribute=u, file=path, table=found)
    binary = [
        c.name
        for c in columns
        if c.categories is not None and cells.columns[c.name].dtype.kind == "f" and c.name not in categorical
    ]
    if binary:
        said.append(f"{named_few(binary)} with two whole numbers {'is' if len(binary) == 1 else 'are'} taken as categories")
    arrays.conversions = tuple(said)
    if test is not None:
        own = read_cells(test, f"data.source.test={test}", absent)
        arrays.test = found.encode(own)
        for key, (name,) in aside.items():
            values, _ = _labels_of(own, name, whole[key][1], key)
            setattr(arrays, "test_labels" if key == "label" else "test_attribute", values)
    return arrays


def _column_of(cells: Cells, name: str, wanted: bool, most: int) -> tuple[Column, list[str]]:
    """What a column is, and what is unusual in it. Raises DataError where it cannot be used."""
    values, drop = cells.columns[name], f"leave it out with data.source.drop={listed(name)}"
    gaps = gaps_of(values)
    if gaps.all():
        raise DataError(f"{cells.named}: column {name!r} is empty: all {len(values)} values are missing; {drop}.")
    notes, missing = [], bool(gaps.any())
    if values.dtype.kind == "f":
        if len(infinite := np.flatnonzero(np.isinf(values))):
            raise DataError(
                f"{cells.named}: {cells.place(int(infinite[0]), name)} is {values[infinite[0]]:g}; correct it, or "
                "leave the cell empty."
            )
        there = values[~gaps]
        kinds = np.unique(there)
        whole = bool((there == there.round()).all())
        if not wanted and not (whole and len(kinds) == 2):
            if (code := _code_for_missing(there)) is not None:
                text, rest = number_text(code), there[there != code]
                notes.append(
                    f"{cells.named}: column {name!r} is {text} in {len(there) - len(rest):,} rows, and from {rest.min():g} to "
                    f"{rest.max():g} in all others; where {text} means that a value is missing, add {text} to the list "
                    "data.source.missing."
                )
            if numbers_rows(values):
                notes.append(f"{cells.named}: column {name!r} numbers the rows; where it is an index, {drop}.")
            elif whole and 2 < len(kinds) <= min(FEW, len(there) / 10):
                notes.append(
                    f"{cells.named}: column {name!r} is taken as numbers, and has only {len(kinds)} different whole ones; "
                    f"where these are codes, set data.source.categorical={listed(name)}."
                )
            return Column(name, None, missing), notes
    texts = as_texts(values)
    counts = Counter(t for t in texts if t is not None)
    if values.dtype.kind != "f" and not wanted:
        strange = [r for r, t in enumerate(texts) if t is not None and not is_number(t)]
        if strange and len(strange) <= (1 - MOST_NUMBERS) * sum(counts.values()):
            raise DataError(
                f"{cells.named}: column {name!r} has numbers, and {len(strange)} text{'s' if len(strange) > 1 else ''}, the "
                f"first in {place_of_row(strange[0], cells.lines)}: {texts[strange[0]]!r}. Correct them, leave these cells "
                "empty, add the text to data.source.missing, or, where all of them are categories, set "
                f"data.source.categorical={listed(name)}."
            )
    if len(counts) > most:
        examples = named_few([repr(t) for t in list(counts)[:NAMED]])
        hint = ""
        if values.dtype.kind != "f" and all(is_number(t.replace(",", "")) for t in list(counts)[:100]):
            hint = " Write numbers with a decimal point, not a comma, and without separators of thousands."
        raise DataError(
            f"{cells.named}: column {name!r} has {len(counts)} categories, such as {examples}, and at most {most} are taken."
            f"{hint} {drop[0].upper()}{drop[1:]}, merge rare ones, or set data.source.max_categories={len(counts)}."
        )
    ordered = sorted(counts, key=lambda t: (0, float(t), t) if is_number(t) else (1, 0.0, t))
    return Column(name, tuple(ordered), missing), notes


def _code_for_missing(values: np.ndarray) -> float | None:
    """A number such as -999 or 99 that may stand for a missing value, if some numbers have one.

    It is the only negative one or consists of nines, several have it, and it is farther from the others than these are apart.
    """
    for code in (values.min(), values.max()):
        rest = values[values != code]
        if not len(rest) or not (code < 0 <= rest.min() or set(number_text(abs(code))) == {"9"}):
            continue
        if len(values) - len(rest) > 1 and np.abs(rest - code).min() > np.ptp(rest) > 0:
            return float(code)
    return None


def _labels_of(cells: Cells, name: str, known: list[str] | None, key: str) -> tuple[Tensor, list[str]]:
    """The values of a column, the "label" or "attribute", as whole numbers: the places of its sorted values."""
    values = cells.column(name, f"correct data.source.{key}")
    if len(gaps := np.flatnonzero(gaps_of(values))):
        raise DataError(f"{cells.named}: {cells.place(int(gaps[0]), name)} has no {key}; every row needs one, or no row.")
    texts = [str(t) for t in as_texts(values)]
    found = known or sorted(set(texts), key=lambda t: (0, float(t), t) if is_number(t) else (1, 0.0, t))
    if unknown := [r for r, t in enumerate(texts) if t not in found]:
        raise DataError(
            f"{cells.named}: {cells.place(unknown[0], name)} has the {key} {texts[unknown[0]]!r}, which no training row has."
        )
    place = {t: k for k, t in enumerate(found)}
    return torch.tensor([place[t] for t in texts]), found


def column_statistics(table: Table, x: Tensor) -> Iterator[tuple[str, str]]:
    """Name and content of each column, in words, of rows x (N, D) in the units of the file."""
    signs = table.width - table.missing
    for c in table.ordered:
        part = x[:, table.slices[c.name]].double()
        if c.categories is None:
            there = torch.ones(len(x), dtype=torch.bool)
            if c.missing:
                there, signs = x[:, signs] > 0.5, signs + 1
            values = part[there, 0]
            words = f"{values.mean():.4g} ± {values.std(correction=0):.3g}, {values.min():.4g} to {values.max():.4g}"
        else:
            there, share = part.any(1), part.sum(0) / part.sum().clamp(min=1)
            words = named_few([f"{value} {s:.1%}" for value, s in zip(c.categories, share.tolist(), strict=True)], 6)
        gone = int((~there).sum())
        yield c.name, words + (f"; {gone} missing" if gone else "")
