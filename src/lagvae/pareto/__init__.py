"""Many runs in the plane of information and −ELBO: fronts, dominance, hypervolume, information over slack."""

from lagvae.pareto.analysis import Analysis, Curve, Domination, Group, analyse
from lagvae.pareto.cell import INFORMATION, SPLITS, Cell, title
from lagvae.pareto.collect import ANALYSIS, Collection, collect, runs_below
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Point, dominates, front, hypervolume, worst
from lagvae.pareto.tables import (
    DOMINATIONS,
    GOALS,
    SLACK,
    SUMMARY,
    domination_rows,
    loser_rows,
    markdown,
    notes,
    slack_rows,
    summary_rows,
    write_csv,
    write_markdown,
)

__all__ = [
    "ANALYSIS",
    "DOMINATIONS",
    "GOALS",
    "INFORMATION",
    "MAXIMISE",
    "MINIMISE",
    "SLACK",
    "SPLITS",
    "SUMMARY",
    "Analysis",
    "Cell",
    "Collection",
    "Curve",
    "Domination",
    "Group",
    "Point",
    "analyse",
    "collect",
    "dominates",
    "domination_rows",
    "front",
    "hypervolume",
    "loser_rows",
    "markdown",
    "notes",
    "runs_below",
    "slack_rows",
    "summary_rows",
    "title",
    "worst",
    "write_csv",
    "write_markdown",
]
