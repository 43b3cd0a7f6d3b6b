"""Calibrate, train, evaluate: what the entry points run."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from lagvae import __version__
from lagvae.data import DataModule
from lagvae.errors import CalibrationError, CheckpointError, LagvaeError, Stopped
from lagvae.experiment.calibration import Calibration, calibration_config, calibration_folder, calibration_settings
from lagvae.experiment.factory import build_data, build_joint, build_model
from lagvae.experiment.fit import Fit, read_checkpoint
from lagvae.experiment.report import print_calibration, print_plan, print_summary
from lagvae.experiment.schema import check_moved
from lagvae.experiment.summary import critic_messages, summarise
from lagvae.experiment.validate import needs_calibration, validate
from lagvae.io import check_writable, write_atomically, write_json
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close, log_picture, replay
from lagvae.runs.metrics_table import MetricsTable
from lagvae.terminal import print_line


def versions() -> dict[str, str]:
    """Versions of what decides about numbers."""
    names = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "scikit-learn")
    return {"lagvae": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


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


def calibrate(cfg: DictConfig, data: DataModule | None = None, title: str = "Calibrating") -> tuple[Calibration, Path]:
    """Find θ* and measure ε̂, or return what was found before; an interrupted calibration goes on where it was."""
    validate(cfg)
    data = data or build_data(cfg)
    found = find_calibration(cfg, data)
    if found is not None:
        return found
    return run_calibration(cfg, calibration_config(cfg), calibration_settings(cfg, data), data, title)


def run_calibration(
    cfg: DictConfig, derived: DictConfig, settings: dict[str, Any], data: DataModule, title: str, simplex: bool = False
) -> tuple[Calibration, Path]:
    """Train the config that was derived from another one, measure its divergences, and keep both under these settings."""
    folder = calibration_folder(cfg, settings)
    data = data.reseeded(cfg.calibration.seed)
    model = build_model(derived, data, simplex=simplex)
    run = RunFolder(folder)
    write_atomically(run.config, lambda part: OmegaConf.save(derived, part, resolve=True))
    start = time.perf_counter()
    session = Fit(derived, data, model, run, f"{title} {cfg.data.name}")
    try:
        session.fit(run.last if run.last.is_file() else None)
    except Stopped as stop:
        raise Stopped(f"{stop} Type the same command again to go on.") from None
    splits = session.evaluate()
    at = splits[cfg.calibration.split]
    names = [str(name) for name in cfg.constraints]
    calibration = Calibration(
        calibrated={name: at[f"constraint/{name}"] for name in names},
        stderr={name: at[f"constraint/{name}_stderr"] for name in names},
        split=cfg.calibration.split,
        splits=splits,
        settings=settings,
        versions=versions(),
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=round(time.perf_counter() - start, 2),
    )
    if session.trainer.is_global_zero:
        calibration.save(folder, model.warm_start_state())
    session.trainer.strategy.barrier()
    return calibration, folder


def setup(cfg: DictConfig) -> tuple[DataModule, LatentVariableModel, Calibration | None]:
    """Check everything, calibrate where bounds or the start need it, and build the model."""
    validate(cfg)
    data = build_data(cfg)
    found = None
    build_joint(cfg, data)  # what does not fit the data is told before a calibration is made
    if needs_calibration(cfg):
        found = find_calibration(cfg, data)
        if found is None:
            print_line("No calibration fits these settings yet: calibrating first.")
            print_calibration(*calibrate(cfg, data), fresh=True)
        else:
            print_calibration(*found, fresh=False)
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


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train a run and write its folder; returns the summary."""
    check_writable(Path(cfg.paths.runs))
    data, model, calibration = setup(cfg)
    run = create_run(cfg)
    return fit_and_summarise(cfg, data, model, calibration, run, None)


def create_run(cfg: DictConfig) -> RunFolder:
    """The run's new folder: made by the first process, which tells the others, whether they run already or not yet."""
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if first:
        run = RunFolder.create(Path(cfg.paths.runs), cfg.name)
        write_atomically(run.config, lambda part: OmegaConf.save(cfg, part, resolve=True))
        os.environ["LAGVAE_RUN"] = str(run.path)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        told: list[Any] = [os.environ.get("LAGVAE_RUN")]
        torch.distributed.broadcast_object_list(told, src=0)
        os.environ["LAGVAE_RUN"] = told[0]
    return RunFolder(Path(os.environ["LAGVAE_RUN"]))


def resume(run: RunFolder) -> dict[str, Any]:
    """Go on with an interrupted run, with its own settings, from its last checkpoint."""
    if run.finished:
        print_line(f"{run.path} has finished; there is nothing to resume. See it with python src/evaluate.py run={run.path}.")
        return run.read_summary()
    cfg = read_config(run)
    data, model, calibration = setup(cfg)
    return fit_and_summarise(cfg, data, model, calibration, run, run.last if run.last.is_file() else None)


def read_config(run: RunFolder) -> DictConfig:
    """The config of a run; CheckpointError where it is damaged."""
    try:
        cfg = OmegaConf.load(run.config)
    except Exception as error:  # YAML and OmegaConf fail in many ways
        raise CheckpointError(f"{run.config} is damaged: {error}") from error
    if not isinstance(cfg, DictConfig):
        raise CheckpointError(f"{run.config} is damaged: it holds no settings.")
    check_moved(cfg, str(run.config))
    return cfg


def fit_and_summarise(
    cfg: DictConfig,
    data: DataModule,
    model: LatentVariableModel,
    calibration: Calibration | None,
    run: RunFolder,
    checkpoint: Path | None,
) -> dict[str, Any]:
    start = time.perf_counter()
    session = Fit(cfg, data, model, run, f"Training {cfg.family} on {cfg.data.name}")
    if session.trainer.is_global_zero:
        print_plan(cfg, model, calibration, run)
    try:
        session.fit(checkpoint)
        trained = time.perf_counter() - start
        if session.ensemble is not None:
            for logger in session.loggers:
                replay(run.metrics, logger)
        splits = session.evaluate()
    except Stopped as stop:
        for logger in session.loggers:
            close(logger, failed=True)
        name = os.path.relpath(run.path.resolve(), Path(cfg.paths.runs).resolve())
        raise Stopped(f"{stop} Go on with: python src/train.py resume={name}") from None
    except LagvaeError:
        for logger in session.loggers:
            close(logger, failed=True)
        raise
    summary = summarise(cfg, model, calibration, splits, session.watch.best)
    summary["messages"] += critic_messages(model.lagrangian, run.metrics)
    summary |= {
        "stationarity": session.stationarity(),
        "steps": session.trainer.global_step,
        "stopped_by": session.watch.stopped_by,
        "seed": cfg.seed,
        "versions": versions(),
        "seconds": {"training": round(trained, 2), "all": round(time.perf_counter() - start, 2)},
    }
    if session.ensemble is not None:
        summary["ensemble"] = session.ensemble
    if session.trainer.is_global_zero:
        finish(cfg, run, data, model, summary, session.loggers)
        print_summary(summary, run)
    session.trainer.strategy.barrier()
    return summary


def finish(
    cfg: DictConfig,
    run: RunFolder,
    data: DataModule,
    model: LatentVariableModel,
    summary: dict[str, Any],
    loggers: list[Logger],
) -> None:
    """Write figures, then the summary, whose presence says that the run is whole."""
    for logger in loggers:
        logger.save()
    if cfg.callbacks.figures:
        from lagvae.experiment.figures import draw_run

        model.eval()
        for path in draw_run(run.figures, data, model, summary, run.metrics):
            for logger in loggers:
                log_picture(logger, path)
    for logger in loggers:
        if not isinstance(logger, MetricsTable):
            flat = {f"final/{s}/{k}": v for s, values in summary["splits"].items() for k, v in values.items()}
            logger.log_metrics({k: v for k, v in flat.items() if not isinstance(v, str)}, summary["steps"])
        close(logger)
    write_json(run.summary, summary)


def evaluate(run: RunFolder, which: str = "last") -> dict[str, Any]:
    """Measure and draw a run again, from a checkpoint; writes evaluation/ in the run's folder."""
    named = {"last": run.last, "best": run.checkpoints / "best.ckpt"}
    checkpoint = named.get(which, Path(which).expanduser())
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint={which}: there is no file {checkpoint}.")
    cfg = read_config(run)
    cfg.logger = {"_target_": None}
    validate(cfg)
    data = build_data(cfg)
    calibration = calibrate(cfg, data)[0] if needs_calibration(cfg) else None
    model = build_model(cfg, data, calibration)
    target = RunFolder(run.path / "evaluation")
    session = Fit(cfg, data, model, target, "Evaluating")
    content = read_checkpoint(checkpoint, model)
    model.load_state_dict(content["state_dict"])
    splits = session.evaluate()
    summary = summarise(cfg, model, calibration, splits, {})
    summary |= {
        "stationarity": session.stationarity(),
        "steps": content["global_step"],
        "seed": cfg.seed,
        "versions": versions(),
    }
    if cfg.callbacks.figures:
        from lagvae.experiment.figures import draw_run

        draw_run(target.figures, data, model, summary, run.metrics)
    write_json(target.summary, summary)
    print_summary(summary, target)
    return summary


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
