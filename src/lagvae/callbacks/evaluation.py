"""Measures a model on its splits: lightly while it trains, in full at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from lagvae.data import Batch, DataModule, eval_splits
from lagvae.distributions import JointSamples
from lagvae.metrics import LatentMetric

MetricBuilders = Mapping[str, Callable[[], LatentMetric]]


def compute_all(measures: Mapping[str, Iterable[LatentMetric]]) -> dict[str, dict[str, float]]:
    """split → name → value, of all measures of each split."""
    return {
        split: {name: float(value) for measure in each for name, value in measure.compute().items()}
        for split, each in measures.items()
    }


class Evaluation(pl.Callback):
    """Feeds every batch of an evaluation to metrics, and logs what they compute as "split/name".

    Args:
        training: name → builds a metric, looked at in every interval of training on "train" and "val" (light).
        final: name → builds a metric, looked at after training on "train", "val" and "test".

    Attributes:
        results: split → name → value of the newest evaluation.
    """

    def __init__(self, training: MetricBuilders, final: MetricBuilders) -> None:
        super().__init__()
        self.builders = {False: training, True: final}
        self.results: dict[str, dict[str, float]] = {}
        self._measures: dict[str, list[LatentMetric]] = {}

    def measures(self, final: bool, model: Any, device: torch.device, data: DataModule, split: str) -> list[LatentMetric]:
        """What is measured of a model on a split: all that its laws and the data define, in the same order on every rank."""
        built = [build() for build in self.builders[final].values()]
        return [measure.to(device) for measure in built if measure.is_applicable(model.eval_model, data, split)]

    @torch.no_grad()
    def run(self, model: Any, data: DataModule, batches: Mapping[str, Sequence[Batch]]) -> None:
        """The light evaluation of an interval without a trainer, on batches that were observed before: split → batches."""
        model.eval()
        measures = {split: self.measures(False, model, model.device, data, split) for split in batches}
        for split, observed in batches.items():
            for batch in observed:
                samples = model.samples(batch, split)
                for measure in measures[split]:
                    measure.update(samples, batch.index)
        self.results = compute_all(measures)
        model.train()

    def _start(self, trainer: pl.Trainer, model: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        known = (model.device, data)
        self._measures = {split: self.measures(trainer.testing, model, *known, split) for split in eval_splits(trainer)}

    def _batch(self, trainer: pl.Trainer, samples: JointSamples, batch: Batch, dataloader_idx: int) -> None:
        split = eval_splits(trainer)[dataloader_idx]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for measure in self._measures[split]:
            if measure.count_images_once and split != "train" and batch.step >= data.batches_per_pass(split):
                continue
            measure.update(samples, batch.index)

    def _end(self, trainer: pl.Trainer) -> None:
        self.results = compute_all(self._measures)
        self._measures.clear()
        if trainer.testing or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_metrics(self.row(), trainer.global_step)

    def row(self) -> dict[str, float]:
        """The results as "split/name". Rows of "train" are numbers of one batch; those of a whole pass are "train_probe"."""
        named = {"train": "train_probe"}
        return {f"{named.get(split, split)}/{n}": v for split, values in self.results.items() for n, v in values.items()}

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
        self._end(trainer)

    on_test_epoch_end = on_validation_epoch_end
