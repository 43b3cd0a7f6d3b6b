"""From a config to objects. Everything that can be wrong with a setting is found here, before training starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import isfinite
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.optim.lr_scheduler import CosineAnnealingLR

from lagvae.algebra import classify, parse, total
from lagvae.calibration import Calibration
from lagvae.data import SPLITS, Data
from lagvae.errors import LagvaeError, SettingError
from lagvae.estimators import CriticDivergence, Written, check_preference
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.laws import BernoulliDecoder, EmpiricalPrior, Laws, NormalDecoder, encoder
from lagvae.module import LatentVariableModel, SchedulerFactory
from lagvae.runs import Run
from lagvae.schema import Config, check_nodes

DECODERS = {"bernoulli": BernoulliDecoder, "normal": NormalDecoder}
STARTS = ("calibrated", "scratch")
SOURCES = ("calibrated", "explicit", "none")
SILENT: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


@contextmanager
def blaming(key: str) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of the setting: a SettingError that names it; our own errors come through."""
    try:
        yield
    except LagvaeError:
        raise
    except Exception as error:
        raise SettingError(f"{key} does not work: {(str(error).splitlines() or [repr(error)])[0]}") from error


def make(node: Any, **kwargs: Any) -> Any:
    """Instantiate a config node; our own errors come through as they are."""
    try:
        return instantiate(node, **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, LagvaeError):
            raise cause from None
        raise SettingError(f"{node.get('_target_')} cannot be built: {cause or error}") from error


def check(cfg: DictConfig) -> None:
    """Raise SettingError for all that can be wrong with settings by themselves, before data are read or anything is made."""
    with blaming("The config"):
        typed = OmegaConf.merge(OmegaConf.structured(Config), cfg)
        missing = sorted(key for key in OmegaConf.missing_keys(typed) if not key.endswith(".divergence"))
        OmegaConf.to_container(cfg, resolve=True)
    if missing:
        raise SettingError(f"{missing[0]} is missing; give {missing[0]}=VALUE.")
    Run.check_name(cfg.name)
    for key in (
        "training.steps",
        "training.interval",
        "training.log_every",
        "calibration.steps",
        "model.latent",
        "critic.steps",
    ):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or value < 1:
            raise SettingError(f"{key}={value} must be a whole number of at least 1.")
    if cfg.training.start not in STARTS:
        raise SettingError(f"training.start={cfg.training.start!r} is unknown; choose one of {', '.join(STARTS)}.")
    if cfg.epsilon.source not in SOURCES:
        raise SettingError(f"epsilon.source={cfg.epsilon.source!r} is unknown; choose one of {', '.join(SOURCES)}.")
    if cfg.calibration.split not in SPLITS:
        raise SettingError(f"calibration.split={cfg.calibration.split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    if cfg.training.threads is not None and cfg.training.threads < 1:
        raise SettingError(f"training.threads={cfg.training.threads} must be at least 1, or null for all cores.")
    for name, c in cfg.constraints.items():
        key = f"constraints.{name}"
        if OmegaConf.is_missing(c, "divergence"):
            raise SettingError(
                f"{key} has no divergence. Add {name} to divergence=[…], or give {key}.divergence._target_=CLASS."
            )
        if c.epsilon is not None and not isfinite(c.epsilon):
            raise SettingError(f"{key}.epsilon={c.epsilon} must be a finite number.")
        if not isfinite(c.gamma) or c.gamma < 0:
            raise SettingError(f"{key}.gamma={c.gamma} must be a finite number ≥ 0: a slack is added to what is attainable.")
        if not (isfinite(c.calibration) and c.calibration >= 0):
            raise SettingError(f"{key}.calibration={c.calibration} must be a number ≥ 0.")
        if cfg.epsilon.source == "explicit" and c.epsilon is None:
            raise SettingError(f"epsilon=explicit needs a number for every constraint: add {key}.epsilon=NUMBER.")
    if needs_calibration(cfg):
        if not any(c.calibration > 0 for c in cfg.constraints.values()):
            raise SettingError(
                "There is nothing to calibrate: no constraint has constraints.NAME.calibration above 0. Add one to "
                "divergence=[…], or use epsilon=explicit training.start=scratch."
            )
    elif cfg.epsilon.calibration is not None:
        raise SettingError(f"epsilon.calibration={cfg.epsilon.calibration} is not used here; add epsilon=calibrated.")
    if cfg.multiplier.learned and cfg.multiplier.optimizer is None:
        raise SettingError("multiplier.learned=true needs multiplier.optimizer; use multiplier=learned.")
    check_nodes(OmegaConf.to_container(cfg))
    rehearse(cfg)


def needs_calibration(cfg: DictConfig) -> bool:
    """Whether bounds or the start of training come from a calibration."""
    bounds = cfg.epsilon.source == "calibrated" and any(c.epsilon is None for c in cfg.constraints.values())
    return bounds or cfg.training.start == "calibrated"


def rehearse(cfg: DictConfig) -> None:
    """Build what needs no data, with bounds made up where calibration will find them, and throw it away."""
    zeros = {str(name): 0.0 for name in cfg.constraints}
    lagrangian = build_lagrangian(cfg, Calibration(zeros, zeros, cfg.calibration.split, {}, {}))
    theta = torch.nn.Parameter(torch.zeros(1))
    alone = cfg.trainer.devices in (1, "1", "auto") and cfg.trainer.num_nodes == 1
    if not alone and any(isinstance(c.divergence, CriticDivergence) for c in lagrangian.constraints):
        raise SettingError(
            f"trainer.devices={cfg.trainer.devices}: a family with critics trains on one device; use trainer.devices=1."
        )
    with blaming("model.optimizer"):
        primal = make(cfg.model.optimizer)([theta])
    with blaming("critic.optimizer"):
        make(cfg.critic.optimizer)([theta])
    with blaming("model.schedule"):
        schedule = build_schedule(cfg)
        if schedule is not None:
            schedule(primal)
    if cfg.multiplier.optimizer is not None:
        with blaming("multiplier.optimizer"):
            dual = make(cfg.multiplier.optimizer)([theta])
        if not dual.param_groups[0].get("maximize", False):
            raise SettingError("multiplier.optimizer must ascend: set multiplier.optimizer.maximize=true.")
    for part in ("training", "final"):
        for name, node in cfg.callbacks[part].items():
            with blaming(f"callbacks.{part}.{name}"):
                make(node)()
    with blaming(f"trainer ({', '.join(f'{key}={value}' for key, value in cfg.trainer.items())})"):
        pl.Trainer(**{str(key): value for key, value in cfg.trainer.items()}, **SILENT)


def build_data(cfg: DictConfig) -> Data:
    """The data, loaded, checked and split."""
    data: Data = make(cfg.data)
    data.check()
    for part in ("training", "final"):
        for name, node in cfg.callbacks[part].items():
            make(node)().check(data, f"callbacks.{part}.{name}")
    data.interval = (cfg.training.interval, cfg.training.steps)
    return data


def build_laws(cfg: DictConfig, data: Data) -> Laws:
    """p(z), p(x|z), q(z|x) for the shape of the data, initialised from the seed."""
    torch.manual_seed(cfg.seed)
    model = cfg.model
    kind = likelihood(model.likelihood)
    if kind is BernoulliDecoder and data.likelihood != "bernoulli":
        raise SettingError("model.likelihood=bernoulli needs data.likelihood=bernoulli, which makes the data binary.")
    prior = build_prior(make(model.prior), model.latent, data)
    laws = Laws(
        prior,
        encoder(make(model.posterior), make(model.encoder), data.shape, prior),
        kind(make(model.decoder), data.shape, prior.latent),
    )
    check_preference(cfg.alpha.q, cfg.alpha.p, laws)
    return laws


def likelihood(node: Any) -> Any:
    """The decoder's class, or a partial of it: a config node, or a name of `DECODERS`."""
    if not isinstance(node, str):
        return make(node)
    if node not in DECODERS:
        raise SettingError(f"model.likelihood={node!r} is unknown; choose one of {', '.join(DECODERS)}.")
    return DECODERS[node]


def build_prior(kind: Any, latent: int, data: Data) -> Any:
    """p(z); an empirical one of the data's second domain."""
    if kind.func is not EmpiricalPrior:
        return kind(latent)
    rows = data.second("train")
    if rows is None:
        raise SettingError(
            f"prior=data takes z from a second domain, which data={data.name} has not; use data=digits_pairs, or data=array "
            'with an array "second" beside the samples.'
        )
    return kind(rows)


def build_lagrangian(cfg: DictConfig, calibration: Calibration | None, simplex: bool = False) -> Lagrangian:
    """Preference and constraints with their bounds."""
    parts = with_sum_of_written(cfg.alpha.q, cfg.alpha.p, build_constraints(cfg, calibration))
    return Lagrangian(*parts, simplex=simplex)


def build_constraints(cfg: DictConfig, calibration: Calibration | None) -> list[Constraint]:
    """Constraints with their bounds, as they are configured."""
    constraints = []
    for name, c in cfg.constraints.items():
        bound = c.epsilon
        if bound is None and calibration is not None and cfg.epsilon.source == "calibrated":
            bound = calibration.bound(str(name), c.gamma, c.relative)
        constraints.append(
            Constraint(
                name=str(name),
                divergence=make(c.divergence),
                bound=bound,
                multiplier=c.multiplier,
                learned=c.learned,
                unit=c.unit,
                largest=c.largest,
            )
        )
    return constraints


def with_sum_of_written(alpha_q: float, alpha_p: float, constraints: list[Constraint]) -> tuple[Preference, list[Constraint]]:
    """Preference and constraints; where α I + Σ λ D of what is written needs a smaller class than its parts, that sum instead.

    Only penalties with fixed λ are summed: a learned one must be computable alone. The sum has I itself, not its bound.
    """
    penalties = [c for c in constraints if isinstance(c.divergence, Written) and not c.learned and c.bound is None]
    if penalties:
        whole = exact(alpha_q) * parse("I_q") + exact(alpha_p) * parse("I_p")
        whole = whole + total((exact(c.multiplier), c.divergence.stated) for c in penalties)  # type: ignore[attr-defined]
        if classify(whole) < max(c.divergence.form.level for c in penalties):  # type: ignore[attr-defined]
            first = penalties[0]
            together = replace(first, divergence=first.divergence.restated(whole), multiplier=1.0)  # type: ignore[attr-defined]
            rest = [together if c is first else c for c in constraints if c is first or c not in penalties]
            return Preference(0.0, 0.0), rest
    return Preference(alpha_q, alpha_p), constraints


def exact(value: float) -> Fraction:
    """A setting as the decimal that was typed."""
    return Fraction(repr(float(value)))


def build_schedule(cfg: DictConfig) -> SchedulerFactory | None:
    """The learning rate schedule: "cosine" over the length of training, a torch scheduler's config node, or none."""
    schedule = cfg.model.schedule
    if schedule is None:
        return None
    if schedule == "cosine":
        return partial(CosineAnnealingLR, T_max=cfg.training.steps)
    if isinstance(schedule, str):
        raise SettingError(f"model.schedule={schedule!r} is unknown; use cosine, null, or a config node with _target_.")
    factory: SchedulerFactory = make(schedule)
    return factory


def build_model(
    cfg: DictConfig, data: Data, calibration: Calibration | None = None, simplex: bool = False
) -> LatentVariableModel:
    """The LightningModule; `simplex` as of `Lagrangian`."""
    laws, lagrangian = build_laws(cfg, data), build_lagrangian(cfg, calibration, simplex)
    for c in lagrangian.constraints:
        c.divergence.prepare(c.name, laws, data.shape)
    return LatentVariableModel(
        laws=laws,
        lagrangian=lagrangian,
        primal=make(cfg.model.optimizer),
        dual=make(cfg.multiplier.optimizer) if cfg.multiplier.optimizer is not None else None,
        schedule=build_schedule(cfg),
        gradient_clip=cfg.training.gradient_clip,
        seed=cfg.seed,
        log_every=cfg.training.log_every,
        critic=make(cfg.critic.optimizer),
        critic_steps=cfg.critic.steps,
        average=cfg.training.average,
    )
