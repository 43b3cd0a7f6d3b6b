"""One fit of Lightning's trainer: model, data, loggers and callbacks put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch, Progress
from lagvae.data import DataModule
from lagvae.errors import CheckpointError, Stopped
from lagvae.experiment.diagnostics import stationarity
from lagvae.experiment.factory import build_loggers, instantiate
from lagvae.metrics import DivergenceValues
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import MetricsTable

STATIONARITY_BATCHES = 20


@contextmanager
def interrupted(trainer: pl.Trainer) -> Iterator[None]:
    """Lightning ends the program where a user stops it; here that is Stopped, which says where."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and trainer.state.status != "interrupted":
            raise
        raise Stopped(f"Stopped at step {trainer.global_step} of {trainer.max_steps}.") from None


class Fit:
    """One fit: the model, the data, the Lightning trainer and the callbacks around them."""

    def __init__(self, cfg: DictConfig, data: DataModule, model: LatentVariableModel, run: RunFolder, title: str) -> None:
        if cfg.training.threads is not None:
            torch.set_num_threads(cfg.training.threads)
        self.cfg, self.data, self.model, self.run = cfg, data, model, run
        self.ensemble: dict[str, Any] | None = None  # of the ensemble that trained the model so far, if one did
        data.interval = (cfg.training.interval, cfg.training.steps)
        named = {f"constraint/{c.name}": c.divergence for c in model.lagrangian.constraints}
        constraints = {"constraints": lambda: DivergenceValues(named)}
        self.evaluation = Evaluation(
            dict(instantiate(cfg.callbacks.training)) | constraints, dict(instantiate(cfg.callbacks.final)) | constraints
        )
        self.watch = FeasibilityWatch(self.evaluation)
        self.loggers = build_loggers(cfg, run, data)
        self.trainer: pl.Trainer = pl.Trainer(
            **{str(key): value for key, value in cfg.trainer.items()},
            max_steps=cfg.training.steps,
            max_epochs=-1,
            callbacks=[
                self.evaluation,
                self.watch,
                Progress(title, self.evaluation),
                Checkpoints(run.checkpoints, self.evaluation),
            ],
            logger=self.loggers,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=cfg.training.log_every,
            default_root_dir=str(run.path),
        )

    def fit(self, checkpoint: Path | None = None) -> None:
        """Train, from a checkpoint where one is given. Stopped where the user stops it."""
        content = read_checkpoint(checkpoint, self.model) if checkpoint is not None else {}
        step, self.ensemble = content.get("global_step", 0), content.get("ensemble")
        for logger in self.loggers:
            if isinstance(logger, MetricsTable):
                logger.cut(step)
        with interrupted(self.trainer):
            self.trainer.fit(self.model, self.data, ckpt_path=checkpoint, weights_only=True)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The full evaluation of every split."""
        with interrupted(self.trainer):
            self.trainer.test(self.model, self.data, verbose=False)
        return self.evaluation.results

    def stationarity(self) -> float | None:
        """The KKT residual of θ on batches of the training split."""
        device = self.model.device
        self.data.trainer = None  # batches for one process, from the first step on
        loader = self.data.eval_loader("train", device, most=STATIONARITY_BATCHES * self.data.batch)
        self.model.eval()
        noise = self.data.noise("stationarity")
        batches = (self.model.samples(self.data.observed(b, noise), "stationarity") for b in loader)
        with torch.enable_grad():
            return stationarity(self.model.joint, self.model.lagrangian, batches)


def read_checkpoint(path: Path, model: LatentVariableModel) -> dict[str, Any]:
    """A checkpoint that fits the model; CheckpointError where it is damaged or of another model."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = content["state_dict"]
    except Exception as error:  # unpickling fails in many ways
        raise CheckpointError(
            f"{path} is missing, damaged or no checkpoint of this program. Use another one, or start anew."
        ) from error
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if expected != found:
        odd = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise CheckpointError(
            f"{path} is of another model: {odd[0]} has shape {found.get(odd[0])} there and {expected.get(odd[0])} here."
        )
    return content
