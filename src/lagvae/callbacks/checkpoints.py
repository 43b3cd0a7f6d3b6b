"""Saves last.ckpt after every interval, and best.ckpt whenever it is the best solution of the constrained problem so far."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lagvae.callbacks.evaluation import Evaluation
from lagvae.io import write_atomically

PENALTY = 10.0
"""Weight of a violation, measured in the constraint's scale, against the preference."""


def exact_penalty(model: Any, results: dict[str, dict[str, float]]) -> float:
    """f + Σ λ D on validation data + `PENALTY` · Σ max(0, violation on training data), in nats: lower is better.

    The first sum is over penalties, which have no bound, and the second over constraints, whose violations are divided by
    their scale. Such a penalty is exact: the minimum is the solution of the constrained problem as long as
    λ_i · scale_i < `PENALTY` (Nocedal & Wright, Numerical Optimization, 2006, ch. 17).
    """
    lagrangian, val = model.lagrangian, results["val"]
    terms = val | {"neg_i_p_lower": -val.get("i_p_lower", 0.0)}
    f = sum(float(weight) * terms.get(name, 0.0) for name, weight in lagrangian.preference.weights.items())
    for c in lagrangian.constraints:
        key = f"constraint/{c.name}"
        if c.bound is None:
            f += c.multiplier * val[key]
        else:
            f += PENALTY * max(0.0, (results["train"][key] - c.bound) / c.scale)
    return f


def evaluated_loss(results: dict[str, float]) -> float:
    """The −ELBO or the distortion of an evaluation, which is not finite if the model has diverged."""
    return results.get("neg_elbo", results.get("distortion", 0.0))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint as every other file is written: where it goes, and not to the folder of temporary files first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_atomically(Path(path), lambda part: torch.save(checkpoint, part))


class Checkpoints(Checkpoint):
    """Saves checkpoints after every interval; files are replaced atomically, so that those on disk are always complete.

    Args:
        folder: where the checkpoints go.
        evaluation: its results decide which checkpoint is the best.
        table: returns a hash of metrics.csv, which a checkpoint keeps.
    """

    def __init__(self, folder: Path, evaluation: Evaluation, table: Callable[[], str] = str) -> None:
        super().__init__()
        self.folder, self.evaluation, self.table = folder, evaluation, table
        self.best = float("inf")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "table": self.table()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.evaluation.results:
            return  # a resumed run ends the interval of its checkpoint once more, without training on a batch
        model: Any = pl_module
        model.handle_nonfinite(evaluated_loss(self.evaluation.results["train"]))  # never save a diverged model
        # Write the rows first: where there is a checkpoint, metrics.csv holds all rows up to its step.
        for logger in trainer.loggers:
            logger.save()
        score = exact_penalty(pl_module, self.evaluation.results)
        better = score < self.best
        self.best = min(self.best, score)
        best, last = self.folder / "best.ckpt", self.folder / "last.ckpt"
        # best.ckpt is written first: a run that is killed in between resumes from the former last.ckpt, and writes both again.
        first = best if better else last

        def copy(part: Path) -> None:
            shutil.copyfile(best, part)

        if trainer.is_global_zero:
            write_atomically(first, trainer.save_checkpoint)
            if better:
                write_atomically(last, copy)
        else:
            trainer.save_checkpoint(first)  # takes part in collecting it, and writes nothing
