"""pareto.html: a comparison of runs as a page for a browser, with Figures 1 and 2, filters, and links to the runs' pages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import altair as alt

from lagvae.pages.page import Drawing, unchecked_charts, write_page
from lagvae.pareto.comparison import Analysis
from lagvae.pareto.figures import method_styles
from lagvae.pareto.fronts import MAXIMISE, MINIMISE
from lagvae.pareto.points import SPLITS, RunPoint, method_title
from lagvae.pareto.tables import GOALS, RUNS, comparison_sections, run_row
from lagvae.runs.layout import RunFolder

SHAPES = {"o": "circle", "^": "triangle-up", "s": "square", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "stroke"}
"""Marker of matplotlib → shape of Vega."""

BLACK, GREY = "#000000", "#7d8796"
"""A colour of `method_styles` that a dark page would hide → the one in its place."""

AXES = {
    "interval": "I_q(x;z) (nats)",
    "i_q_lower": "I_q(x;z), lower end of its interval (nats)",
    "i_q_upper": "I_q(x;z), upper end of its interval (nats)",
    "rate": "rate E KL(q(z|x)‖p(z)) (nats)",
    "i_q_kde": "I_q(x;z) by kernel density estimate (nats)",
}
"""Estimator → the title of its axis."""


def write_comparison_page(path: Path, analysis: Analysis, figures: Sequence[Path]) -> None:
    """Write the page of a comparison.

    Args:
        figures: the pictures of `draw_pareto`.

    Raises: ImportError where a library for pages is missing.
    """
    runs = analysis.collection.runs
    pages = {run.name: address(run, path.parent) for run in runs}
    with unchecked_charts():
        charts = {"figures": figures_chart(analysis, pages)}
        write_page(
            path,
            "pareto.html",
            charts,
            figures,
            sections=comparison_sections(analysis),
            filters={
                "family": {run.family: method_title(run.family) for run in runs},
                "sign": {str(sign): f"α {'<' if sign == MAXIMISE else '>'} 0, {GOALS[sign]}" for sign in GOALS if signs(runs, sign)},
                "verdict": {run.verdict: run.verdict for run in runs},
            },
            head=RUNS,
            rows=[(run, pages[run.name], run_row(run, SPLITS[0])) for run in runs],
            figure1=bool(analysis.curves),
        )


def signs(runs: Sequence[RunPoint], sign: int) -> bool:
    """Whether a run has this sign of α."""
    return any(run.sign == sign for run in runs)


def address(run: RunPoint, start: Path) -> str | None:
    """The address of a run's page relative to a folder; None where it has none."""
    if run.folder is None or not (page := RunFolder(run.folder).page).is_file():
        return None
    return quote(os.path.relpath(page.resolve(), start.resolve()))


def run_rows(analysis: Analysis, pages: dict[str, str | None]) -> list[dict[str, Any]]:
    """A row for each run, with its values on all splits."""
    rows = []
    for run in analysis.collection.runs:
        row: dict[str, Any] = {
            **{"run": run.name, "family": run.family, "method": method_title(run.family), "setting": run.setting},
            **{"sign": str(run.sign), "α": run.alpha, "γ": run.gamma, "seed": run.seed, "verdict": run.verdict},
            **{"page": pages[run.name]},
        }
        for split, point in run.points.items():
            end = point.worse_end(run.sign)
            row |= {f"{split}_x": point.neg_elbo.value, f"{split}_y": end.value}
            row |= {f"{split}_lower": point.lower.value, f"{split}_upper": point.upper.value}
            row |= {f"{split}_{key}{side}": value.value + k * value.stderr
                    for key, value in (("x", point.neg_elbo), ("y", end)) for side, k in (("0", -1), ("1", 1))}
        rows.append(row)
    return rows


def figures_chart(analysis: Analysis, pages: dict[str, str | None]) -> Drawing:
    """Figure 2 on each split and, where γ₁ was swept, Figure 1: what is marked in one is marked in all."""
    styles = {family: (GREY if c == BLACK else c, SHAPES[m]) for family, (c, m) in method_styles(analysis).items()}
    titles = [method_title(family) for family in styles]
    brush = alt.selection_interval(name="brush", resolve="global")
    filters = [alt.param(name=f"shown_{name}", value=values) for name, values in _choices(analysis).items()]
    below = alt.Legend(orient="bottom", title=None)
    marked = {
        "color": alt.Color("method:N", legend=below, scale=alt.Scale(domain=titles, range=[c for c, _ in styles.values()])),
        "opacity": alt.condition(brush, alt.value(1), alt.value(0.12)),
    }
    signed = {
        "shape": alt.Shape("method:N", legend=below, scale=alt.Scale(domain=titles, range=[m for _, m in styles.values()])),
        "fillOpacity": alt.condition(f"datum.sign == '{MAXIMISE}'", alt.value(1), alt.value(0)),
        "href": "page:N",
    }
    data: dict[str, list[dict[str, Any]]] = {"runs": run_rows(analysis, pages)}
    views = []
    values = [row[f"{split}_{key}"] for row in data["runs"] for split in SPLITS for key in ("lower", "upper")]
    costs = [row[f"{split}_{key}"] for row in data["runs"] for split in SPLITS for key in ("x0", "x1")]
    y_scale = alt.Scale(domain=[min(values), max(values)], nice=True)
    title = AXES[analysis.collection.information]
    for split in SPLITS:
        x = alt.X(f"{split}_x:Q", title="−ELBO (nats)", scale=alt.Scale(domain=[min(costs), max(costs)], nice=True))
        y = alt.Y(f"{split}_y:Q", title=title, scale=y_scale)
        base = _shown(alt.Chart(alt.NamedData("runs")))
        data[f"fronts_{split}"] = front_rows(analysis, split)
        fronts = _shown(alt.Chart(alt.NamedData(f"fronts_{split}"))).mark_line(interpolate="step-after", strokeWidth=1, opacity=0.6)
        layers = [
            fronts.encode(alt.X("x:Q"), alt.Y("y:Q"), detail=["front:N"], color=marked["color"]),
            base.mark_rule(strokeWidth=2.2).encode(x, alt.Y(f"{split}_lower:Q", title=title), alt.Y2(f"{split}_upper"), **_faint(marked, brush)),
            base.mark_rule(strokeWidth=0.8).encode(alt.X(f"{split}_x0:Q"), y, alt.X2(f"{split}_x1"), **_faint(marked, brush)),
            base.mark_rule(strokeWidth=0.8).encode(x, alt.Y(f"{split}_y0:Q"), alt.Y2(f"{split}_y1"), **_faint(marked, brush)),
            base.mark_point(size=55, filled=False, strokeWidth=1.6)
            .encode(x, y, **marked, **signed, fill=marked["color"], tooltip=_tooltip(split)).add_params(brush),
        ]
        views.append(alt.layer(*layers).properties(title=f"Figure 2, {_named(split)}", height=330))
    if analysis.curves:
        views.append(_slack_view(analysis, data, marked, signed, title, brush))
    chart = alt.concat(*views, columns=2).add_params(*filters).resolve_scale(color="shared", shape="shared")
    return Drawing(chart, data)


def _slack_view(
    analysis: Analysis, data: dict[str, Any], marked: dict[str, Any], signed: dict[str, Any], title: str, brush: Any
) -> alt.LayerChart:
    """Figure 1: every run over its slack γ₁, and the mean of each method and α."""
    split = SPLITS[0]
    data["curves"] = [
        {"γ": gamma, "mean": mean, "family": c.family, "sign": str(MAXIMISE if c.alpha < 0 else MINIMISE),
         "method": method_title(c.family), "curve": f"{method_title(c.family)}, α = {c.alpha:+g}"}
        for c in analysis.curves if c.split == split for gamma, mean in zip(c.gammas, c.means, strict=True)
    ]
    x = alt.X("γ:Q", title="slack γ₁ of −ELBO (nats)")
    kept = alt.Chart(alt.NamedData("curves")).transform_filter(_either("family", "sign"))
    lines = kept.mark_line(strokeWidth=1, opacity=0.6).encode(x, alt.Y("mean:Q", title=title), detail=["curve:N"], color=marked["color"])
    base = _shown(alt.Chart(alt.NamedData("runs"))).transform_filter("datum['γ'] != null")
    bars = base.mark_rule(strokeWidth=2.2).encode(
        x, alt.Y(f"{split}_lower:Q", title=title), alt.Y2(f"{split}_upper"), **_faint(marked, brush)
    )
    points = base.mark_point(size=55, filled=False, strokeWidth=1.6).encode(
        x, alt.Y(f"{split}_y:Q"), **marked, **signed, fill=marked["color"], tooltip=_tooltip(split)
    )
    return alt.layer(lines, bars, points.add_params(brush)).properties(title=f"Figure 1, {_named(split)}", height=330)


def _named(split: str) -> str:
    return "training data" if split == "train" else "test data"


def _choices(analysis: Analysis) -> dict[str, list[str]]:
    """What runs can be chosen by → the values that there are."""
    runs = analysis.collection.runs
    return {
        "family": analysis.collection.families,
        "sign": sorted({str(run.sign) for run in runs}),
        "verdict": sorted({run.verdict for run in runs}),
    }


def _either(*names: str) -> str:
    """The expression that is true of what is shown."""
    return " && ".join(f"indexof(shown_{name}, datum.{name}) >= 0" for name in names)


def _shown(chart: alt.Chart) -> alt.Chart:
    return chart.transform_filter(_either("family", "sign", "verdict"))


def _faint(marked: dict[str, Any], brush: Any) -> dict[str, Any]:
    """As `marked`, for bars behind points."""
    return {"color": marked["color"], "opacity": alt.condition(brush, alt.value(0.4), alt.value(0.06))}


def _tooltip(split: str) -> list[alt.Tooltip]:
    names = [alt.Tooltip(f"{key}:N") for key in ("run", "method", "α", "setting", "seed", "verdict")]
    numbers = {"−ELBO": "x", "I, lower": "lower", "I, upper": "upper"}
    return [*names, *(alt.Tooltip(f"{split}_{key}:Q", title=title, format=".2f") for title, key in numbers.items())]


def front_rows(analysis: Analysis, split: str) -> list[dict[str, Any]]:
    """The corners of the fronts of each method, sign of α and seed."""
    return [
        {"x": point.neg_elbo.value, "y": point.worse_end(group.sign).value, "family": group.family,
         "method": method_title(group.family), "sign": str(group.sign), "verdict": run.verdict,
         "front": f"{group.family} {group.sign} {seed}"}
        for group in analysis.groups if group.split == split
        for seed, runs in group.fronts.items() for run in runs for point in (run.points[split],)
    ]
