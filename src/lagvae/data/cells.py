"""The cells of CSV and Parquet files and of data frames: columns of numbers or of texts, with what is missing in them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lagvae.errors import DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""The texts of cells that mean: this value is missing."""

ENDINGS = (".csv", ".tsv", ".parquet")

DELIMITERS = ",;\t|"

NAMED = 4
"""Number of values that a message names."""


@dataclass
class Cells:
    """The columns of a table as they were read.

    Attributes:
        named: the file, or what else holds the columns, for messages. columns: name → numbers, float64 with NaN where they are
            missing; or texts, with None where they are missing. lines: of each row in its file; None: rows are counted from 0.
        extra: columns that were left out because they have no name and number the rows.
    """

    named: str
    columns: dict[str, np.ndarray]
    lines: list[int] | None = None
    extra: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int, name: str) -> str:
        """Where a value is, in words."""
        return f"{place_of_row(row, self.lines)}, column {name!r}"

    def column(self, name: str, use: str) -> np.ndarray:
        """A column. Raises DataError where there is none.

        Args:
            use: how the message ends.
        """
        if name not in self.columns:
            raise DataError(f"{self.named} has no column {name!r}, only {named_few(list(self.columns))}; {use}.")
        return self.columns[name]


def place_of_row(row: int, lines: Sequence[int] | None) -> str:
    """Which row it is, in words."""
    return f"row {row}, counted from 0" if lines is None else f"line {lines[row]}"


def named_few(names: Sequence[Any], most: int = 12) -> str:
    """The first names of a list, in words."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def listed(*names: str) -> str:
    """Names as a list on a command line."""
    return f"[{','.join(names)}]"


def others(rows: Sequence[int] | np.ndarray) -> str:
    """How many further rows are like the first of some, in words."""
    return f" (and {len(rows) - 1} more row{'s' if len(rows) > 2 else ''})" if len(rows) > 1 else ""


def gaps_of(values: np.ndarray) -> np.ndarray:
    """Where values of a column are missing, (N,)."""
    return np.isnan(values) if values.dtype.kind == "f" else np.array([v is None for v in values], dtype=bool)


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def plain_text(text: str) -> str:
    """A number in its shortest form, such as 1 for 1.0 and 01; any other text as it is."""
    return number_text(float(text)) if is_number(text) else text


def number_text(value: float) -> str:
    """A number as text: whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def as_texts(values: np.ndarray) -> list[str | None]:
    """The values of a column as texts, None where they are missing."""
    if values.dtype.kind == "f":
        return [None if np.isnan(v) else number_text(v) for v in values.tolist()]
    return list(values)


def as_column(values: Sequence[Any] | np.ndarray, absent: Sequence[str]) -> np.ndarray:
    """Values as a column of `Cells`: numbers where all that are there are numbers, and otherwise texts.

    Args:
        absent: the texts that mean that a value is missing; in columns of numbers, "-999" also means -999.0.
    """
    codes = [float(text) for text in absent if is_number(text)]
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        own = np.array(codes, values.dtype) if values.dtype.kind == "f" else codes  # of float32, as it rounds them
        return np.where(np.isin(values, own), np.nan, values).astype(np.float64)
    gone, kept = set(absent), []
    for v in values:
        if isinstance(v, str):
            v = v.strip()
        missing = v is None or (isinstance(v, str) and v in gone) or str(v) in ("nan", "NaT", "<NA>")
        kept.append(None if missing else v)
    if not any(isinstance(v, bool | np.bool_) for v in kept):
        try:
            return as_column(np.array([np.nan if v is None else float(v) for v in kept]), absent)
        except (TypeError, ValueError):
            pass
    result = np.empty(len(kept), dtype=object)
    result[:] = [None if v is None else str(v) for v in kept]
    return result


def cells_of(rows: Any, absent: Sequence[str]) -> Cells:
    """The columns of a data frame, or of a mapping of names to columns. Raises DataError for anything else."""
    if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):
        rows = {name: np.asarray(rows[name]) for name in rows.columns}
    if not isinstance(rows, Mapping) or not rows:
        raise DataError(
            f"x is {type(rows).__name__}; a model of a table takes a data frame, a mapping of names to columns, or an array of "
            "rows that its table has encoded."
        )
    columns = {str(name): as_column(values, absent) for name, values in rows.items()}
    if len({len(values) for values in columns.values()}) > 1:
        lengths = named_few([f"{name} {len(values)}" for name, values in columns.items()])
        raise DataError(f"The columns of x have different lengths: {lengths}.")
    return Cells("x", columns)


def read_cells(path: str | Path, named: str, absent: Sequence[str] = MISSING) -> Cells:
    """The columns of a CSV or Parquet file.

    Args:
        named: how messages name the file.

    Raises: DataError for a file that is missing, damaged, or no table with a name for each column.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{named} is a folder; name a .csv, .tsv or .parquet file.")
    if not file.is_file():
        raise DataError(f"{named}: there is no such file.")
    if file.suffix.lower() not in ENDINGS:
        raise DataError(f"{named} has the unknown ending {file.suffix!r}; use {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.")
    if file.stat().st_size == 0:
        raise DataError(f"{named} is an empty file; write it again.")
    cells = (_read_parquet if file.suffix.lower() == ".parquet" else _read_csv)(file, named, absent)
    if not len(cells):
        raise DataError(f"{named} has names of columns, and no rows below them.")
    return _without_index(cells)


def _read_csv(file: Path, named: str, absent: Sequence[str]) -> Cells:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            stream.seek(0)
            delimiter = max(DELIMITERS, key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
            names = [name.strip() for name in next(reader)]
            _check_names(names, named)
            rows, lines = [], []
            for row in reader:
                if len(row) != len(names):
                    if not row:
                        continue
                    raise DataError(
                        f"{named}: line {reader.line_num} has {len(row)} values, and the first line {len(names)} names; "
                        "correct it."
                    )
                rows.append(row)
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise DataError(f"{named} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{named} cannot be read ({error}); write it again.") from error
    columns = {name: as_column(values, absent) for name, values in zip(names, zip(*rows, strict=True), strict=False)}
    return Cells(named, columns or {name: np.empty(0) for name in names}, lines)


def _check_names(names: Sequence[str], named: str) -> None:
    """Raise DataError for a first line that does not name columns."""
    if names and all(map(is_number, names)):
        raise DataError(
            f"{named}: the first line has numbers ({named_few(names, NAMED)}) where the names of the columns must be; add a "
            "line with names."
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{named} has two columns named {repeated[0]!r}; give each a name of its own.")
    if "" in names[1:]:
        raise DataError(f"{named}: column {names.index('', 1) + 1} has no name; give it one.")


def _read_parquet(file: Path, named: str, absent: Sequence[str]) -> Cells:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{named} is a Parquet file, which needs the package pyarrow ({error}): pip install pyarrow, or the extra table of "
            "lagvae. A .csv file needs nothing more."
        ) from error
    try:
        content = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise DataError(f"{named} cannot be read ({reason.rstrip('.')}); write it again.") from error
    _check_names(list(content.column_names), named)
    columns = {}
    for name, values in zip(content.column_names, content.columns, strict=True):
        kind, types = values.type, pyarrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind):
            numbers = np.array(values.cast(pyarrow.float64()).to_numpy(zero_copy_only=False), np.float64)
            columns[name] = as_column(numbers, absent)
        elif types.is_boolean(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
            columns[name] = as_column(values.to_pylist(), absent)
        else:
            raise DataError(
                f"{named}: column {name!r} has values of the type {kind}; make numbers or texts of it, such as days since a "
                f"date, or leave it out with data.source.drop={listed(name)}."
            )
    return Cells(named, columns)


def _without_index(cells: Cells) -> Cells:
    """The cells without a first column that has no name, as pandas writes one for the index; DataError where it is no index."""
    for name in ("", "__index_level_0__"):
        if (values := cells.columns.get(name)) is not None:
            if not numbers_rows(values):
                raise DataError(f"{cells.named}: its first column has no name, and does not number the rows; give it a name.")
            del cells.columns[name]
            cells.extra += 1
    if not cells.columns:
        raise DataError(f"{cells.named} has no column with a name.")
    return cells


def numbers_rows(values: np.ndarray) -> bool:
    """Whether a column numbers the rows."""
    return values.dtype.kind == "f" and len(values) > 2 and bool((np.diff(values) == 1).all())
