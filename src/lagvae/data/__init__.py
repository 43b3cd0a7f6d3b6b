"""Data: sources of arrays, their splits, and batches that are determined by the seed and the step.

This room may import only noise, input and output, and errors; it knows no model.
"""

from lagvae.data.batches import Batch
from lagvae.data.datamodule import SPLITS, DataModule, eval_splits
from lagvae.data.sources import Arrays

__all__ = ["SPLITS", "Arrays", "Batch", "DataModule", "eval_splits"]
