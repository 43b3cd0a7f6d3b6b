"""A logger of MLflow for a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

from lagvae.io import write_atomically
from lagvae.ranks import launched_rank
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import STEP, RunLogger, flat_results, folder_of_sweep, on_one_level, wandb_tags
from lagvae.terminal import print_note

LONGEST_TEXT = 5000
"""The largest number of letters of a tag's value."""


class RunMLFlowLogger(RunLogger, MLFlowLogger):
    """Lightning's logger of MLflow for a run: settings are its parameters; results are its metrics and, where texts, its tags.

    The id of the MLflow run is in mlflow/id in the folder of the run, so that a resumed run continues it. A run does not fail
    where MLflow does.

    Args:
        run: the folder of the run. config: its settings.
        settings: what MLFlowLogger takes. Without a tracking_uri, which MLFLOW_TRACKING_URI may name too, MLflow keeps files in
            mlruns/ beside runs/.
    """

    def __init__(self, run: RunFolder, config: Mapping[str, Any], **settings: Any) -> None:
        given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
        local = (Path(config["paths"]["root"]) / "mlruns").absolute().as_uri()
        uri = given.pop("tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI") or local
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which newer versions ask for
        self.run, self.lost, self.file = run, False, run.path / "mlflow" / "id"
        known = self.file.read_text(encoding="utf-8").strip() if self.file.is_file() else None
        tags = {"group": folder_of_sweep(config), "job_type": config.get("family"), "tags": ", ".join(wandb_tags(config))}
        given["tags"] = {key: str(value) for key, value in tags.items() if value} | dict(given.get("tags", {}))
        given = {"run_name": config.get("name")} | given
        super().__init__(**given, tracking_uri=uri, run_id=known)
        if launched_rank() > 0:
            return
        if known is None:
            self._begin(config)
        else:
            self.known_to = int(self.experiment.get_run(known).data.metrics.get(STEP, self.known_to))
            self.experiment.update_run(known, "RUNNING")
        run.follow(self.finish)

    def _begin(self, config: Mapping[str, Any]) -> None:
        """Make the MLflow run, with the settings as its parameters."""
        made = str(self.run_id)

        def write(part: Path) -> None:
            part.write_text(made, encoding="utf-8")

        self.log_hyperparams(on_one_level(config, "."))
        write_atomically(self.file, write)

    def write(self, row: dict[str, Any], step: int | None) -> None:
        """Log a row to MLflow, and of it the step, so that a resumed run knows what is there."""
        self._try(row if step is None else {**row, STEP: step}, step)

    def _try(self, row: Mapping[str, Any], step: int | None) -> None:
        from mlflow.exceptions import MlflowException

        if self.lost:
            return
        try:
            MLFlowLogger.log_metrics(self, row, step)
        except (MlflowException, OSError) as error:
            self.lost = True
            print_note(f"MLflow takes no more of {self.run.path}: {str(error).splitlines()[0]}")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the results, numbers as metrics and texts as tags, and end the MLflow run."""
        self._catch_up()
        self.save()
        results = flat_results(summary)
        self._try({key: float(value) for key, value in results.items() if not isinstance(value, str)}, summary["steps"])
        if not self.lost:
            for key, value in results.items():
                if isinstance(value, str):
                    self.experiment.set_tag(self.run_id, key, value[:LONGEST_TEXT])
            self.finalize("success")

    def end(self, failed: bool) -> None:
        """Say that the MLflow run has ended."""
        if not self.lost:
            self.finalize("failed" if failed else "success")
