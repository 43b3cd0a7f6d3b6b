"""Data: sources, splits, and batches by step."""

from lagvae.data.batches import Batch
from lagvae.data.module import SPLITS, Data, looked_at
from lagvae.data.sources import Arrays

__all__ = ["SPLITS", "Arrays", "Batch", "Data", "looked_at"]
