"""What a user reads on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lagvae.experiment.calibration import Calibration
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.terminal import console, format_number, print_line, short_path

COLOURS = {"active": "green", "inactive": "green", "met": "green", "infeasible": "red", "not converged": "yellow"}


def print_calibration(found: Calibration, folder: Path, fresh: bool) -> None:
    """ε̂, and where it is kept."""
    values = ", ".join(f"{n} {format_number(v, abs(v) > 0.1, found.stderr[n])}" for n, v in found.calibrated.items())
    took = f" in {found.seconds:.0f} s" if fresh else ""
    print_line(
        f"{'Calibrated' if fresh else 'Calibration found'}{took}: ε̂ = {values} (on {found.split}), in {short_path(folder)}"
    )


def preference_in_words(alpha: float) -> str:
    """A preference in words."""
    return "maximise" if alpha < 0 else "minimise" if alpha > 0 else "no preference on"


def print_plan(cfg: DictConfig, model: LatentVariableModel, calibrated: Calibration | None, run: RunFolder) -> None:
    """What a run is about to do."""
    goals = [
        f"{preference_in_words(a)} I_{side} (α = {a:+g})" for side, a in (("q", cfg.alpha.q), ("p", cfg.alpha.p)) if a != 0
    ]
    bounds = []
    for c in model.lagrangian.constraints:
        if c.bound is None:
            bounds.append(f"{c.multiplier:g} · {c.name}")
            continue
        setting = cfg.constraints[c.name]
        origin = "given"
        if setting.epsilon is None and calibrated is not None:
            epsilon = calibrated.calibrated[c.name]
            origin = f"{format_number(epsilon, c.divergence.nats)} + {format_number(c.bound - epsilon, c.divergence.nats)}"
        bounds.append(f"{c.name} ≤ {format_number(c.bound, c.divergence.nats)} ({origin})")
    sense = "subject to" if any(c.bound is not None for c in model.lagrangian.constraints) else "with penalties"
    print_line(
        f"{cfg.family}: {' and '.join(goals) or 'no preference on information'}, {sense} {', '.join(bounds) or 'nothing'}"
    )
    print_line(f"{cfg.training.steps} steps, start: {cfg.training.start}, folder: {short_path(run.path)}")


ROWS = (  # label, key, whether in nats
    ("−ELBO (nats)", "neg_elbo", True),
    ("rate (nats)", "rate", True),
    ("distortion (nats)", "distortion", True),
    ("−log p(x) ≤ (nats)", "nll", True),
    ("MMD", "mmd", False),
    ("I_q lower (nats)", "i_q_lower", True),
    ("I_q upper (nats)", "i_q_upper", True),
    ("I_q by KDE (nats)", "i_q_kde", True),
    ("I_p lower (nats)", "i_p_lower", True),
    ("I_p upper (nats)", "i_p_upper", True),
    ("squared error", "reconstruction", False),
    ("squared error, z", "reconstruction_z", False),
    ("p-value, x", "two_sample_x_p", True),
    ("p-value, z", "two_sample_z_p", True),
    ("code ~ label", "code_accuracy", True),
    ("partner x → z", "pairing_z", True),
    ("partner z → x", "pairing_x", True),
    ("confidence", "class_confidence", True),
    ("class coverage", "class_coverage", True),
)


def bound_names(splits: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """Which bound an end of I_q is (see `lagvae.metrics.Information`), once where it is the same for all splits."""
    names = [values[f"{key}_by"].replace("_", " ") for values in splits.values() if f"{key}_by" in values]
    return ", ".join(names if len(set(names)) > 1 else names[:1])


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    return table


def print_summary(summary: Mapping[str, Any], run: RunFolder) -> None:
    """What was asked, what was reached, and the verdicts."""
    out = console()
    splits = summary["splits"]
    table = _table(f"{summary['family']} on {summary['data']}: constraints", "")
    for name in ("bound", "train", "val", "test", "λ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name, c in summary["constraints"].items():
        cells = [format_number(c[key], c["nats"]) for key in ("bound", *splits)]
        colour = COLOURS.get(c["verdict"], "default")
        table.add_row(name, *cells, f"{c['multiplier']:.3g}", f"[{colour}]{c['verdict']}[/]")
    if summary["constraints"]:
        out.print(table)
    table = _table("Measured (± standard error)", "")
    for split in splits:
        table.add_column(split, justify="right", no_wrap=True)
    warned = False
    for label, key, nats in ROWS:
        if not any(key in values for values in splits.values()):
            continue  # what is not defined is not shown
        cells = []
        for values in splits.values():
            odd = key == "i_q_kde" and bool(values.get("i_q_kde_breaks_bound"))
            warned |= odd
            cells.append(format_number(values.get(key), nats, values.get(f"{key}_stderr")) + (" (!)" if odd else ""))
        table.add_row(label, *cells)
    if all("active_units" in values for values in splits.values()):
        table.add_row("active units", *(f"{values['active_units']:.0f}" for values in splits.values()))
    out.print(table)
    if lower := bound_names(splits, "i_q_lower"):
        out.print(f"I_q lies between two bounds: lower {lower}; upper {bound_names(splits, 'i_q_upper')}.")
    if warned:
        out.print("(!) the kernel density estimate lies outside the bounds that I_q must obey; trust the interval.")
    if summary.get("mmd_estimator"):
        out.print(f"{summary['mmd_estimator']}.")
    for line in slack_buys(summary):
        out.print(escape(line))
    if summary["stationarity"] is not None:
        residual = f"{summary['stationarity']:.2f}"
        out.print(f"KKT stationarity residual {residual} (0 at a solution, noise of the batches included).")
    if summary.get("regime"):
        out.print(escape(summary["regime"]))
    if summary.get("stopped_by"):
        out.print(f"Stopped early, after {summary['steps']} steps: more ascent of λ would change nothing.")
    for message in summary["messages"]:
        out.print(f"[bold yellow]{escape(message)}[/]")
    colour = COLOURS.get(summary["verdict"], "default")
    seconds = f" in {summary['seconds']['all']:.0f} s" if "seconds" in summary else ""
    out.print(f"Verdict: [bold {colour}]{summary['verdict']}[/]. Written{seconds} to {short_path(run.path)}")


def print_feasibility(result: Mapping[str, Any], folder: Path) -> None:
    """What each constraint can be alone, and what all can be together."""
    rows, largest = result["constraints"], result["largest"]
    table = _table(f"{result['family']} on {result['data']}: what is attainable ({result['split']}, ± standard error)", "")
    for name in ("scale", "alone", "asked", "together", "above"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, c in rows.items():
        nats = c["nats"]
        cells = [format_number(c["alone"], nats, c["alone_stderr"]), format_number(c["asked"], nats)]
        cells += [
            format_number(c["together"], nats, c["together_stderr"]),
            format_number(c["excess"], True, c["excess_stderr"]),
        ]
        table.add_row(name, f"{c['scale']:g}", *cells)
    out = console()
    out.print(table)
    if len(rows) > 1:
        out.print("together: where the largest (D − asked, else alone) / unit is least; above: that of each; negative: below.")
    out.print(attainable(rows, largest))
    if critics := [name for name, c in rows.items() if c["critic"]]:
        out.print(
            f"{', '.join(critics)}: as the critic sees it, a lower bound on the divergence; a stronger critic may read more."
        )
    out.print(
        f"Found by {result['steps']} steps of training each (calibration.steps), one seed: longer training may reach less. "
        f"Kept in {short_path(folder)}"
    )


def attainable(rows: Mapping[str, Any], largest: Mapping[str, Any]) -> str:
    """Whether bounds can be met, in a sentence."""
    name, met, one = largest["name"], largest["excess"] <= 0, len(rows) == 1
    off = f"{format_number(abs(largest['excess']), True, largest['excess_stderr'])} units {'below' if met else 'above'}"
    asked = [c["asked"] is not None for c in rows.values()]
    if one and not any(asked):
        return "A bound above this can be met."
    if not all(asked):
        return f"All at once, the largest ({name}) is {off} what was asked, else its least alone."
    if not met:
        said = (
            f"This bound was not met: {name} stays {off} it"
            if one
            else f"These bounds were not met: {name} stays {off} its own"
        )
        return f"[bold yellow]{said}.[/]"
    if one:
        return f"This bound can be met: {name} comes {off} it."
    return f"These bounds can be met: {name}, the nearest to its own, comes {off} it."


def slack_buys(summary: Mapping[str, Any]) -> list[str]:
    """What a little more slack on each active constraint would do to the bound on information, from λ."""
    lines = []
    for name, c in summary["constraints"].items():
        if (change := c.get("sensitivity")) is None:
            continue
        side = "q" if summary["alpha"]["q"] else "p"
        more = "1 nat" if c["nats"] and c["scale"] == 1 else f"{c['scale']:g}"
        bound, way = ("lower", "rises") if summary["alpha"][side] < 0 else ("upper", "falls")
        lines.append(f"{more} more of slack on {name}: the {bound} bound on I_{side} {way} by about {abs(change):.2g} nats.")
    return lines
