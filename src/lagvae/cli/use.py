"""Use a trained model: what the programs `encode`, `sample`, `score` and `export` do."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lagvae.cli.version import describe_version
from lagvae.errors import DataError, LagvaeError, SettingError
from lagvae.io import check_writable
from lagvae.terminal import command, print_error, print_line, print_note, quick_imports, quiet_libraries, short_path

USES = {
    "encode": "Write the codes of data, the means of q(z|x), with a trained model.",
    "sample": "Write samples x ∼ p(x) of a trained model.",
    "score": "Write a lower bound on log p(x) for each row of data, in nats.",
    "export": "Write a trained model as model.safetensors and model.json.",
}
"""Program → what it does, in a line."""

ARRAYS = (".npy", ".npz", ".csv")

CURE = "Name another file with --output."
"""What to do where an output cannot be written."""


def output_formats(name: str) -> tuple[str, ...]:
    """The endings that the output of a program may have."""
    return (*ARRAYS, ".png") if name == "sample" else ARRAYS


def parser_of(name: str) -> argparse.ArgumentParser:
    """The command line of a program of `USES`."""
    parser = argparse.ArgumentParser(prog=command(name), description=USES[name])
    parser.add_argument("run", metavar="RUN", help="run folder, name of one under runs/, latest, .ckpt file, or exported model")
    if name in ("encode", "score"):
        what = "file of data (.npy, .npz, .csv; .parquet for a model of a table), or an image or a folder of images"
        parser.add_argument("--input", type=Path, required=True, metavar="FILE", help=what)
        parser.add_argument("--key", help="name of the array in an .npz (default: the only one, or x)")
    if name == "sample":
        parser.add_argument("-n", type=int, default=16, help="number of samples (default: 16)")
        parser.add_argument("--means", action="store_true", help="write the means of p(x|z) instead, which images usually show")
    if name == "score":
        parser.add_argument("--draws", type=int, default=64, help="draws of q(z|x) for each row (default: 64)")
    if name in ("sample", "score"):
        parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    if name == "export":
        parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write to")
    else:
        formats = f"file to write ({', '.join(output_formats(name))})"
        parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=formats)
        parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--trust", action="append", default=[], metavar="PREFIX", help="load classes of yours too: mypackage.")
    parser.add_argument("--version", action="version", version=describe_version(), help="print versions and exit")
    return parser


def use_model(name: str, root: Path, words: Sequence[str] | None = None) -> None:
    """Read a command line and do it; what a user can act on is printed as one paragraph, with exit status 1.

    Args:
        root: of the project, where LAGVAE_ROOT does not name another one; runs are looked for in its runs/.
    """
    options = parser_of(name).parse_args(words)
    warnings.filterwarnings("ignore", message=r"x is \w+ with values up to")  # which a note of the program says of a file
    os.environ.setdefault("LAGVAE_ROOT", str(root))
    try:
        if name != "export":
            check_files(name, options)
        run_use(name, options)
    except KeyboardInterrupt:
        print_note("Stopped.")
        sys.exit(130)
    except LagvaeError as error:
        print_error(str(error))
        sys.exit(1)


def check_files(name: str, options: argparse.Namespace) -> None:
    """Raise SettingError or DataError for names of files that cannot be read or written, before a model is loaded."""
    from lagvae.data.sources import IMAGE_ENDINGS

    output, allowed = options.output, output_formats(name)
    if output.suffix.lower() not in allowed:
        raise SettingError(f"--output={output} has the unknown ending {output.suffix!r}; use {', '.join(allowed)}.")
    if output.is_dir():
        raise SettingError(f"--output={output} is a folder; name a file.")
    check_writable(output.parent, CURE)
    if (given := getattr(options, "input", None)) is None:
        return
    if not given.exists():
        raise DataError(f"--input={given}: there is no such file.")
    if given.is_file() and given.suffix.lower() not in (*ARRAYS, ".parquet", *IMAGE_ENDINGS):
        raise DataError(f"--input={given} has the unknown ending {given.suffix!r}; use {', '.join(ARRAYS)}, or images.")
    if output.exists() and output.samefile(given):
        raise SettingError(f"--output={output} is the input, which would be lost; name another file.")


def run_use(name: str, options: argparse.Namespace) -> None:
    """Load the model, compute, and write the result."""
    from lagvae.cli.entry import find_own_code, limit_spinning

    find_own_code([])
    limit_spinning()
    quiet_libraries()
    with quick_imports():
        from rich.markup import escape

        import lagvae
        from lagvae.cli.arrays import read_array, write_array
        from lagvae.experiment.loading import load_with_caution

    model, caution = load_with_caution(options.run, trust=options.trust)
    if caution is not None:
        print_note(caution)
    if name == "export":
        lagvae.export(model, options.output)
        return print_line(f"Written to {short_path(options.output)}: model.safetensors and model.json.")
    try:
        model = model.to(options.device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        reason = (str(error).splitlines() or [repr(error)])[0].rstrip(".")
        raise SettingError(f"--device={options.device} cannot be used ({reason}). Leave it out for the CPU.") from error
    assert model.origin is not None
    shape = tuple(model.origin["shape"])
    if name == "sample":
        check_sample(options, shape)
        with progress(model, name, options.n):
            column, rows = "x", model.sample(options.n, options.seed, options.means).cpu().numpy()
    else:
        given, said = read_array(options.input, options.key, shape, model.table)
        x = model.observations(given).numpy()
        if said := [*said, *model.conversions(given)]:
            print_line(escape(f"{options.input}: {'; '.join(said)}."))
        with progress(model, name, len(x)):
            if name == "encode":
                column, rows = "z", model.encode(given)
            else:
                column, rows = "log_prob", model.log_prob(given, options.draws, options.seed)
        if name == "encode" and any(c.divergence.uses_attribute for c in model.lagrangian.constraints):
            print_line(
                "These codes are means of q(z|x), which may tell much more about u than codes z ∼ q(z|x), which a bound on "
                "I(z;u) is about. Draw those with model.posterior(x).sample()."
            )
        if model.table is None:
            note_scale(model, options.input, x if model.standardization is None else given)
    write_array(options.output, column, rows, model.table if name == "sample" else None)
    print_line(f"Written to {short_path(options.output)}: {column} of shape {rows.shape}.")


def check_sample(options: argparse.Namespace, shape: tuple[int, ...]) -> None:
    """Raise SettingError for no samples, and for a picture of an x that is not an image."""
    if options.n < 1:
        raise SettingError(f"-n {options.n} must be at least 1.")
    if options.output.suffix.lower() == ".png" and not (len(shape) == 3 and shape[0] in (1, 3)):
        raise SettingError(
            f"--output={options.output}: x of shape {shape} is not an image (channels, height, width); use {', '.join(ARRAYS)}."
        )


@contextmanager
def progress(model: Any, title: str, total: int) -> Iterator[None]:
    """A progress bar while the model computes, on a terminal and where it takes several batches."""
    from rich.progress import MofNCompleteColumn

    from lagvae.callbacks.progress import ProgressBar
    from lagvae.inference import BATCH

    if total <= BATCH or not sys.stderr.isatty():
        yield
        return
    bar = ProgressBar(title, total, MofNCompleteColumn())
    model.on_batch = lambda done: bar.update(done, "")
    try:
        yield
    finally:
        model.on_batch = None
        bar.stop()


def note_scale(model: Any, path: Path, x: Any) -> None:
    """Say where x has another scale than samples of the model, as when training data were rescaled, and x was not."""
    try:
        own = model.sample(256)
    except LagvaeError:  # p(z) may be data that a checkpoint does not hold
        return
    low, high, least, most = float(x.min()), float(x.max()), float(own.min()), float(own.max())
    width = most - least
    if low < least - width or high > most + width or 0 < high - low < width / 8:  # such as levels 0 … 16 kept as uint8
        print_note(
            f"{path} has values from {low:g} to {high:g}, samples of this model from {least:g} to {most:g}. If the training "
            "data were rescaled, rescale these likewise."
        )
