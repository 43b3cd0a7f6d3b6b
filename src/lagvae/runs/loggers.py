"""Loggers beside metrics.csv: Weights & Biases and TensorBoard."""

from __future__ import annotations

import contextlib
import inspect
import netrc
import os
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from lagvae.io import write_atomically
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import MetricsTable, read_rows
from lagvae.terminal import print_note

WANDB_MODES = ("online", "offline", "disabled", "shared")
"""What WandbLogger takes as its mode."""

PATIENCE = 5.0
"""Seconds in which a W&B server must answer; W&B itself would wait for a minute and a half in every run."""

WANDB_ANSWER = "LAGVAE_WANDB"
"""The variable of the environment with what a program found out, host and mode, for the processes that it starts."""


def known_settings(target: str) -> frozenset[str] | None:
    """The settings that a logger of W&B or TensorBoard takes; None for any other logger, whose constructor says it.

    Raises: ImportError where its package is not installed.
    """
    if target.endswith("WandbLogger"):
        import wandb

        functions: tuple[Any, ...] = (WandbLogger.__init__, wandb.init)
    elif target.endswith("TensorBoardLogger"):
        from torch.utils.tensorboard import SummaryWriter

        functions = (TensorBoardLogger.__init__, SummaryWriter.__init__)
    else:
        return None
    ours = {"self", "kwargs", "save_dir", "dir", "version", "experiment", "log_dir"}  # the folder of the run decides these
    return frozenset(name for function in functions for name in inspect.signature(function).parameters) - ours


def has_key(host: str = "api.wandb.ai") -> bool:
    """Whether a W&B login is configured; the key itself is not read."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return host in netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False


def answers(url: str, patience: float = PATIENCE) -> bool:
    """Whether a server answers, by way of a proxy where the environment names one. Any answer counts, also a refusal."""
    heard = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(url, timeout=patience).close()
            heard.set()

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name takes as long as it likes
    asking.start()
    asking.join(patience)
    return heard.is_set()


def wandb_mode() -> str:
    """The mode of W&B: WANDB_MODE, else online where there is a login and the server answers, and else offline.

    The server is asked once for all runs of a command on a machine: the answer is handed on in the environment.
    """
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    host, _, mode = os.environ.get(WANDB_ANSWER, "").partition(" ")
    if host != socket.gethostname():
        import wandb

        given = os.environ.get("WANDB_BASE_URL")
        url = given or str(wandb.setup().settings.base_url)
        mode = "offline"
        if has_key(urlsplit(url).hostname or url) or (given is None and has_key()):
            if answers(url):
                mode = "online"
            else:
                print_note(f"{url} does not answer: W&B works offline. Upload later with wandb sync.")
        os.environ[WANDB_ANSWER] = f"{socket.gethostname()} {mode}"
    return mode


def wandb_id(run: RunFolder) -> str:
    """The id of the W&B run of a run folder, made at the first call, so that a resumed run continues its W&B run."""
    file = run.path / "wandb" / "id"
    if not file.is_file():

        def write(part: Path) -> None:
            part.write_text(token_hex(6), encoding="utf-8")

        write_atomically(file, write)
    return file.read_text(encoding="utf-8").strip()


def wandb_logger(run: RunFolder, config: Any, mode: str | None = None, **settings: Any) -> WandbLogger:
    """A WandbLogger that writes to the run's folder; it works offline if there is no login or the server does not answer."""
    import wandb

    mode = mode or wandb_mode()
    quiet = wandb.Settings(quiet=True)
    settings = {
        "save_dir": str(run.path),
        "config": config,
        "settings": quiet,
        "id": wandb_id(run),
        "resume": "allow",
    } | settings
    try:
        logger = WandbLogger(mode=mode, **settings)
        _ = logger.experiment  # connect now rather than during training
    except (wandb.errors.CommError, wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        if mode == "offline":
            raise
        print_note(f"W&B works offline: {str(error).splitlines()[0]}. Upload later with wandb sync.")
        os.environ[WANDB_ANSWER] = f"{socket.gethostname()} offline"  # for the other runs of this command
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
