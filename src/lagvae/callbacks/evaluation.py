"""Evaluates a model on the splits of its data: a few metrics during training, and all metrics at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from lagvae.callbacks.budget import Plan, plan_evaluation
from lagvae.callbacks.progress import MeasuringProgress
from lagvae.callbacks.stopping import interrupt_on_sigterm
from lagvae.data import SPLITS, Batch, DataModule, eval_splits
from lagvae.distributions import JointSamples
from lagvae.metrics import LatentMetric, as_latent_metric
from lagvae.model import LOGGED_AS

MetricBuilders = Mapping[str, Callable[[], Any]]  # of a LatentMetric, or a plain torchmetrics.Metric


def compute_all(
    metrics: Mapping[str, Mapping[str, LatentMetric]], begin: Callable[[str, str], None] | None = None
) -> dict[str, dict[str, float]]:
    """The values of the metrics of each split: split → name → value. What a metric holds is freed with its computation.

    Args:
        begin: is told the split and the name of each metric before it is computed.
    """
    results: dict[str, dict[str, float]] = {split: {} for split in metrics}
    for split, of_split in metrics.items():
        for name, metric in of_split.items():
            if begin is not None:
                begin(split, name)
            results[split] |= {key: float(value) for key, value in metric.compute().items()}
            metric.reset()
    return results


class Evaluation(pl.Callback):
    """Updates metrics with every batch of an evaluation, and logs their values as "split/name", in place of the model's own.

    Args:
        training: name → builder of a metric that is computed in every interval of training, on "train" and "val".
        final: name → builder of a metric that is computed after training, on "train", "val" and "test".
        budget: the largest cost of the final evaluation as a share of that of training (see `plan_evaluation`); None: no limit.
        steps: the length of training.

    Attributes:
        results: split → name → value of the latest evaluation. labels: name → what reports call it.
        plan: how the final evaluation is made, once it has begun.
    """

    def __init__(self, training: MetricBuilders, final: MetricBuilders, budget: float | None = None, steps: int = 0) -> None:
        super().__init__()
        self.builders = {False: training, True: final}
        self.budget, self.steps = budget, steps
        self.plan = Plan()
        self._progress: MeasuringProgress | None = None
        self.results: dict[str, dict[str, float]] = {}
        self.labels: dict[str, str] = {}
        self._metrics: dict[str, dict[str, LatentMetric]] = {}
        self._on_sigterm: Any = None

    def build_metrics(
        self, final: bool, model: Any, device: torch.device, data: DataModule, split: str
    ) -> dict[str, LatentMetric]:
        """The metrics that the model's distributions and the data define on a split, in the same order on every rank."""
        built = {name: as_latent_metric(name, build()) for name, build in self.builders[final].items()}
        return {
            name: metric.to(device) for name, metric in built.items() if metric.is_applicable(model.eval_model, data, split)
        }

    def prepare(self, model: Any, data: DataModule, device: torch.device) -> None:
        """Build the final metrics, within the budget, which the loaders of the final evaluation keep to as well."""
        self._metrics = {split: self.build_metrics(True, model, device, data, split) for split in SPLITS}
        self.plan = plan_evaluation(self._metrics, model.eval_model, data, self.budget, self.steps)

    @torch.no_grad()
    def run(self, model: Any, data: DataModule, batches: Mapping[str, Sequence[Batch]]) -> None:
        """Compute the training metrics without a trainer, on observed batches: split → batches."""
        before = interrupt_on_sigterm()
        try:
            model.eval()
            metrics = {split: self.build_metrics(False, model, model.device, data, split) for split in batches}
            for split, observed in batches.items():
                for batch in observed:
                    samples = model.samples(batch, split, model.eval_model)
                    for metric in metrics[split].values():
                        metric.update(samples, batch.index)
            self.results = compute_all(metrics)
            model.train()
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    def _start(self, trainer: pl.Trainer, model: Any) -> None:
        # Lightning's handler only sets a flag, which is read between batches of training, and not while metrics are computed.
        self._on_sigterm = interrupt_on_sigterm()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.testing:
            splits = eval_splits(trainer)
            self._metrics = {split: self.build_metrics(False, model, model.device, data, split) for split in splits}
        elif trainer.is_global_zero:
            self._progress = MeasuringProgress("Measuring", self.plan.total)

    def _batch(self, trainer: pl.Trainer, samples: JointSamples, batch: Batch, dataloader_idx: int) -> None:
        split = eval_splits(trainer)[dataloader_idx]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self._progress is not None:
            share = len(batch.index) / data.draws_of(split)
            self._progress.begin(f"samples of {split}", share * self.plan.batch_costs[split])
        for metric in self._metrics[split].values():
            if metric.count_images_once and split != "train" and batch.step >= data.batches_per_pass(split):
                continue
            metric.update(samples, batch.index)

    def _end(self, trainer: pl.Trainer, model: Any) -> None:
        # Every process measures whole splits. That all act on the results of the first lets none of them decide otherwise.
        self.results = trainer.strategy.broadcast(compute_all(self._metrics, self._begin))
        self._stop()
        self.labels = {
            k: v for of_split in self._metrics.values() for metric in of_split.values() for k, v in metric.labels.items()
        }
        self._metrics.clear()
        if self._on_sigterm is not None:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        row = self.row()
        # For callbacks that monitor a value. Lightning's log_dict, which takes long, would average what all ranks agree on.
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in row.items()})
        if trainer.testing or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)

    def _begin(self, split: str, name: str) -> None:
        if self._progress is not None:
            self._progress.begin(f"{name.replace('_', ' ')} on {split}", self.plan.metric_costs[split][name])

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def row(self) -> dict[str, float]:
        """The results as "split/name".

        Evaluations of the training split are logged as "train_probe", because "train" holds the values of single batches.
        """
        return {f"{LOGGED_AS.get(split, split)}/{n}": v for split, values in self.results.items() for n, v in values.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        model: Any = pl_module
        model.logs_evaluation = False
        if stage == "test":
            self.prepare(model, trainer.datamodule, trainer.strategy.root_device)  # type: ignore[attr-defined]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: JointSamples,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batch(trainer, outputs, batch, dataloader_idx)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer, pl_module)

    on_test_epoch_end = on_validation_epoch_end
