"""Kinds of files that people have, what is said of each, and whether the model is that of the same data as clean floats.

    python benchmarks/inputs.py [--jobs N] [--root FOLDER] [--out results/inputs.md] [KEY=VALUE …]

The digits of scikit-learn, 300 of them, as arrays of several types and layouts, as images of several kinds and as tables. For
each a VAE is trained briefly, as is one on the same values in a clean float32 file: the difference of their −ELBO on the
training split should be within what rounding does, since noise, batches and start are the same. Files that must not be trained
on without a word of the user stand below, with the message that refuses them.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grid
import numpy as np
from PIL import Image

N = 300

SETTINGS = [
    "family=vae",
    "callbacks=light",
    "training.steps=300",
    "training.interval=300",
    "data.draws=2000",
    "data.batch=64",
    "model.latent=8",
    "model.encoder.hidden=[64]",
    "model.decoder.hidden=[64]",
]

FOLDER = ["data=folder", "data.source.size=8", "data.source.channels=1", "data.source.remembered=null"]

BERNOULLI = ["data.likelihood=bernoulli"]

Files = Callable[[Path], Path]
"""Writes files below a folder, and returns what data.source.path names."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Args:
        name: in words. words: what is typed beside data.source.path. write: the files.
        clean: the same values in a file of float32, and what is typed for it; None for what must be refused.
    """

    name: str
    words: list[str]
    write: Files
    clean: tuple[list[str], Files] | None = None


def levels() -> np.ndarray:
    """Grey levels 0 … 255, (N, 8, 8)."""
    from sklearn.datasets import load_digits

    return (load_digits().images[:N] * (255 / 16)).round().astype("u1")  # type: ignore[no-any-return]


def npz(make: Callable[[], np.ndarray]) -> Files:
    """An .npz file with an array x."""

    def write(folder: Path) -> Path:
        np.savez(folder / "own.npz", x=make())
        return folder / "own.npz"

    return write


def npy(make: Callable[[], np.ndarray]) -> Files:
    """An .npy file."""

    def write(folder: Path) -> Path:
        np.save(folder / "own.npy", make())
        return folder / "own.npy"

    return write


def pt(make: Callable[[], np.ndarray]) -> Files:
    """A .pt file with a tensor."""

    def write(folder: Path) -> Path:
        import torch

        torch.save(torch.from_numpy(make()), folder / "own.pt")
        return folder / "own.pt"

    return write


def images(make: Callable[[np.ndarray], Image.Image], ending: str = "png", turned: bool = False) -> Files:
    """A folder with a file for each digit, in two folders of classes; with `turned`, on its side with an EXIF that says so."""

    def write(folder: Path) -> Path:
        for k, image in enumerate(levels()):
            # Sorted by path, those with an even number come first, as in `in_folders`.
            file = folder / "images" / "ab"[k % 2] / f"{k:04d}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            if turned:
                image = np.rot90(image)  # to the left; orientation 6 asks the reader to turn it to the right
                exif[0x0112] = 6
            make(image).save(file, **({"exif": exif} if turned else {}))
        return folder / "images"

    return write


def in_folders(x: np.ndarray) -> np.ndarray:
    """Rows in the order in which a folder gives them."""
    return np.concatenate([x[::2], x[1::2]])


def table(gaps: bool = False, parquet: bool = False, units: float = 1.0) -> Files:
    """The four pixels that vary most and a category, as named columns."""

    def write(folder: Path) -> Path:
        x = levels().reshape(N, 64).astype("f8")
        x = x[:, np.argsort(-x.std(0))[:4]] * units
        bright = ["dark" if row.mean() < 70 else "bright" for row in levels()]
        holes = np.random.default_rng(0).random(x.shape) < 0.1
        columns: dict[str, list[Any]] = {
            f"pixel {k}": [None if gaps and holes[i, k] else float(v) for i, v in enumerate(x[:, k])] for k in range(4)
        }
        columns["kind"] = list(bright)
        if parquet:
            import pyarrow as pa
            from pyarrow import parquet as pq

            floats = {n: pa.array(v, pa.float32() if n != "kind" else pa.string()) for n, v in columns.items()}
            pq.write_table(pa.table(floats), folder / "own.parquet")
            return folder / "own.parquet"
        with (folder / "own.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(columns)
            rows.writerows(["" if v is None else v for v in row] for row in zip(*columns.values(), strict=True))
        return folder / "own.csv"

    return write


def unit() -> np.ndarray:
    return (levels() / np.float32(255)).astype("f4")


def bits() -> np.ndarray:
    return (levels() > 127).astype("f4")


def colour(x: np.ndarray, axis: int = 1) -> np.ndarray:
    """Three channels, in two of which the image is rolled."""
    return np.stack([x, np.roll(x, 1, -1), np.roll(x, 1, -2)], axis)


def spoilt(value: float) -> np.ndarray:
    x = unit().reshape(N, 64)
    x[7, 3] = value
    return x


ARRAY = ["data=array"]
GREY = (ARRAY, npz(lambda: unit()[:, None]))
ROWS = (ARRAY, npz(lambda: unit().reshape(N, 64)))
BINARY = (ARRAY + BERNOULLI, npz(lambda: bits()[:, None]))
COLOUR = (ARRAY, npz(lambda: colour(unit())))
PICTURES = (ARRAY, npz(lambda: in_folders(unit())[:, None]))
NUMBERS = ([*ARRAY, "data.standardize=true"], npz(lambda: levels().reshape(N, 64).astype("f4")))
TABLE = (["data=table"], table(parquet=True))


def grey(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image))


def with_alpha(image: np.ndarray) -> Image.Image:
    """Black where it is opaque: on white, the levels of the image."""
    return Image.fromarray(np.stack([np.zeros_like(image), 255 - image], -1), "LA")


KINDS = [
    Kind("float64, (N, 1, 8, 8)", ARRAY, npz(lambda: unit().astype("f8")[:, None]), GREY),
    Kind("uint8 levels, (N, 8, 8)", ARRAY, npz(levels), GREY),
    Kind("uint8 levels, channels last", ARRAY, npz(lambda: levels()[..., None]), GREY),
    Kind("uint16 levels", ARRAY, npz(lambda: levels().astype("u2")[:, None] * 257), GREY),
    Kind("big-endian float, Fortran order", ARRAY, npz(lambda: np.asfortranarray(unit()[:, None].astype(">f4"))), GREY),
    Kind("float16", ARRAY, npz(lambda: unit().astype("f2")[:, None]), GREY),
    Kind("a .npy file of uint8", ARRAY, npy(levels), GREY),
    Kind("a .pt file of uint8", ARRAY, pt(lambda: levels()[:, None]), GREY),
    Kind("rows of float64, (N, 64)", ARRAY, npz(lambda: unit().astype("f8").reshape(N, 64)), ROWS),
    Kind("uint8 of 0 and 1", ARRAY + BERNOULLI, npz(lambda: bits().astype("u1")), BINARY),
    Kind("bool", ARRAY + BERNOULLI, npz(lambda: bits().astype(bool)), BINARY),
    Kind("colour, uint8, channels last", ARRAY, npz(lambda: colour(levels(), -1)), COLOUR),
    Kind("colour, uint8, channels first", ARRAY, npz(lambda: colour(levels())), COLOUR),
    Kind(
        "int64 numbers 0 … 255, standardised",
        [*ARRAY, "data.standardize=true"],
        npz(lambda: levels().reshape(N, 64).astype("i8")),
        NUMBERS,
    ),
    Kind("folder of grey PNG", FOLDER, images(grey), PICTURES),
    Kind("folder of PNG, streamed", [*FOLDER, "data.source.in_memory_mib=0"], images(grey), PICTURES),
    Kind("folder of colour PNG as grey", FOLDER, images(lambda x: grey(np.stack([x] * 3, -1))), PICTURES),
    Kind("folder of PNG of 16 bits", FOLDER, images(lambda x: grey(x.astype("u2") * 257)), PICTURES),
    Kind("folder of TIFF of floats", FOLDER, images(lambda x: grey(x / np.float32(255)), "tiff"), PICTURES),
    Kind("folder of PNG with alpha", FOLDER, images(with_alpha), PICTURES),
    Kind("folder of PNG that EXIF turns", FOLDER, images(grey, turned=True), PICTURES),
    Kind("table, CSV", ["data=table"], table(), TABLE),
    Kind("table in other units, CSV", ["data=table"], table(units=1e5), TABLE),
    Kind("table with gaps, CSV", ["data=table"], table(gaps=True), (["data=table"], table(gaps=True, parquet=True))),
    Kind("one value of 1e30", ARRAY, npz(lambda: spoilt(1e30))),
    Kind("one NaN", ARRAY, npz(lambda: spoilt(np.nan))),
    Kind("(N, 3, 8, 3): channels first or last?", ARRAY, npz(lambda: colour(unit())[..., :3])),
    Kind("levels 0 … 255 as floats under Bernoulli", ARRAY + BERNOULLI, npz(lambda: levels().astype("f4")[:, None])),
    Kind("int64 time stamps", ARRAY, npz(lambda: 1_700_000_000 + levels().reshape(N, 64).astype("i8"))),
    Kind("a folder without images", FOLDER, lambda folder: folder),
    Kind("text among the numbers of a CSV", ["data=table"], lambda folder: mixed(folder)),
]


def mixed(folder: Path) -> Path:
    """A table with one word among numbers."""
    file = table()(folder)
    lines = file.read_text().splitlines()
    lines[9] = "twelve," + lines[9].split(",", 1)[1]
    file.write_text("\n".join(lines) + "\n")
    return file


def look(words: list[str], root: str) -> tuple[str, bool]:
    """What the first lines of a run say of data beside what they are; and whether they are refused."""
    os.environ["LAGVAE_ROOT"] = root
    from lagvae.cli.entry import compose_config
    from lagvae.errors import LagvaeError
    from lagvae.experiment.data_profile import profile_data, warnings_of
    from lagvae.experiment.factory import load_data

    try:
        data = load_data(compose_config(words))
        said = [*data.conversions, *data.hints, *warnings_of(profile_data(data), data.likelihood)]
    except LagvaeError as error:
        return str(error), True
    return " ".join(f"{text.removeprefix(f'data={data.name}: ').rstrip('.')}." for text in said) or "nothing", False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the tables there (results/inputs.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="inputs-")

    def typed(words: list[str], write: Files, name: str) -> list[str]:
        folder = Path(root) / "files" / "".join(c if c.isalnum() else "-" for c in name)
        folder.mkdir(parents=True, exist_ok=True)
        return [*words, f"data.source.path='{write(folder)}'", *SETTINGS, *options.overrides]

    jobs = {kind.name: typed(kind.words, kind.write, kind.name) for kind in KINDS}
    said = {name: look(words, root) for name, words in jobs.items()}
    trained = [kind for kind in KINDS if kind.clean is not None and not said[kind.name][1]]
    clean = {kind.name: typed(*kind.clean, f"clean {kind.name}") for kind in trained if kind.clean is not None}
    summaries = grid.run([words for kind in trained for words in (jobs[kind.name], clean[kind.name])], root, options.jobs)
    elbo = {
        kind.name: [s["splits"]["train"]["neg_elbo"] for s in summaries[2 * k : 2 * k + 2]] for k, kind in enumerate(trained)
    }

    def shown(text: str) -> str:
        return text.replace(root, "…").replace("|", "\\|").replace("\n", " ")

    def command(kind: Kind) -> str:
        return f"`{' '.join([*kind.words, 'data.source.path=…'])}`"

    rows = [
        (kind.name, command(kind), shown(said[kind.name][0]), f"{own:.3f}", f"{own - of_clean:+.3f}")
        for kind in trained
        for own, of_clean in [elbo[kind.name]]
    ]
    others = [kind for kind in KINDS if kind not in trained]
    refusals = [
        (kind.name, command(kind), shown(said[kind.name][0]), "refused" if said[kind.name][1] else "taken") for kind in others
    ]
    apart = max(abs(own - of_clean) for own, of_clean in elbo.values())
    grid.tell(
        [
            "# Kinds of input",
            "",
            f"{len(trained)} kinds of files, each beside a clean file of float32 with the same values: a VAE is trained on "
            f"both for 300 steps. The largest difference of −ELBO is {apart:.3f} nats. “Said” is what a run says of data "
            "beside their shape and range.",
            "",
            *grid.table(("input", "typed", "said", "−ELBO (nats)", "less that of clean float32"), rows),
            "",
            "What cannot be trained on as it is:",
            "",
            *grid.table(("input", "typed", "said", ""), refusals),
        ],
        options.out,
    )


if __name__ == "__main__":
    main()
