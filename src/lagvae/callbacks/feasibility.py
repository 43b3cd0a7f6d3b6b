"""Remembers how near each constraint came to its bound, and stops a run whose bound is out of reach."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lagvae.callbacks.evaluation import Evaluation
from lagvae.lagrangian import TOLERANCE


class FeasibilityWatch(pl.Callback):
    """After every interval, looks at each bounded constraint with a learned multiplier on the training probe.

    Where λ stands at its largest value, the bound is still broken, and the divergence has not come down by more than
    a tolerance for `patience` intervals, training stops: more ascent would change nothing.

    Attributes:
        best: name → the smallest value seen. stopped_by: the constraint that ended the run, or None.
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
        trainer.should_stop = self.stopped_by is not None  # a run that had stopped does not start again

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.look(pl_module):
            trainer.should_stop = True

    def look(self, model: Any) -> bool:
        """Look at the newest results; whether training should stop."""
        lagrangian = model.lagrangian
        values = self.evaluation.results.get("train", {})
        for i, c in enumerate(lagrangian.constraints):
            if (value := values.get(f"constraint/{c.name}")) is None:
                continue
            before = self.best.get(c.name, float("inf"))
            self.best[c.name] = min(before, value)
            at_most = float(lagrangian.scaled[i]) >= 0.999 * float(lagrangian.max_multiplier[i])
            broken = c.bound is not None and value > c.bound + TOLERANCE * c.scale
            if c.learned and at_most and broken and value > before - TOLERANCE * c.scale:
                self.stuck[c.name] = self.stuck.get(c.name, 0) + 1
            else:
                self.stuck[c.name] = 0
            if self.stuck[c.name] >= self.patience:
                self.stopped_by = c.name
        return self.stopped_by is not None
