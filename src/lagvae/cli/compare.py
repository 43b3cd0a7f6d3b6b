"""Compare finished runs: what `pareto` and `compare` do."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lagvae.cli.version import describe_version
from lagvae.errors import LagvaeError, SettingError
from lagvae.io import check_writable
from lagvae.pareto import INFORMATION
from lagvae.runs.layout import ANALYSIS, find_runs, runs_below
from lagvae.terminal import command, print_error, print_note, quick_imports


def main(root: Path, words: Sequence[str] | None = None) -> None:
    """Read a command line and compare; what a user can act on is printed as one paragraph, with exit status 1.

    Args:
        root: of the project, where LAGVAE_ROOT does not name another one; runs are looked for in its runs/.
    """
    parser = argparse.ArgumentParser(prog=command("pareto"), description="Compare finished runs: information against −ELBO.")
    parser.add_argument("runs", nargs="*", metavar="RUNS", help="folders of runs, or their names under runs/")
    parser.add_argument("--out", type=Path, help=f"folder of the files that are written (default: RUNS/{ANALYSIS})")
    parser.add_argument(
        "--information", default="interval", help=f"estimate of I: {', '.join(INFORMATION)} (default: interval)"
    )
    parser.add_argument("--z", type=float, default=2.0, help="standard errors that count as a difference (default: 2)")
    parser.add_argument("--version", action="version", version=describe_version(), help="print versions and exit")
    options = parser.parse_args(words)
    with told():
        with quick_imports():
            from lagvae.pareto.report import compare  # imports torch, which is needed only to compare

        runs = runs_folder(root)
        compare(
            [find_runs(runs, name) for name in named_folders(runs, options.runs)], options.out, options.information, options.z
        )


def compare_runs(root: Path, words: Sequence[str] | None = None) -> None:
    """As `main`, for runs of any family and data, side by side."""
    parser = argparse.ArgumentParser(
        prog=command("compare"), description="Finished runs side by side: the settings that differ, and results with errors."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="runs, or folders of runs: folders, names under runs/, or latest"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the tables as a page for a browser, too")
    parser.add_argument("--version", action="version", version=describe_version(), help="print versions and exit")
    options = parser.parse_args(words)
    with told():
        if options.html is not None:
            if options.html.suffix.lower() not in (".html", ".htm"):
                raise SettingError(f"--html={options.html} has the unknown ending {options.html.suffix!r}; use .html.")
            check_writable(options.html.parent, "Name another file with --html.")
        with quick_imports():
            from lagvae.pareto.side_by_side import side_by_side

        side_by_side([find_runs(runs_folder(root), name) for name in options.runs], options.html)


def runs_folder(root: Path) -> Path:
    """The folder of runs of a project, where LAGVAE_ROOT does not name another project."""
    return Path(os.environ.get("LAGVAE_ROOT", root)) / "runs"


@contextmanager
def told() -> Iterator[None]:
    """A context in which an error that a user can act on ends the program, as one paragraph with exit status 1."""
    try:
        yield
    except KeyboardInterrupt:
        print_note("Stopped.")
        sys.exit(130)
    except LagvaeError as error:
        print_error(str(error))
        sys.exit(1)


def named_folders(runs: Path, names: Sequence[str]) -> Sequence[str]:
    """The folders that were named. SettingError where there are none, with those that could be."""
    if names:
        return names
    children = sorted(runs.iterdir()) if runs.is_dir() else []
    seen: set[Path] = set()
    candidates = [f.name for f in children if f.is_dir() and f.name[0] != "." and next(runs_below(f, seen), None)]
    hint = f"Name folders of runs, such as {', '.join(candidates[:10])}." if candidates else f"There are none in {runs} yet."
    raise SettingError(f"{command('pareto')} needs the runs to compare. {hint}")
