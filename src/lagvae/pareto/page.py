"""pareto.html: a comparison of runs as a page for a browser, with Figures 1 and 2, filters, and links to the runs' pages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import altair as alt

from lagvae.pages.page import Drawing, unchecked_charts, write_page
from lagvae.pareto.comparison import Analysis
from lagvae.pareto.figures import AXES, method_styles, screen_colours
from lagvae.pareto.fronts import MAXIMISE, MINIMISE
from lagvae.pareto.points import DATA, SPLITS, RunPoint, method_title
from lagvae.pareto.tables import GOALS, RUNS, comparison_sections, run_row
from lagvae.runs.layout import RunFolder

SHAPES = {"o": "circle", "^": "triangle-up", "s": "square", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "stroke"}
"""Marker of matplotlib → shape of Vega."""


def write_comparison_page(path: Path, analysis: Analysis, figures: Sequence[Path]) -> None:
    """Write the page of a comparison.

    Args:
        figures: the pictures of `draw_pareto`.

    Raises: ImportError where a library for pages is missing.
    """
    pages = {run.name: address(run, path.parent) for run in analysis.collection.runs}
    with unchecked_charts():
        write_page(
            path,
            "pareto.html",
            {"figures": figures_chart(analysis, pages)},
            figures,
            sections=comparison_sections(analysis),
            filters=choices(analysis),
            head=RUNS,
            rows=[(run, pages[run.name], run_row(run, SPLITS[0])) for run in analysis.collection.runs],
        )


def address(run: RunPoint, start: Path) -> str | None:
    """The address of a run's page relative to a folder; None where it has none."""
    if run.folder is None or not (page := RunFolder(run.folder).page).is_file():
        return None
    return quote(os.path.relpath(page.resolve(), start.resolve()))


def run_rows(analysis: Analysis, pages: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """A row for each run, with its values on all splits, so that what is marked by one is marked by the others."""
    rows = []
    for run in analysis.collection.runs:
        row: dict[str, Any] = {
            **{"run": run.name, "family": run.family, "method": method_title(run.family), "setting": run.setting},
            **{"sign": str(run.sign), "alpha": run.alpha, "gamma": run.gamma, "seed": run.seed, "verdict": run.verdict},
            **{"page": pages[run.name]},
        }
        for split, point in run.points.items():
            end = point.worse_end(run.sign)
            row |= {f"{split}_lower": point.lower.value, f"{split}_upper": point.upper.value}
            for key, estimate in (("x", point.neg_elbo), ("y", end)):
                low, high = estimate.value - estimate.stderr, estimate.value + estimate.stderr
                row |= {f"{split}_{key}": estimate.value, f"{split}_{key}_low": low, f"{split}_{key}_high": high}
        rows.append(row)
    return rows


def front_rows(analysis: Analysis, split: str) -> list[dict[str, Any]]:
    """The corners of the fronts of each method, sign of α and seed."""
    rows = []
    for group in (group for group in analysis.groups if group.split == split):
        for seed, runs in group.fronts.items():
            of = {"family": group.family, "method": method_title(group.family), "sign": str(group.sign)}
            of |= {"front": f"{group.family} {group.sign} {seed}"}
            points = [(run.verdict, run.points[split]) for run in runs]
            rows += [of | {"verdict": v, "x": p.neg_elbo.value, "y": p.worse_end(group.sign).value} for v, p in points]
    return rows


def curve_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The points of each curve of information over γ₁, on training data."""
    rows = []
    for curve in (curve for curve in analysis.curves if curve.split == SPLITS[0]):
        of = {"family": curve.family, "method": method_title(curve.family), "curve": f"{curve.family} {curve.alpha}"}
        of |= {"sign": str(MAXIMISE if curve.alpha < 0 else MINIMISE)}
        rows += [of | {"gamma": gamma, "mean": mean} for gamma, mean in zip(curve.gammas, curve.means, strict=True)]
    return rows


@dataclass(frozen=True)
class Look:
    """How runs are drawn: the channels of points, of bars and of lines, what marks runs, and the axis of information."""

    points: Mapping[str, Any]
    bars: Mapping[str, Any]
    lines: Mapping[str, Any]
    brush: alt.Parameter
    title: str
    scale: alt.Scale

    @classmethod
    def of(cls, analysis: Analysis, rows: Sequence[Mapping[str, Any]]) -> Look:
        """The look of a comparison, with the colours and the markers of its figures."""
        styles = method_styles(analysis.collection.families)
        titles = [method_title(family) for family in styles]
        colours = alt.Scale(domain=titles, range=[*screen_colours(list(styles)).values()])
        shapes = alt.Scale(domain=titles, range=[SHAPES[marker] for _, marker in styles.values()])
        legend = alt.Legend(orient="bottom", title=None, symbolOpacity=1)
        brush = alt.selection_interval(name="brush", resolve="global")
        colour = alt.Color("method:N", legend=legend, scale=colours)
        points = {
            **{"color": colour, "fill": alt.Fill("method:N", legend=None, scale=colours)},
            "shape": alt.Shape("method:N", legend=legend, scale=shapes),
            "fillOpacity": alt.condition(f"datum.sign == '{MAXIMISE}'", alt.value(1), alt.value(0)),
            "opacity": alt.condition(brush, alt.value(1), alt.value(0.12)),
            "href": alt.condition("datum.page", alt.Href("page:N"), alt.value("")),
        }
        bars = {"color": colour, "opacity": alt.condition(brush, alt.value(0.4), alt.value(0.06))}
        ends = [row[f"{split}_{end}"] for row in rows for split in SPLITS for end in ("lower", "upper", "y_low", "y_high")]
        title = AXES[analysis.collection.information].replace("$", "")
        return cls(points, bars, {"color": colour}, brush, title, alt.Scale(domain=[min(ends), max(ends)], nice=True))

    def runs(self, x: alt.X, split: str) -> list[alt.Chart]:
        """The runs that are shown: the intervals for I, and the ends that the runs optimise with their standard errors."""
        base = alt.Chart(alt.NamedData("runs")).transform_filter(is_chosen("family", "sign", "verdict")).encode(x=x)
        y = alt.Y(f"{split}_y:Q", title=self.title, scale=self.scale)
        low = alt.Y(f"{split}_lower:Q", title=self.title)
        points = base.mark_point(size=55, strokeWidth=1.6).encode(y=y, tooltip=tooltip(split), **self.points)
        return [
            base.mark_rule(strokeWidth=2.2).encode(y=low, y2=f"{split}_upper", **self.bars),
            base.mark_rule(strokeWidth=0.8).encode(y=alt.Y(f"{split}_y_low:Q"), y2=f"{split}_y_high", **self.bars),
            points.add_params(self.brush),
        ]


def figures_chart(analysis: Analysis, pages: Mapping[str, str | None]) -> Drawing:
    """Figure 2 on each split and, where γ₁ was swept, Figure 1: runs that are marked in one are marked in all."""
    data: dict[str, list[dict[str, Any]]] = {"runs": (rows := run_rows(analysis, pages))}
    look, views = Look.of(analysis, rows), []
    costs = [row[f"{split}_x_{end}"] for row in rows for split in SPLITS for end in ("low", "high")]
    scale = alt.Scale(domain=[min(costs), max(costs)], nice=True)
    for split in SPLITS:
        name = f"fronts_{split}"
        data[name] = front_rows(analysis, split)
        fronts = (
            alt.Chart(alt.NamedData(name))
            .transform_filter(is_chosen("family", "sign", "verdict"))
            .mark_line(interpolate="step-after", strokeWidth=1, opacity=0.6)
            .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("y:Q", scale=look.scale), detail=["front:N"], **look.lines)
        )
        errors = (
            alt.Chart(alt.NamedData("runs"))
            .transform_filter(is_chosen("family", "sign", "verdict"))
            .mark_rule(strokeWidth=0.8)
            .encode(x=alt.X(f"{split}_x_low:Q"), x2=f"{split}_x_high", y=alt.Y(f"{split}_y:Q"), **look.bars)
        )
        x = alt.X(f"{split}_x:Q", title="−ELBO (nats)", scale=scale)
        view = alt.layer(fronts, errors, *look.runs(x, split))
        views.append(view.properties(title=f"Figure 2, {DATA[split]}", height=330))
    if analysis.curves:
        data["curves"] = curve_rows(analysis)
        x = alt.X("gamma:Q", title="slack γ₁ of −ELBO (nats)")
        lines = (
            alt.Chart(alt.NamedData("curves"))
            .transform_filter(is_chosen("family", "sign"))
            .mark_line(strokeWidth=1, opacity=0.6)
            .encode(x=x, y=alt.Y("mean:Q", scale=look.scale), detail=["curve:N"], **look.lines)
        )
        slack = [layer.transform_filter("datum.gamma != null") for layer in look.runs(x, SPLITS[0])]
        views.append(alt.layer(lines, *slack).properties(title=f"Figure 1, {DATA[SPLITS[0]]}", height=330))
    filters = [alt.param(name=f"shown_{name}", value=list(values)) for name, values in choices(analysis).items()]
    return Drawing(alt.concat(*views, columns=2).add_params(*filters), data)


def choices(analysis: Analysis) -> dict[str, dict[str, str]]:
    """What runs can be chosen by → the values that there are → what these are called."""
    runs = analysis.collection.runs
    signs = sorted({run.sign for run in runs})
    return {
        "family": {family: method_title(family) for family in analysis.collection.families},
        "sign": {str(sign): f"α {'<' if sign == MAXIMISE else '>'} 0, {GOALS[sign]}" for sign in signs},
        "verdict": {verdict: verdict for verdict in sorted({run.verdict for run in runs})},
    }


def is_chosen(*names: str) -> str:
    """The expression of Vega that is true where all of these values are among the chosen ones."""
    return " && ".join(f"indexof(shown_{name}, datum.{name}) >= 0" for name in names)


def tooltip(split: str) -> list[alt.Tooltip]:
    """What is shown of the run that is pointed at."""
    names = {"run": "run", "method": "method", "alpha": "α", "setting": "setting", "seed": "seed", "verdict": "verdict"}
    numbers = {"x": "−ELBO", "lower": "I, lower end", "upper": "I, upper end"}
    return [
        *(alt.Tooltip(f"{key}:N", title=title) for key, title in names.items()),
        *(alt.Tooltip(f"{split}_{key}:Q", title=title, format=".2f") for key, title in numbers.items()),
    ]
