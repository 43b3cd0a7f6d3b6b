"""report.html: a run as a page for a browser, with its curves, pictures and settings."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import altair as alt
import matplotlib.image
import torch
from omegaconf import DictConfig, OmegaConf

from lagvae.data import DataModule
from lagvae.distributions import GaussianEncoder
from lagvae.experiment.figures import (
    CAPTIONS,
    Pictures,
    are_images,
    crosses,
    plane_ranges,
    running_mean,
    shown_range,
    traverse,
)
from lagvae.experiment.report import (
    COLOURS,
    constraint_columns,
    constraint_rows,
    goals_in_words,
    measured_rows,
    measured_title,
    remarks,
)
from lagvae.experiment.sample_figures import NAMED_LABELS, mean_codes
from lagvae.experiment.settings import flatten
from lagvae.experiment.style import LINE, as_picture, tile
from lagvae.lagrangian import MEMORY
from lagvae.model import LatentVariableModel
from lagvae.pages.page import Drawing, data_address, unchecked_charts, write_page
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import read_series
from lagvae.terminal import command, format_number

BATCH, MEAN, PROBE, VALIDATION = "one batch", "running mean of batches", "training data", "validation data"
MULTIPLIER, BOUND = "λ", "bound"
SERIES = {BATCH: "#9da2a9", MEAN: "#757b84", PROBE: "#3d7fd6", VALIDATION: "#dd7a20", MULTIPLIER: "#a066c4", BOUND: "#d64545"}
"""What is drawn over the steps → its colour, which is seen on light and on dark pages."""

LABELS = ["#e3645e", "#528d0b", "#129be4", "#bc4b89", "#aa9105", "#158a95", "#b471d7", "#b26400", "#0a9f7a", "#656dd7"]
"""Colours of labels, which are drawn as texts: a contrast of 3 to a white and to a dark page. No colour has 4.5 to both."""

TEST = "#6f9a3e"
"""The colour of test data."""

AXES, SIDES = ("rate", "distortion"), (("low", -1), ("high", 1))

ROOM = 1.02
"""The end of the axis of steps, as a multiple of the last step, so that the mark of that step is not cut."""

MOST_POINTS = 400
"""Points of a curve; of a longer one every k-th is shown."""

MOST_PIXELS = 400_000
"""Values in the picture of a traversal: fewer samples are shown where they are large."""

LARGEST_SIDE = 64
"""Pixels of a side of an image in the traversal; larger images are made smaller."""

SCATTERED = 500
"""Test samples whose codes are shown."""

MOST_UNITS = 8

CLASSES = {"green": "good", "yellow": "warn", "red": "bad"}
"""Colour of a verdict on the terminal → its class on a page."""

PICTURES = ("samples", "reconstructions", "marginals", "correlations", "codes", "translations")
"""Figures that stand together. Of the others a page has those that its template names, and a chart for the rest."""


def write_run_page(
    path: Path,
    cfg: DictConfig,
    data: DataModule,
    model: LatentVariableModel,
    summary: Mapping[str, Any],
    metrics: Path,
    figures: Sequence[Path],
) -> None:
    """Write the page of a run.

    Args:
        metrics: metrics.csv of the run. figures: its pictures, by `draw_run`.

    Raises: ImportError where a library for pages is missing.
    """
    with torch.no_grad(), unchecked_charts():
        x = data.first_samples("test", SCATTERED, model.device)
        scatter, units = codes_chart(data, model, x)
        show = Pictures(data) if are_images(data) and isinstance(model.eval_model.encoder, GaussianEncoder) else None
        walk = None if show is None else walk_of(model, x, show)
        charts = {"curves": curves(metrics, summary), "plane": plane(metrics, summary), "latent": scatter}
    settings = flatten(OmegaConf.to_container(cfg))
    folder = path.parent.name if path.parent.name != "evaluation" else path.parents[1].name
    write_page(
        path,
        "run.html",
        {name: chart for name, chart in charts.items() if chart is not None},
        figures,
        name=folder,
        summary=summary,
        sentence=in_a_sentence(summary),
        colour=CLASSES.get(COLOURS.get(summary["verdict"], ""), "soft"),
        constraint_columns=constraint_columns(summary),
        constraint_rows=constraint_rows(summary),
        memory=MEMORY,
        learned=any(c["learned"] for c in summary["constraints"].values()),
        measured_title=measured_title(summary),
        measured_rows=measured_rows(summary),
        remarks=remarks(summary),
        bound_seen=charts["plane"] is not None and bool(charts["plane"].data["bound"]),
        series=legend(charts["curves"], summary),
        captions=CAPTIONS,
        together=PICTURES,
        walk=walk,
        units=units,
        again=f"mkdir again && cp {RunFolder(Path('RUN')).config} again && {command('train')} resume=again",
        settings=[(key, json.dumps(value, ensure_ascii=False, default=str)) for key, value in settings.items()],
    )


def legend(curves: Drawing | None, summary: Mapping[str, Any]) -> dict[str, str]:
    """The series that the curves of a run have → their colours; a run without bounds, for example, has no λ and no bound."""
    drawn = set() if curves is None else {row["series"] for rows in curves.data.values() for row in rows}
    if any(c["bound"] is not None for c in summary["constraints"].values()):
        drawn.add(BOUND)
    return {name: colour for name, colour in SERIES.items() if name in drawn}


def in_a_sentence(summary: Mapping[str, Any]) -> str:
    """What was asked of a run and what it reached on training data."""
    values = summary["splits"]["train"]
    asked, reached = [], []
    for name, c in summary["constraints"].items():
        number = format_number(c["train"], c["nats"])
        bounded = c["bound"] is not None
        asked.append(f"{name} ≤ {format_number(c['bound'], c['nats'])}" if bounded else f"{c['multiplier']:.3g} · {name}")
        reached.append(f"{name} = {number}")
    bounds = any(c["bound"] is not None for c in summary["constraints"].values())
    problem = f", {'subject to' if bounds else 'with penalties'} {', '.join(asked)}" if asked else ""
    for side in ("q", "p"):
        ends = [values.get(f"i_{side}_{end}") for end in ("lower", "upper")]
        if summary["alpha"][side] and None not in ends:
            reached.append(f"I_{side} between {' and '.join(map(format_number, ends))} nats")
    what = f"reached {', '.join(reached)} on training data" if reached else "was measured"
    return f"{summary['family']} was asked for this: {goals_in_words(summary['alpha'])}{problem}; it {what}."


# ---- charts


def curve_points(steps: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of the points of a curve, the last one among them; those that are no numbers are left out."""
    found = [(float(step), value) for step, value in zip(steps, values, strict=True) if isfinite(value)]
    every = ceil(len(found) / MOST_POINTS) or 1
    return found[len(found) - 1 :: -every][::-1] if found else []


@dataclass(frozen=True)
class Panel:
    """A divergence, or another value, over the training steps.

    Attributes:
        lines: a name of `SERIES` → (step, value). bound: drawn as a dashed line.
    """

    title: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    bound: float | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [{"step": s, "value": v, "series": name} for name, points in self.lines.items() for s, v in points]


def panel_chart(panel: Panel, name: str) -> alt.LayerChart | alt.FacetChart:
    """The chart of a panel, whose rows are the data of this name."""
    title, bound = panel.title, panel.bound
    low, high = shown_range([value for points in panel.lines.values() for _, value in points], bound)
    names = [of for of in SERIES if of in panel.lines]
    last = max(step for points in panel.lines.values() for step, _ in points)
    room = alt.Scale(domain=[0, ROOM * last], nice=False)
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=5), scale=room)
    y = alt.Y("value:Q", title=panel.unit, scale=alt.Scale(domain=[low, high], zero=False))
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=[SERIES[n] for n in names]), legend=None)
    # Vega-Lite reads the texts of an encoded tooltip from the mark of the nearest point, where they are undefined. This
    # expression reads texts and numbers from its row.
    row = "(datum.datum || datum)"
    shown = {"of": f"{row}.series", "step": f"{row}.step", title: f"format({row}.value, '.4g')"}
    tooltip = alt.expr("{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in shown.items()) + "}")
    near = alt.selection_point(name=f"near_{name}", nearest=True, on="pointerover", clear="pointerout", empty=False)
    base = alt.Chart(alt.NamedData(name)).encode(x, y)
    layers = [
        base.mark_line(clip=True).encode(
            color=colour,
            strokeWidth=alt.condition(f"datum.series == '{BATCH}'", alt.value(1), alt.value(2.2)),
            opacity=alt.condition(f"datum.series == '{BATCH}'", alt.value(0.55), alt.value(1)),
        ),
        base.mark_point(clip=True, filled=True, size=60, tooltip=tooltip)
        .encode(color=colour, opacity=alt.condition(near, alt.value(1), alt.value(0)))
        .add_params(near),
    ]
    if alone := [of for of in names if len(panel.lines[of]) == 1]:  # a line through one point is not seen
        single = base.transform_filter(alt.FieldOneOfPredicate("series", alone))
        layers.insert(1, single.mark_point(clip=True, filled=True, size=45, opacity=1).encode(color=colour))
    if bound is not None:
        rule = alt.Chart(alt.NamedData(name)).mark_rule(strokeDash=[6, 4], strokeWidth=1.6, color=SERIES[BOUND])
        layers.append(rule.encode(y=alt.datum(bound), tooltip=alt.value(f"{title}: {bound:.6g}, the bound")))
    return alt.layer(*layers).properties(title=title, height=190)


def curves(metrics: Path, summary: Mapping[str, Any]) -> Drawing | None:
    """−ELBO and the divergences with their bounds, rate, distortion, information, λ and violations over the steps."""
    if not metrics.is_file():
        return None
    constraints = summary["constraints"]
    learned = [name for name, c in constraints.items() if c["learned"]]
    kinds = [f"{kind}/{name}" for kind in ("multiplier", "violation") for name in learned]
    common = ("neg_elbo", "rate", "distortion")
    batch = read_series(metrics, "train", [*common, *constraints, *kinds])
    probed = {
        name: read_series(
            metrics, split, [*common, *(f"constraint/{c}" for c in constraints), "i_q_lower", "i_q_upper", *kinds]
        )
        for name, split in ((PROBE, "train_probe"), (VALIDATION, "val"))
    }

    def lines(name: str) -> dict[str, list[tuple[float, float]]]:
        key = f"constraint/{name}" if name in constraints else name
        found = {BATCH: batch.get(name, ([], []))} | {of: series[key] for of, series in probed.items()}
        return {of: points for of, series in found.items() if (points := curve_points(*series))}

    panels: list[Panel] = []
    for name in dict.fromkeys(("neg_elbo", *constraints, "rate", "distortion")):
        c = constraints.get(name, {"nats": True, "bound": None})
        title, unit = "−ELBO" if name == "neg_elbo" else name, "nats" if c["nats"] else "no unit"
        panels.append(Panel(title, unit, lines(name), c["bound"]))
    panels += [Panel(f"I_q, {end} end of its interval", "nats", lines(f"i_q_{end}")) for end in ("lower", "upper")]
    for name in learned:
        units = ("nats per nat", "nats") if constraints[name]["nats"] else ("nats per unit of D", "no unit")
        steps, violation = batch[f"violation/{name}"]
        driven = {
            BATCH: curve_points(steps, violation),
            MEAN: curve_points(steps, running_mean(violation, 10)) if steps else [],
        }
        panels += [
            Panel(f"λ of {name}", units[0], {MULTIPLIER: curve_points(*batch[f"multiplier/{name}"])}),
            Panel(f"{name} − bound", units[1], driven, 0.0),
        ]
    shown = {f"panel{k}": each for k, each in enumerate(panels) if each.rows}
    if not shown:
        return None
    chart = alt.concat(*(panel_chart(each, name) for name, each in shown.items()), columns=2)
    return Drawing(chart.resolve_scale(color="independent"), {name: each.rows for name, each in shown.items()})


def plane(metrics: Path, summary: Mapping[str, Any]) -> Drawing | None:
    """The path of training in the rate–distortion plane, where a bound on −ELBO is a line of slope −1."""
    splits = summary["splits"]
    if not all("neg_elbo" in values for values in splits.values()):
        return None
    path = []
    if metrics.is_file():
        found = read_series(metrics, "train_probe", ["rate", "distortion"])
        steps = zip(*found["rate"], found["distortion"][1], strict=True)
        path = [{"step": step, "rate": rate, "distortion": distortion} for step, rate, distortion in steps]
    rates, distortions = plane_ranges(splits, [(row["rate"], row["distortion"]) for row in path])
    x_title, y_title = "rate E KL(q(z|x)‖p(z)) (nats)", "distortion −E log p(x|z) (nats)"
    x = alt.X("rate:Q", title=x_title, scale=alt.Scale(domain=rates, nice=False))
    y = alt.Y("distortion:Q", title=y_title, scale=alt.Scale(domain=distortions, nice=False))
    ends = [
        {"of": name, "rate": v["rate"], "distortion": v["distortion"]}
        | {f"{key}_{side}": v[key] + sign * (v.get(f"{key}_stderr") or 0) for key in AXES for side, sign in SIDES}
        for name, v in splits.items()
    ]
    tooltip = [alt.Tooltip("of:N"), *(alt.Tooltip(f"{key}:Q", format=".2f") for key in AXES)]
    base = alt.Chart(alt.NamedData("ends"))
    shape = alt.Shape(
        "of:N",
        legend=alt.Legend(orient="bottom", title=None),
        scale=alt.Scale(domain=list(splits), range=["square", "circle", "triangle-up"]),
    )
    colours = [SERIES[PROBE], SERIES[VALIDATION], TEST]
    colour = alt.Color(
        "of:N", legend=alt.Legend(orient="bottom", title=None), scale=alt.Scale(domain=list(splits), range=colours)
    )
    layers = [
        alt.Chart(alt.NamedData("path"))
        .mark_line(clip=True, color="#8a93a3", point=alt.OverlayMarkDef(color="#8a93a3", size=25))
        .encode(x, y, order="step:Q", tooltip=[alt.Tooltip("step:Q"), *tooltip[1:]]),
        base.mark_rule(clip=True).encode(alt.X("rate_low:Q", title=x_title), y, alt.X2("rate_high"), color=colour),
        base.mark_rule(clip=True).encode(x, alt.Y("distortion_low:Q", title=y_title), alt.Y2("distortion_high"), color=colour),
        base.mark_point(clip=True, filled=True, size=90, opacity=1).encode(x, y, shape=shape, color=colour, tooltip=tooltip),
    ]
    bound = summary["constraints"].get("neg_elbo", {}).get("bound")
    seen = crosses(bound, rates, distortions)
    if seen:
        line = alt.Chart(alt.NamedData("bound")).mark_line(clip=True, strokeDash=[6, 4], color=SERIES[BOUND], strokeWidth=1.6)
        layers.append(line.encode(x, y, tooltip=alt.value(f"−ELBO = {bound:.2f}, the bound")))
    of_bound = [] if not seen else [{"rate": rate, "distortion": bound - rate} for rate in rates]
    return Drawing(alt.layer(*layers).properties(height=300), {"path": path, "ends": ends, "bound": of_bound})


def codes_chart(data: DataModule, model: LatentVariableModel, x: torch.Tensor) -> tuple[Drawing | None, list[str]]:
    """The mean codes of test samples in the plane of two units, and the names of the units that can be chosen."""
    z = mean_codes(model, x)
    if z is None:
        return None, []
    order = z.var(0).argsort(descending=True)[:MOST_UNITS].tolist()
    labels = data.labels("test")
    shown = None if labels is None else [str(label) for label in labels[: len(z)].tolist()]
    rows = [
        {"z": [round(float(value), 3) for value in code], "label": "" if shown is None else shown[k]}
        for k, code in enumerate(z[:, order])
    ]
    across, up = alt.param(name="across", value=0), alt.param(name="up", value=1)
    base = (
        alt.Chart(alt.NamedData("latent"))
        .transform_calculate(a="datum.z[across]", b="datum.z[up]")
        .encode(
            alt.X("a:Q", title="unit across", scale=alt.Scale(zero=False)),
            alt.Y("b:Q", title="unit up", scale=alt.Scale(zero=False)),
            tooltip=[alt.Tooltip("label:N"), alt.Tooltip("a:Q", format=".2f"), alt.Tooltip("b:Q", format=".2f")],
        )
        .add_params(across, up)
        .properties(height=340)
    )
    names = [f"z[{k}]" for k in order]
    of_label = alt.Color("label:N", legend=None, scale=alt.Scale(range=LABELS))
    colour = alt.value(SERIES[PROBE]) if shown is None else of_label
    chart = base.mark_circle(size=22).encode(color=colour)
    if shown is not None and len(set(shown)) <= NAMED_LABELS:
        chart = base.mark_text(fontSize=11).encode(text="label:N", color=colour)
    return Drawing(chart, {"latent": rows}), names


def walk_of(model: LatentVariableModel, x: torch.Tensor, show: Pictures) -> dict[str, Any]:
    """The traversal as one picture, a strip of images for each unit (down) and each value that it is set to (across)."""
    channels, height, width = show(x[:1]).shape[1:]
    smaller = ceil(max(height, width) / LARGEST_SIDE)
    size = channels * ceil(height / smaller) * ceil(width / smaller)
    found = traverse(model, x, max(1, min(6, MOST_PIXELS // (size * 9 * MOST_UNITS))), show, most=MOST_UNITS)
    images = found.images
    units, values, n = images.shape[:3]
    images = torch.nn.functional.avg_pool2d(images.flatten(0, 2), smaller, ceil_mode=True)
    strips = images.reshape(units * values, n, *images.shape[1:])
    tiled = torch.stack([torch.nn.functional.pad(tile(strip, n), (0, 1, 0, 1), value=LINE) for strip in strips])
    h, w = tiled.shape[-2:]
    sheet = tiled.reshape(units, values, channels, h, w).permute(2, 0, 3, 1, 4).reshape(channels, units * h, values * w)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, as_picture(sheet).numpy(), format="png", cmap="gray", vmin=0, vmax=1)
    grid = {"units": found.labels, "values": [f"{v:+.1f}" for v in found.values.tolist()], "width": w, "height": h}
    return grid | {"picture": data_address(buffer.getvalue()), "grid": json.dumps(grid, ensure_ascii=False)}
