"""Data: sources of arrays, their splits, and batches that are determined by the seed and the step.

It knows no model and no config: of the package it imports only what lies below, such as noise streams and files.
"""

from lagvae.data.batches import Batch
from lagvae.data.datamodule import SPLITS, DataModule, eval_splits
from lagvae.data.sources import Arrays

__all__ = ["SPLITS", "Arrays", "Batch", "DataModule", "eval_splits"]
