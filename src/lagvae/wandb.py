"""Weights & Biases, without a surprise: offline where there is no key."""

from __future__ import annotations

import netrc
import os
from typing import Any

from pytorch_lightning.loggers import Logger

from lagvae.runs import Run


def has_key(host: str = "api.wandb.ai") -> bool:
    """Whether a login is set up; the key itself is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(run: Run, config: Any, mode: str | None = None, **settings: Any) -> Logger:
    """A WandbLogger that writes into the run's folder; it goes offline by itself without a key or an answer."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    settings = {"save_dir": str(run.folder), "config": config, **settings}
    try:
        logger = WandbLogger(mode=mode, **settings)
        _ = logger.experiment
    except (wandb.errors.CommError, wandb.errors.AuthenticationError, wandb.errors.UsageError):
        if mode == "offline":
            raise
        logger = WandbLogger(mode="offline", **settings)
        _ = logger.experiment
    return logger
