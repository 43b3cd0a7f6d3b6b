"""What dashboards are given by a sweep, and what `watch` shows of it while it trains.

    python benchmarks/dashboard.py [--root FOLDER] [--out results/dashboard.md] [KEY=VALUE …]

Trains the runs of sweep=pareto on digits for a few steps, with logger=wandb, which works offline. Then it reads what W&B's
files hold: groups, job types, tags, keys, pictures and tables, whether every panel of `lagvae dashboard` has what it shows, and
draws them all as dashboard.png. The training is too short for its numbers to mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from wandb_files import Offline, read_offline

if TYPE_CHECKING:
    from lagvae.runs.wandb_view import Chart

ROOT = Path(__file__).resolve().parents[1]

SHORT = ["training.steps=600", "training.interval=100", "calibration.steps=600", "logger=wandb", "logger.wandb.mode=offline"]

MOMENTS = {
    "while it calibrates": "calibrating ",
    "while it trains": r"training +[1-9]\d* ",
    "while it measures": r"\d finished",
}
"""When `watch` is recorded → what it says then for the first time."""


def watched(environment: Mapping[str, str]) -> str:
    """What `watch` prints of the sweep now, in 80 columns; nothing where there is no sweep yet."""
    words = [sys.executable, str(ROOT / "src" / "watch.py"), "shown"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout


def train(root: Path, words: Sequence[str]) -> dict[str, str]:
    """Train the sweep, and record what `watch` shows of it."""
    environment = dict(os.environ) | {"LAGVAE_ROOT": str(root)}
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", "sweep=pareto", "folder=shown", *SHORT, *words]
    print(" ".join(["python src/train.py", *command[2:]]), flush=True)
    recorded: dict[str, str] = {}
    training = subprocess.Popen(command, env=environment)
    try:
        while training.poll() is None:
            said = watched(environment)
            for moment, words_of_it in MOMENTS.items():
                if moment not in recorded and re.search(words_of_it, said):
                    recorded[moment] = said
            time.sleep(1)
    finally:
        training.terminate()
    if training.returncode:
        raise SystemExit(f"The sweep ended with status {training.returncode}.")
    return recorded


def kinds_of(run: Offline) -> dict[str, str]:
    """Key of the history → whether it is a curve, a single point, a picture, a table or another file."""
    found = {}
    for key, values in run.history.items():
        kind = values[0].get("_type", "setting") if isinstance(values[0], dict) else "curve" if len(values) > 1 else "point"
        found[key] = {"images/separated": "picture", "image-file": "picture", "table-file": "table"}.get(kind, kind)
    return found


def report(runs: Mapping[str, Offline], comparison: Offline) -> Iterator[str]:
    """What W&B's files hold, as lines of Markdown."""
    from lagvae.runs.loggers import STEP
    from lagvae.runs.wandb_view import charts, run_columns

    every = [*runs.values(), comparison]
    for name, values in {
        "groups": Counter(one.run.run_group for one in every),
        "job types": Counter(one.run.job_type for one in every),
        "tags": Counter(tag for one in every for tag in one.run.tags),
    }.items():
        yield f"- {name}: " + ", ".join(f"{value} ({count} runs)" for value, count in values.items())
    kinds: dict[str, set[str]] = {}
    for one in runs.values():
        for key, kind in kinds_of(one).items():
            kinds.setdefault(kind, set()).add(key)
    for kind, keys in sorted(kinds.items()):
        if kind != "point":
            yield f"- {kind}s of runs ({len(keys)}): " + ", ".join(
                f"`{key}`" for key in sorted(keys) if not key.startswith("_")
            )
    points = {f"{run} {key}" for run, one in runs.items() for key, kind in kinds_of(one).items() if kind == "point"}
    yield f"- keys of the history with one value, which would be charts of one point: {len(points)}"
    yield "- of the comparison: " + ", ".join(f"`{key}` ({kind})" for key, kind in sorted(kinds_of(comparison).items()))
    summary = sorted(set().union(*(one.summary for one in runs.values())))
    yield f"- keys of the summary ({len(summary)}): " + ", ".join(f"`{key}`" for key in summary if not key.startswith("_"))
    known = kinds.get("curve", set()) | set(summary) | kinds.get("picture", set()) | set(comparison.history)
    sections = charts(["neg_elbo", "mmd"])
    shown = [chart for section in sections.values() for chart in section]
    named = {key for chart in shown for key in (*chart.y, chart.x) if key != STEP}
    columns = {column.removeprefix("summary:") for column in run_columns(["neg_elbo", "mmd"]) if column.startswith("summary:")}
    missing = sorted((named - known) | (columns - set(summary)))
    yield f"- panels of the view: {len(shown)}; keys that they name and no run has: {missing or 'none'}"


COLUMNS = 3
"""Panels of the picture beside each other."""

ROWS = 12
"""The rows of a table that are drawn."""


def draw(runs: Mapping[str, Offline], comparison: Offline, file: Path) -> None:
    """Draw all panels of the view, and its table of runs, from what the runs have logged."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lagvae.pareto.figures import screen_colours
    from lagvae.runs.wandb_view import charts, run_columns

    families = {name: str(one.config["family"]) for name, one in runs.items()}
    colours = screen_colours(sorted(set(families.values())))
    colour_of = {name: colours[family] for name, family in families.items()}
    shown = [chart for section in charts(["neg_elbo", "mmd"]).values() for chart in section]
    down = -(-(len(shown) + 1) // COLUMNS)
    figure, axes = plt.subplots(down, COLUMNS, figsize=(5 * COLUMNS, 3.6 * down), layout="constrained")
    drawn = {"curves": draw_curves, "points": draw_points, "bars": draw_bars}
    for axis, chart in zip(axes.flat, shown, strict=False):
        if chart.kind in drawn:
            drawn[chart.kind](axis, chart, runs, colour_of)
        elif chart.kind == "pictures":
            draw_picture(axis, chart, [comparison, *runs.values()])
        else:
            draw_table(axis, *logged_table(comparison, chart.y[0]))
        axis.set_title(chart.title, fontsize=10)
    columns = [column.removeprefix("summary:") for column in run_columns(["neg_elbo", "mmd"])[2:5]]
    cells = [[name, families[name], *(one.summary.get(column) for column in columns)] for name, one in runs.items()]
    table = axes.flat[len(shown)]
    draw_table(table, ["run", "family", *columns], cells)
    table.set_title("Table of runs", fontsize=10)
    for axis in list(axes.flat)[len(shown) + 1 :]:
        axis.axis("off")
    for family, colour in colours.items():
        axes.flat[0].plot([], [], "o", color=colour, label=family)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(file, dpi=80)


def draw_curves(axis: Any, chart: Chart, runs: Mapping[str, Offline], colours: Mapping[str, str]) -> None:
    """A line for each run and key over the steps; that of a second key is dashed."""
    for name, one in runs.items():
        for key, style in zip(chart.y, ("-", "--"), strict=False):
            places = [(row[chart.x], row[key]) for row in one.rows if chart.x in row and isinstance(row.get(key), int | float)]
            if places:
                axis.plot(*zip(*places, strict=True), style, color=colours[name], linewidth=0.8, alpha=0.6)
    axis.set_xlabel(chart.x, fontsize=8)


def draw_points(axis: Any, chart: Chart, runs: Mapping[str, Offline], colours: Mapping[str, str]) -> None:
    """A point for each run, and the front of all."""
    points: list[tuple[float, float]] = []
    for name, one in runs.items():
        x, y = one.summary.get(chart.x), one.summary.get(chart.y[0])
        if isinstance(x, int | float) and isinstance(y, int | float):
            axis.scatter(x, y, s=14, color=colours[name])
            points.append((float(x), float(y)))
    best = accumulate((y for _, y in sorted(points)), max if chart.front == "most" else min)
    axis.plot([x for x, _ in sorted(points)], list(best), drawstyle="steps-post", color="grey", linewidth=1)
    axis.set_xlabel(chart.x, fontsize=8)


def draw_bars(axis: Any, chart: Chart, runs: Mapping[str, Offline], colours: Mapping[str, str]) -> None:
    """A bar for each run that has the value."""
    for k, (name, one) in enumerate(runs.items()):
        if isinstance(value := one.summary.get(chart.y[0]), int | float):
            axis.bar(k, value, color=colours[name])
    axis.set_xlabel("runs", fontsize=8)


def draw_picture(axis: Any, chart: Chart, runs: Sequence[Offline]) -> None:
    """The picture that the first of some runs has logged."""
    from matplotlib.image import imread

    logged = ((one, one.history[key][-1]) for one in runs for key in chart.y if key in one.history)
    axis.axis("off")
    if (found := next(logged, None)) is None:
        return
    one, value = found
    path = value["path"] if "path" in value else value["filenames"][0]
    axis.imshow(imread(one.files / path))


def logged_table(one: Offline, key: str) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a table that a run has logged."""
    content = json.loads((one.files / one.history[key][-1]["path"]).read_text(encoding="utf-8"))
    return content["columns"], content["data"]


def draw_table(axis: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The first columns of a table, of rows at equal distances."""
    chosen = rows[:: max(1, len(rows) // ROWS)][:ROWS]
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell)[:34] for cell in row[:5]] for row in chosen]
    drawn = axis.table(cells, colLabels=[column.rpartition("/")[2] for column in columns[:5]], loc="upper center", edges="")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(range(5))
    axis.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the runs; a sweep that is there is gone on with")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "dashboard.md")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = Path(options.root or tempfile.mkdtemp(prefix="dashboard-")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    recorded = train(root, options.overrides)
    recorded["at the end"] = watched(dict(os.environ) | {"LAGVAE_ROOT": str(root)})
    folder = root / "runs" / "shown"
    runs = {file.parent.name: read_offline(file.parent) for file in sorted(folder.glob("*/summary.json"))}
    comparison = read_offline(folder / "pareto-analysis")
    lines = ["# What dashboards are given by a sweep", "", "## W&B's files", ""]
    lines += report(runs, comparison)
    picture = options.out.with_suffix(".png")
    draw(runs, comparison, picture)
    lines += ["", f"![What the view shows, drawn from these keys]({picture.name})", "", "## `lagvae watch` at 80 columns"]
    for moment, said in recorded.items():
        shown = [line.rstrip() for line in said.splitlines()]
        cut = [*shown[:14], "…"] if len(shown) > 15 else shown
        lines += ["", f"{moment[0].upper()}{moment[1:]}:", "", *(f"    {line}" if line else "" for line in cut)]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
