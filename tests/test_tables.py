"""Tables of numbers and categories with missing values: what is read, how x is made of it, and what is refused."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import program, refuses, settings
from torch import Tensor

from lagvae.data import Arrays, DataModule
from lagvae.data.cells import MISSING, place_of_row, read_cells
from lagvae.data.conversion import Standardization
from lagvae.data.datamodule import content_digest
from lagvae.data.tables import Column, Table, column_statistics, table
from lagvae.errors import DataError, SettingError
from lagvae.experiment.data_profile import profile_data, warnings_of
from lagvae.experiment.factory import build_data
from lagvae.experiment.validate import validate

N = 120


def made(n: int = N, seed: int = 0) -> dict[str, list[str]]:
    """The columns of a table as texts: two complete numbers, one with gaps, categories with and without gaps, labels."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    age, income = 40 + 12 * z, 5e4 * np.exp(0.3 * z + 0.1 * rng.standard_normal(n))
    kind = np.array(["north", "south", "west"])[np.digitize(z, [-0.5, 0.5])]
    columns = {
        "age": [f"{v:.2f}" for v in age],
        "sex": list(np.where(rng.random(n) < 0.5, "f", "m")),
        "income": [f"{v:.1f}" for v in income],
        "kind": list(kind),
        "height": [f"{v:.2f}" for v in rng.normal(1.7, 0.1, n)],
        "y": list(np.where(z > 0, "yes", "no")),
    }
    for name, rows, missing in (("income", (1, 5, 7, 50), ""), ("kind", (5, 8), "NA")):
        for row in rows:
            columns[name][row : row + 1] = [missing] * (row < n)
    return columns


def write_csv(file: Path, columns: Mapping[str, Sequence[Any]], delimiter: str = ",") -> str:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(file)


@pytest.fixture
def people(tmp_path: Path) -> str:
    return write_csv(tmp_path / "people.csv", made())


def loaded(path: str, standardize: bool = True, **options: Any) -> DataModule:
    data = DataModule(partial(table, path, **options), "table", "table", batch=8, standardize=standardize)
    data.check()
    return data


def x_of(data: DataModule) -> Tensor:
    assert isinstance(data.arrays.x, Tensor)
    return data.arrays.x


MIXED = Table((Column("a", missing=True), Column("b"), Column("c", ("u", "v", "w")), Column("d", ("no", "yes"), missing=True)))
"""Two numbers, of which one may be missing, and two of categories: x is (b, a, c=u, c=v, c=w, d=no, d=yes, a is there)."""

X = torch.tensor(
    [
        [0.5, -1.0, 0, 1, 0, 1, 0, 1],  # complete
        [0.5, 99.0, 0, 1, 0, 1, 0, 0],  # without a
        [2.0, 1.5, 1, 0, 0, 0, 0, 1],  # without d
    ]
)


# ---- rows and x


def test_rows_become_x_and_x_becomes_rows() -> None:
    rows = {"d": ["yes", None, "no"], "a": [1.5, 2.0, None], "c": ["u", "w", "v"], "b": [0.0, -1.0, 7.0], "more": [1, 2, 3]}
    x = MIXED.encode(rows)
    expected = [[0, 1.5, 1, 0, 0, 0, 1, 1], [-1, 2, 0, 0, 1, 0, 0, 1], [7, np.nan, 0, 1, 0, 1, 0, 0]]
    np.testing.assert_array_equal(x, expected)
    assert MIXED.decode(x) == {name: rows[name] for name in "abcd"}
    assert MIXED.names == ["b", "a", "c=u", "c=v", "c=w", "d=no", "d=yes", "a is there"]
    assert Table.from_dict(json.loads(MIXED.text)) == MIXED
    filled = MIXED.filled(x, torch.arange(8.0))
    assert filled[2, 1] == 1
    assert MIXED.filled(x, None)[2, 1] == 0
    assert torch.equal(filled[:2], x[:2])


class Frame:
    """What is used of a data frame of pandas."""

    def __init__(self, **columns: Any) -> None:
        self.columns, self._values = list(columns), columns

    def __getitem__(self, name: str) -> Any:
        return np.asarray(self._values[name])


def test_a_data_frame_is_the_mapping_of_its_columns() -> None:
    rows: dict[str, Any] = {"a": [1.0, np.nan], "b": [3, 4], "c": ["u", "v"], "d": np.array([None, "no"], object)}
    np.testing.assert_array_equal(MIXED.encode(Frame(**rows)), MIXED.encode({**rows, "a": [1.0, None]}))
    codes = Table((Column("k", ("1", "2")), Column("t", ("False", "True"))))
    for k, t in (([1, 2], [True, False]), ([1.0, 2.0], ["True", "False"]), (["01", "2.0"], np.array([True, False]))):
        assert codes.encode({"k": k, "t": t}).tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]


def test_columns_are_found_in_a_file(people: str) -> None:
    data = loaded(people, label="y", drop=["height"])
    found = data.arrays.table
    assert found is not None
    kinds = {c.name: (c.categories, c.missing) for c in found.columns}
    assert kinds == {
        "age": (None, False),
        "sex": (("f", "m"), False),
        "income": (None, True),
        "kind": (("north", "south", "west"), True),
    }
    assert data.shape == (2 + 2 + 3 + 1,)
    assert x_of(data).dtype == torch.float32
    texts = made()
    assert data.arrays.labels is not None
    assert data.arrays.labels.tolist() == [int(v == "yes") for v in texts["y"]]
    assert (x_of(data)[:, 7] == 0).nonzero().flatten().tolist() == [1, 5, 7, 50]
    assert (x_of(data)[:, 4:7].sum(1) == 0).nonzero().flatten().tolist() == [5, 8]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_recognised(tmp_path: Path, people: str, delimiter: str) -> None:
    other = write_csv(tmp_path / "other.csv", made(), delimiter)
    assert torch.equal(x_of(loaded(other)), x_of(loaded(people)))


def test_numbers_that_are_codes_are_categories(tmp_path: Path) -> None:
    columns = {"n": np.arange(N) * 0.5, "two": np.arange(N) % 2, "few": np.arange(N) % 3, "half": np.arange(N) % 2 / 2}
    file = write_csv(tmp_path / "codes.csv", columns)
    data = loaded(file)
    assert data.arrays.table is not None
    assert data.arrays.table.describe() == "4 columns (3 of numbers; 1 of categories: two (2))"
    assert data.conversions == ["two with two whole numbers is taken as categories"]
    assert [hint.split(": ", 1)[1][:67] for hint in data.hints] == [
        "column 'few' is taken as numbers, and has only 3 different whole on"
    ]
    other = loaded(file, categorical=["few"])
    assert other.arrays.table is not None
    assert other.arrays.table.sizes == [2, 3]
    assert not other.hints


def test_an_index_is_left_out_or_noted(tmp_path: Path) -> None:
    rows = {"": range(N), "id": range(7, N + 7), "v": np.sin(np.arange(N))}
    data = loaded(write_csv(tmp_path / "a.csv", rows))
    assert data.arrays.table is not None
    assert [c.name for c in data.arrays.table.columns] == ["id", "v"]
    assert data.conversions == ["the first column, which has no name and numbers the rows, is left out"]
    (hint,) = data.hints
    assert "column 'id' numbers the rows; where it is an index, leave it out with data.source.drop=[id]" in hint


def test_parquet_is_read_as_csv_is(tmp_path: Path, people: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra table")
    from pyarrow import parquet

    texts = made()
    columns: dict[str, Any] = {name: [None if v in ("", "NA") else v for v in texts[name]] for name in texts}
    for name in ("age", "income", "height"):
        columns[name] = [None if v is None else float(v) for v in columns[name]]
    columns["sex"] = pyarrow.array(columns["sex"]).dictionary_encode()
    parquet.write_table(pyarrow.table(columns), tmp_path / "people.parquet")
    assert torch.equal(x_of(loaded(str(tmp_path / "people.parquet"), label="y")), x_of(loaded(people, label="y")))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet is a Parquet file, which needs the package pyarrow .*pip install pyarrow"):
        table(str(tmp_path / "a.parquet"))


# ---- standardisation


def test_numbers_are_standardised_by_the_training_rows(people: str) -> None:
    data = loaded(people, label="y")
    train, texts = data.split["train"], made()
    for k, name in enumerate(("age", "height", "income")):
        values = np.array([float(v or "nan") for v in texts[name]])
        mean, scale = np.nanmean(values[train]), np.nanstd(values[train])
        assert abs(mean - np.nanmean(values)) > 0.01 * scale, "the other rows would change the mean"
        expected = np.nan_to_num((values - mean) / scale)  # a missing value is the mean, 0
        np.testing.assert_allclose(x_of(data)[:, k], expected, rtol=0, atol=1e-5)  # float32 of size below 10
    assert set(x_of(data)[:, 3:].unique().tolist()) == {0.0, 1.0}
    raw = loaded(people, standardize=False, label="y")
    assert raw.standardization is None
    np.testing.assert_allclose(x_of(raw)[:, 0], [float(v) for v in texts["age"]], rtol=1e-6)
    assert x_of(raw)[1, 2] == 0


def test_standardising_is_undone() -> None:
    x = torch.tensor([[1e9, 5.0], [1e9 + 2, 5.0], [1e9 + 4, 5.0]], dtype=torch.float64)
    units = Standardization.of(x)
    assert units.scale.tolist() == pytest.approx([(8 / 3) ** 0.5, 1.0])
    back = units.undo(units.apply(x))
    assert (back - x).abs().max() < 1e-6  # 1.2 standard deviations in float32, whose rounding is 1e-7
    again = Standardization.from_dict(json.loads(json.dumps(units.as_dict())))
    assert torch.equal(again.undo(units.apply(x)), back)


def test_arrays_are_standardised_where_it_is_asked_for() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1e-3, 1, 1e6]) + 1e9
    data = DataModule(lambda: Arrays(x), "own", "normal", batch=8, standardize=True)
    data.check()
    train = x_of(data)[data.split["train"]]
    assert train.mean(0).abs().max() < 1e-3  # 1e9 in float64 resolves a thousandth of the first deviation
    assert (train.std(0, correction=0) - 1).abs().max() < 1e-3
    assert not data.hints
    for source, likelihood in (
        (lambda: torch.zeros(60, 3, dtype=torch.uint8), "normal"),
        (lambda: torch.rand(60, 3), "bernoulli"),
    ):
        with pytest.raises(SettingError, match=r"data\.standardize=true is for numbers, which data=own does not have"):
            DataModule(source, "own", likelihood, batch=8, standardize=True).check()
    both = Arrays(torch.rand(60, 3), second=torch.rand(60, 3))
    with pytest.raises(SettingError, match=r"data\.standardize=true is for data of one domain"):
        DataModule(lambda: both, "own", "normal", batch=8, standardize=True).check()


def test_a_digest_knows_the_categories(tmp_path: Path) -> None:
    texts = made()
    other = texts | {"kind": ["East" if v == "north" else v for v in texts["kind"]]}  # sorted where "north" was
    one, two = (loaded(write_csv(tmp_path / f"{k}.csv", c)) for k, c in enumerate((texts, other)))
    assert torch.equal(x_of(one), x_of(two))
    assert content_digest(one) != content_digest(two)
    assert content_digest(one) == content_digest(loaded(str(tmp_path / "0.csv")))


# ---- what is unusual


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_a_number_that_stands_for_a_missing_value_is_noted_and_may_be_one(tmp_path: Path, form: str) -> None:
    columns = made()
    columns["age"] = ["-999.0" if k % 10 == 3 else v for k, v in enumerate(columns["age"])]
    file = write_csv(tmp_path / "a.csv", columns)
    (note,) = [text for text in loaded(file).hints if "-999" in text]
    few = sum(v == "-999.0" for v in columns["age"])
    assert f"column 'age' is -999 in {few} rows, and from " in note
    assert "add -999 to the list data.source.missing" in note
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        content = pytest.importorskip("pyarrow.csv").read_csv(file)
        file = str(tmp_path / "a.parquet")
        parquet.write_table(content, file)
    data = loaded(file, missing=[*MISSING, -999])
    assert not [text for text in data.hints if "-999" in text]
    table = data.arrays.table
    assert table is not None
    rows: Any = columns | {"age": [float(v) for v in columns["age"]]} if form == "frame" else None
    x = table.encode(rows) if form == "frame" else table.read(file)
    assert int(x[:, table.slices["age"]].isnan().sum()) == few


def test_a_number_among_what_is_missing_needs_no_quotes(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", made() | {"age": ["-999" if k % 10 == 3 else str(k % 7) for k in range(N)]})
    cfg = settings(tmp_path, "data=table", f"data.source.path={file}", "data.source.missing=['',-999]", "data.batch=8")
    validate(cfg)
    found = build_data(cfg).arrays.table
    assert found is not None
    assert Column("age", missing=True) in found.columns


@pytest.mark.parametrize(
    "values",
    [
        ["0"] * 60 + [str(k) for k in range(N - 60)],  # many zeros, next to all others
        [str(k) for k in range(N - 1)] + ["9999"],  # a single one is an outlier
        ["-1"] * 9 + [str(18 + k) for k in range(N - 9)],  # farther than any two neighbours, but not than the others reach
    ],
)
def test_a_number_that_may_be_a_value_is_not_noted(tmp_path: Path, values: list[str]) -> None:
    assert not [text for text in loaded(write_csv(tmp_path / "a.csv", made() | {"age": values})).hints if "missing" in text]


def test_a_constant_column_is_named(tmp_path: Path) -> None:
    columns = made() | {"five": ["5"] * N, "all": ["same"] * N}
    data = loaded(write_csv(tmp_path / "a.csv", columns))
    (note,) = [text for text in warnings_of(profile_data(data), "table") if "constant" in text]
    assert "column 'five', column 'all=same' are constant" in note
    assert "leave constant columns out with data.source.drop." in note


def test_a_category_without_training_rows_is_named(tmp_path: Path) -> None:
    held_out = int(DataModule(lambda: torch.zeros(N, 1), "own", "normal", batch=8).split["test"][0])
    columns = made()
    columns["sex"][held_out] = "x"
    (hint,) = loaded(write_csv(tmp_path / "a.csv", columns)).hints
    assert f"a.csv: column 'sex' has the category 'x' (line {held_out + 2}) in no training row" in hint
    assert "data.split_seed" in hint


def test_outliers_are_named_in_the_units_of_the_file(tmp_path: Path) -> None:
    columns = made()
    columns["age"][9] = "4000"
    data = loaded(write_csv(tmp_path / "a.csv", columns))
    (note,) = [text for text in warnings_of(profile_data(data), "table") if "outlier" in text]
    assert "row 9, column 'age', counted from 0, is 4000" in note
    profile = profile_data(loaded(write_csv(tmp_path / "b.csv", made())))
    assert warnings_of(profile, "table") == []
    assert dict(profile.details)["kind"].endswith("; 2 missing")
    assert dict(profile.details)["income"].endswith("; 4 missing")


BAD: dict[str, tuple[Callable[[dict[str, list[str]]], object], list[str], list[str]]] = {
    "empty column": (lambda c: c.update(age=[""] * N), [], ["column 'age' is empty: all 120 values", "drop=[age]"]),
    "text among numbers": (
        lambda c: c["age"].__setitem__(3, "unknown"),
        [],
        ["column 'age' has numbers, and 1 text, the first in line 5: 'unknown'", "data.source.missing", "categorical=[age]"],
    ),
    "many categories": (
        lambda c: c.update(sex=[f"name {k}" for k in range(N)]),
        [],
        ["column 'sex' has 120 categories, such as 'name 0', ", "at most 50", "max_categories=120", "drop=[sex]"],
    ),
    "commas": (
        lambda c: c.update(age=[v.replace(".", ",") for v in c["age"]]),
        [],
        ["column 'age' has", "Write numbers with a decimal point, not a comma"],
    ),
    "thousands": (
        lambda c: c.update(age=[f"{1000 + k:,}" for k in range(N)]),
        [],
        ["column 'age' has", "and without separators of thousands."],
    ),
    "infinite": (lambda c: c["age"].__setitem__(3, "inf"), [], ["line 5, column 'age' is inf; correct it"]),
    "too large": (lambda c: c["age"].__setitem__(3, "1e300"), [], ["too large for floats of 32 bits", "row 3, column 'age'"]),
    "extreme": (
        lambda c: c["age"].__setitem__(3, "1e30"),
        [],
        ["an extreme value: row 3, column 'age', counted from 0, is 1e+30"],
    ),
    "no such label": (lambda c: None, ["data.source.label=z"], ["has no column 'z', only age, sex", "data.source.label"]),
    "label missing": (lambda c: c["y"].__setitem__(0, ""), ["data.source.label=y"], ["line 2, column 'y' has no label"]),
    "no such column": (lambda c: None, ["data.source.drop=[a]"], ["has no column 'a', only age", "data.source.drop"]),
    "nothing left": (lambda c: [c.pop(n) for n in list(c)[1:]], ["data.source.drop=[age]"], ["no column for x"]),
    "likelihood": (lambda c: None, ["data.likelihood=normal"], ["data.likelihood=normal does not fit data=table, 6 columns"]),
    "decoder": (lambda c: None, ["likelihood=laplace"], ["a Laplace p(x|z) knows neither categories nor missing values"]),
    "repeated name": (lambda c: c.update({"age ": c["age"]}), [], ["has two columns named 'age'"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_table_that_cannot_be_used_is_refused_before_training(tmp_path: Path, kind: str) -> None:
    change, words, pieces = BAD[kind]
    columns = made()
    change(columns)
    (tmp_path / "own").mkdir()
    path = write_csv(tmp_path / "own" / "a.csv", columns)
    refuses(program(tmp_path, "data=table", "data.batch=16", "family=vae", f"data.source.path={path}", *words), *pieces)


FILES: dict[str, tuple[str, str | bytes, str]] = {
    "ending": ("a.xlsx", "a", r"unknown ending '\.xlsx'; use \.csv, \.tsv or \.parquet"),
    "empty": ("a.csv", "", "is an empty file"),
    "no rows": ("a.csv", "a,b\n", "has names of columns, and no rows below them"),
    "no names": ("a.csv", "1,2\n3,4\n", r"the first line has numbers \(1, 2\) where the names"),
    "a name missing": ("a.csv", "a,,c\n1,2,3\n", "column 2 has no name"),
    "ragged": ("a.csv", "a,b\n1,2\n3\n", "line 3 has 1 values, and the first line 2 names"),
    "encoding": ("a.csv", "a,b\nMünchen,1\n".encode("latin-1"), "is not text in UTF-8"),
    "no index": ("a.csv", ",b\n4,1\n2,1\n1,1\n", "its first column has no name, and does not number the rows"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, kind: str) -> None:
    name, content, message = FILES[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"data\.source\.path=.*{name}.*{message}"):
        table(str(tmp_path / name))


def test_rows_are_named_by_their_last_line_in_the_file(tmp_path: Path) -> None:
    """A line may be blank, and a cell may hold several."""
    (tmp_path / "a.csv").write_text('a,b\n1,2\n\n"3\n4",5\n6,7\n')
    cells = read_cells(tmp_path / "a.csv", "a.csv")
    assert [place_of_row(row, cells.lines) for row in range(3)] == ["line 2", "line 5", "line 6"]
    assert place_of_row(2, None) == "row 2, counted from 0"


def test_a_table_needs_a_file(tmp_path: Path) -> None:
    refuses(program(tmp_path, "data=table"), "data=table needs data.source.path=FILE (.csv, .tsv or .parquet).")
    refuses(program(tmp_path, "data=table", "data.source.path=no.csv"), "data.source.path=no.csv: there is no such file.")
    refuses(program(tmp_path, "data=digits", "data.likelihood=table"), "data.likelihood=table is for data=table")
    with pytest.raises(DataError, match="is a folder"):
        table(str(tmp_path))


def test_a_column_without_a_value_in_the_training_rows_is_refused(tmp_path: Path) -> None:
    split = DataModule(lambda: torch.zeros(N, 1), "own", "normal", batch=8).split
    for name in ("age", "sex"):
        columns = made()
        for row in split["train"].tolist():
            columns[name][row] = ""
        with pytest.raises(DataError, match=f"column '{name}' has no value in any training row; .*drop=.{name}.*split_seed"):
            loaded(write_csv(tmp_path / "a.csv", columns))


UNKNOWN: dict[str, tuple[dict[str, list[Any]], str]] = {
    "column": ({"a": [1.0]}, "x has no column 'b', only a; give it all columns"),
    "category": ({"c": ["u", "q", "q"]}, r"row 1, counted from 0, column 'c' has the unknown category 'q' \(and 1 more row\)"),
    "text": ({"b": [1.0, "many", 2.0]}, "row 1, counted from 0, column 'b' is 'many', and this column has numbers"),
    "gap": ({"b": [1.0, None, 2.0]}, "row 1, counted from 0, column 'b' has no value, and in training every row had one"),
    "lengths": ({"b": [1.0]}, "columns of x have different lengths: a 3, b 1"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_rows_of_another_table_are_refused(kind: str) -> None:
    columns, message = UNKNOWN[kind]
    rows = {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": ["u", "v", "w"], "d": ["no", "yes", "no"]} | columns
    with pytest.raises(DataError, match=message):
        MIXED.encode(columns if kind == "column" else rows)
    with pytest.raises(DataError, match="x is list; a model of a table takes a data frame"):
        MIXED.encode([1])


def test_each_number_that_may_be_missing_is_counted_by_its_own_column() -> None:
    """Of the rows that have it alone: those without are filled with anything."""
    found = Table((Column("a", missing=True), Column("b"), Column("c", missing=True), Column("d", ("no", "yes"), missing=True)))
    rows = {
        "a": [1.0, None, 3.0, None],
        "b": [0.0, 0.0, 2.0, 2.0],
        "c": [5.0, 7.0, 9.0, None],
        "d": ["no", None, "yes", "yes"],
    }
    x = found.filled(found.encode(rows), torch.full((found.width,), 1000.0))
    assert dict(column_statistics(found, x)) == {
        "a": "2 ± 1, 1 to 3; 2 missing",
        "b": "1 ± 1, 0 to 2",
        "c": "7 ± 1.63, 5 to 9; 1 missing",
        "d": "no 33.3%, yes 66.7%; 1 missing",
    }
