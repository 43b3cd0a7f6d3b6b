"""Validation of the settings, before data are read or training starts."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from pydoc import locate
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lagvae.data import SPLITS
from lagvae.errors import SettingError
from lagvae.experiment.calibration import AUTO, Calibration
from lagvae.experiment.factory import (
    build_callbacks,
    build_lagrangian,
    build_metric,
    build_schedule,
    build_trainer,
    error_context,
    instantiate,
    metric_nodes,
)
from lagvae.experiment.logger_settings import check_loggers
from lagvae.experiment.own_code import PACKAGES
from lagvae.experiment.precision import is_processor
from lagvae.experiment.schema import Config
from lagvae.experiment.settings import Attributes, broken_reference, flatten, select
from lagvae.experiment.signatures import describe_type, matches_type, signature
from lagvae.metrics import InformationOfModel, Terms
from lagvae.model import check_trainer
from lagvae.runs.layout import RunFolder

STARTS = ("calibrated", "scratch")

SOURCES = ("calibrated", "explicit", "none")

IN_DEBUG_RUNS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
"""Settings of Lightning's trainer that shorten training or measuring, which only a debug run may do, because it is marked."""

NEVER = (
    "fast_dev_run",
    "barebones",
    "max_time",
    "min_steps",
    "min_epochs",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
)
"""Settings of Lightning's trainer that change what a run is, and that no run may have."""

OURS = {
    "max_steps": "training.steps",
    "max_epochs": "training.steps",
    "gradient_clip_val": "training.gradient_clip",
    "gradient_clip_algorithm": "training.gradient_clip",
    "accumulate_grad_batches": "data.batch",
    "log_every_n_steps": "training.log_every",
    "num_sanity_val_steps": "training.interval",
    "callbacks": "callbacks.lightning",
    "enable_checkpointing": "+callbacks.lightning.NAME={_target_: pytorch_lightning.callbacks.ModelCheckpoint}",
    "logger": "logger=[NAME]",
    "default_root_dir": "paths.runs",
    "enable_progress_bar": "logger=[NAME] to follow a run elsewhere",
    "enable_model_summary": "+callbacks.lightning.summary={_target_: pytorch_lightning.callbacks.ModelSummary}",
    "use_distributed_sampler": "trainer=ddp, which shares every batch",
    "reload_dataloaders_every_n_epochs": "data.workers",
}
"""Arguments of Lightning's trainer that this program gives itself → what to set instead."""

PRECISIONS = ("auto", "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")
"""Values of trainer.precision with which a model trains: data and noise have 32 bits."""

MOST_THREADS = 4096
"""The largest number of threads that is not taken for a slip."""

PROCESSES_PER_CORE = 8
"""The largest number of data-parallel processes for each core: more would exhaust the memory, and train nothing faster."""

LARGEST = 2**63 - 1
"""The largest whole number that torch takes."""

NODE = (
    r"data\.source|model\.(encoder|decoder|prior|posterior|likelihood|optimizer)|critic\.optimizer"
    r"|callbacks\.(training|final)(\.(?!budget$)[^.]+)?|constraints\.[^.]+\.divergence(\.network)?"
)
REQUIRED_NODE = re.compile(rf"{NODE}|.*\._target_|data\.likelihood")
"""The settings of which something is built, so that they cannot be null."""

BUILT_NODE = re.compile(rf"{NODE}|callbacks\.lightning\.[^.]+|logger\.[^.]+")
"""The settings of which something is built. All but the likelihoods that have a name need a `_target_`."""


BUILT_METRICS: set[str] = set()
"""Settings of which this process has built a metric, as JSON: the runs of a sweep mostly have the same."""


def validate(cfg: DictConfig) -> pl.Trainer:
    """Raise SettingError if a setting is invalid, or if settings contradict each other. Nothing is read or written.

    Returns: a trainer for these settings, which a dry run has built.
    """
    with error_context("The config"):
        typed = (
            cfg if issubclass(OmegaConf.get_type(cfg) or dict, Config) else OmegaConf.merge(OmegaConf.structured(Config), cfg)
        )
        try:
            plain = Attributes.of(OmegaConf.to_container(typed, resolve=True))
        except OmegaConfBaseException as error:
            if (message := broken_reference(error)) is None:
                raise
            raise SettingError(message) from error
    check_values(plain)
    check_nodes(OmegaConf.to_container(cfg))
    check_measured(plain)
    for _, check in CHECKS:
        check(cfg)
    return build_dry_trainer(cfg)


def validate_again(plain: Any, valid: set[str]) -> None:
    """`validate` for a run of a sweep: what an earlier run of the sweep has shown to be valid is not built again.

    Args:
        plain: its settings, resolved, with the types that the schema gives them, as `Attributes`.
        valid: the settings of all that has been built, as JSON; those of this run are added.
    """

    def once(check: Callable[[Any], object], part: dict[str, Any]) -> None:
        text = json.dumps(part, default=str)
        if (key := f"{check.__name__} {text}") not in valid:
            check(part if check is check_nodes else OmegaConf.create(json.loads(text)))
            valid.add(key)

    check_values(plain)
    for name in plain:
        once(check_nodes, {name: plain[name]})
    check_measured(plain)
    for names, check in (*CHECKS, (TRAINER, build_dry_trainer)):
        once(check, {name: plain[name] for name in names})


def check_values(cfg: Any) -> None:
    """Raise SettingError for a value that is missing, not allowed, or contradicted by another one.

    Args:
        cfg: all settings, resolved, as `Attributes`.
    """
    values = flatten(cfg).items()
    if missing := sorted(key for key, value in values if value == MISSING and not key.endswith(".divergence")):
        raise SettingError(f"{missing[0]} is missing; give {missing[0]}=VALUE.")
    if nulls := [key for key, value in values if value is None and REQUIRED_NODE.fullmatch(key)]:
        raise SettingError(f"{nulls[0]}=null: null is not allowed here; {null_cure(nulls[0])}.")
    for key, value in values:
        if isinstance(value, str) and BUILT_NODE.fullmatch(key) and key != "model.likelihood":
            plus = "+" if key.startswith(("callbacks.", "logger.")) else ""
            raise SettingError(f"{key}={value}: to name a class or function, write {plus}{key}._target_={value}.")
    RunFolder.check_name(cfg.name)
    for key, value in values:
        check_whole_number(key, value)
    for key in (
        "training.steps",
        "training.interval",
        "training.log_every",
        "calibration.steps",
        "model.latent",
        "critic.steps",
    ):
        value = select(cfg, key)
        if key == "calibration.steps" and value == AUTO:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            or_auto = ", or auto" if key == "calibration.steps" else ""
            raise SettingError(f"{key}={value} must be a whole number of at least 1{or_auto}.")
    if cfg.training.start not in STARTS:
        raise SettingError(f"training.start={cfg.training.start!r} is unknown; choose one of {', '.join(STARTS)}.")
    if cfg.epsilon.source not in SOURCES:
        raise SettingError(f"epsilon.source={cfg.epsilon.source!r} is unknown; choose one of {', '.join(SOURCES)}.")
    if cfg.calibration.split not in SPLITS:
        raise SettingError(f"calibration.split={cfg.calibration.split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    if cfg.training.threads is not None and not 1 <= cfg.training.threads <= MOST_THREADS:
        raise SettingError(
            f"training.threads={cfg.training.threads} must be at least 1 and at most {MOST_THREADS}, or null to go by the "
            "model's size."
        )
    budget = cfg.callbacks.final.get("budget") if "final" in cfg.callbacks else None
    if budget is not None and not (isinstance(budget, int | float) and budget > 0):
        raise SettingError(
            f"callbacks.final.budget={budget} must be positive: the largest cost of measuring as a share of that of training; "
            "null for no limit."
        )
    for name, c in cfg.constraints.items():
        key = f"constraints.{name}"
        if c.divergence == MISSING:
            raise SettingError(
                f"{key} has no divergence. Add {name} to divergence=[…], or give {key}.divergence._target_=CLASS."
            )
        if c.epsilon is not None and not isfinite(c.epsilon):
            raise SettingError(f"{key}.epsilon={c.epsilon} must be a finite number.")
        if not isfinite(c.gamma) or c.gamma < 0:
            raise SettingError(f"{key}.gamma={c.gamma} must be a finite number ≥ 0: a slack is added to the attainable value.")
        if not (isfinite(c.calibration_weight) and c.calibration_weight >= 0):
            raise SettingError(f"{key}.calibration_weight={c.calibration_weight} must be a number ≥ 0.")
        if (share := c.get("warm_up")) is not None and not 0 <= share < 1:
            raise SettingError(f"{key}.warm_up={share} must be a share of the run, at least 0 and below 1.")
        if cfg.epsilon.source == "explicit" and c.epsilon is None:
            raise SettingError(f"epsilon=explicit needs a number for every constraint: add {key}.epsilon=NUMBER.")

    if needs_calibration(cfg):
        if not any(c.calibration_weight > 0 for c in cfg.constraints.values()):
            raise SettingError(
                "There is nothing to calibrate: no constraint has constraints.NAME.calibration_weight above 0. Add one to "
                "divergence=[…], or use epsilon=explicit training.start=scratch."
            )
    elif cfg.epsilon.calibration is not None:
        raise SettingError(f"epsilon.calibration={cfg.epsilon.calibration} is not used here; add epsilon=calibrated.")
    if cfg.multiplier.learned and cfg.multiplier.optimizer is None:
        raise SettingError("multiplier.learned=true needs multiplier.optimizer; use multiplier=learned.")
    if cfg.multiplier.rate is not None and "reach" in (cfg.multiplier.optimizer or {}):
        raise SettingError(
            f"multiplier.rate={cfg.multiplier.rate}: the default optimizer of λ has no rate. Set multiplier.optimizer.reach, "
            "or name an optimizer that has one: multiplier=rmsprop, ascent or pi."
        )
    for key in ("multiplier.rate", "training.gradient_clip", "training.average"):
        check_finite(key, select(cfg, key))


def check_trainer_settings(cfg: DictConfig) -> None:
    """Raise SettingError for arguments of Lightning's trainer that it does not have, or that are not for a user to set here."""
    known = inspect.signature(pl.Trainer).parameters
    given: dict[str, Any] = dict(cfg.trainer)
    for key, value in given.items():
        if key in OURS:
            raise SettingError(f"trainer.{key}={value} cannot be set, because the program gives it itself; use {OURS[key]}.")
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"did you mean trainer.{near[0]}?" if near else f"Lightning's Trainer takes {', '.join(known)}."
            raise SettingError(f"trainer.{key} is unknown; {hint}")
    for key in (*NEVER, *(() if cfg.get("debug") else IN_DEBUG_RUNS)):
        if (value := given.get(key)) is not None and value is not False:
            raise SettingError(
                f"trainer.{key}={value} changes how long a run trains or how much it measures, although its results and its "
                "calibration count as those of an ordinary run. Use debug=fast for a smoke run, or training.steps, "
                "training.interval and data.draws."
            )
    for key in IN_DEBUG_RUNS:
        if (value := given.get(key)) is not None and not (isinstance(value, int | float) and value > 0):
            raise SettingError(
                f"trainer.{key}={value} must be a positive number of batches: a run trains and measures something."
            )
    cores, devices = os.cpu_count() or 1, str(given.get("devices"))
    here = is_processor(str(given.get("accelerator")))
    if here and devices.isdecimal() and int(devices) > PROCESSES_PER_CORE * cores:
        raise SettingError(
            f"trainer.devices={devices} asks for {devices} processes on a machine with {cores} core{'s' if cores > 1 else ''}, "
            f"which they would only share; set trainer.devices={cores} or less."
        )
    if (precision := given.get("precision")) is not None and str(precision) not in PRECISIONS:
        raise SettingError(
            f"trainer.precision={precision} does not work here, because data, noise and λ have 32 bits; use auto, "
            "32-true, bf16-mixed or 16-mixed."
        )


def check_measured(cfg: Any) -> None:
    """Raise SettingError where a metric was removed by which training chooses best.ckpt and notices that it diverges."""
    needed = {"terms": Terms} | ({"information_of_model": InformationOfModel} if cfg.alpha.p else {})
    there = [locate(str(node.get("_target_"))) for node in cfg.callbacks.training.values()]
    for name, metric in needed.items():
        if not any(isinstance(found, type) and issubclass(found, metric) for found in there):
            raise SettingError(
                f"callbacks.training.{name} cannot be removed, because best.ckpt is chosen by what lagvae.metrics."
                f"{metric.__name__} measures; leave it in. Metrics of callbacks.final can go."
            )


def check_finite(key: str, value: Any) -> None:
    """Raise SettingError for a number, or a list with one, that is infinite or not a number."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, float) and not isfinite(each):
            raise SettingError(f"{key}={each} must be a finite number.")


def check_whole_number(key: str, value: Any) -> None:
    """Raise SettingError for a whole number, or a list with one, that is larger than torch takes."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int) and abs(each) > LARGEST:
            raise SettingError(f"{key}={each} is too large: a whole number has at most 64 bits, ±{LARGEST}.")


def null_cure(key: str) -> str:
    """What to write instead of null for a required node."""
    part = key.removesuffix(".divergence")
    match part.split("."):
        case [*_, "_target_"]:
            return "name a class"
        case ["data", "likelihood"]:
            return "use bernoulli or normal"
        case ["callbacks", _]:
            return f"drop its metrics one by one, with ~{key}.NAME"
        case ["callbacks", _, _] | ["constraints", _]:
            return f"drop it with ~{part}"
    return f"leave it out, or give {key}._target_=CLASS"


def needs_calibration(cfg: Any) -> bool:
    """Whether a bound or the initial parameters come from a calibration."""
    return has_calibrated_bounds(cfg) or cfg.training.start == "calibrated"


def has_calibrated_bounds(cfg: Any) -> bool:
    """Whether a bound comes from a calibration."""
    return cfg.epsilon.source == "calibrated" and any(c.epsilon is None for c in cfg.constraints.values())


def check_objective(cfg: DictConfig) -> None:
    """Build the Lagrangian. Calibrated values are taken to be 0."""
    zeros = {str(name): 0.0 for name in cfg.constraints}
    lagrangian = build_lagrangian(cfg, Calibration(zeros, zeros, cfg.calibration.split, {}, {}))
    one_device = cfg.trainer.devices in (1, "1", "auto") and cfg.trainer.num_nodes == 1
    if not one_device and any(c.divergence.uses_critic for c in lagrangian.constraints):
        raise SettingError(
            f"trainer.devices={cfg.trainer.devices}: a family with critics trains on one device; use trainer.devices=1."
        )


def check_optimizers(cfg: DictConfig) -> None:
    """Build the optimizers and the schedule."""
    theta = torch.nn.Parameter(torch.zeros(1))
    with error_context("model.optimizer"):
        primal = instantiate(cfg.model.optimizer)([theta])
    with error_context("critic.optimizer"):
        instantiate(cfg.critic.optimizer)([theta])
    with error_context("model.schedule"):
        schedule = build_schedule(cfg)
        if schedule is not None:
            schedule(primal)
    if cfg.multiplier.optimizer is not None:
        with error_context("multiplier.optimizer"):
            dual = instantiate(cfg.multiplier.optimizer)([theta])
        if not dual.param_groups[0].get("maximize", False):
            raise SettingError("multiplier.optimizer must ascend: set multiplier.optimizer.maximize=true.")


def check_metrics(cfg: DictConfig) -> None:
    """Build the metrics."""
    for part in ("training", "final"):
        for name, node in metric_nodes(cfg, part).items():
            settings = json.dumps(OmegaConf.to_container(node, resolve=True), default=str)
            if settings not in BUILT_METRICS:
                build_metric(node, str(name), f"callbacks.{part}.{name}")
                if str(node._target_).startswith("lagvae."):  # code of others may fail at another time
                    BUILT_METRICS.add(settings)


CHECKS: tuple[tuple[tuple[str, ...], Callable[[DictConfig], object]], ...] = (
    (("trainer", "debug"), check_trainer_settings),
    (("logger",), check_loggers),
    (("alpha", "constraints", "epsilon", "calibration", "training", "trainer"), check_objective),
    (("model", "critic", "multiplier", "training"), check_optimizers),
    (("callbacks",), check_metrics),
)
"""The nodes of the config that a check reads, and the check. Together they build all that needs no data."""

TRAINER = ("trainer", "callbacks", "training", "paths")
"""The nodes of the config that `build_dry_trainer` reads."""


def build_dry_trainer(cfg: DictConfig) -> pl.Trainer:
    """Build the trainer with its callbacks."""
    callbacks = build_callbacks(cfg, Path(cfg.paths.root))
    trainer = build_trainer(cfg, Path(cfg.paths.root), callbacks)
    check_trainer(trainer)
    return trainer


def check_nodes(node: Any, key: str = "") -> None:
    """Raise SettingError if a `_target_` does not exist, or does not accept a setting next to it because of its name or type.

    Args:
        node: a config or a part of one, as plain dicts and lists. An interpolation is checked where its value is set.
        key: the dotted key of the node.
    """
    if not isinstance(node, Mapping):
        return
    if (target := node.get("_target_")) is not None:
        _check_node(node, str(target), key)
    for name, value in node.items():
        check_nodes(value, f"{key}.{name}" if key else str(name))


def _check_node(node: Mapping[Any, Any], target: str, key: str) -> None:
    try:
        function: Any = locate(target)
    except Exception as error:  # importing a module can raise any exception
        raise SettingError(f"{key}._target_={target} cannot be imported: {error}.") from error
    if not callable(function):
        raise SettingError(
            f"{key}._target_={target} does not exist; name a class or function by its full path. Python finds one of your own "
            "in the working directory, and in a folder that --config-dir or PYTHONPATH names."
        )
    try:
        parameters, hints = signature(function)
    except ValueError as error:
        raise SettingError(
            f"{key}._target_={target} does not say what it takes; name a class, or a function that is written in Python."
        ) from error
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.items():
        if str(name).startswith("_"):
            continue
        if name not in parameters and not takes_all:
            raise SettingError(f"{key}.{name} is unknown; {target} takes {', '.join(parameters)}.")
        if target.startswith(PACKAGES):  # code of others may know what to do with infinity
            check_finite(f"{key}.{name}", value)
        if not matches_type(value, hints.get(name, Any)):
            raise SettingError(f"{key}.{name}={value} must be {describe_type(hints[name])}.")
