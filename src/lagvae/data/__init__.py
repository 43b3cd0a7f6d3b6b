"""Data: sources, splits, and batches by step."""

from lagvae.data.batches import Batch
from lagvae.data.datamodule import SPLITS, DataModule, eval_splits
from lagvae.data.sources import Arrays

__all__ = ["SPLITS", "Arrays", "Batch", "DataModule", "eval_splits"]
