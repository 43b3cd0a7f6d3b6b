"""What the loggers beside metrics.csv have in common; those of W&B, TensorBoard and MLflow have a module each.

All get the rows of metrics.csv under the same keys while a run trains, its figures, and at its end the `flat_results` of its
summary: W&B as the summary of its run, TensorBoard with the hyperparameters, MLflow as metrics and tags.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import read_rows
from lagvae.terminal import goals_of

STEP = "trainer/global_step"
"""The key of the training step, over which Lightning lets W&B draw all others."""

RESULT = "final/"
"""How a key begins that is the value of a metric after training, of which there is one."""

SINGLE = ("verdict", "regime", "stationarity", "steps", "stopped_by")
"""What stands in a summary as one value."""

LONGEST_TAG = 64
"""The largest number of letters of a tag."""


def kind_of_logger(target: str) -> str | None:
    """The class of Lightning that a target names: WandbLogger, TensorBoardLogger or MLFlowLogger, also as a run has it.

    None for any other logger, of which a user's own subclass of these is one.
    """
    name = target.rpartition(".")[2].removeprefix("Run")
    known = target.startswith(("pytorch_lightning.", "lagvae.")) and name in (
        "WandbLogger",
        "TensorBoardLogger",
        "MLFlowLogger",
    )
    return name if known else None


def flat_results(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says, as key → number or text: final/SPLIT/METRIC, constraint/NAME/bound and more, convergence/…, verdict.

    What a run has not, such as the bound of a penalty, has no key.
    """
    parts = {
        RESULT.rstrip("/"): summary["splits"],
        "constraint": summary["constraints"],
        **{key: summary.get(key) for key in (*SINGLE, "convergence", "seconds")},
        "messages": "\n".join(summary.get("messages", ())) or None,
    }
    return on_one_level(parts, "/")


def on_one_level(values: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Nested values on one level, under keys that join those of all levels. What is None is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{below}": each for below, each in on_one_level(value, separator).items()}
        elif value is not None:
            flat[str(key)] = value
    return flat


def without_results(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that is a point of a curve."""
    return {key: value for key, value in metrics.items() if not key.startswith(RESULT)}


def wandb_tags(config: Mapping[str, Any]) -> list[str]:
    """By what W&B filters runs: family, data, model, and whether information is maximised or minimised."""
    names = [config.get("family"), *((config.get(part) or {}).get("name") for part in ("data", "model"))]
    return [str(tag)[:LONGEST_TAG] for tag in (*names, *goals_of(config)) if tag]


def folder_of_sweep(config: Mapping[str, Any]) -> str | None:
    """The folder of the sweep that a run is of, below runs/; None for a run of its own."""
    parent = str(PurePosixPath(str(config.get("name", ""))).parent)
    return parent if parent != "." else None


class RunLogger(Logger):
    """A logger beside metrics.csv: it gets every row of that table once, however often the run is resumed, and the results.

    All values of a step are one row, which is written when the next one begins, or by `save`. A run that fails in between has
    them again when it is resumed, so they are left out then.

    Attributes:
        run: the folder of the run. known_to: the last step that was written before the run was resumed.
        behind: whether rows of metrics.csv from before may not have been written.
    """

    run: RunFolder
    known_to = -1
    behind = True
    _waiting: tuple[int, dict[str, Any]] | None = None

    @abstractmethod
    def write(self, row: dict[str, Any], step: int | None) -> None:
        """Write a row, of which nothing was written before."""

    @abstractmethod
    def end(self, failed: bool) -> None:
        """End what was begun in this process. The run may go on in another one."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values of a step. Results, which are no curves, are left to `finish`, which has all of them."""
        row = without_results(metrics)
        if not row:
            return
        self._catch_up(step)
        if step is None:
            self.write(row, None)
            return
        if self._waiting is not None and self._waiting[0] != step:
            self._write_waiting()
        self._waiting = step, {**(self._waiting or (step, {}))[1], **row}

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] > self.known_to:
            self.write(waiting[1], waiting[0])

    def _catch_up(self, step: int | None = None) -> None:
        """Log the rows of metrics.csv from before a step, all by default, which may not have been written."""
        behind, self.behind = self.behind, False
        if behind and self.run.metrics.is_file():
            replay(self.run.metrics, self, step)

    def save(self) -> None:
        """Write what waits for its step to end."""
        self._write_waiting()
        super().save()

    def leave(self, failed: bool) -> None:
        """End in this process without results: the run has failed, or another process goes on with it."""
        if failed:
            self._waiting = None
        else:
            self._catch_up()
        self.save()
        self.run.unfollow()
        self.end(failed)


class LoggerList(Logger):
    """Several loggers, as one that tells all of them what it is told."""

    def __init__(self, *loggers: Logger) -> None:
        super().__init__()
        self.loggers = list(loggers)

    @property
    def name(self) -> str:
        return "several"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step)

    def save(self) -> None:
        for logger in self.loggers:
            logger.save()


# ---- what a run does with its loggers


def log_picture(logger: Logger, path: Path) -> None:
    """Log a PNG, with the description in the file as its caption, if the logger supports images; others ignore it."""
    key = f"figures/{path.stem}"
    if isinstance(logger, WandbLogger):
        from PIL import Image

        with Image.open(path) as image:
            logger.log_image(key, [str(path)], caption=[image.info.get("Description", path.stem)])
    elif isinstance(logger, TensorBoardLogger):
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            logger.experiment.add_image(key, np.asarray(image.convert("RGB")), dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path), "figures")


def replay(table: Path, logger: Logger, before: int | None = None) -> None:
    """Log the rows of metrics.csv before a step; all by default."""
    rows: dict[int, dict[str, float]] = {}
    for row in read_rows(table):
        rows.setdefault(int(row["step"]), {})[f"{row['split']}/{row['name']}"] = float(row["value"])
    for step, values in sorted(rows.items()):
        if before is None or step < before:
            logger.log_metrics(values, step)


def close(logger: Logger, failed: bool = False) -> None:
    """Flush a logger, and end it if nothing more comes. One of a run that has not failed ends with the results, by `finish`.

    The W&B run must have ended before the next job of a sweep starts one.
    """
    if isinstance(logger, RunLogger) and not failed:
        logger.save()
    else:
        leave(logger, failed)


def leave(logger: Logger, failed: bool = False) -> None:
    """End a logger in this process before there are results: the run has failed, or another process goes on with it."""
    if isinstance(logger, RunLogger):
        logger.leave(failed)
    else:
        logger.save()
        logger.finalize("failed" if failed else "success")
