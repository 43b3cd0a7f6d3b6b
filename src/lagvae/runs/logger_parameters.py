"""The settings that loggers of W&B, TensorBoard and MLflow take, by which one that is misspelt is found before a run."""

from __future__ import annotations

import inspect
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from lagvae.runs.loggers import kind_of_logger
from lagvae.runs.wandb_logger import RunWandbLogger

OURS = frozenset(["self", "kwargs", "run", "config", "save_dir", "dir", "version", "experiment", "log_dir", "run_id"])
"""Parameters that are no settings, because the folder of the run decides them."""


def known_settings(target: str) -> frozenset[str] | None:
    """The settings that a logger of W&B, TensorBoard or MLflow takes; None for any other logger, whose constructor says it.

    Raises: ImportError where its package is not installed.
    """
    kind = kind_of_logger(target)
    if kind == "WandbLogger":
        import wandb

        functions: tuple[Any, ...] = (WandbLogger.__init__, wandb.init, RunWandbLogger.__init__)
    elif kind == "TensorBoardLogger":
        from torch.utils.tensorboard import SummaryWriter

        functions = (TensorBoardLogger.__init__, SummaryWriter.__init__)
    elif kind == "MLFlowLogger":
        import mlflow  # noqa: F401

        functions = (MLFlowLogger.__init__,)
    else:
        return None
    return frozenset(name for function in functions for name in inspect.signature(function).parameters) - OURS
