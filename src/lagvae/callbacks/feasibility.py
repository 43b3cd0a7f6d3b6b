"""Stops a run whose bound is infeasible, and records the smallest value that each constraint reached."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lagvae.callbacks.evaluation import Evaluation
from lagvae.lagrangian import TOLERANCE


class FeasibilityWatch(pl.Callback):
    """Checks every bounded constraint with a learned multiplier after every interval, on the training samples evaluated there.

    Training stops if, for `patience` intervals in a row, λ is at its maximum, the bound is violated, and the divergence has not
    decreased by more than the tolerance: further ascent of λ could not change anything.

    Attributes:
        best: constraint → its smallest value so far. stuck: constraint → number of such intervals in a row.
        stopped_by: the constraint that stopped training, or None.
    """

    def __init__(self, evaluation: Evaluation, patience: int = 3) -> None:
        super().__init__()
        self.evaluation, self.patience = evaluation, patience
        self.best: dict[str, float] = {}
        self.stuck: dict[str, int] = {}
        self.stopped_by: str | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "stuck": self.stuck, "stopped_by": self.stopped_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.stuck = dict(state_dict["best"]), dict(state_dict["stuck"])
        self.stopped_by = state_dict["stopped_by"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.stopped_by is not None  # a resumed run that had already stopped stops at once

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.update(pl_module):
            trainer.should_stop = True

    def update(self, model: Any) -> bool:
        """Take the newest results into account; returns whether training should stop."""
        lagrangian = model.lagrangian
        values = self.evaluation.results.get("train", {})
        for i, c in enumerate(lagrangian.constraints):
            if (value := values.get(f"constraint/{c.name}")) is None:
                continue
            previous_best = self.best.get(c.name, float("inf"))
            self.best[c.name] = min(previous_best, value)
            at_maximum = float(lagrangian.scaled[i]) >= 0.999 * float(lagrangian.max_multiplier[i])
            violated = c.bound is not None and value > c.bound + TOLERANCE * c.scale
            if c.learned and at_maximum and violated and value > previous_best - TOLERANCE * c.scale:
                self.stuck[c.name] = self.stuck.get(c.name, 0) + 1
            else:
                self.stuck[c.name] = 0
            if self.stuck[c.name] >= self.patience:
                self.stopped_by = c.name
        return self.stopped_by is not None
