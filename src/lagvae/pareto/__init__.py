"""Compares finished runs in the plane of information and −ELBO: dominance, fronts, hypervolumes, information over slack.

This package may read run folders and configs and import the experiment and those below. It neither trains nor evaluates.
"""

from lagvae.pareto.comparison import Analysis, Domination, Group, SlackCurve, analyse
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Point, dominates, front, hypervolume, worst
from lagvae.pareto.points import ANALYSIS, INFORMATION, SPLITS, Collection, RunPoint, collect, method_title, runs_below
from lagvae.pareto.tables import (
    DOMINATIONS,
    GOALS,
    SLACK,
    SUMMARY,
    comparison_markdown,
    dominated_rows,
    domination_rows,
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
    "dominated_rows",
    "dominates",
    "domination_rows",
    "front",
    "hypervolume",
    "method_title",
    "notes",
    "runs_below",
    "slack_rows",
    "summary_rows",
    "worst",
    "write_csv",
    "write_markdown",
]
