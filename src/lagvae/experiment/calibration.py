"""Calibration (paper, eq. 19–20): what the divergences can be, ε̂ = D(θ*), θ* = argmin λᵀD with α = 0.

A calibration is a folder `calibrations/<name>-<hash>/` with calibration.json and theta.pt. The hash is of the settings
that matter: a run with other settings has another hash, so that the wrong calibration is never taken in silence.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lagvae.data import DataModule
from lagvae.data.datamodule import content_digest
from lagvae.errors import CalibrationError
from lagvae.experiment.settings import differences, fingerprint, settings_where
from lagvae.io import write_atomically, write_json


@dataclass
class Calibration:
    """What calibration found.

    calibrated: constraint → ε̂, on the split `split`, with stderr: constraint → standard error.
    splits: split → name → value, the full evaluation. settings: what the hash is of.
    """

    calibrated: dict[str, float]
    stderr: dict[str, float]
    split: str
    splits: dict[str, dict[str, float]]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    seconds: float = 0.0

    @property
    def hash(self) -> str:
        """Hash of the settings that matter."""
        return fingerprint(self.settings)

    def save(self, folder: Path, theta: Mapping[str, Tensor]) -> None:
        """Write theta.pt, then calibration.json: the latter's presence says that both are whole."""
        write_atomically(folder / "theta.pt", lambda part: torch.save(dict(theta), part))
        write_json(folder / "calibration.json", asdict(self) | {"hash": self.hash})

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read a calibration. CalibrationError where it is missing or damaged."""
        file = folder / "calibration.json"
        if not file.is_file():
            raise CalibrationError(
                f"{folder} holds no calibration. Make one with python src/calibrate.py and the same settings."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            written = content.pop("hash")
            found = cls(**content)
            found.calibrated = {name: float(value) for name, value in found.calibrated.items()}
            found.stderr = {name: nan if found.stderr[name] is None else float(found.stderr[name]) for name in found.calibrated}
            if found.hash != written:
                raise ValueError("its settings are not those that it was written with")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = error if isinstance(error, OSError | ValueError) else "it does not hold what a calibration holds"
            raise CalibrationError(f"{file} is damaged ({reason}). Remove {folder} and calibrate again.") from error
        return found

    @staticmethod
    def theta(folder: Path) -> dict[str, Tensor]:
        """θ*, the state of the laws and of the critics that know them."""
        try:
            state = dict(torch.load(folder / "theta.pt", map_location="cpu", weights_only=True))
        except Exception as error:  # unpickling fails in many ways
            raise CalibrationError(
                f"{folder / 'theta.pt'} is missing or damaged. Remove {folder} and calibrate again."
            ) from error
        return state

    def check(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Raise CalibrationError, with the settings that differ, where this calibration is of another problem."""
        found = differences(self.settings, json.loads(json.dumps(settings, default=str)))
        if found:
            raise CalibrationError(
                f"The calibration in {folder} was made with other settings (there → here: {'; '.join(found[:5])}). Leave "
                "epsilon.calibration out to use or make the one that fits, or give the settings it was made with."
            )

    def bound(self, name: str, gamma: float, relative: bool) -> float:
        """ε̂ + γ, or ε̂ + γ · ε̂ where relative (γ₂ = 0.5 ε̂₂ in the paper).

        A relative slack is of max(ε̂, its standard error, 0): an unbiased estimate of a divergence may fall below zero.
        """
        if name not in self.calibrated:
            raise CalibrationError(
                f"The calibration has no ε̂ for constraint {name!r}, only for {', '.join(self.calibrated) or 'none'}. "
                f"Give constraints.{name}.epsilon=NUMBER."
            )
        calibrated = self.calibrated[name]
        stderr = self.stderr[name]
        slack = gamma * max(calibrated, 0.0 if isnan(stderr) else stderr, 0.0) if relative else gamma
        return calibrated + slack


def calibration_config(cfg: DictConfig) -> DictConfig:
    """The config of the run that calibrates: α = 0, λ fixed at the calibration weights, its own seed and length."""
    derived: DictConfig = copy.deepcopy(cfg)
    derived.family = "calibration"
    derived.alpha.q = derived.alpha.p = 0.0
    derived.epsilon.source, derived.epsilon.calibration = "none", None
    derived.logger = {"_target_": None}
    derived.multiplier.learned, derived.multiplier.rate, derived.multiplier.optimizer = False, None, None
    derived.seed = derived.data.seed = cfg.calibration.seed
    derived.training.steps = cfg.calibration.steps
    derived.training.start = "scratch"
    for c in derived.constraints.values():
        c.epsilon, c.learned, c.multiplier = None, False, c.calibration_weight
    return derived


def uses_critics(cfg: DictConfig) -> bool:
    """Whether a divergence of the config has a critic."""
    return any("network" in c.divergence for c in cfg.constraints.values())


def calibration_settings(cfg: DictConfig, data: DataModule) -> dict[str, Any]:
    """The settings that decide θ* and ε̂, flat; a digest of the samples stands for where they come from."""
    chosen = settings_where(cfg, lambda rule: rule.calibration)
    if not uses_critics(cfg):
        chosen = {key: value for key, value in chosen.items() if not key.startswith("critic.")}
    return chosen | {"data.shape": list(data.shape), "data.digest": content_digest(data)}


def calibration_folder(cfg: DictConfig, settings: Mapping[str, Any]) -> Path:
    """Where the calibration of these settings is kept."""
    return Path(cfg.paths.calibrations) / f"{cfg.data.name}-{cfg.model.name}-{fingerprint(settings)}"
