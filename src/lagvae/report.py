"""What a user reads on the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lagvae.calibration import Calibration
from lagvae.module import LatentVariableModel
from lagvae.runs import Run

COLOURS = {"active": "green", "inactive": "green", "met": "green", "infeasible": "red", "not converged": "yellow"}


def console(stderr: bool = False) -> Console:
    """The terminal; silent on every process but the first."""
    return Console(stderr=stderr, quiet=int(os.environ.get("LOCAL_RANK", 0)) > 0, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A plain line."""
    console().print(text)


def complain(text: str) -> None:
    """An error, on stderr."""
    console(stderr=True).print(f"[bold red]Error:[/] {_plain(text)}")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def number(value: float | None, stderr: float | None = None) -> str:
    """A number with digits that fit its size, and ± its standard error."""
    if value is None or not isfinite(value):
        return "–"
    digits = 2 if abs(value) >= 1 else 5
    text = f"{value:.{digits}f}" if abs(value) >= 1e-2 or value == 0 else f"{value:.2e}"
    if stderr is not None and isfinite(stderr) and stderr > 0:
        text += f" ± {stderr:.{digits}f}" if abs(value) >= 1e-2 else f" ± {stderr:.0e}"
    return text


def here(path: Path) -> str:
    """A path as short as can be from where the user stands."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def calibration(found: Calibration, folder: Path, fresh: bool) -> None:
    """ε̂, and where it is kept."""
    values = ", ".join(f"{n} {number(v, found.stderr[n])}" for n, v in found.epsilon.items())
    took = f" in {found.seconds:.0f} s" if fresh else ""
    say(f"{'Calibrated' if fresh else 'Calibration found'}{took}: ε̂ = {values} (on {found.split}), in {here(folder)}")


def preference(alpha: float) -> str:
    """A preference in words."""
    return "maximise" if alpha < 0 else "minimise" if alpha > 0 else "no preference on"


def plan(cfg: DictConfig, model: LatentVariableModel, calibrated: Calibration | None, run: Run) -> None:
    """What a run is about to do."""
    goals = [f"{preference(a)} I_{side} (α = {a:+g})" for side, a in (("q", cfg.alpha.q), ("p", cfg.alpha.p)) if a != 0]
    bounds = []
    for c in model.lagrangian.constraints:
        if c.bound is None:
            bounds.append(f"{c.multiplier:g} · {c.name}")
            continue
        setting = cfg.constraints[c.name]
        origin = "given"
        if setting.epsilon is None and calibrated is not None:
            slack = c.bound - calibrated.epsilon[c.name]
            origin = f"{number(calibrated.epsilon[c.name])} + {number(slack)}"
        bounds.append(f"{c.name} ≤ {number(c.bound)} ({origin})")
    sense = "subject to" if any(c.bound is not None for c in model.lagrangian.constraints) else "with penalties"
    say(f"{cfg.family}: {' and '.join(goals) or 'no preference on information'}, {sense} {', '.join(bounds) or 'nothing'}")
    say(f"{cfg.training.steps} steps, start: {cfg.training.start}, folder: {here(run.folder)}")


def closing(summary: Mapping[str, Any], run: Run) -> None:
    """What was asked, what was reached, and the verdicts."""
    out = console()
    splits = summary["splits"]
    table = Table(title=f"{summary['family']} on {summary['data']}", title_justify="left", title_style="bold")
    table.add_column("constraint")
    for name in ("bound", "train", "val", "test", "λ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name, c in summary["constraints"].items():
        verdict = c["verdict"]
        colour = COLOURS.get(verdict, "default")
        label = f"{name} (nats)" if c["nats"] else name
        cells = [number(c[split]) for split in ("train", "val", "test")]
        table.add_row(label, number(c["bound"]), *cells, number(c["multiplier"]), f"[{colour}]{verdict}[/]")
    if summary["constraints"]:
        out.print(table)
    table = Table(title="Measured (± standard error)", title_justify="left", title_style="bold")
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right", no_wrap=True)
    rows = (
        ("−ELBO (nats)", "neg_elbo"),
        ("rate (nats)", "rate"),
        ("distortion (nats)", "distortion"),
        ("MMD", "mmd"),
        ("I_q lower (nats)", "i_q_lower"),
        ("I_q upper (nats)", "i_q_upper"),
        ("I_q by KDE (nats)", "i_q_kde"),
        ("active units", "active_units"),
    )
    for label, key in rows:
        if any(key in values for values in splits.values()):
            cells = [
                number(v.get(key), v.get(f"{key}_stderr")) if key != "active_units" else f"{v[key]:.0f}"
                for v in splits.values()
            ]
            if key == "i_q_kde":
                cells = [
                    c + (" (!)" if v.get("i_q_kde_breaks_bound") else "") for c, v in zip(cells, splits.values(), strict=True)
                ]
            table.add_row(label, *cells)
    out.print(table)
    if any(v.get("i_q_kde_breaks_bound") for v in splits.values()):
        out.print("(!) the kernel density estimate lies outside the bounds that I_q must obey; trust the interval.")
    if summary.get("mmd_estimator"):
        out.print(f"MMD: {summary['mmd_estimator']}. KKT stationarity residual: {summary['stationarity']:.3f}.")
    for message in summary["messages"]:
        out.print(f"[bold yellow]{_plain(message)}[/]")
    colour = COLOURS.get(summary["verdict"], "default")
    seconds = f" in {summary['seconds']['all']:.0f} s" if "seconds" in summary else ""
    out.print(f"Verdict: [bold {colour}]{summary['verdict']}[/]. Written{seconds} to {here(run.folder)}")
