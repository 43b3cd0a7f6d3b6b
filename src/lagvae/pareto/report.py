"""Compare finished runs: tables, figures, and what the terminal says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from lagvae.errors import SettingError
from lagvae.experiment.report import _table
from lagvae.io import check_writable
from lagvae.pareto.comparison import Analysis, analyse
from lagvae.pareto.figures import draw_pareto
from lagvae.pareto.points import ANALYSIS, collect
from lagvae.pareto.tables import SLACK, SUMMARY, loser_rows, notes, slack_rows, summary_rows, write_csv, write_markdown
from lagvae.terminal import console, short_path

MOST = 20
"""Dominated runs that are told on the terminal; the file has them all."""


def print_comparison(analysis: Analysis, files: Sequence[Path]) -> None:
    """Many runs: what each method reached, who dominates whom, and who was not compared."""
    out, collection = console(), analysis.collection
    _rows(f"Information ({collection.information}) against −ELBO (hypervolume in nats²)", SUMMARY, summary_rows(analysis))
    losers = loser_rows(analysis)
    if losers:
        out.print("[bold]Who dominates whom[/]")
        for goal, split, _, loser, winner, fit, information in losers[:MOST]:
            by = f"by {winner}, −ELBO by {fit} and I by {information} nats better"
            out.print(escape(f" {goal}, {split}: {loser} {by}"))
        if len(losers) > MOST:
            out.print(f"and {len(losers) - MOST} dominated runs more.")
    elif len(collection.families) > 1:
        out.print(f"No run dominates a run of another method by more than {analysis.z:g} standard errors in both.")
    if analysis.curves:
        _rows("Information over the slack γ₁", SLACK, slack_rows(analysis))
    for note in notes(analysis):
        out.print(escape(note))
    named = {"Unfinished": dict.fromkeys(collection.unfinished, ""), "Skipped": collection.skipped}
    for word, runs in (named | {"Left out": collection.left_out}).items():
        told = [name + (f" ({reason})" if reason else "") for name, reason in runs.items()]
        more = [f"and {len(told) - 5} more"] if len(told) > 5 else []
        if told:
            out.print(f"[bold yellow]{word}: {escape(', '.join(told[:5] + more))}[/]")
    out.print(f"Written to {short_path(files[0].parent)}: {', '.join(escape(file.name) for file in files)}")


def _rows(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of ready texts."""
    table = _table(name, head[0])
    for column in head[1:]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(escape(run) for run in row))
    console().print(table)


def compare(folders: Sequence[Path], out: Path | None = None, information: str = "i_q", z: float = 2.0) -> Analysis:
    """Compare the runs below some folders; writes pareto.csv, pareto.md and the figures, and prints what they say.

    Args:
        out: the folder of these files; by default `pareto-analysis` in the folder, or beside several.
        information: which estimate of I, a key of `lagvae.pareto.INFORMATION`.
        z: standard errors of a difference that count.

    Raises: SettingError, ComparisonError.
    """
    out = out or default_out(folders)
    analysis = analyse(collect(folders, information), z)
    check_writable(out)
    figures = draw_pareto(out, analysis)
    table, text = out / "pareto.csv", out / "pareto.md"
    write_csv(analysis, table)
    write_markdown(analysis, text, [file.name for file in figures if file.suffix == ".png"])
    print_comparison(analysis, [text, table, *figures])
    return analysis


def default_out(folders: Sequence[Path]) -> Path:
    """`pareto-analysis` in the one folder, or in the one that several have in common. SettingError where that is the root."""
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    if common == Path(common.anchor):
        raise SettingError("The folders of runs have none in common: say where to write with --out FOLDER.")
    return common / ANALYSIS
