"""Loggers beside metrics.csv: Weights & Biases and TensorBoard."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import MetricsTable, read_rows


def has_key(host: str = "api.wandb.ai") -> bool:
    """Whether a W&B login is configured; the key itself is not read."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return host in netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(run: RunFolder, config: Any, mode: str | None = None, **settings: Any) -> WandbLogger:
    """A WandbLogger that writes to the run's folder; it works offline if there is no login or the server does not answer."""
    import wandb

    mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    settings = {"save_dir": str(run.path), "config": config, "settings": wandb.Settings(quiet=True), **settings}
    try:
        logger = WandbLogger(mode=mode, **settings)
        _ = logger.experiment  # connect now rather than during training
    except (wandb.errors.CommError, wandb.errors.AuthenticationError, wandb.errors.UsageError):
        if mode == "offline":
            raise
        logger = WandbLogger(mode="offline", **settings)
        _ = logger.experiment
    return logger


def log_picture(logger: Logger, path: Path) -> None:
    """Log a PNG with a logger that supports images; others ignore it."""
    if isinstance(logger, WandbLogger):
        logger.log_image(path.stem, [str(path)])
    elif isinstance(logger, TensorBoardLogger):
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            logger.experiment.add_image(path.stem, np.asarray(image.convert("RGB")), dataformats="HWC")


def replay(table: Path, logger: Logger) -> None:
    """Log all rows of metrics.csv. The runs of an ensemble train at the same time, and each is logged after it has finished."""
    if isinstance(logger, MetricsTable):
        return
    rows: dict[int, dict[str, float]] = {}
    for row in read_rows(table):
        rows.setdefault(int(row["step"]), {})[f"{row['split']}/{row['name']}"] = float(row["value"])
    for step, values in sorted(rows.items()):
        logger.log_metrics(values, step)


def close(logger: Logger, failed: bool = False) -> None:
    """Flush a logger and end its W&B run, so that the next job of a sweep starts a run of its own."""
    logger.save()
    logger.finalize("failed" if failed else "success")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
