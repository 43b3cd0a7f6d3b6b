"""The W&B run of a comparison: its table, its page, its figures as pictures and as charts, beside the runs that it compares."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import folder_of_sweep, kind_of_logger, wandb_tags
from lagvae.runs.wandb_logger import (
    disable_telemetry,
    forget_wandb_process,
    patient_settings,
    put_aside,
    wandb_file,
    wandb_id,
    wandb_mode,
    wandb_process_errors,
)
from lagvae.terminal import print_note

SWEEP = "sweep"
"""The job type of the W&B run of a comparison; that of the run of a model is its family."""

FIGURES = {
    "figure1": "Figure 1: information over the slack of −ELBO",
    "figure2": "Figure 2: information against −ELBO, with the front of each method",
}
"""Figure of a comparison → its caption."""

ABSCISSAS = {"figure1": "gamma", "figure2": "neg_elbo"}
"""Figure → the column of pareto.csv over which it shows information."""


def log_sweep(
    folder: Path, runs: Mapping[str, RunFolder], table: Path, pictures: Iterable[Path], pages: Sequence[Path]
) -> None:
    """Log a comparison to W&B as a run of job type `SWEEP`, where its runs were logged there, in their project and group.

    It has the table, with the address of the W&B run of each row (its id where it works offline and nobody knows the address),
    the page, and the figures as pictures and as charts. It works offline as the runs do, and goes on where the comparison is
    made again. Where W&B fails, a note says so.

    Args:
        folder: of the comparison; the files of W&B go there, too. runs: name in the table → folder. table: its pareto.csv.
        pages: its pareto.html; none where it was not written.
    """
    configs = {name: run.read_settings() for name, run in runs.items()}
    logged = [(node, config) for config in configs.values() if (node := _wandb_settings(config)) is not None]
    if not logged:
        return
    import wandb

    disable_telemetry()
    ids = {name: file.read_text(encoding="utf-8").strip() for name, run in runs.items() if (file := wandb_file(run)).is_file()}
    with table.open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    groups = {node.get("group") or folder_of_sweep(config) for node, config in logged}
    name, first = groups.pop() if len(groups) == 1 else None, logged[0][0]
    settings: dict[str, Any] = {
        **{key: first.get(key) for key in ("project", "entity")},
        "group": name,
        "name": f"{name or folder.parent.name} compared",
        "job_type": SWEEP,
        "tags": list(dict.fromkeys(tag for config in configs.values() for tag in wandb_tags(config))),
        "config": {"runs": ids},
        "dir": str(folder),
        "id": wandb_id(RunFolder(folder)),
        "resume": "allow",
        "mode": first.get("mode") or wandb_mode(),
    }
    try:
        wandb_run = wandb.init(**settings, settings=patient_settings())
        address = "" if wandb_run.offline else str(wandb_run.url).rpartition("/")[0]
        links = {run: f"{address}/{of_wandb}" if address else of_wandb for run, of_wandb in ids.items()}
        data = [[row[0], *map(_number_or_text, row[1:]), links.get(row[0])] for row in rows]
        if wandb_run.offline:
            put_aside(folder / "wandb", str(wandb_run.id), Path(wandb_run.settings.sync_dir))
        wandb_run.log(
            {"pareto": wandb.Table(columns=[*head, "wandb_run"], data=data, allow_mixed_types=True)}
            | {f"figures/{path.stem}": wandb.Image(str(path), caption=FIGURES.get(path.stem)) for path in pictures}
            | {f"{path.stem}_page": wandb.Html(path.read_text(encoding="utf-8"), inject=False) for path in pages}
            | figure_charts([*head, "wandb_run"], data)
        )
        wandb_run.finish()
    except wandb_process_errors() as error:
        print_note(f"W&B did not take the comparison in {folder}: it has ended ({str(error) or type(error).__name__}).")
        forget_wandb_process()
    except (wandb.errors.Error, OSError, ValueError) as error:
        print_note(f"W&B did not take the comparison in {folder}: {error}")


def figure_charts(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Figures 1 and 2 as charts of W&B: the runs on training data, with the end of the interval for I that a run optimises.

    Args:
        head, rows: of the table that is logged.
    """
    import wandb

    drawn = {}
    for figure, axis in ABSCISSAS.items():
        points = []
        for row in (dict(zip(head, row, strict=True)) for row in rows):
            if row["split"] == "train" and row[axis] is not None:
                end = row["lower" if row["alpha"] < 0 else "upper"]
                points.append([row[axis], end, *(row[key] for key in ("run", "family", "verdict", "wandb_run"))])
        if points:
            columns: list[str | int] = [axis, "i_q", "run", "family", "verdict", "wandb_run"]
            table = wandb.Table(columns=columns, data=points, allow_mixed_types=True)
            drawn[f"charts/{figure}"] = wandb.plot.scatter(table, axis, "i_q", title=FIGURES[figure])
    return drawn


def _wandb_settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the W&B logger of a run; None where it has none."""
    nodes = [node for node in (config.get("logger") or {}).values() if isinstance(node, Mapping)]
    return next((node for node in nodes if kind_of_logger(str(node.get("_target_"))) == "WandbLogger"), None)


def _number_or_text(cell: str) -> float | str | None:
    """What a cell of a CSV file holds; an empty one holds nothing."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell
