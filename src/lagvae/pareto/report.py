"""Compares finished runs: writes tables and figures, and prints a summary on the terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markup import escape

from lagvae.errors import ComparisonError, LagvaeError, SettingError
from lagvae.io import check_writable, owned
from lagvae.pages.page import try_page
from lagvae.pareto.comparison import Analysis, analyse
from lagvae.pareto.figures import draw_pareto
from lagvae.pareto.points import SPLITS, collect
from lagvae.pareto.tables import (
    GOALS,
    MATCHED,
    MATCHED_SUMMARY,
    SLACK,
    SUMMARY,
    dominated_rows,
    matched_rows,
    matched_summary_rows,
    notes,
    slack_rows,
    summary_rows,
    training_line,
    write_csv,
    write_markdown,
)
from lagvae.runs.layout import ANALYSIS, RunFolder, runs_below
from lagvae.terminal import console, plain_table, print_note, short_path

MAX_PRINTED = 20
"""Largest number of dominated runs, and of matched pairs, printed on the terminal; the file lists all of them."""


def print_comparison(analysis: Analysis, files: Sequence[Path]) -> None:
    """Print the summary of each method, the dominated runs, the matched pairs, and the runs that were not compared."""
    out, collection = console(), analysis.collection
    print_rows(f"Information ({collection.information}) against −ELBO", SUMMARY, summary_rows(analysis))
    dominated = dominated_rows(analysis)
    if dominated:
        out.print("[bold]Dominated runs[/]")
        for goal, split, _, worse, better, fit, information, mmd in dominated[:MAX_PRINTED]:
            by = f"by {better}, better by {fit} nats in −ELBO and by {information} nats in I"
            by += ", and in MMD" if mmd == "yes" else ""
            out.print(escape(f" {goal}, {split}: {worse} {by}"))
        if len(dominated) > MAX_PRINTED:
            out.print(f"and {len(dominated) - MAX_PRINTED} more dominated runs.")
    elif len(collection.families) > 1:
        out.print(f"No run dominates a run of another method by more than {analysis.z:g} standard errors in both objectives.")
    if analysis.pairs:
        _print_matched(analysis)
        print_rows(f"Matched runs: LagVAE better by (z = {analysis.z:g})", MATCHED_SUMMARY, matched_summary_rows(analysis))
    if analysis.curves:
        print_rows("Information over the slack γ₁", SLACK, slack_rows(analysis))
    out.print(escape(training_line(analysis)))
    for note in notes(analysis):
        out.print(escape(note))
    not_compared = {"Unfinished": dict.fromkeys(collection.unfinished, ""), "Skipped": collection.skipped}
    for heading, runs in (not_compared | {"Left out": collection.left_out}).items():
        entries = [name + (f" ({reason})" if reason else "") for name, reason in runs.items()]
        more = [f"and {len(entries) - 5} more"] if len(entries) > 5 else []
        if entries:
            out.print(f"[bold yellow]{heading}: {escape(', '.join(entries[:5] + more))}[/]")
    out.print(f"Written to {short_path(files[0].parent)}: {', '.join(escape(file.name) for file in files)}")


def _print_matched(analysis: Analysis) -> None:
    """Print the matched pairs on training data, a table for each sign of α, and a pair as two lines, so that it is narrow."""
    split = SPLITS[0]
    for goal in GOALS.values():
        rows = [row for row in matched_rows(analysis, split) if row[0] == goal]
        shown = []
        for _, setting, seed, *values, verdict, gain, objective in rows[:MAX_PRINTED]:
            lines = ["\n".join(both) for both in zip(values[:3], values[3:], strict=True)]
            shown.append((f"{setting}\nLagVAE ({verdict})", seed, *lines, f"{gain}\n{objective}"))
        if shown:
            head = ("InfoVAE, LagVAE", "seed", *MATCHED[3:6], "better by (nats);\nin InfoVAE's objective")
            print_rows(f"{goal} ({split}): LagVAE with InfoVAE's −ELBO and MMD as its bounds", head, shown)
        if len(rows) > MAX_PRINTED:
            console().print(f"and {len(rows) - MAX_PRINTED} more matched runs.")


def print_rows(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of formatted texts."""
    table = plain_table(name, head[0])
    for column in head[1:]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in row))
    console().print(table)


def compare(folders: Sequence[Path], out: Path | None = None, information: str = "interval", z: float = 2.0) -> Analysis:
    """Compare the runs below some folders: write pareto.csv, pareto.md, pareto.html and the figures, and print a summary.

    Where the runs were logged to W&B, so is the comparison; see `lagvae.runs.wandb_comparison.log_sweep`.

    Args:
        out: the folder of these files; by default `pareto-analysis` in the given folder, or in the common parent of several.
        information: the estimate of I to compare, a key of `lagvae.pareto.INFORMATION`.
        z: number of standard errors that a difference must exceed.

    Raises: SettingError, ComparisonError.
    """
    analysis, files = write_comparison(folders, out, information, z)
    print_comparison(analysis, files)
    return analysis


def log_sweep_comparison(folder: Path) -> None:
    """Compare the runs of a sweep that has ended, where they were logged to W&B, so that the comparison is there, too.

    Nothing but a note is printed, where they cannot be compared.
    """
    if not logged_to_wandb(runs_below(folder, set())):
        return
    with owned(folder, waiting=lambda owner: None):  # all that are given the sweep do this
        try:
            write_comparison([folder])
        except LagvaeError as error:
            print_note(f"W&B has no comparison of {short_path(folder)}: {error}")


def write_comparison(
    folders: Sequence[Path], out: Path | None = None, information: str = "interval", z: float = 2.0
) -> tuple[Analysis, list[Path]]:
    """What `compare` does but print: the analysis, and the files that it is told by."""
    out = out or default_out(folders)
    try:
        analysis = analyse(collect(folders, information), z)
    except ComparisonError as error:
        former = out / "pareto.html"
        earlier = f"\n{short_path(former)} is of an earlier comparison." if former.is_file() else ""
        raise ComparisonError(f"{error}{earlier}") from None
    check_writable(out, "Name another folder with --out.")
    figures = draw_pareto(out, analysis)
    table, text = out / "pareto.csv", out / "pareto.md"
    write_csv(analysis, table)
    pictures = [file for file in figures if file.suffix == ".png"]
    write_markdown(analysis, text, [file.name for file in pictures])

    def draw_page(path: Path) -> None:
        from lagvae.pareto.page import write_comparison_page  # imports Altair, which takes half a second

        write_comparison_page(path, analysis, pictures)

    page = try_page(out / "pareto.html", draw_page)
    runs = {run.name: RunFolder(run.folder) for run in analysis.collection.runs if run.folder is not None}
    if logged_to_wandb(runs.values()):
        from lagvae.runs.wandb_comparison import log_sweep  # imports W&B

        log_sweep(out, runs, table, pictures, page)
    return analysis, [text, *page, table, *figures]


def logged_to_wandb(runs: Iterable[RunFolder]) -> bool:
    """Whether one of the runs has W&B as its logger."""
    return any(WANDB_TARGET.search(run.config.read_text(encoding="utf-8")) for run in runs)


WANDB_TARGET = re.compile(r"_target_: (pytorch_lightning|lagvae)\.\S*WandbLogger\b")
"""What the config of a run has where W&B is its logger."""


def default_out(folders: Sequence[Path]) -> Path:
    """`pareto-analysis` in the given folder, or in the common parent of several. SettingError where that parent is the root."""
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    if common == Path(common.anchor):
        raise SettingError("The folders of runs have no common parent folder: say where to write with --out FOLDER.")
    return common / ANALYSIS
