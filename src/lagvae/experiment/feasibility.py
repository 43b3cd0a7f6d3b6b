"""What a model can reach, before any bound is chosen: each divergence alone, and the least largest violation of all together.

    alone:     min_θ D_i
    together:  min_θ max_i (D_i − r_i) / unit_i  =  min_θ max_w Σ_i w_i (D_i − r_i) / unit_i,   w ≥ 0, Σ w = 1

r_i is ε where the config gives a number (constraints.NAME.epsilon), else the least value alone. Each is found by training, as
a calibration is, kept like one, and measured on held-out data. What is found is an upper bound on what could be, but where a
constraint has a critic: its D is a lower bound on the divergence, of what that critic sees, and a stronger one may read more.
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
from lagvae.divergences import CriticDivergence
from lagvae.errors import SettingError
from lagvae.experiment.calibration import Calibration, calibration_config, calibration_settings
from lagvae.experiment.factory import build_data, build_model, error_context, instantiate
from lagvae.experiment.report import print_feasibility
from lagvae.experiment.run import calibrate, load_cached, run_calibration
from lagvae.experiment.validate import check_nodes, validate
from lagvae.io import write_json


def find_feasible(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """Find what is attainable, or what was found before; returns it with the folder that holds it as feasible.json.

    Raises: SettingError where the config has no constraint, where laws or data lack what a divergence takes, and for settings
        that have no effect here.
    """
    for key in ("resume", "epsilon.calibration"):
        if (value := OmegaConf.select(cfg, key)) is not None:
            raise SettingError(f"{key}={value} has no effect here: what was found before is reused; leave it out.")
    cfg, optimizer = split_own_settings(cfg)
    names = [str(name) for name in cfg.constraints]
    if not names:
        raise SettingError(f"family={cfg.family} has no constraint, so nothing to reach; add one with divergence=[NAME].")
    singles = {name: single_constraint_config(cfg, name) for name in names}
    asked = {name: c.epsilon for name, c in cfg.constraints.items()}
    # Everything that can be wrong is told before the first of them trains.
    for each in (*singles.values(), together_config(cfg, {n: asked[n] or 0.0 for n in names}, optimizer)):
        validate(each)
    data = build_data(cfg)
    build_model(calibration_config(cfg), data)
    least: dict[str, tuple[Calibration, Path]] = {}
    for name in names:
        least[name] = calibrate(singles[name], data, f"Least {name} on")
    reference = {n: least[n][0].calibrated[n] if asked[n] is None else float(asked[n]) for n in names}
    found, folder = least[names[0]]
    if len(names) > 1:
        derived = together_config(cfg, reference, optimizer)
        settings = together_settings(cfg, derived, data)
        found, folder = load_cached(cfg, settings) or run_calibration(
            cfg, derived, settings, data, "All together on", simplex=True
        )
    result = feasibility_result(cfg, {n: c for n, (c, _) in least.items()}, found, reference)
    write_json(folder / "feasible.json", result)
    return result, folder


def split_own_settings(cfg: DictConfig) -> tuple[DictConfig, Any]:
    """The config as train.py knows it, and the node of the optimizer that is feasible.py's own.

    Raises: SettingError for a rate that is no positive number, and for an optimizer that does not work or does not ascend.
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
    """What is written and shown: by constraint, and the largest scaled violation."""
    rows: dict[str, dict[str, Any]] = {}
    for name, c in cfg.constraints.items():
        name = str(name)
        divergence = instantiate(c.divergence)
        value, error = together.calibrated[name], together.stderr[name]
        rows[name] = {
            "scale": c.scale,
            "nats": divergence.nats,
            "critic": isinstance(divergence, CriticDivergence),
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


def feasible(cfg: DictConfig) -> None:
    """What src/feasible.py runs."""
    print_feasibility(*find_feasible(cfg))


def single_constraint_config(cfg: DictConfig, name: str) -> DictConfig:
    """The config whose calibration minimises one constraint and no other."""
    single: DictConfig = copy.deepcopy(cfg)
    single.epsilon.calibration = None
    for other, c in single.constraints.items():
        c.calibration_weight = (c.calibration_weight or 1 / c.scale) if other == name else 0.0
    return single


def together_config(cfg: DictConfig, reference: Mapping[str, float], optimizer: Any) -> DictConfig:
    """The config of the run that minimises the largest (D − reference) / unit: α = 0, λ learned (on the simplex)."""
    derived = calibration_config(cfg)
    derived.family = "feasible"
    derived.epsilon.source = "explicit"
    derived.multiplier.learned, derived.multiplier.optimizer = True, optimizer
    for name, c in derived.constraints.items():
        c.epsilon, c.learned, c.multiplier = reference[str(name)], True, 0.0
    return derived


def together_settings(cfg: DictConfig, derived: DictConfig, data: DataModule) -> dict[str, Any]:
    """The settings that matter to it: those of a calibration, the references, and how the weights ascend."""
    of_each = {str(name): {"reference": c.epsilon, "scale": c.scale} for name, c in derived.constraints.items()}
    return calibration_settings(cfg, data) | {
        "together": {"constraints": of_each, "optimizer": OmegaConf.to_container(derived.multiplier.optimizer, resolve=True)}
    }
