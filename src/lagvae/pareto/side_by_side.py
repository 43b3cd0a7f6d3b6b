"""Finished runs side by side, whatever their family and data: the settings that differ, and the results with their errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.markup import escape

from lagvae.errors import CheckpointError, ComparisonError, SettingError
from lagvae.experiment.report import constraint_rows, goals_in_words, measured_rows
from lagvae.experiment.run import read_config
from lagvae.experiment.settings import FOLLOWS, setting_text, settings_where
from lagvae.pages.page import INSTALL, write_page
from lagvae.pareto.points import DATA, SPLITS
from lagvae.pareto.report import print_rows
from lagvae.runs.layout import runs_below
from lagvae.terminal import command, console, print_line, print_note, short_names, short_path


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        settings: those that decide about its numbers, flat. summary: what it reached.
    """

    name: str
    settings: dict[str, Any]
    summary: dict[str, Any]


def read_columns(folders: Sequence[Path]) -> list[FinishedRun]:
    """The finished runs in some folders and below them; those that are not finished are named in a note.

    Raises: ComparisonError where fewer than two are finished.
    """
    roots, seen = [folder.resolve() for folder in folders], set[Path]()
    found = [run for root in roots for run in runs_below(root, seen)]
    start = os.path.commonpath([run.path.parent for run in found]) if found else ""
    columns, left_out = [], []
    for run in found:
        name = os.path.relpath(run.path, start)
        try:
            plain: Any = OmegaConf.to_container(read_config(run))
            columns.append(FinishedRun(name, settings_where(plain, lambda rule: not rule.machine), run.read_summary()))
        except CheckpointError as error:
            left_out.append(f"{name}: {error}" if run.summary.is_file() else f"{name} has not finished")
    if left_out:
        print_note(f"Left out: {'; '.join(left_out)}")
    if len(columns) < 2:
        where = ", ".join(map(str, folders))
        raise ComparisonError(
            f"A comparison needs two finished runs, and {where} has {'one' if columns else 'none'}. "
            + (f"Finish what was left out with {command('train')} resume=RUN, or name" if left_out else "Name")
            + " other folders."
        )
    return columns


def setting_rows(columns: Sequence[FinishedRun]) -> list[tuple[str, ...]]:
    """A row for each setting that differs, with its value in each run; "–" where a run has no such setting.

    A setting that differs only because it follows another one is left out.
    """
    keys = dict.fromkeys(key for column in columns for key in column.settings)
    texts = {key: [setting_text(c.settings[key]) if key in c.settings else "–" for c in columns] for key in keys}
    own = [key for key, values in texts.items() if values != texts.get(FOLLOWS.get(key, ""))]
    return [(key, *texts[key]) for key in own if len(set(texts[key])) > 1]


def result_rows(columns: Sequence[FinishedRun], split: str) -> list[tuple[str, ...]]:
    """A row for each measurement that a run has, with its value and standard error on a split in each run."""
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        for label, *values in measured_rows(column.summary):
            found.setdefault(label, {})[column.name] = dict(zip(column.summary["splits"], values, strict=True)).get(split, "–")
    return [(label, *(of.get(column.name, "–") for column in columns)) for label, of in found.items()]


def problem_rows(columns: Sequence[FinishedRun]) -> list[tuple[str, ...]]:
    """Rows with what was asked of each run and its verdict, and of each constraint the bound, the value, λ and the verdict."""
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        summary = column.summary
        said = {"asked": goals_in_words(summary["alpha"]), "family": summary["family"], "data": summary["data"]}
        for key, text in (said | {"verdict": summary["verdict"]}).items():
            found.setdefault(key, {})[column.name] = text
        for name, bound, train, multiplier, verdict, *_ in constraint_rows(summary):
            limit = f" (bound {bound})" if bound != "–" else ""
            found.setdefault(name, {})[column.name] = f"{train}{limit}, λ = {multiplier}: {verdict}"
    return [(label, *(of.get(column.name, "–") for column in columns)) for label, of in found.items()]


ROOM, LABELS = 20, 20
"""Letters of the column of a run, and of that with labels, in a table of the terminal."""


def blocks(runs: int, width: int) -> list[tuple[int, int]]:
    """Where each of the tables begins and ends that some runs are printed in, so that they fit the terminal.

    Examples:
        >>> blocks(3, 100), blocks(7, 100)
        ([(0, 3)], [(0, 4), (4, 7)])
    """
    count = ceil(runs / max(2, (width - LABELS) // ROOM))
    return list(pairwise(round(k * runs / count) for k in range(count + 1)))


def side_by_side(folders: Sequence[Path], page: Path | None = None) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Print runs side by side, and write the same as a page; returns the tables, title → rows.

    Args:
        page: the file of the page, if one is wanted.

    Raises: ComparisonError; SettingError where the page cannot be written.
    """
    columns = read_columns(folders)
    head = ("", *(column.name for column in columns))
    width = console().width
    parts = blocks(len(columns), width)
    names, shared = short_names(head[1:], (width - LABELS) // max(last - first for first, last in parts) - 3)
    tables: list[tuple[str, list[tuple[str, ...]]]] = [
        ("What was asked, and reached on training data", problem_rows(columns)),
        *((f"Measured on {DATA[split]} (± standard error)", result_rows(columns, split)) for split in SPLITS),
        ("Settings that differ", setting_rows(columns)),
    ]
    if shared:
        print_line(f"What the names of all {len(columns)} runs share is left out below: {escape(shared)}.")
    for title, rows in tables:
        if not rows:
            print_line(f"{title}: none.")
        for first, last in parts:
            own = [(label, *values[first:last]) for label, *values in rows]
            these = f"runs {first + 1} to {last}" if last > first + 1 else f"run {last}"
            which = "" if len(parts) == 1 else f": {these} of {len(columns)}"
            if own := [row for row in own if set(row[1:]) != {"–"}]:
                print_rows(title + which, ("", *names[first:last]), own)
    if page is not None:
        try:
            write_page(page, "compare.html", {}, head=head, tables=tables)
        except ImportError as error:
            raise SettingError(f"--html={page} needs the package {error.name}: {INSTALL}, or leave it out.") from error
        print_line(f"Written to {short_path(page)}")
    return tables
