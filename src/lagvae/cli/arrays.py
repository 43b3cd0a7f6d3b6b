"""Arrays in files, for the programs that use a trained model: the suffix of a name is the format."""

from __future__ import annotations

import warnings
from math import ceil, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image

from lagvae.cli.use import CURE
from lagvae.data.cells import ENDINGS
from lagvae.data.sources import IMAGE_ENDINGS, ImageFiles, image_files
from lagvae.data.tables import Table
from lagvae.errors import DataError
from lagvae.experiment.style import tile
from lagvae.io import write_atomically
from lagvae.terminal import print_note

LEGIBLE = 64
"""The size in pixels that each image of a grid has at least, where the grid stays as small as `LARGEST`."""

LARGEST = 2048
"""The size in pixels up to which a grid is enlarged."""


def read_array(path: Path, key: str | None, shape: tuple[int, ...], table: Table | None = None) -> tuple[np.ndarray, list[str]]:
    """The rows x of a file for a model of x with `shape`: of the type that they have there; and what was done to images.

    A row of a CSV file has the numbers of one x in row-major order, or the columns of the table by their names. Images are
    resized as data=folder does it.

    Args:
        key: of the array in an .npz; None for the only one, or the one that is named x. table: that the model was trained on.

    Raises: DataError for a file that cannot be read, or that does not hold rows of real numbers.
    """
    suffix = path.suffix.lower()
    if key is not None and suffix != ".npz":
        raise DataError(f"--key={key} is for an .npz file, which {path} is not; leave it out.")
    if table is not None and suffix in ENDINGS:
        return table.read(path, f"--input={path}").numpy(), []
    if suffix == ".parquet":
        raise DataError(f"--input={path} is for a model of a table (data=table), which this is not; give a .npy, .npz or .csv.")
    if path.is_dir() or suffix in IMAGE_ENDINGS:
        return _read_images(path, shape)
    x = _read_csv(path, shape) if suffix == ".csv" else _read_numpy(path, key)
    if x.dtype.kind not in "fiub":
        raise DataError(f"--input={path} holds an array of {x.dtype}; it must be one of real numbers.")
    if not x.shape or not len(x):
        raise DataError(f"--input={path} holds no rows: its array has the shape {x.shape}.")
    return x.astype(x.dtype.newbyteorder("="), copy=False), []


def _read_numpy(path: Path, key: str | None) -> np.ndarray:
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if not isinstance(loaded, NpzFile):
            return loaded
        with loaded as archive:
            names = archive.files
            name = key or (names[0] if len(names) == 1 else "x")
            if name in names:
                return archive[name]
    except Exception as error:  # unzipping and unpickling raise many kinds of errors
        if "pickle" in str(error).lower():
            reason = "is no such file, or holds Python objects, which are never loaded; save an array of numbers"
        else:
            reason = f"cannot be read ({(str(error).splitlines() or [repr(error)])[0].rstrip('.')}); write it again"
        raise DataError(f"--input={path} {reason}.") from error
    raise DataError(f"--input={path} has no array {name!r}, only {', '.join(names) or 'none'}; name one with --key.")


def _read_csv(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if not _is_header(_cells(file.readline())):
                file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a table without rows, which the caller refuses
                x = np.loadtxt(file, delimiter=",", ndmin=2, comments=None, quotechar='"')
    except (OSError, ValueError) as error:
        reason = _fault(path) if isinstance(error, ValueError) else None
        raise DataError(f"--input={path} is not a table of numbers with commas between them: {reason or error}.") from error
    if len(x) and x.shape[1] != prod(shape):
        raise DataError(
            f"--input={path} has {x.shape[1]} numbers in a row; this model takes {prod(shape)}, an x of shape {shape} in "
            "row-major order, without an index or a label."
        )
    return x.reshape(-1, *shape)


def _fault(path: Path) -> str | None:
    """The first line with a cell that is not a number, or with more or fewer cells than the first; None where there is none."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first: list[str] = []
        for number, line in enumerate(file, 1):
            cells = _cells(line)
            first = first or cells
            if not line.strip() or (number == 1 and _is_header(cells)):
                continue
            for column, cell in enumerate(cells, 1):
                if not _is_number(cell):
                    return f"line {number}, column {column} holds {cell!r}"
            if len(cells) != len(first):
                return f"line {number} has {len(cells)} columns, the first {len(first)}"
    return None


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(",")]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_header(cells: list[str]) -> bool:
    """Whether the first row of a table holds names: texts, or 0, 1, 2, …, which pandas writes where there are none."""
    return not any(map(_is_number, cells)) or (len(cells) > 2 and cells == [str(k) for k in range(len(cells))])


def _read_images(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise DataError(
            f"--input={path}: this model takes x of shape {shape}, not square images; give a .npy, .npz or .csv file."
        )
    files = image_files(path, "--input") if path.is_dir() else [path]
    images, said = ImageFiles(files, shape[1], shape[0]).read_all(keep=True)
    assert images is not None
    return images.numpy(), said


def write_array(path: Path, name: str, x: np.ndarray, table: Table | None = None) -> None:
    """Write rows (N, …) to a .npy, .npz or .csv file, or images (N, C, H, W) in [0, 1] as a grid to a .png.

    Each pixel of small images becomes a square of pixels, as large as the constants above say.

    Args:
        name: of the array in an .npz, and of the columns of a .csv. table: whose columns a .csv has instead.

    Raises: SettingError where the file cannot be written.
    """
    suffix = path.suffix.lower()

    def write(part: Path) -> None:
        if table is not None and suffix == ".csv":
            return table.write(part, x)
        with part.open("wb") as file:
            if suffix == ".npy":
                np.save(file, x)
            elif suffix == ".npz":
                np.savez(file, **{name: x})  # type: ignore[arg-type]
            elif suffix == ".csv":
                rows = x.reshape(len(x), -1)
                header = name if x.ndim == 1 else ",".join(f"{name}{k}" for k in range(rows.shape[1]))
                np.savetxt(file, rows, "%.9g", ",", header=header, comments="")  # nine digits give back every float32
            else:
                if cut := float(((x < 0) | (x > 1)).mean()):
                    print_note(f"{cut:.1%} of the values lie outside of [0, 1], which is all that a picture shows.")
                columns, size = ceil(sqrt(len(x))), max(x.shape[2:])
                times = max(1, min(ceil(LEGIBLE / size), LARGEST // (columns * size)))
                grid = tile(torch.from_numpy(x), columns).repeat_interleave(times, 1).repeat_interleave(times, 2)
                pixels = (255 * grid.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")

    write_atomically(path, write, CURE)
