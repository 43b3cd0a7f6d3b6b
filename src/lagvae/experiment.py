"""Calibrate, train, evaluate: what the entry points run."""

from __future__ import annotations

import logging
import os
import platform
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from lagvae import __version__, report
from lagvae.build import build_data, build_model, calibration_config, calibration_folder, calibration_settings, check, make
from lagvae.calibration import Calibration
from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch, Progress
from lagvae.data import SPLITS, Data
from lagvae.diagnosis import explain, judge, overall, stationarity
from lagvae.errors import CheckpointError, SettingError, Stopped
from lagvae.metrics import Divergences
from lagvae.module import LatentVariableModel
from lagvae.runs import MetricsTable, Run, write_atomically, write_json

STATIONARITY_BATCHES = 20


def versions() -> dict[str, str]:
    """Versions of what decides about numbers."""
    names = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "scikit-learn")
    return {"lagvae": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


def quiet() -> None:
    """Keep Lightning's and torch's notes about things we chose on purpose off the terminal."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning\.")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*")


def loggers_for(cfg: DictConfig, run: Run, data: Data) -> list[Logger]:
    """metrics.csv always, and what logger=… asks for."""
    loggers: list[Logger] = [MetricsTable(run.metrics, data.per_epoch)]
    target = cfg.logger.get("_target_")
    if target is None:
        return loggers
    node = OmegaConf.to_container(cfg.logger, resolve=True)
    assert isinstance(node, dict)
    try:
        if target.endswith("WandbLogger"):
            from lagvae.wandb import wandb_logger

            node.pop("_target_")
            loggers.append(wandb_logger(run, OmegaConf.to_container(cfg, resolve=True), **node))
        elif target.endswith("TensorBoardLogger"):
            loggers.append(make(OmegaConf.create(node), save_dir=str(run.folder), name="", version="tensorboard"))
        else:
            loggers.append(make(OmegaConf.create(node)))
    except ImportError as error:
        raise SettingError(f"logger: {error}. Install it, for example with pip install -e '.[tensorboard]'.") from error
    return loggers


class Session:
    """One fit: the model, the data, the Lightning trainer and the callbacks around them."""

    def __init__(self, cfg: DictConfig, data: Data, model: LatentVariableModel, run: Run, title: str) -> None:
        if cfg.training.threads is not None:
            torch.set_num_threads(cfg.training.threads)
        self.cfg, self.data, self.model, self.run = cfg, data, model, run
        data.interval = (cfg.training.interval, cfg.training.steps)
        named = {f"constraint/{c.name}": c.divergence for c in model.lagrangian.constraints}
        constraints = {"constraints": lambda: Divergences(named)}
        self.evaluation = Evaluation(
            dict(make(cfg.callbacks.training)) | constraints, dict(make(cfg.callbacks.final)) | constraints
        )
        self.watch = FeasibilityWatch(self.evaluation)
        self.loggers = loggers_for(cfg, run, data)
        self.trainer: pl.Trainer = pl.Trainer(
            **dict(OmegaConf.to_container(cfg.trainer, resolve=True)),  # type: ignore[arg-type]
            max_steps=cfg.training.steps,
            max_epochs=-1,
            callbacks=[
                self.evaluation,
                self.watch,
                Progress(title, self.evaluation),
                Checkpoints(run.checkpoints, self.evaluation),
            ],
            logger=self.loggers,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=cfg.training.log_every,
            default_root_dir=str(run.folder),
        )

    def fit(self, checkpoint: Path | None = None) -> None:
        """Train, from a checkpoint where one is given. Stopped where the user stops it."""
        if checkpoint is not None:
            step = read_checkpoint(checkpoint, self.model)["global_step"]
            for logger in self.loggers:
                if isinstance(logger, MetricsTable):
                    logger.cut(step)
        try:
            self.trainer.fit(self.model, self.data, ckpt_path=checkpoint, weights_only=True)
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, SystemExit) and self.trainer.state.status != "interrupted":
                raise
            raise Stopped(f"Stopped at step {self.trainer.global_step} of {self.trainer.max_steps}.") from None

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The full evaluation of every split."""
        self.trainer.test(self.model, self.data, verbose=False)
        return self.evaluation.results

    def stationarity(self) -> float:
        """The KKT residual of θ on batches of the training split."""
        device = self.model.device
        self.data.trainer = None  # batches for one process, from the first step on
        loader = self.data.eval_loader("train", device, most=STATIONARITY_BATCHES * self.data.batch)
        self.model.eval()
        noise = self.data.noise("stationarity")
        batches = (self.model.samples(self.data.observed(b, noise), "stationarity") for b in loader)
        with torch.enable_grad():
            return stationarity(self.model.laws, self.model.lagrangian, batches)


def read_checkpoint(path: Path, model: LatentVariableModel) -> dict[str, Any]:
    """A checkpoint that fits the model; CheckpointError where it is damaged or of another model."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = content["state_dict"]
    except Exception as error:  # unpickling fails in many ways
        raise CheckpointError(f"{path} is missing, damaged or no checkpoint of this program.") from error
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if expected != found:
        odd = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise CheckpointError(
            f"{path} is of another model: {odd[0]} has shape {found.get(odd[0])} there and {expected.get(odd[0])} here."
        )
    return content


def find_calibration(cfg: DictConfig, data: Data) -> tuple[Calibration, Path] | None:
    """The calibration that fits, or None; CalibrationError where a named one does not fit."""
    settings = calibration_settings(cfg, data)
    if cfg.epsilon.calibration is not None:
        folder = Path(cfg.epsilon.calibration).expanduser()
        calibration = Calibration.load(folder)
        calibration.check(settings, folder)
        return calibration, folder
    folder = calibration_folder(cfg, settings)
    if not (folder / "calibration.json").is_file():
        return None
    calibration = Calibration.load(folder)
    calibration.check(settings, folder)
    return calibration, folder


def calibrate(cfg: DictConfig, data: Data | None = None) -> tuple[Calibration, Path]:
    """Find θ* and measure ε̂, or return what was found before; an interrupted calibration goes on where it was."""
    check(cfg)
    data = data or build_data(cfg)
    found = find_calibration(cfg, data)
    if found is not None:
        return found
    settings = calibration_settings(cfg, data)
    folder = calibration_folder(cfg, settings)
    derived = calibration_config(cfg)
    model = build_model(derived, data)
    run = Run(folder)
    write_atomically(run.config, lambda part: OmegaConf.save(derived, part, resolve=True))
    start = time.perf_counter()
    session = Session(derived, data, model, run, f"Calibrating {cfg.data.name}")
    try:
        session.fit(run.last if run.last.is_file() else None)
    except Stopped as stop:
        raise Stopped(f"{stop} Type the same command again to go on.") from None
    splits = session.evaluate()
    at = splits[cfg.calibration.split]
    names = [str(name) for name in cfg.constraints]
    calibration = Calibration(
        epsilon={name: at[f"constraint/{name}"] for name in names},
        stderr={name: at[f"constraint/{name}_stderr"] for name in names},
        split=cfg.calibration.split,
        splits=splits,
        settings=settings,
        versions=versions(),
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=round(time.perf_counter() - start, 2),
    )
    if session.trainer.is_global_zero:
        calibration.save(folder, model.laws.state_dict())
    session.trainer.strategy.barrier()
    return calibration, folder


def prepare(cfg: DictConfig) -> tuple[Data, LatentVariableModel, Calibration | None]:
    """Check everything, calibrate where bounds or the start need it, and build the model."""
    check(cfg)
    data = build_data(cfg)
    calibration = None
    bounds = cfg.epsilon.source == "calibrated" and any(c.epsilon is None for c in cfg.constraints.values())
    if not bounds:
        build_model(cfg, data)  # raises for bad settings before a calibration is made
    if bounds or cfg.training.start == "calibrated":
        found = find_calibration(cfg, data)
        if found is None:
            report.say("No calibration fits these settings yet: calibrating first.")
        calibration, folder = found or calibrate(cfg, data)
        report.calibration(calibration, folder, fresh=found is None)
    model = build_model(cfg, data, calibration)
    if calibration is not None and cfg.training.start == "calibrated":
        model.laws.load_state_dict(Calibration.theta(folder))
    return data, model, calibration


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train a run and write its folder; returns the summary."""
    data, model, calibration = prepare(cfg)
    child = int(os.environ.get("LOCAL_RANK", 0)) > 0  # another process made the folder
    run = Run(Path(os.environ["LAGVAE_RUN"])) if child else Run.create(Path(cfg.paths.runs), cfg.name)
    os.environ["LAGVAE_RUN"] = str(run.folder)
    if not child:
        write_atomically(run.config, lambda part: OmegaConf.save(cfg, part, resolve=True))
    return _go(cfg, data, model, calibration, run, None)


def resume(run: Run) -> dict[str, Any]:
    """Go on with an interrupted run, with its own settings, from its last checkpoint."""
    if run.finished:
        report.say(
            f"{run.folder} has finished; there is nothing to resume. See it with python src/evaluate.py run={run.folder.name}."
        )
        return run.read_summary()
    cfg = read_config(run)
    data, model, calibration = prepare(cfg)
    return _go(cfg, data, model, calibration, run, run.last if run.last.is_file() else None)


def read_config(run: Run) -> DictConfig:
    """The config of a run; CheckpointError where it is damaged."""
    try:
        cfg = OmegaConf.load(run.config)
    except Exception as error:  # YAML and OmegaConf fail in many ways
        raise CheckpointError(f"{run.config} is damaged: {error}") from error
    if not isinstance(cfg, DictConfig):
        raise CheckpointError(f"{run.config} is damaged: it holds no settings.")
    return cfg


def _go(
    cfg: DictConfig,
    data: Data,
    model: LatentVariableModel,
    calibration: Calibration | None,
    run: Run,
    checkpoint: Path | None,
) -> dict[str, Any]:
    start = time.perf_counter()
    session = Session(cfg, data, model, run, f"Training {cfg.family} on {cfg.data.name}")
    if session.trainer.is_global_zero:
        report.plan(cfg, model, calibration, run)
    try:
        session.fit(checkpoint)
    except Stopped as stop:
        raise Stopped(f"{stop} Go on with: python src/train.py resume={run.folder.relative_to(cfg.paths.runs)}") from None
    trained = time.perf_counter() - start
    splits = session.evaluate()
    summary = summarise(cfg, model, calibration, splits, session.watch.best)
    summary |= {
        "stationarity": session.stationarity(),
        "steps": session.trainer.global_step,
        "stopped_by": session.watch.stopped_by,
        "seed": cfg.seed,
        "versions": versions(),
        "seconds": {"training": round(trained, 2), "all": round(time.perf_counter() - start, 2)},
    }
    if session.trainer.is_global_zero:
        finish(cfg, run, data, model, summary, session.loggers)
        report.closing(summary, run)
    session.trainer.strategy.barrier()
    return summary


def finish(
    cfg: DictConfig, run: Run, data: Data, model: LatentVariableModel, summary: dict[str, Any], loggers: list[Logger]
) -> None:
    """Write figures, then the summary, whose presence says that the run is whole."""
    for logger in loggers:
        logger.save()
    if cfg.callbacks.figures:
        from lagvae.figures import draw_run

        model.eval()
        for path in draw_run(run.figures, data, model, summary, run.metrics):
            for logger in loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(path.stem, [str(path)])
    for logger in loggers:
        if not isinstance(logger, MetricsTable):
            flat = {f"final/{s}/{k}": v for s, values in summary["splits"].items() for k, v in values.items()}
            logger.log_metrics(flat, summary["steps"])
        logger.finalize("success")
    write_json(run.summary, summary)


def summarise(
    cfg: DictConfig,
    model: LatentVariableModel,
    calibration: Calibration | None,
    splits: Mapping[str, Mapping[str, float]],
    best: Mapping[str, float],
) -> dict[str, Any]:
    """What was asked, what was reached, and the verdict on each constraint."""
    lagrangian = model.lagrangian
    multiplier = lagrangian.multiplier.tolist()
    constraints, findings, messages = {}, [], []
    for i, c in enumerate(lagrangian.constraints):
        key = f"constraint/{c.name}"
        finding = judge(
            c,
            splits["train"][key],
            splits["train"][f"{key}_stderr"],
            multiplier[i],
            max(abs(cfg.alpha.q), abs(cfg.alpha.p)),
            best.get(c.name, float("inf")),
        )
        epsilon = None if calibration is None else calibration.epsilon.get(c.name)
        findings.append(finding)
        message = explain(finding, epsilon, " nats" if c.divergence.nats else "")
        messages += [message] if message else []
        constraints[c.name] = {
            "estimator": repr(c.divergence),
            "nats": c.divergence.nats,
            "epsilon": c.bound if epsilon is None or cfg.constraints[c.name].epsilon is not None else epsilon,
            "calibrated": epsilon,
            "learned": c.learned,
            "unit": c.unit,
            **{split: splits[split][key] for split in SPLITS},
            **{f"{split}_stderr": splits[split][f"{key}_stderr"] for split in SPLITS},
            **finding.as_dict(),
        }
    return {
        "family": cfg.family,
        "alpha": {"q": cfg.alpha.q, "p": cfg.alpha.p},
        "data": cfg.data.name,
        "model": cfg.model.name,
        "mmd_estimator": f"{make(cfg.callbacks.final.mmd)().divergences['mmd']!r}, batches of {cfg.data.batch}"
        if "mmd" in cfg.callbacks.final
        else None,
        "constraints": constraints,
        "splits": {
            split: {k: v for k, v in values.items() if not k.startswith("constraint/")} for split, values in splits.items()
        },
        "verdict": overall(findings),
        "messages": messages,
    }


def evaluate(run: Run, which: str = "last") -> dict[str, Any]:
    """Measure and draw a run again, from a checkpoint; writes evaluation/ in the run's folder."""
    named = {"last": run.last, "best": run.checkpoints / "best.ckpt"}
    checkpoint = named.get(which, Path(which).expanduser())
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint={which}: there is no file {checkpoint}.")
    cfg = read_config(run)
    cfg.logger = {"_target_": None}
    check(cfg)
    data = build_data(cfg)
    found = find_calibration(cfg, data) if cfg.epsilon.source == "calibrated" else None
    calibration = found[0] if found else None
    model = build_model(cfg, data, calibration)
    target = Run(run.folder / "evaluation")
    session = Session(cfg, data, model, target, "Evaluating")
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
        from lagvae.figures import draw_run

        draw_run(target.figures, data, model, summary, run.metrics)
    write_json(target.summary, summary)
    report.closing(summary, target)
    return summary


def start(cfg: DictConfig) -> None:
    """What src/train.py runs: a new run, or resume=…."""
    if cfg.resume is None:
        train(cfg)
        return
    from hydra.core.hydra_config import HydraConfig

    others = [o for o in HydraConfig.get().overrides.task if not o.startswith(("resume=", "paths."))]
    if others:
        raise SettingError(
            f"resume={cfg.resume} goes on with the run's own settings; leave out {', '.join(others)}, or start a new run."
        )
    resume(Run.find(Path(cfg.paths.runs), cfg.resume))


def calibrate_and_tell(cfg: DictConfig) -> None:
    """What src/calibrate.py runs."""
    check(cfg)
    data = build_data(cfg)
    found = find_calibration(cfg, data)
    calibration, folder = found or calibrate(cfg, data)
    report.calibration(calibration, folder, fresh=found is None)


def evaluate_and_tell(cfg: DictConfig) -> None:
    """What src/evaluate.py runs."""
    evaluate(Run.find(Path(cfg.paths.runs), cfg.run), cfg.checkpoint)
