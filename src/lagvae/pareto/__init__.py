"""Many runs in the plane of information and −ELBO: fronts, dominance, hypervolume, information over slack."""

from lagvae.pareto.comparison import Analysis, Domination, Group, SlackCurve, analyse
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Point, dominates, front, hypervolume, worst
from lagvae.pareto.points import ANALYSIS, INFORMATION, SPLITS, Collection, RunPoint, collect, runs_below, title
from lagvae.pareto.tables import (
    DOMINATIONS,
    GOALS,
    SLACK,
    SUMMARY,
    comparison_markdown,
    domination_rows,
    loser_rows,
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
    "Collection",
    "Domination",
    "Group",
    "Point",
    "RunPoint",
    "SlackCurve",
    "analyse",
    "collect",
    "comparison_markdown",
    "dominates",
    "domination_rows",
    "front",
    "hypervolume",
    "loser_rows",
    "notes",
    "runs_below",
    "slack_rows",
    "summary_rows",
    "title",
    "worst",
    "write_csv",
    "write_markdown",
]
