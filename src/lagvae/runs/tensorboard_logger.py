"""A logger of TensorBoard for a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import RunLogger, flat_results, on_one_level


class RunTensorBoardLogger(RunLogger, TensorBoardLogger):
    """Lightning's logger of TensorBoard for a run: the results are logged with the settings, as hyperparameters, and end it.

    Where a run is resumed, what was written after its checkpoint is withdrawn, because it is written again.

    Args:
        save_dir: the folder of the run. settings: what TensorBoardLogger takes.

    Attributes:
        resumed: whether there are files from before, of which nothing has been withdrawn yet.
        ended: whether the results are known, and are logged now.
    """

    def __init__(self, save_dir: str, **settings: Any) -> None:
        super().__init__(save_dir, **{"default_hp_metric": False} | settings)
        self.run = RunFolder(Path(save_dir))
        self.behind = not any(Path(self.log_dir).glob("events.*"))
        self.resumed, self.ended = not self.behind, False
        self.run.follow(self.finish)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values of a step, or the results."""
        if self.ended:
            TensorBoardLogger.log_metrics(self, metrics, step)
        else:
            super().log_metrics(metrics, step)

    def write(self, row: dict[str, Any], step: int | None) -> None:
        """Write a row to TensorBoard's file."""
        if self.resumed and step is not None:
            self.resumed = False
            withdraw_from(self.experiment, step)
        TensorBoardLogger.log_metrics(self, row, step)

    def save(self) -> None:
        """Write what waits for its step to end, and all that TensorBoard keeps in memory."""
        super().save()
        if self._experiment is not None:
            self.experiment.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the results, numbers as the metrics of the hyperparameters and texts as texts, and close the file."""
        self._catch_up()
        self.save()
        self.ended, results = True, flat_results(summary)
        texts = {key: value for key, value in results.items() if isinstance(value, str)}
        for key, text in texts.items():
            self.experiment.add_text(key, text, summary["steps"])
        numbers = {key: float(value) for key, value in results.items() if key not in texts}
        self.log_hyperparams(on_one_level(self.run.read_settings(), "."), numbers, summary["steps"])
        self.finalize("success")

    def end(self, failed: bool) -> None:
        """Close the file."""
        self.finalize("failed" if failed else "success")


def withdraw_from(writer: Any, step: int) -> None:
    """Have TensorBoard leave out what files from before have of a step and later ones, as `purge_step` does of a new writer.

    Lightning makes the writer before the first row, and so before the step is known.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer.file_writer.add_event(Event(step=step, file_version="brain.Event:2"))
    writer.file_writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
