"""Evaluates a model on the splits of its data: a few metrics during training, and all metrics at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from lagvae.callbacks.stopping import interrupt_on_sigterm
from lagvae.data import Batch, DataModule, eval_splits
from lagvae.distributions import JointSamples
from lagvae.metrics import LatentMetric, as_latent_metric
from lagvae.model import LOGGED_AS

MetricBuilders = Mapping[str, Callable[[], Any]]  # of a LatentMetric, or a plain torchmetrics.Metric


def compute_all(metrics: Mapping[str, Iterable[LatentMetric]]) -> dict[str, dict[str, float]]:
    """The values of the metrics of each split: split → name → value."""
    return {
        split: {name: float(value) for metric in of_split for name, value in metric.compute().items()}
        for split, of_split in metrics.items()
    }


class Evaluation(pl.Callback):
    """Updates metrics with every batch of an evaluation, and logs their values as "split/name", in place of the model's own.

    Args:
        training: name → builder of a metric that is computed in every interval of training, on "train" and "val".
        final: name → builder of a metric that is computed after training, on "train", "val" and "test".

    Attributes:
        results: split → name → value of the latest evaluation. labels: name → what reports call it.
    """

    def __init__(self, training: MetricBuilders, final: MetricBuilders) -> None:
        super().__init__()
        self.builders = {False: training, True: final}
        self.results: dict[str, dict[str, float]] = {}
        self.labels: dict[str, str] = {}
        self._metrics: dict[str, list[LatentMetric]] = {}
        self._on_sigterm: Any = None

    def build_metrics(self, final: bool, model: Any, device: torch.device, data: DataModule, split: str) -> list[LatentMetric]:
        """The metrics that the model's distributions and the data define on a split, in the same order on every rank."""
        built = [as_latent_metric(name, build()) for name, build in self.builders[final].items()]
        return [metric.to(device) for metric in built if metric.is_applicable(model.eval_model, data, split)]

    @torch.no_grad()
    def run(self, model: Any, data: DataModule, batches: Mapping[str, Sequence[Batch]]) -> None:
        """Compute the training metrics without a trainer, on observed batches: split → batches."""
        before = interrupt_on_sigterm()
        model.eval()
        metrics = {split: self.build_metrics(False, model, model.device, data, split) for split in batches}
        for split, observed in batches.items():
            for batch in observed:
                samples = model.samples(batch, split)
                for metric in metrics[split]:
                    metric.update(samples, batch.index)
        self.results = compute_all(metrics)
        model.train()
        if before is not None:
            signal.signal(signal.SIGTERM, before)

    def _start(self, trainer: pl.Trainer, model: Any) -> None:
        # Lightning's handler only sets a flag, which is read between batches of training, and not while metrics are computed.
        self._on_sigterm = interrupt_on_sigterm()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._metrics = {
            split: self.build_metrics(trainer.testing, model, model.device, data, split) for split in eval_splits(trainer)
        }

    def _batch(self, trainer: pl.Trainer, samples: JointSamples, batch: Batch, dataloader_idx: int) -> None:
        split = eval_splits(trainer)[dataloader_idx]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for metric in self._metrics[split]:
            if metric.count_images_once and split != "train" and batch.step >= data.batches_per_pass(split):
                continue
            metric.update(samples, batch.index)

    def _end(self, trainer: pl.Trainer, model: Any) -> None:
        # Every process measures whole splits. That all act on the results of the first lets none of them decide otherwise.
        self.results = trainer.strategy.broadcast(compute_all(self._metrics))
        self.labels = {k: v for metrics in self._metrics.values() for metric in metrics for k, v in metric.labels.items()}
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

    def row(self) -> dict[str, float]:
        """The results as "split/name".

        Evaluations of the training split are logged as "train_probe", because "train" holds the values of single batches.
        """
        return {f"{LOGGED_AS.get(split, split)}/{n}": v for split, values in self.results.items() for n, v in values.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        model: Any = pl_module
        model.logs_evaluation = False

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
