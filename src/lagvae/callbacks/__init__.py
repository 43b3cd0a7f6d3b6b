"""Lightning callbacks: evaluation, checkpoints, feasibility, progress."""

from lagvae.callbacks.checkpoints import Checkpoints
from lagvae.callbacks.evaluation import Evaluation
from lagvae.callbacks.feasibility import FeasibilityWatch
from lagvae.callbacks.progress import TrainingProgress

__all__ = ["Checkpoints", "Evaluation", "FeasibilityWatch", "TrainingProgress"]
