"""Figures of a comparison of runs: information over the slack γ₁ (the paper's Figure 1) and fronts (its Figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lagvae.experiment.style import STYLE
from lagvae.io import write_atomically
from lagvae.pareto.comparison import Analysis, Group
from lagvae.pareto.fronts import MAXIMISE, MINIMISE
from lagvae.pareto.points import SPLITS, method_title

METHODS = {"lagvae": ("#0072B2", "o"), "infovae": ("#D55E00", "^"), "beta_vae": ("#009E73", "s"), "vae": ("#CC79A7", "D")}
"""Method → colour and marker, distinguishable with colour blindness and in greyscale (Okabe and Ito, 2008)."""

BLACK, GREY = "#000000", "#7d8796"
"""A colour that a dark page would hide, and the one in its place on pages."""

OTHER_METHODS = (("#E69F00", "v"), ("#56B4E9", "P"), (BLACK, "X"))

MAXIMISING, MINIMISING = ("#08519c", "#56B4E9", "#009E73"), ("#a63603", "#E69F00", "#CC79A7")
"""Colours of the curves of Figure 1, by decreasing |α|."""

AXES = {
    "interval": "$I_q(x;z)$ (nats)",
    "i_q_lower": "$I_q(x;z)$, lower end of its interval (nats)",
    "i_q_upper": "$I_q(x;z)$, upper end of its interval (nats)",
    "rate": "rate E KL(q(z|x)‖p(z)) (nats)",
    "i_q_kde": "$I_q(x;z)$ by kernel density estimate (nats)",
}

DODGE = 0.012
"""Distance between curves of Figure 1 that lie on each other, as a share of the range of γ₁."""

OUTPUT = {"savefig.dpi": 220, "svg.hashsalt": "lagvae"}
"""A resolution for print, and a fixed salt so that a vector file is the same whenever it is drawn."""


def draw_pareto(folder: Path, analysis: Analysis) -> list[Path]:
    """Draw figure2, and figure1 if γ₁ was swept, each as PNG and SVG; returns the files."""
    files = []
    with matplotlib.rc_context(STYLE | OUTPUT):
        figures = {"figure1": slack_figure(analysis)} if analysis.curves else {}
        figures["figure2"] = fronts_figure(analysis)
        for name, figure in figures.items():
            for kind in ("png", "svg"):
                path = folder / f"{name}.{kind}"
                undated = {"Date": None} if kind == "svg" else None

                def write(part: Path, figure: Figure = figure, metadata: dict[str, None] | None = undated) -> None:
                    figure.savefig(part, bbox_inches="tight", metadata=metadata)

                write_atomically(path, write)
                files.append(path)
    return files


def method_styles(families: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Method → colour and marker."""
    unused = iter(OTHER_METHODS * len(families))
    return {family: METHODS.get(family) or next(unused) for family in families}


def screen_colours(families: Sequence[str]) -> dict[str, str]:
    """Method → its colour on a screen, where a dark page would hide black."""
    return {family: GREY if colour == BLACK else colour for family, (colour, _) in method_styles(families).items()}


def fronts_figure(analysis: Analysis) -> Figure:
    """Every run of every seed in the plane of −ELBO and I, with the front of each method, sign of α and seed as steps.

    An interval for I is a bar, whose marker is at the end that the run optimises: that end is what the fronts are made of.
    """
    figure = Figure(figsize=(7.6, 4.3), layout="constrained")
    axes = figure.subplots(1, len(SPLITS), sharex=True, sharey=True)
    styles = method_styles(analysis.collection.families)
    for axis, split in zip(axes, SPLITS, strict=True):
        for group in (group for group in analysis.groups if group.split == split):
            _draw_group(axis, group, *styles[group.family])
        axis.set_title("training data" if split == "train" else "test data", loc="left")
        axis.set_xlabel("−ELBO (nats)")
    axes[0].set_ylabel(AXES[analysis.collection.information])
    handles = list(_legend_handles(analysis, styles))
    figure.legend(handles=handles, loc="outside lower center", ncols=(len(handles) + 1) // 2, fontsize=8)
    return figure


def _draw_group(axis: Axes, group: Group, colour: str, marker: str) -> None:
    """Points with their standard errors, intervals as bars, and a front per seed."""
    points = [run.points[group.split] for run in group.runs]
    x, ends = [p.neg_elbo.value for p in points], [p.worse_end(group.sign) for p in points]
    lower, upper = [p.lower.value for p in points], [p.upper.value for p in points]
    axis.vlines(x, lower, upper, color=colour, linewidth=1.6, alpha=0.35, zorder=2.5)
    axis.errorbar(
        x,
        [end.value for end in ends],
        xerr=[p.neg_elbo.stderr for p in points],
        yerr=[end.stderr for end in ends],
        linestyle="none",
        marker=marker,
        color=colour,
        markersize=4,
        markeredgewidth=0.9,
        markerfacecolor=colour if group.sign == MAXIMISE else "white",
        elinewidth=0.6,
        ecolor=(colour, 0.45),
        zorder=3,
    )
    for runs in group.fronts.values():
        corners = [run.points[group.split] for run in runs]
        y = [p.worse_end(group.sign).value for p in corners]
        axis.step([p.neg_elbo.value for p in corners], y, where="post", color=colour, linewidth=0.9, alpha=0.6, zorder=2)


def _legend_handles(analysis: Analysis, styles: dict[str, tuple[str, str]]) -> Iterator[Line2D]:
    """The legend: methods by colour and marker, signs of α by filled and hollow markers, fronts as lines."""
    for family, (colour, marker) in styles.items():
        yield Line2D([], [], linestyle="none", color=colour, marker=marker, markersize=5, label=method_title(family))
    if len(styles) % 2:
        yield Line2D([], [], linestyle="none", label=" ")  # a legend fills its columns, of two rows each, from above
    signs = ((MAXIMISE, "α < 0, maximise: better to the upper left"), (MINIMISE, "α > 0, minimise: better to the lower left"))
    for sign, label in signs:
        if any(group.sign == sign for group in analysis.groups):
            face = "0.3" if sign == MAXIMISE else "white"
            yield Line2D([], [], linestyle="none", color="0.3", marker="o", markersize=5, markerfacecolor=face, label=label)
    if analysis.collection.information == "interval":
        yield Line2D([], [], color="0.3", linewidth=1.6, alpha=0.35, label="interval for I, marked at the end optimised")
    seeds = len({run.seed for run in analysis.collection.runs})
    yield Line2D([], [], color="0.3", linewidth=0.9, label="front" if seeds == 1 else f"fronts of {seeds} seeds")


def slack_figure(analysis: Analysis) -> Figure:
    """Information over the slack γ₁ on training data, with a line for each α, shaded up to the other end of the interval.

    Curves of one sign are drawn side by side, since they would hide each other where only the sign of α matters.
    """
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axis = figure.subplots()
    curves = [curve for curve in analysis.curves if curve.split == "train"]
    families = {curve.family for curve in curves}
    sizes = {sign: sorted({abs(c.alpha) for c in curves if c.alpha * sign > 0}, reverse=True) for sign in (-1, 1)}
    width = DODGE * (max(g for c in curves for g in c.gammas) - min(g for c in curves for g in c.gammas))
    for curve in curves:
        sign = MAXIMISE if curve.alpha < 0 else MINIMISE
        rank, colours = sizes[sign].index(abs(curve.alpha)), MAXIMISING if sign == MAXIMISE else MINIMISING
        name = f"α = {curve.alpha:+g}".replace("-", "−")
        gammas = [gamma + width * (rank - (len(sizes[sign]) - 1) / 2) for gamma in curve.gammas]
        axis.errorbar(
            gammas,
            curve.means,
            yerr=curve.spreads,
            color=(colour := colours[rank % len(colours)]),
            marker="sov"[rank % 3] if sign == MAXIMISE else "D^p"[rank % 3],
            markerfacecolor=None if sign == MAXIMISE else "white",
            markersize=4,
            linewidth=1.3,
            capsize=2,
            label=name if len(families) == 1 else f"{method_title(curve.family)}, {name}",
        )
        if curve.others != curve.means:
            axis.fill_between(gammas, curve.means, curve.others, color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel("slack γ₁ of −ELBO (nats)")
    axis.set_ylabel(AXES[analysis.collection.information])
    several_seeds = max(max(curve.counts) for curve in curves) > 1
    axis.set_title(f"training data, ± {'standard deviation over seeds' if several_seeds else 'standard error'}", loc="left")
    figure.legend(loc="outside lower center", ncols=min(4, len(curves)), fontsize=8)
    return figure
