"""Compares finished runs in the plane of information and −ELBO: dominance, fronts, matched runs, information over slack.

This package may read run folders and configs and import the experiment and those below. It neither trains nor evaluates.
"""

from lagvae.pareto.comparison import Analysis, Domination, Group, MatchedPair, SlackCurve, analyse
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Estimate, Point, dominates, front
from lagvae.pareto.points import INFORMATION, SPLITS, Collection, RunPoint, collect, method_title
from lagvae.pareto.tables import (
    DOMINATIONS,
    GOALS,
    MATCHED,
    MATCHED_SUMMARY,
    SLACK,
    SUMMARY,
    comparison_markdown,
    dominated_rows,
    domination_rows,
    matched_rows,
    matched_summary_rows,
    notes,
    slack_rows,
    summary_rows,
    training_line,
    write_csv,
    write_markdown,
)

__all__ = [
    "DOMINATIONS",
    "GOALS",
    "INFORMATION",
    "MATCHED",
    "MATCHED_SUMMARY",
    "MAXIMISE",
    "MINIMISE",
    "SLACK",
    "SPLITS",
    "SUMMARY",
    "Analysis",
    "Collection",
    "Domination",
    "Estimate",
    "Group",
    "MatchedPair",
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
    "matched_rows",
    "matched_summary_rows",
    "method_title",
    "notes",
    "slack_rows",
    "summary_rows",
    "training_line",
    "write_csv",
    "write_markdown",
]
