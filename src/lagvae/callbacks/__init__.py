"""Lightning callbacks: evaluation of metrics within a budget, checkpoints, stopping at infeasible bounds, and progress bars.

This package may import the metrics, the model, the data and those below. It knows nothing of configs or run folders.
"""

from lagvae.callbacks.checkpoints import Checkpoints
from lagvae.callbacks.evaluation import Evaluation
from lagvae.callbacks.feasibility import FeasibilityWatch
from lagvae.callbacks.progress import TrainingProgress
from lagvae.callbacks.stopping import StopOnSigterm

__all__ = ["Checkpoints", "Evaluation", "FeasibilityWatch", "StopOnSigterm", "TrainingProgress"]
