"""What is said of data before training: made data whose answers are known, and what is unusual in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import QUICK, program, refuses, settings
from matplotlib.figure import Figure
from PIL import Image

from lagvae.data import Arrays, DataModule
from lagvae.data.sources import folder
from lagvae.experiment import data_profile
from lagvae.experiment.data_profile import DataProfile, profile_data, warnings_of
from lagvae.experiment.factory import build_data

N = 200

TABLE = np.random.default_rng(0).standard_normal((N, 6)).astype("f4")
PIXELS = np.random.default_rng(1).integers(0, 2, (N, 1, 6, 6)).astype("u1")


def loaded(x: np.ndarray, likelihood: str = "normal", **others: np.ndarray) -> DataModule:
    parts: dict[str, Any] = {name: torch.from_numpy(part) for name, part in others.items()}
    data = DataModule(lambda: Arrays(torch.from_numpy(x), **parts), "own", likelihood, batch=8)
    data.check()
    return data


def with_values(**at: Any) -> np.ndarray:
    """The table with some columns replaced, as c3=values."""
    x = TABLE.copy()
    for name, values in at.items():
        x[:, int(name[1:])] = values
    return x


def test_what_data_are_is_counted() -> None:
    """6 of 36 pixels are lit in all images but one of the training split, which is dark: the other 30 are constant."""
    x = np.zeros((N, 1, 6, 6), "u1")
    x[:, 0, 2, :] = 255
    x[loaded(x).split["train"][0]] = 0
    p = profile_data(loaded(x, "bernoulli", labels=np.arange(N) % 7))
    assert (p.kind, p.shape, p.stored, p.range) == ("grey images", (1, 6, 6), "uint8", (0.0, 1.0))
    assert p.rows == {"train": 160, "val": 20, "test": 20}
    assert p.mean == pytest.approx((N - 1) / N / 6)
    assert (p.binary, p.classes, len(p.constant), p.columns) == (True, 7, 30, 36)
    assert (p.distinct, p.repeated) == (2, {"train": 158, "val": 20, "test": 20})


def test_repeated_rows_are_counted_for_each_split() -> None:
    data = loaded(TABLE)
    train, val, test = (data.split[name] for name in ("train", "val", "test"))
    x = TABLE.copy()
    x[train[:3]] = x[train[3]]  # three of four that are alike
    x[val[0]] = x[train[9]]
    x[test[:5]] = x[train[20:25]]
    x[test[6]] = x[test[7]]  # alike, and not in the training split
    p = profile_data(loaded(x))
    assert (p.repeated, p.distinct) == ({"train": 3, "val": 1, "test": 5}, 157)
    own_train = set(loaded(TABLE, test=TABLE).split["train"].tolist())  # no part of x is then held out for a test
    own = np.concatenate([TABLE[sorted(own_train)[:2]], TABLE[val[:4]], np.ones((6, 6), "f4")])
    assert profile_data(loaded(TABLE, test=own)).repeated["test"] == 2 + sum(int(k) in own_train for k in val[:4])


def test_outliers_are_measured_in_interquartile_ranges() -> None:
    """Of 0 … 199 the quartiles are 49.75 and 149.25 and the range 99.5, also with two values at the ends moved outwards."""
    column = np.arange(N, dtype="f4")
    column[199] = 149.25 + 30 * 99.5
    column[0] = 49.75 - 25 * 99.5
    p = profile_data(loaded(with_values(c2=np.random.default_rng(0).permutation(column))))
    ((_, k, value, distance),) = p.outliers
    assert (k, value, p.outlying) == (2, column[199], 2)
    assert distance == pytest.approx(30)
    assert profile_data(loaded(with_values(c2=0.1 * column.clip(0, 200)))).outliers == []
    for far in (-1000, 1000):  # in their own ranges, not from zero
        assert profile_data(loaded(TABLE + np.float32(far))).outliers == []


def test_columns_that_are_constant_or_count_or_differ_in_scale_are_found() -> None:
    p = profile_data(loaded(with_values(c1=7, c4=np.arange(N) + 3.0, c5=1e-3 * TABLE[:, 5])))
    assert (p.constant, p.counting) == ([1], [4])
    assert p.spread is not None
    assert p.spread[2:] == (5, 4)
    assert p.spread[:2] == pytest.approx((1e-3 * TABLE[:, 5].std(ddof=1), np.arange(N).std(ddof=1)), rel=1e-5)


UNUSUAL: dict[str, tuple[Callable[[], DataModule], str]] = {
    "zeros and ones": (lambda: loaded(PIXELS), "holds only 0 and 1, for which a Normal .* data.likelihood=bernoulli"),
    "dark": (lambda: loaded(PIXELS / np.float32(300), "bernoulli"), "mean of all pixels is 0.0017, so nearly all are dark"),
    "light": (lambda: loaded(1 - PIXELS / np.float32(300)), "nearly all are light"),
    "repeated": (lambda: loaded(np.repeat(TABLE[: N - 30], 2, 0)[:N]), r"test rows are also training rows"),
    "often": (lambda: loaded(np.repeat(TABLE[: N // 5], 5, 0)), "of 160 training rows repeat others"),
    "images": (lambda: loaded(np.repeat(PIXELS[: N // 5], 5, 0) * 255, "bernoulli"), "of 160 training rows repeat others"),
    "bits": (lambda: loaded((PIXELS * np.float32(4095 / 65535)), "bernoulli"), "x is at most 0.062. Levels of fewer bits"),
    "small": (lambda: loaded(TABLE * np.float32(1e-6)), "standard deviation above 1.*e-06, .* data.standardize=true"),
    "constant": (lambda: loaded(with_values(c3=0)), "own: column 3 is constant"),
    "index": (lambda: loaded(with_values(c0=np.arange(N) / 1)), "own: column 0 numbers the rows"),
    "outlier": (lambda: loaded(with_values(c2=np.r_[TABLE[:9, 2], 90, TABLE[10:, 2]])), "row 9, column 2, .* is 90, "),
    "scale": (lambda: loaded(TABLE * np.float32([1, 1, 1, 1, 1, 5e-3])), r"0.00\d+ in column 5 and .* standardise"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_unusual_is_said_in_words(kind: str) -> None:
    make, words = UNUSUAL[kind]
    data = make()
    found = warnings_of(profile_data(data), data.likelihood)
    assert len([text for text in found if re.search(words, text)]) == 1


def test_the_range_is_that_of_the_values(tmp_path: Path) -> None:
    levels = (PIXELS * 16 + 4).astype("u1")
    assert profile_data(loaded(levels)).range == pytest.approx((4 / 255, 20 / 255))
    for k, image in enumerate(levels[:20, 0]):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    source = partial(folder, str(tmp_path), size=6, channels=1, in_memory_mib=0)
    streamed = DataModule(source, "own", "normal", batch=8, val=0.3, test=0.3)
    assert profile_data(streamed).range == pytest.approx((4 / 255, 20 / 255))


def test_floats_that_may_be_images_are_asked_about() -> None:
    x = np.random.default_rng(0).random((N, 16, 24)).astype("f4")
    data = loaded(x)
    assert data.shape == (16, 24)
    assert [hint for hint in data.hints if "data.layout=grey" in hint] != []
    assert loaded(x[:, :, :9]).hints == []
    told = DataModule(lambda: Arrays(torch.from_numpy(x)), "own", "normal", batch=8, layout="as_is")
    told.check()
    assert told.hints == []


def test_few_data_can_be_looked_at(tmp_path: Path) -> None:
    """Fewer than a batch, which a run needs."""
    np.save(tmp_path / "a.npy", TABLE[:60])
    words = ("data=array", f"data.source.path={tmp_path}/a.npy")
    said = program(tmp_path, *words, script="data")
    assert said.status == 0, said.err
    assert "48 for training" in said.out
    refuses(program(tmp_path, *words), "data.batch=128 is larger than the 48 training samples")


def test_ordinary_data_have_no_warnings() -> None:
    few = np.random.default_rng(0).integers(0, 2, (N, 3)).astype("f4")  # rows of few values repeat by chance
    for data in (loaded(TABLE), loaded(PIXELS, "bernoulli"), loaded(few, "bernoulli"), loaded(TABLE[:, :4].reshape(N, 2, 2))):
        assert warnings_of(profile_data(data), data.likelihood) == []


def test_of_large_data_every_kth_row_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_profile, "MOST_VALUES", TABLE.size // 3 - 1)
    p = profile_data(loaded(with_values(c2=np.r_[np.full(8, 90), TABLE[8:, 2]])))
    assert p.every == 4
    assert p.outliers[0][:2] == (0, 2)
    assert p.outlying == 2, "rows 0 and 4"
    assert 0 < p.distinct <= 50


def words_of(tmp_path: Path, x: np.ndarray) -> list[str]:
    np.save(tmp_path / "own.npy", x)
    return ["data=array", f"data.source.path={tmp_path}/own.npy", "data.batch=16"]


def test_the_program_says_all_of_it_and_draws_a_picture(tmp_path: Path) -> None:
    said = program(tmp_path, *words_of(tmp_path, with_values(c3=0)), script="data")
    assert (said.status, said.new) == (0, {"runs/data-array.png"})
    labels = [line.split("  ")[1] for line in said.out.splitlines()[1:]]
    assert labels == ["x", "rows", "range", "likelihood", "changed", "constant", "repeated", "spread", "outliers", "picture"]
    assert "rows of shape (6,), stored as float32" in said.out
    assert "160 for training, 20 for validation, 20 for test" in said.out
    assert "Normal p(x|z) (data.likelihood=normal: values are used as they are)" in said.out
    assert said.err.count("Note: data=array: column 3 is constant") == 1
    assert "runs/data-array.png" in said.out
    said = program(tmp_path, "picture=a.jpg", script="data")
    assert (said.status, said.new) == (1, set())
    assert "picture=a.jpg has the unknown ending '.jpg'; use .png." in said.err


def test_a_run_says_it_in_one_line(tmp_path: Path) -> None:
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source", "data.batch"))]
    said = program(tmp_path, *quick, "family=vae", "name=one", *words_of(tmp_path, with_values(c3=0)))
    assert said.status == 0, said.err
    (line,) = [line for line in said.out.splitlines() if line.startswith("data=")]
    assert line.startswith("data=array: rows of shape (6,), 160 for training, 20 for validation, 20 for test; x from -")
    assert line.endswith("; Normal p(x|z) (data.likelihood=normal: values are used as they are).")
    assert said.err.count("Note: data=array") == 1


PICTURES: dict[str, np.ndarray] = {
    "table": TABLE,
    "column": TABLE[:, :1],
    "series": TABLE.reshape(N, 3, 2),
    "binary": PIXELS,
    "alpha": np.repeat(PIXELS, 4, 1) * 255,
    "volume": np.repeat(PIXELS, 9, 1),
    "video": TABLE[:, :4].reshape(N, 1, 1, 2, 2),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_data_has_a_picture(tmp_path: Path, kind: str) -> None:
    from lagvae.experiment.data_picture import draw_data

    data = loaded(PICTURES[kind])
    draw_data(tmp_path / "a.png", data, profile_data(data))
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 100


def test_a_picture_is_dark_where_the_data_are(tmp_path: Path) -> None:
    from lagvae.experiment.data_picture import draw_data

    x = np.zeros((N, 1, 8, 8), "f4")
    x[:, :, 4:] = 1  # the lower half is light
    x[0] = 0.5
    data = loaded(x)
    draw_data(tmp_path / "a.png", data, profile_data(data))
    with Image.open(tmp_path / "a.png") as picture:
        grey = np.array(picture.convert("L"))
    width = grey.shape[1]
    images = grey[-int(0.125 * width * 0.9) :, width // 20]  # down the middle of the first image, below the title
    assert (int(images[len(images) // 4]), int(images[-len(images) // 4])) == (0, 255)


@pytest.mark.parametrize(
    ("kind", "size"), [("images", (8, 1.5)), ("binarised", (8, 2.6)), ("series", (8, 3.6)), ("table", (9.6, 1.85))]
)
def test_a_picture_has_room_for_its_rows_and_its_title(
    tmp_path: Path, kind: str, size: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.1 inches for a row of images, 1.25 for one of panels."""
    from lagvae.experiment import data_picture

    x = {"table": TABLE, "series": TABLE.reshape(N, 3, 2), "binarised": np.arange(64 * N, dtype="u1").reshape(N, 1, 8, 8)}
    data = loaded(x.get(kind, np.zeros((N, 1, 8, 8), "f4")), "bernoulli" if kind == "binarised" else "normal")
    found: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, part, **_: found.append(figure))
    data_picture.draw_data(tmp_path / "a.png", data, profile_data(data))
    (figure,) = found
    assert figure.get_size_inches() == pytest.approx(size)
    title = figure.axes[0].get_title(loc="left")
    assert title.endswith({"binarised": "; below, as binarised for one batch", "images": "; black is 0, white 0"}.get(kind, ""))


def test_streamed_images_are_looked_at_too(tmp_path: Path) -> None:
    """A fifth of the range of levels; a training image is among the test images again."""
    for k in range(40):
        Image.fromarray(np.full((8, 8), 51, "u1") + np.eye(8, dtype="u1") * (k % 3)).save(tmp_path / f"{k:02d}.png")

    def read() -> DataModule:
        data = DataModule(lambda: folder(str(tmp_path), 8, 1, 0), "own", "normal", batch=8)
        data.check()
        return data

    split = read().split
    for k in range(40):
        Image.fromarray(np.full((8, 8), 50, "u1") + np.eye(8, dtype="u1") * k).save(tmp_path / f"{k:02d}.png")
    (tmp_path / f"{int(split['test'][0]):02d}.png").write_bytes((tmp_path / f"{int(split['train'][5]):02d}.png").read_bytes())
    p: DataProfile = profile_data(read())
    assert p.mean == pytest.approx((50 + 20 / 8) / 255, rel=0.01)
    assert p.repeated == {"train": 0, "val": 0, "test": 1}


def test_a_name_that_is_longer_than_its_panel_is_cut_at_its_end() -> None:
    from lagvae.experiment.data_picture import shortened

    assert [shortened("x" * n) for n in (3, 18, 19)] == ["xxx", "x" * 18, "x" * 17 + "…"]


def test_a_column_of_a_table_is_shown_in_the_numbers_of_its_file(tmp_path: Path) -> None:
    """Standardised numbers are kept with 24 bits: a 0 among hundreds would come back as 6e-06."""
    income = np.random.default_rng(3).integers(1, 900, N)
    income[7] = 0
    small = 1e-8 * np.arange(N)
    file = tmp_path / "own.csv"
    file.write_text(
        "\n".join(["income,small,kind", *(f"{a},{b:.8g},{'xy'[a % 2]}" for a, b in zip(income, small, strict=True))])
    )
    data = build_data(settings(tmp_path, "data=table", f"data.source.path={file}", "data.batch=8"))
    assert data.standardize
    details = dict(profile_data(data).details)
    assert details["income"].endswith(f", 0 to {income.max()}")
    assert details["small"].endswith(", 0 to 1.99e-06")
