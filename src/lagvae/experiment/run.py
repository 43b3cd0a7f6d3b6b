"""The life of one run, from its settings to its summary: `train` tells it from top to bottom.

    compose      Hydra hands over a config
    validate     what can be wrong with the settings is said before anything is loaded
    data         loaded, checked, split
    calibrate    θ* and ε̂, found under the hash of what decides them, or made now
    model        the joint model, the Lagrangian with its bounds, started from θ*
    fit          Lightning's trainer, with a checkpoint in every interval
    evaluate     every metric on every split
    summarise    what was asked, what was reached, and the verdict
    report       figures, summary.json, the terminal

`resume` enters at the fit, `evaluate` at the evaluation, and `calibrate` lives the same life without a preference.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lagvae import __version__
from lagvae.data import DataModule
from lagvae.errors import CalibrationError, CheckpointError
from lagvae.experiment.calibration import Calibration, calibration_config, calibration_folder, calibration_settings
from lagvae.experiment.factory import build_data, build_joint, build_model
from lagvae.experiment.fit import Fit
from lagvae.experiment.report import print_calibration, print_plan, print_summary
from lagvae.experiment.schema import check_moved
from lagvae.experiment.summary import critic_messages, summarise
from lagvae.experiment.validate import needs_calibration, validate
from lagvae.io import check_writable, write_atomically, write_json
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close, log_picture
from lagvae.runs.metrics_table import MetricsTable
from lagvae.terminal import print_line


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train a run and write its folder; returns the summary."""
    check_writable(Path(cfg.paths.runs))
    data, model, calibration = setup(cfg)
    folder = create_folder(cfg)
    return fit_and_summarise(cfg, data, model, calibration, folder)


def resume(folder: RunFolder) -> dict[str, Any]:
    """Go on with an interrupted run, with its own settings, from its last checkpoint; returns the summary."""
    if folder.finished:
        print_line(
            f"{folder.path} has finished; there is nothing to resume. See it with python src/evaluate.py run={folder.path}."
        )
        return folder.read_summary()
    cfg = read_config(folder)
    data, model, calibration = setup(cfg)
    return fit_and_summarise(cfg, data, model, calibration, folder)


def evaluate(folder: RunFolder, which: str = "last") -> dict[str, Any]:
    """Measure and draw a run again, from a checkpoint; writes evaluation/ in the run's folder and returns the summary.

    Args:
        which: "last", "best", or the path of a checkpoint.
    """
    named = {"last": folder.last, "best": folder.checkpoints / "best.ckpt"}
    checkpoint = named.get(which, Path(which).expanduser())
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint={which}: there is no file {checkpoint}.")
    cfg = read_config(folder)
    cfg.logger = {"_target_": None}
    validate(cfg)
    data = build_data(cfg)
    calibration = calibrate(cfg, data)[0] if needs_calibration(cfg) else None
    model = build_model(cfg, data, calibration)
    fit = Fit(cfg, data, model, RunFolder(folder.path / "evaluation"), "Evaluating")
    fit.load(checkpoint)
    fit.evaluate()
    return summarise_and_report(fit, calibration, folder.metrics)


def calibrate(cfg: DictConfig, data: DataModule | None = None, title: str = "Calibrating") -> tuple[Calibration, Path]:
    """Find θ* and measure ε̂, or return what was found before; an interrupted calibration goes on where it was."""
    validate(cfg)
    data = data or build_data(cfg)
    found = find_calibration(cfg, data)
    if found is not None:
        return found
    return run_calibration(cfg, calibration_config(cfg), calibration_settings(cfg, data), data, title)


# ---- from settings to a model that can start


def setup(cfg: DictConfig) -> tuple[DataModule, LatentVariableModel, Calibration | None]:
    """Validate everything, load the data, calibrate where bounds or the start need it, and build the model."""
    validate(cfg)
    data = build_data(cfg)
    build_joint(cfg, data)  # what does not fit the data is said before a calibration is made
    if needs_calibration(cfg):
        found = find_calibration(cfg, data)
        if found is None:
            print_line("No calibration fits these settings yet: calibrating first.")
        print_calibration(*(found or calibrate(cfg, data)), fresh=found is None)
    model, calibration = build_start(cfg, data)
    return data, model, calibration


def build_start(cfg: DictConfig, data: DataModule) -> tuple[LatentVariableModel, Calibration | None]:
    """The model where training starts, with its bounds; CalibrationError where no calibration fits that should."""
    if not needs_calibration(cfg):
        return build_model(cfg, data), None
    found = find_calibration(cfg, data)
    if found is None:
        raise CalibrationError("No calibration fits these settings. Make one with python src/calibrate.py.")
    calibration, folder = found
    model = build_model(cfg, data, calibration)
    if cfg.training.start == "calibrated":
        try:
            model.warm_start(Calibration.theta(folder))
        except RuntimeError as error:
            raise CalibrationError(
                f"{folder / 'theta.pt'} is of another model. Remove {folder} and calibrate again."
            ) from error
    return model, calibration


def create_folder(cfg: DictConfig) -> RunFolder:
    """The run's new folder: made by the first process, which tells the others, whether they run already or not yet."""
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if first:
        folder = RunFolder.create(Path(cfg.paths.runs), cfg.name)
        write_atomically(folder.config, lambda part: OmegaConf.save(cfg, part, resolve=True))
        os.environ["LAGVAE_RUN"] = str(folder.path)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared: list[Any] = [os.environ.get("LAGVAE_RUN")]
        torch.distributed.broadcast_object_list(shared, src=0)
        os.environ["LAGVAE_RUN"] = shared[0]
    return RunFolder(Path(os.environ["LAGVAE_RUN"]))


def read_config(folder: RunFolder) -> DictConfig:
    """The config of a run; CheckpointError where it is damaged."""
    try:
        cfg = OmegaConf.load(folder.config)
    except Exception as error:  # YAML and OmegaConf fail in many ways
        raise CheckpointError(f"{folder.config} is damaged: {error}") from error
    if not isinstance(cfg, DictConfig):
        raise CheckpointError(f"{folder.config} is damaged: it holds no settings.")
    check_moved(cfg, str(folder.config))
    return cfg


# ---- fit, evaluate, summarise, report


def fit_and_summarise(
    cfg: DictConfig, data: DataModule, model: LatentVariableModel, calibration: Calibration | None, folder: RunFolder
) -> dict[str, Any]:
    """Train from where the folder's last checkpoint stands, evaluate, and write and print what became of it."""
    fit = Fit(cfg, data, model, folder, f"Training {cfg.family} on {cfg.data.name}")
    if fit.first_process:
        print_plan(cfg, model, calibration, folder)
    name = os.path.relpath(folder.path.resolve(), Path(cfg.paths.runs).resolve())
    with fit.resumable(f"Go on with: python src/train.py resume={name}"):
        fit.train(folder.last_checkpoint)
        fit.evaluate()
    return summarise_and_report(fit, calibration, folder.metrics)


def summarise_and_report(fit: Fit, calibration: Calibration | None, metrics: Path) -> dict[str, Any]:
    """Draw the figures, write summary.json last, since its presence says that the run is whole, and print it.

    Args:
        metrics: the metrics.csv of the run.
    """
    cfg, folder = fit.cfg, fit.folder
    summary = summarise(cfg, fit.model, calibration, fit.results, fit.watch.best)
    summary["messages"] += critic_messages(fit.model.lagrangian, metrics)
    summary |= {"stationarity": fit.stationarity(), "steps": fit.step, "seed": cfg.seed, "versions": versions()}
    if fit.trained_in is not None:
        seconds = {"training": round(fit.trained_in, 2), "all": round(time.perf_counter() - fit.started, 2)}
        summary |= {"stopped_by": fit.watch.stopped_by, "seconds": seconds}
    if fit.ensemble is not None:
        summary["ensemble"] = fit.ensemble
    if fit.first_process:
        for logger in fit.loggers:
            logger.save()
        if cfg.callbacks.figures:
            from lagvae.experiment.figures import draw_run

            fit.model.eval()
            for path in draw_run(folder.figures, fit.data, fit.model, summary, metrics):
                for logger in fit.loggers:
                    log_picture(logger, path)
        for logger in fit.loggers:
            if not isinstance(logger, MetricsTable):
                flat = {f"final/{s}/{k}": v for s, values in summary["splits"].items() for k, v in values.items()}
                logger.log_metrics({k: v for k, v in flat.items() if not isinstance(v, str)}, summary["steps"])
            close(logger)
        write_json(folder.summary, summary)
        print_summary(summary, folder)
    fit.trainer.strategy.barrier()
    return summary


# ---- calibrations


def find_calibration(cfg: DictConfig, data: DataModule) -> tuple[Calibration, Path] | None:
    """The calibration that fits, or None; CalibrationError where a named one does not fit."""
    settings = calibration_settings(cfg, data)
    if cfg.epsilon.calibration is not None:
        folder = Path(cfg.epsilon.calibration).expanduser()
        calibration = Calibration.load(folder)
        calibration.check(settings, folder)
        return calibration, folder
    return load_cached(cfg, settings)


def load_cached(cfg: DictConfig, settings: dict[str, Any]) -> tuple[Calibration, Path] | None:
    """The calibration that is kept under these settings, or None."""
    folder = calibration_folder(cfg, settings)
    if not (folder / "calibration.json").is_file():
        return None
    calibration = Calibration.load(folder)
    calibration.check(settings, folder)
    return calibration, folder


def run_calibration(
    cfg: DictConfig, derived: DictConfig, settings: dict[str, Any], data: DataModule, title: str, simplex: bool = False
) -> tuple[Calibration, Path]:
    """Train the config that was derived from another one, measure its divergences, and keep both under these settings."""
    folder = RunFolder(calibration_folder(cfg, settings))
    data = data.reseeded(cfg.calibration.seed)
    model = build_model(derived, data, simplex=simplex)
    write_atomically(folder.config, lambda part: OmegaConf.save(derived, part, resolve=True))
    fit = Fit(derived, data, model, folder, f"{title} {cfg.data.name}")
    with fit.resumable("Type the same command again to go on."):
        fit.train(folder.last_checkpoint)
        fit.evaluate()
    measured = fit.results[cfg.calibration.split]
    names = [str(name) for name in cfg.constraints]
    calibration = Calibration(
        calibrated={name: measured[f"constraint/{name}"] for name in names},
        stderr={name: measured[f"constraint/{name}_stderr"] for name in names},
        split=cfg.calibration.split,
        splits=fit.results,
        settings=settings,
        versions=versions(),
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=round(time.perf_counter() - fit.started, 2),
    )
    if fit.first_process:
        calibration.save(folder.path, model.warm_start_state())
    fit.trainer.strategy.barrier()
    return calibration, folder.path


# ---- what src/calibrate.py and src/evaluate.py run


def calibrate_command(cfg: DictConfig) -> None:
    """What src/calibrate.py runs."""
    validate(cfg)
    data = build_data(cfg)
    found = find_calibration(cfg, data)
    calibration, folder = found or calibrate(cfg, data)
    print_calibration(calibration, folder, fresh=found is None)


def evaluate_command(cfg: DictConfig) -> None:
    """What src/evaluate.py runs."""
    evaluate(RunFolder.find(Path(cfg.paths.runs), cfg.run), cfg.checkpoint)


def versions() -> dict[str, str]:
    """Versions of what decides about numbers."""
    names = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "scikit-learn")
    return {"lagvae": __version__, "python": platform.python_version()} | {name: version(name) for name in names}
