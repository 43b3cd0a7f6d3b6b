"""The loggers that a config names: checked before a run, and built for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from lagvae.data import DataModule
from lagvae.errors import SettingError
from lagvae.experiment.factory import error_context, instantiate
from lagvae.experiment.settings import stored_settings
from lagvae.runs.layout import RunFolder
from lagvae.runs.logger_parameters import known_settings
from lagvae.runs.loggers import kind_of_logger
from lagvae.runs.metrics_table import MetricsTable
from lagvae.runs.tensorboard_logger import RunTensorBoardLogger
from lagvae.runs.wandb_logger import WANDB_MODES, build_wandb_logger


def check_loggers(cfg: DictConfig) -> None:
    """Raise SettingError for a logger that is no class, whose package is not installed, or that does not take a setting."""
    for name, node in ({} if "_target_" in cfg.logger else cfg.logger).items():
        if not isinstance(node, DictConfig) or node.get("_target_") is None:
            raise SettingError(
                f"logger.{name}={node} is not a logger, because it has no _target_. Leave it out, choose one with "
                f"logger=[NAME], or give logger.{name}._target_=CLASS."
            )
    for name, node in named_loggers(cfg).items():
        key = f"logger.{name}" if name else "logger"
        target = str(node._target_)
        with installed(target):
            known = known_settings(target)
        for setting, value in node.items():
            if known is not None and setting != "_target_" and setting not in known:
                near = get_close_matches(str(setting), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(known))}."
                raise SettingError(f"{key}.{setting}={value} is unknown; {hint}")
        if kind_of_logger(target) == "WandbLogger" and not isinstance(tags := node.get("tags"), ListConfig | str | None):
            raise SettingError(f"{key}.tags={tags} is not a list of texts; write {key}.tags=[mine,other].")
        if (mode := node.get("mode")) is not None and kind_of_logger(target) == "WandbLogger" and mode not in WANDB_MODES:
            raise SettingError(f"{key}.mode={mode} is unknown; choose one of {', '.join(WANDB_MODES)}, or null.")


def named_loggers(cfg: DictConfig) -> dict[str, Any]:
    """The loggers beside metrics.csv, by name."""
    # A run of an earlier version has the settings of its only logger where there are now names of loggers.
    named = {"": cfg.logger} if "_target_" in cfg.logger else cfg.logger
    return {str(name): node for name, node in named.items() if node.get("_target_") is not None}


@contextmanager
def installed(target: str) -> Iterator[None]:
    """Turn the error that the package of a logger is missing into a SettingError."""
    try:
        yield
    except ImportError as error:
        extra = "mlflow" if kind_of_logger(target) == "MLFlowLogger" else "tensorboard"
        raise SettingError(f"logger={target}: {error}. Install it, for example: pip install -e '.[{extra}]'.") from error


def build_loggers(cfg: DictConfig, run: RunFolder, data: DataModule) -> list[Logger]:
    """The logger of metrics.csv, and those that logger=… names. Raises SettingError if the package of one is not installed."""
    return [MetricsTable(run.metrics, data.per_epoch), *build_other_loggers(cfg, run)]


def build_other_loggers(cfg: DictConfig, run: RunFolder, several: bool = False) -> list[Logger]:
    """The loggers beside metrics.csv.

    Args:
        several: whether those of other runs are open in this process.
    """
    return [build_logger(node, cfg, run, several) for node in named_loggers(cfg).values()]


def build_logger(node: DictConfig, cfg: DictConfig, run: RunFolder, several: bool = False) -> Logger:
    """The logger of a config node. Those of W&B and TensorBoard keep their files in the folder of the run."""
    target = node._target_
    with installed(target), error_context(f"logger={target}"):
        settings: Any = OmegaConf.to_container(node, resolve=True)
        del settings["_target_"]
        kind = kind_of_logger(target)
        if kind == "WandbLogger":
            settings |= {"reinit": "create_new"} if several else {}
            return build_wandb_logger(run, stored_settings(cfg), **settings)
        if kind == "MLFlowLogger":
            from lagvae.runs.mlflow_logger import RunMLFlowLogger

            return RunMLFlowLogger(run, stored_settings(cfg), **settings)
        if kind == "TensorBoardLogger":
            return RunTensorBoardLogger(str(run.path), **settings | {"name": "", "version": "tensorboard"})
        return instantiate(node)  # type: ignore[no-any-return]
