"""One fit of Lightning's trainer: model, data, loggers and callbacks put together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch, TrainingProgress
from lagvae.data import DataModule
from lagvae.errors import CheckpointError, LagvaeError, Stopped
from lagvae.experiment.diagnostics import stationarity
from lagvae.experiment.factory import build_loggers, build_trainer, instantiate
from lagvae.metrics import DivergenceValues
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close, replay
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
    """One model on its data: Lightning's trainer, the loggers and the callbacks around them.

    Attributes:
        results: split → name → value, of the newest evaluation. watch: remembers how near each constraint came to its bound.
        ensemble: size and seconds of the ensemble that trained the model so far, if one did. step: of the model's weights.
        started: when the fit was made. trained_in: seconds until training was over, None before.
    """

    trained_in: float | None

    def __init__(self, cfg: DictConfig, data: DataModule, model: LatentVariableModel, folder: RunFolder, title: str) -> None:
        if cfg.training.threads is not None:
            torch.set_num_threads(cfg.training.threads)
        self.cfg, self.data, self.model, self.folder = cfg, data, model, folder
        self.ensemble: dict[str, Any] | None = None
        self.step = 0
        self.started, self.trained_in = time.perf_counter(), None
        data.interval = (cfg.training.interval, cfg.training.steps)
        self.evaluation = build_evaluation(cfg, model)
        self.watch = FeasibilityWatch(self.evaluation)
        self.loggers = build_loggers(cfg, folder, data)
        checkpoints = Checkpoints(folder.checkpoints, self.evaluation)
        callbacks = [self.evaluation, self.watch, TrainingProgress(title, self.evaluation), checkpoints]
        self.trainer = build_trainer(cfg, folder.path, callbacks, self.loggers)

    @property
    def first_process(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.trainer.is_global_zero

    @property
    def results(self) -> dict[str, dict[str, float]]:
        return self.evaluation.results

    def train(self, checkpoint: Path | None = None) -> None:
        """Train, from a checkpoint where one is given. Stopped where the user stops it."""
        content = read_checkpoint(checkpoint, self.model) if checkpoint is not None else {}
        self.ensemble = content.get("ensemble")
        for logger in self.loggers:
            if isinstance(logger, MetricsTable):
                logger.cut(content.get("global_step", 0))
        with interrupted(self.trainer):
            self.trainer.fit(self.model, self.data, ckpt_path=checkpoint, weights_only=True)
        self.step, self.trained_in = self.trainer.global_step, time.perf_counter() - self.started
        if self.ensemble is not None:  # it had no loggers but the table
            for logger in self.loggers:
                replay(self.folder.metrics, logger)

    def load(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint. CheckpointError where it is damaged or of another model."""
        content = read_checkpoint(checkpoint, self.model)
        self.model.load_state_dict(content["state_dict"])
        self.step = content["global_step"]

    def evaluate(self) -> None:
        """The full evaluation of every split, into `results`."""
        with interrupted(self.trainer):
            self.trainer.test(self.model, self.data, verbose=False)

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

    @contextmanager
    def resumable(self, how: str) -> Iterator[None]:
        """Close the loggers where training inside fails or is stopped; a Stopped says how to go on."""
        try:
            yield
        except LagvaeError as error:
            for logger in self.loggers:
                close(logger, failed=True)
            if isinstance(error, Stopped):
                raise Stopped(f"{error} {how}") from None
            raise


def build_evaluation(cfg: DictConfig, model: LatentVariableModel, final: bool = True) -> Evaluation:
    """What is measured of a model: the metrics that a config names, and each divergence by its own estimator.

    Args:
        final: whether the metrics of the final evaluation are wanted too, and not only those of every interval.
    """
    named = {f"constraint/{c.name}": c.divergence for c in model.lagrangian.constraints}
    constraints = {"constraints": lambda: DivergenceValues(named)}
    light, full = cfg.callbacks.training, cfg.callbacks.final if final else {}
    return Evaluation(dict(instantiate(light)) | constraints, dict(instantiate(full)) | constraints)


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
