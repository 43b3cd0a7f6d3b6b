"""Data: sources of arrays, their splits, and batches that are determined by the seed and the step.

Of the package it imports only the noise streams, reading and writing, and the errors; it knows no model and no config.
"""

from lagvae.data.batches import Batch
from lagvae.data.datamodule import SPLITS, DataModule, eval_splits
from lagvae.data.sources import Arrays

__all__ = ["SPLITS", "Arrays", "Batch", "DataModule", "eval_splits"]
