"""Which bounds a model can meet, before any is chosen: the minimum of each divergence alone and of all divergences together.

    alone:     min_θ D_i
    together:  min_θ max_i (D_i − r_i) / scale_i  =  min_θ max_w Σ_i w_i (D_i − r_i) / scale_i,   w ≥ 0, Σ w = 1

The reference r_i is ε_i if the config gives a number (constraints.NAME.epsilon), and otherwise the minimum alone. Each minimum
is found by training, stored as a calibration is, and evaluated on held-out data. It is an upper bound on the true minimum,
except for a divergence with a critic: its estimate is a lower bound on the divergence, and a stronger critic may give a larger
value.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from lagvae.data import DataModule
from lagvae.errors import SettingError
from lagvae.experiment.calibration import AUTO, Calibration, calibration_config, calibration_settings
from lagvae.experiment.factory import build_data, build_model, error_context, instantiate
from lagvae.experiment.processes import adopt_launcher, settle_precision, validated_processes
from lagvae.experiment.run import calibrate, load_cached, run_calibration
from lagvae.experiment.validate import check_nodes, validate
from lagvae.io import write_json
from lagvae.ranks import on_first


def find_feasible(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """Find the attainable values, or load them if they were found before.

    Returns:
        The result, and the folder in which it is stored as feasible.json.

    Raises:
        SettingError: if the config has no constraint, if the distributions or the data lack what a divergence needs, or if a
            setting has no effect here.
    """
    for key in ("resume", "epsilon.calibration"):
        if (value := OmegaConf.select(cfg, key)) is not None:
            raise SettingError(f"{key}={value} has no effect here: earlier results are reused by themselves; leave it out.")
    if cfg.calibration.steps == AUTO:
        raise SettingError(
            "calibration.steps=auto has no effect here: each minimum is searched for a number of steps; give one."
        )
    cfg, optimizer = split_own_settings(cfg)
    names = [str(name) for name in cfg.constraints]
    if not names:
        raise SettingError(
            f"family={cfg.family} has no constraint, so there is no bound to meet; add one with divergence=[NAME]."
        )
    singles = {name: single_constraint_config(cfg, name) for name in names}
    epsilon = {name: c.epsilon for name, c in cfg.constraints.items()}
    adopt_launcher(cfg)
    for single in singles.values():  # every setting is validated before the first run trains
        validate(single)
    with validated_processes(together_config(cfg, {n: epsilon[n] or 0.0 for n in names}, optimizer)):
        settle_precision(cfg)
        data = build_data(cfg)
        build_model(calibration_config(cfg), data)
        least: dict[str, tuple[Calibration, Path]] = {}
        for name in names:
            least[name] = calibrate(singles[name], data, f"Least {name} on")
        smallest = {n: instantiate(cfg.constraints[n].divergence).smallest for n in names}
        reference = {n: max(least[n][0].calibrated[n], smallest[n]) if epsilon[n] is None else float(epsilon[n]) for n in names}
        together, folder = least[names[0]]
        if len(names) > 1:
            derived = together_config(cfg, reference, optimizer)
            settings = together_settings(cfg, derived, data)
            together, folder = on_first(lambda: load_cached(cfg, settings)) or run_calibration(
                cfg, derived, settings, data, "All together on", simplex=True
            )
        result = feasibility_result(cfg, {n: c for n, (c, _) in least.items()}, together, reference)
        on_first(lambda: write_json(folder / "feasible.json", result))
    return result, folder


def split_own_settings(cfg: DictConfig) -> tuple[DictConfig, Any]:
    """Split the config into that of a training run and the optimizer node that only feasible.py has.

    Raises:
        SettingError: if the rate is not a positive number, or if the optimizer does not work or does not ascend.
    """
    own: Any = OmegaConf.to_container(cfg.feasible, resolve=True)
    rate = own["rate"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (isfinite(rate) and rate > 0):
        raise SettingError(f"feasible.rate={rate} must be a finite number above 0.")
    check_nodes(own["optimizer"], "feasible.optimizer")
    with error_context("feasible.optimizer"):
        ascent = instantiate(OmegaConf.create(own["optimizer"]))([torch.nn.Parameter(torch.zeros(1))])
    if not ascent.param_groups[0].get("maximize", False):
        raise SettingError("feasible.optimizer must ascend: set feasible.optimizer.maximize=true.")
    plain = cfg.copy()
    with open_dict(plain):
        del plain["feasible"]
    return plain, OmegaConf.create(own["optimizer"])


def feasibility_result(
    cfg: DictConfig, least: dict[str, Calibration], together: Calibration, reference: dict[str, float]
) -> dict[str, Any]:
    """The content of feasible.json: a row for each constraint, and the largest scaled violation."""
    rows: dict[str, dict[str, Any]] = {}
    for name, c in cfg.constraints.items():
        name = str(name)
        divergence = instantiate(c.divergence)
        value, error = together.calibrated[name], together.stderr[name]
        rows[name] = {
            "scale": c.scale,
            "nats": divergence.nats,
            "critic": divergence.uses_critic,
            "alone": least[name].calibrated[name],
            "alone_stderr": least[name].stderr[name],
            "asked": c.epsilon,
            "reference": reference[name],
            "together": value,
            "together_stderr": error,
            "excess": (value - reference[name]) / c.scale,
            "excess_stderr": error / c.scale,
        }
    largest = max(rows, key=lambda name: rows[name]["excess"])
    return {
        "family": cfg.family,
        "data": cfg.data.name,
        "model": cfg.model.name,
        "split": cfg.calibration.split,
        "steps": cfg.calibration.steps,
        "seed": cfg.calibration.seed,
        "constraints": rows,
        "largest": {"name": largest, **{key: rows[largest][key] for key in ("excess", "excess_stderr")}},
    }


def single_constraint_config(cfg: DictConfig, name: str) -> DictConfig:
    """The config whose calibration minimises the divergence of one constraint alone."""
    single: DictConfig = copy.deepcopy(cfg)
    single.epsilon.calibration = None
    for other, c in single.constraints.items():
        c.calibration_weight = (c.calibration_weight or 1 / c.scale) if other == name else 0.0
    return single


def together_config(cfg: DictConfig, reference: Mapping[str, float], optimizer: Any) -> DictConfig:
    """The config of the run that minimises the largest (D − reference) / scale: α = 0, and λ learned on the simplex."""
    derived = calibration_config(cfg)
    derived.family = "feasible"
    derived.epsilon.source = "explicit"
    derived.multiplier.learned, derived.multiplier.optimizer = True, optimizer
    for name, c in derived.constraints.items():
        c.epsilon, c.learned, c.multiplier = reference[str(name)], True, 0.0
    return derived


def together_settings(cfg: DictConfig, derived: DictConfig, data: DataModule) -> dict[str, Any]:
    """The settings that determine that run: those of a calibration, the references, and the optimizer of the weights."""
    of_each = {str(name): {"reference": c.epsilon, "scale": c.scale} for name, c in derived.constraints.items()}
    return calibration_settings(cfg, data) | {
        "together": {"constraints": of_each, "optimizer": OmegaConf.to_container(derived.multiplier.optimizer, resolve=True)}
    }
