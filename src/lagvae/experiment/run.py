"""The course of one run, from its settings to its summary. `train` takes the config that Hydra composed through all
stages:

    validate     invalid settings are reported before anything is loaded (`validated_processes`)
    data         the data are loaded, checked and split (`setup`)
    calibrate    θ* and ε̂ are loaded if a calibration with the same settings exists, and otherwise computed (`setup`)
    model        the joint model and the Lagrangian with its bounds are built; training starts from θ* or from scratch (`setup`)
    fit          Lightning's trainer trains the model and saves a checkpoint after every interval (`Fit.train`)
    evaluate     every metric is computed on every split (`Fit.evaluate`)
    summarise    the summary collects the settings, the results and the verdict on each constraint (`write_report`)
    report       figures and the page are drawn, summary.json is written, and the summary is printed (`write_report`)

`resume` sets up the same run and continues its fit. `evaluate` loads a checkpoint instead of fitting. `calibrate` fits and
evaluates the same model with α = 0, and stores θ* and ε̂.
"""

from __future__ import annotations

import copy
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, flag_override
from pytorch_lightning.accelerators import AcceleratorRegistry

from lagvae import __version__
from lagvae.callbacks.progress import MeasuringProgress
from lagvae.data import DataModule
from lagvae.errors import CalibrationError, CheckpointError, SettingError
from lagvae.experiment.calibration import AUTO, Calibration, calibration_config, calibration_folder, calibration_settings
from lagvae.experiment.convergence import assess_convergence
from lagvae.experiment.factory import build_data, build_joint, build_model
from lagvae.experiment.fit import Fit, read_content, returned_memory
from lagvae.experiment.own_code import check_targets
from lagvae.experiment.processes import adopt_launcher, in_one_process, validated_processes
from lagvae.experiment.report import print_calibration, print_plan, print_summary
from lagvae.experiment.schema import check_moved
from lagvae.experiment.settings import UNKNOWN, changed_settings, differences, find_rule, write_settings
from lagvae.experiment.summary import RATES, critic_messages, summarise
from lagvae.experiment.trial import try_own_code
from lagvae.experiment.validate import needs_calibration, validate
from lagvae.front import Front
from lagvae.io import check_writable, owned
from lagvae.lagrangian import TOLERANCE, Lagrangian
from lagvae.model import LatentVariableModel
from lagvae.pages.page import try_page
from lagvae.ranks import launched_rank, on_first
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close, log_picture
from lagvae.runs.metrics_table import MetricsTable
from lagvae.terminal import command, print_line, print_note

MOST_DOUBLINGS = 4
"""calibration.steps=auto calibrates for at most 2^4 times training.steps."""


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train a run, write its folder, and return the summary."""
    check_writable(Path(cfg.paths.runs))
    adopt_launcher(cfg)
    with validated_processes(cfg):
        data, model, calibration = setup(cfg)
        folder = create_folder(cfg)
        with owned_by_first(folder.path):
            return fit_and_summarise(cfg, data, model, calibration, folder)


def resume(folder: RunFolder, trust: Sequence[str] = (), trainer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Resume an interrupted run from its last checkpoint, with its own settings, and return the summary.

    Args:
        trust: prefixes of names that its settings may have beside those that are known to run no code of others.
        trainer: settings of the trainer for this machine, in place of its own; see `settle_machine`.
    """
    if folder.finished:
        print_line(
            f"{folder.path} has finished; there is nothing to resume. Evaluate it again with {command('evaluate')} "
            f"run={folder.path}."
        )
        return folder.read_summary()
    cfg = read_trusted_config(folder, trust)
    settle_machine(cfg, trainer or {})
    adopt_launcher(cfg, stored=True)
    with validated_processes(cfg):
        if (first := on_first(lambda: folder.path)) != folder.path:
            raise CheckpointError(f"The processes do not resume the same run: {first} and {folder.path}. Name one of them.")
        if folder.last_checkpoint is None:
            print_note(f"{folder.path} has no checkpoint to go on from: the run starts from its first step.")
        with owned_by_first(folder.path):
            return proceed(cfg, folder)


def proceed(cfg: DictConfig, folder: RunFolder) -> dict[str, Any]:
    """Do what is left of a run, whose folder this process owns, with settings that are trusted; return the summary."""
    data, model, calibration = setup(cfg) if folder.last_checkpoint is None else restore(cfg, folder.last)
    return fit_and_summarise(cfg, data, model, calibration, folder)


def evaluate(
    folder: RunFolder, which: str = "last", trust: Sequence[str] = (), trainer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run again, write evaluation/ in the run's folder, and return the summary.

    One process does this, however many trained the run; of those that a launcher starts, the first.

    Args:
        which: "last", "best", or the path of a checkpoint. trust, trainer: as for `resume`.
    """
    if launched_rank() > 0:
        return {}
    named = {"last": folder.last, "best": folder.checkpoints / "best.ckpt"}
    checkpoint = named.get(which, Path(which).expanduser())
    if not checkpoint.is_file():
        there = ", ".join(sorted(file.stem for file in folder.checkpoints.glob("*.ckpt")))
        cure = f"The run has {there}; name one of these." if there else folder.checkpoint_cure
        raise CheckpointError(f"checkpoint={which}: there is no file {checkpoint}. {cure}")
    cfg = read_trusted_config(folder, trust)
    cfg.logger = {}
    settle_machine(cfg, trainer or {})
    in_one_process(cfg)
    validate(cfg)
    data, model, calibration = restore(cfg, checkpoint)
    to = RunFolder(folder.path / "evaluation")
    with owned_by_first(to.path):
        fit = Fit(cfg, data, model, to, "Evaluating")
        fit.load(checkpoint, folder.metrics)
        fit.evaluate()
        return summarise_and_report(fit, calibration, folder.metrics)


def calibrate(cfg: DictConfig, data: DataModule | None = None, title: str = "Calibrating") -> tuple[Calibration, Path]:
    """Load the calibration that fits, or find θ* and ε̂. An interrupted calibration resumes from its last checkpoint."""
    adopt_launcher(cfg)
    with validated_processes(cfg):
        data = data or build_data(cfg)
        return found_by_first(cfg, data) or make_calibration(cfg, data, title)


# ---- from the settings to a model that is ready to train


def setup(cfg: DictConfig) -> tuple[DataModule, LatentVariableModel, Calibration | None]:
    """Load the data, calibrate if the bounds or the start need it, and build the model."""
    data = build_data(cfg)
    build_joint(cfg, data)  # a model that does not fit the data is reported before a calibration is made
    try_own_code(cfg, data)
    found: tuple[Calibration, Path] | None = None
    if needs_calibration(cfg):
        existing = found_by_first(cfg, data)
        if existing is None:
            print_line("No calibration fits these settings yet: calibrating first.")
        found = existing or make_calibration(cfg, data)
        print_calibration(*found, fresh=existing is None)
    model, calibration = build_start(cfg, data, found)
    return data, model, calibration


def build_start(
    cfg: DictConfig, data: DataModule, found: tuple[Calibration, Path] | None = None
) -> tuple[LatentVariableModel, Calibration | None]:
    """The model with its bounds and its initial parameters.

    Args:
        found: the calibration and its folder, where they have been looked for.

    Raises: CalibrationError if it needs a calibration and none fits.
    """
    if not needs_calibration(cfg):
        return build_model(cfg, data), None
    found = found or found_by_first(cfg, data)
    if found is None:
        raise CalibrationError(f"No calibration fits these settings. Make one with {command('calibrate')}.")
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


def restore(cfg: DictConfig, checkpoint: Path) -> tuple[DataModule, LatentVariableModel, Calibration | None]:
    """The data, the model with its bounds, and ε̂ of a run that has a checkpoint, which holds them. Nothing is calibrated.

    Raises: CheckpointError where the checkpoint was trained with other settings, bounds or data than there are now.
    """
    origin = read_content(checkpoint).get("lagvae", {})
    if "config" in origin:
        now: Any = OmegaConf.to_container(cfg, resolve=True)
        check_settings(checkpoint, changed_settings(origin["config"], now))
    data = build_data(cfg)
    calibration = None
    if needs_calibration(cfg):
        if origin.get("calibration") is not None:
            calibration = Calibration(**origin["calibration"], splits={}, settings={})
        elif (existing := found_by_first(cfg, data)) is not None:  # an earlier version kept none in the checkpoint
            calibration = existing[0]
        else:
            raise CalibrationError(
                f"{checkpoint} is of an earlier version, which kept no calibration in it, and none fits. Make it with "
                f"{command('calibrate')} and the settings of the run."
            )
    model = build_model(cfg, data, calibration)
    check_origin(origin, model.origin or {}, str(checkpoint), str(cfg.data.source.get("path") or f"data={data.name}"))
    return data, model, calibration


def settle_machine(cfg: DictConfig, trainer: Mapping[str, Any]) -> None:
    """Let a stored run go on with the devices of this machine: where it is computed is no part of what it is.

    Args:
        trainer: settings of the trainer that take the place of the run's own. Where none is the accelerator, and the machine
            does not have that of the run, it is what the machine has.

    Raises: SettingError for a setting that decides about numbers, such as the precision.
    """
    if cfg.get("trainer") is None:
        return  # what a damaged config lacks is named by `validate`
    for key, value in trainer.items():
        if not (find_rule(f"trainer.{key}") or UNKNOWN).machine and str(value) != str(cfg.trainer.get(key)):
            raise SettingError(
                f"trainer.{key}={value}: the run has {cfg.trainer.get(key)}, which decides about its numbers. Leave it out."
            )
    with flag_override(cfg, ["struct", "readonly"], False):
        cfg.trainer.update(trainer)
        own = str(cfg.trainer.get("accelerator"))
        if "accelerator" not in trainer and not has_accelerator(own):
            print_note(f"This machine has no {own}, on which the run was trained (trainer.accelerator); it goes on without.")
            cfg.trainer.update({"accelerator": "auto", "devices": 1, "strategy": "auto", "num_nodes": 1})


def has_accelerator(name: str) -> bool:
    """Whether this machine has an accelerator of this name. Names that nobody knows are for Lightning to refuse."""
    if name == "gpu":
        return torch.cuda.is_available() or torch.backends.mps.is_available()
    return name not in AcceleratorRegistry or AcceleratorRegistry[name]["accelerator"].is_available()


def check_settings(checkpoint: Path, differing: Sequence[str]) -> None:
    """Raise CheckpointError where settings of a checkpoint differ from those in the config of its run."""
    if differing:
        raise CheckpointError(
            f"{checkpoint} is of another model: its settings are not those of config.yaml (checkpoint → config.yaml: "
            f"{'; '.join(differing[:3])}). Restore config.yaml, or start a new run."
        )


def check_origin(then: Mapping[str, Any], now: Mapping[str, Any], what: str, source: str = "") -> None:
    """Raise CheckpointError where a checkpoint was trained on other data, or with other bounds, than there are now.

    Args:
        then: what the checkpoint says of its model. now: what there is now. what: the checkpoint, and source: the data, for
            the message.
    """
    if then.get("digest") not in (None, now["digest"]):
        raise CheckpointError(
            f"{what} was trained on other data than there are now{f' in {source}' if source else ''} (digest {then['digest']} "
            f"→ {now['digest']}). Put its data back, or start a new run."
        )
    if differing := differences(then.get("bounds") or now["bounds"], now["bounds"]):
        raise CheckpointError(
            f"{what} was trained with other bounds than there are now: {'; '.join(differing)}. Put its calibration and its "
            "settings back, or start a new run."
        )


def create_folder(cfg: DictConfig) -> RunFolder:
    """Create the folder of a new run, which all processes of the run share."""

    def create() -> RunFolder:
        folder = RunFolder.create(Path(cfg.paths.runs), cfg.name)
        try:
            write_settings(cfg, folder.config)
        except SettingError:
            with suppress(OSError):
                folder.path.rmdir()  # else the run, begun again, would get a number
            raise
        return folder

    return on_first(create)


@contextmanager
def owned_by_first(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Own a folder, on behalf of all processes of a data-parallel run; see `lagvae.io.owned`."""
    with ExitStack() as stack:
        on_first(lambda: stack.enter_context(owned(folder, waiting)))
        yield


def read_config(folder: RunFolder) -> DictConfig:
    """Read the config of a run. Raises CheckpointError if it is damaged."""
    try:
        cfg = OmegaConf.load(folder.config)
    except Exception as error:  # YAML and OmegaConf raise many kinds of exception
        raise CheckpointError(f"{folder.config} is damaged: {error}") from error
    if not isinstance(cfg, DictConfig) or not cfg:
        raise CheckpointError(
            f"{folder.config} is damaged: it holds no settings. Put back what it was, or train the run again under another "
            "name."
        )
    check_moved(cfg, str(folder.config))
    return cfg


def read_trusted_config(folder: RunFolder, trust: Sequence[str]) -> DictConfig:
    """Read the config of a run. Raises SettingError if what it names may run the code of others and is not trusted."""
    cfg = read_config(folder)
    try:
        check_targets(OmegaConf.to_container(cfg), trust, whole=True)
    except SettingError as error:
        raise SettingError(f"{folder.config}: {error}") from error
    return cfg


# ---- fit, evaluation, summary and report


def fit_and_summarise(
    cfg: DictConfig, data: DataModule, model: LatentVariableModel, calibration: Calibration | None, folder: RunFolder
) -> dict[str, Any]:
    """Train from the last checkpoint in the folder, if there is one, evaluate, and write and print the summary."""
    fit = Fit(cfg, data, model, folder, f"Training {cfg.family} on {cfg.data.name}")
    if fit.first_process:
        print_plan(cfg, model, calibration, folder)
    name = os.path.relpath(folder.path.resolve(), Path(cfg.paths.runs).resolve())
    with fit.resumable(f"Resume with: {command('train')} resume={name}"):
        fit.train(folder.last_checkpoint)
        fit.evaluate()
    return summarise_and_report(fit, calibration, folder.metrics)


def summarise_and_report(fit: Fit, calibration: Calibration | None, metrics: Path) -> dict[str, Any]:
    """Draw the figures and the page, write summary.json and print the summary.

    summary.json is written last, because its presence shows that the run is complete.

    Args:
        metrics: the metrics.csv of the run.
    """
    return on_first(lambda: write_report(fit, calibration, metrics))


@returned_memory()
def write_report(fit: Fit, calibration: Calibration | None, metrics: Path) -> dict[str, Any]:
    """`summarise_and_report` in the first process."""
    cfg, folder = fit.cfg, fit.folder
    if not RunFolder(metrics.parent).config.is_file():
        raise CheckpointError(
            f"{metrics.parent} has vanished while its run was trained or measured. Put it back and resume the run, or train it "
            "again."
        )
    convergence = assess_convergence(metrics, shown_lagrangian(fit.model), fit.step)
    summary = summarise(cfg, fit.model, calibration, fit.results, fit.watch.best, convergence, fit.evaluation.labels)
    summary["messages"] += critic_messages(fit.model.lagrangian, metrics) + fit.messages
    if fit.trained_in is not None and fit.step < cfg.training.steps and fit.watch.stopped_by is None:
        summary["messages"].append(
            f"A callback of callbacks.lightning stopped it after {fit.step} of {cfg.training.steps} steps."
        )
    if cfg.get("debug"):
        summary = {"debug": cfg.debug} | summary
        summary["messages"].insert(0, "A debug run: its numbers mean nothing, and no other run, sweep or comparison uses them.")
    summary |= {"cut": {key: list(pair) for key, pair in fit.evaluation.plan.cut.items()}}
    bar = MeasuringProgress("Reporting", 1.0 + cfg.callbacks.figures)
    bar.begin("stationarity", 1.0)
    if isinstance(fit.model, Front):
        bar.begin("the front", 1.0)
        fit.measure_curve(fit.model, summary["curve"])
    summary |= {"stationarity": fit.stationarity(), "steps": fit.step, "seed": cfg.seed, "versions": versions()}
    joint = fit.model.joint
    summary |= {"rate_estimator": RATES[joint.rate_is_exact] if joint.has_rate else None}
    if fit.trained_in is not None:
        seconds = {"training": round(fit.trained_in, 2), "all": round(time.perf_counter() - fit.started, 2)}
        summary |= {"stopped_by": fit.watch.stopped_by, "seconds": seconds}
    if fit.ensemble is not None:
        summary["ensemble"] = fit.ensemble
    for logger in fit.loggers:
        logger.save()
    if cfg.callbacks.figures:
        from lagvae.experiment.figures import draw_run

        fit.model.eval()
        bar.begin("figures", 1.0)
        pictures = draw_run(folder.figures, fit.data, fit.model, summary, metrics)
        for path in pictures:
            for logger in fit.loggers:
                log_picture(logger, path)

        def draw_page(path: Path) -> None:
            from lagvae.experiment.page import write_run_page  # imports Altair, which takes half a second

            write_run_page(path, cfg, fit.data, fit.model, summary, metrics, pictures)

        try_page(folder.page, draw_page)
    bar.stop()
    for logger in fit.loggers:
        if not isinstance(logger, MetricsTable):  # a `RunLogger` drops these: it logs the summary
            flat = {f"final/{s}/{k}": v for s, values in summary["splits"].items() for k, v in values.items()}
            logger.log_metrics({k: v for k, v in flat.items() if not isinstance(v, str)}, summary["steps"])
        close(logger)
    folder.write_summary(summary)
    print_summary(summary, folder)
    return summary


def shown_lagrangian(model: LatentVariableModel) -> Lagrangian:
    """The Lagrangian of a model; of a front, that at the slack that it is shown at."""
    return model.at(model.slacks.own).lagrangian if isinstance(model, Front) else model.lagrangian


# ---- calibrations


def find_calibration(cfg: DictConfig, data: DataModule) -> tuple[Calibration, Path] | None:
    """The calibration that fits, or None. Raises CalibrationError if epsilon.calibration names one that does not fit."""
    if cfg.calibration.steps == AUTO and cfg.epsilon.calibration is None:
        return settled_calibration(cfg, lambda longer: find_calibration(longer, data))
    settings = calibration_settings(cfg, data)
    if cfg.epsilon.calibration is not None:
        folder = Path(cfg.epsilon.calibration).expanduser()
        calibration = Calibration.load(folder)
        calibration.check(settings, folder)
        return calibration, folder
    return load_cached(cfg, settings)


def found_by_first(cfg: DictConfig, data: DataModule) -> tuple[Calibration, Path] | None:
    """`find_calibration`, with the same answer in all processes of a run, whatever others make meanwhile."""
    return on_first(lambda: find_calibration(cfg, data))


def load_cached(cfg: DictConfig, settings: dict[str, Any]) -> tuple[Calibration, Path] | None:
    """The stored calibration with these settings, or None."""
    folder = calibration_folder(cfg, settings)
    if not (folder / "calibration.json").is_file():
        return None
    calibration = Calibration.load(folder)
    calibration.check(settings, folder)
    return calibration, folder


def make_calibration(cfg: DictConfig, data: DataModule, title: str = "Calibrating") -> tuple[Calibration, Path]:
    """Find θ* and ε̂ for valid settings that no calibration fits yet."""
    if cfg.calibration.steps == AUTO:

        def find_or_make(longer: DictConfig) -> tuple[Calibration, Path]:
            steps = longer.calibration.steps
            return found_by_first(longer, data) or make_calibration(longer, data, f"{title} for {steps} steps:")

        found = settled_calibration(cfg, find_or_make)
        assert found is not None
        return found
    return run_calibration(cfg, calibration_config(cfg), calibration_settings(cfg, data), data, title)


def settled_calibration(
    cfg: DictConfig, get: Callable[[DictConfig], tuple[Calibration, Path] | None]
) -> tuple[Calibration, Path] | None:
    """The calibration for calibration.steps=auto.

    Of the calibrations with training.steps times 1, 2, 4, …, 2^`MOST_DOUBLINGS` it is the first that has settled, or the last
    before one that lowers the weighted sum of ε̂ by no more than the tolerance.

    Each is an ordinary calibration, so an interrupted search resumes, and a number of steps in place of auto finds it too.

    Args:
        get: the calibration of a config with a number of steps, or None, which ends the search with None.
    """
    previous: tuple[Calibration, Path] | None = None
    for doubling in range(MOST_DOUBLINGS + 1):
        longer = copy.deepcopy(cfg)
        longer.calibration.steps = cfg.training.steps * 2**doubling
        found = get(longer)
        if found is None:
            return None
        if previous is not None and weighted_divergence(cfg, previous[0]) - weighted_divergence(cfg, found[0]) <= TOLERANCE:
            return previous
        if found[0].settled:
            return found
        previous = found
    return previous


def weighted_divergence(cfg: DictConfig, calibration: Calibration) -> float:
    """Σ w_i ε̂_i in nats, with the calibration weights w."""
    return sum(c.calibration_weight * calibration.calibrated[str(name)] for name, c in cfg.constraints.items())


def run_calibration(
    cfg: DictConfig, derived: DictConfig, settings: dict[str, Any], data: DataModule, title: str, simplex: bool = False
) -> tuple[Calibration, Path]:
    """Train a derived config, evaluate its divergences, and store both as the calibration with these settings.

    Where another process makes this calibration now, its result is waited for.

    Args:
        cfg: the config to calibrate for. derived: the config that is trained. settings: what determines the result.
    """
    folder = RunFolder(calibration_folder(cfg, settings))

    def say(owner: str) -> None:
        print_line(f"This calibration is being made by {owner}: waiting for it.")

    with owned_by_first(folder.path, waiting=say):
        cached = on_first(lambda: load_cached(cfg, settings))
        return cached or train_calibration(cfg, derived, settings, data, title, folder, simplex)


def train_calibration(
    cfg: DictConfig,
    derived: DictConfig,
    settings: dict[str, Any],
    data: DataModule,
    title: str,
    folder: RunFolder,
    simplex: bool,
) -> tuple[Calibration, Path]:
    """`run_calibration` in a folder that this process owns."""
    data = data.reseeded(cfg.calibration.seed)
    model = build_model(derived, data, simplex=simplex)
    on_first(lambda: write_settings(derived, folder.config))
    fit = Fit(derived, data, model, folder, f"{title} {cfg.data.name}")
    with fit.resumable("Run the same command again to resume."):
        fit.train(folder.last_checkpoint)
        for message in fit.messages:
            print_note(message)
        fit.evaluate()
    return on_first(lambda: store_calibration(fit, cfg, settings)), folder.path


def store_calibration(fit: Fit, cfg: DictConfig, settings: dict[str, Any]) -> Calibration:
    """Store what a calibration has found, in its folder."""
    values = fit.results[cfg.calibration.split]
    names = [str(name) for name in cfg.constraints]
    for logger in fit.loggers:
        logger.save()
    convergence = assess_convergence(fit.folder.metrics, fit.model.lagrangian, fit.step)
    calibration = Calibration(
        calibrated={name: values[f"constraint/{name}"] for name in names},
        stderr={name: values[f"constraint/{name}_stderr"] for name in names},
        split=cfg.calibration.split,
        splits=fit.results,
        settings=settings,
        versions=versions(),
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=round(time.perf_counter() - fit.started, 2),
        convergence={} if convergence is None else convergence.as_dict(),
    )
    calibration.save(fit.folder.path, fit.model.warm_start_state())
    return calibration


def versions() -> dict[str, str]:
    """The versions of the packages that affect the numbers of a run."""
    names = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "scikit-learn")
    return {"lagvae": __version__, "python": platform.python_version()} | {name: version(name) for name in names}
