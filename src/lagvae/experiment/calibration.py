"""Calibration (paper, eq. 19–20): the attainable values of the divergences, ε̂ = D(θ*) with θ* = argmin λᵀD at α = 0.

A calibration is a folder `calibrations/<data>-<model>-<hash>/` that holds calibration.json and theta.pt. The hash is computed
from the settings that determine θ* and ε̂, so a run with other settings never uses a calibration that does not fit it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lagvae.data import DataModule
from lagvae.data.datamodule import content_digest
from lagvae.errors import CalibrationError
from lagvae.experiment.convergence import Convergence
from lagvae.experiment.own_code import digest_own_code
from lagvae.experiment.precision import BY_MACHINE, choose_precision
from lagvae.experiment.settings import differences, fingerprint, settings_where
from lagvae.io import check_archive, file_digest, json_digest, write_atomically, write_json
from lagvae.terminal import command

BUDGET = 0.5
"""The largest cost of measuring ε̂, as a share of that of the calibration."""

AUTO = "auto"
"""The value of calibration.steps that doubles the length of the calibration until it has settled."""


@dataclass
class Calibration:
    """The result of a calibration.

    Attributes:
        calibrated: constraint → ε̂, measured on `split`. stderr: constraint → the standard error of ε̂.
        splits: split → metric → value, the full evaluation. settings: the settings that determine the result and its hash.
        made: date and time. seconds: how long it took.
        convergence: what longer training would change (see `lagvae.experiment.convergence`); empty if that is not known.
    """

    calibrated: dict[str, float]
    stderr: dict[str, float]
    split: str
    splits: dict[str, dict[str, float]]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    seconds: float = 0.0
    convergence: dict[str, Any] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether the weighted divergences had stopped falling, as far as the calibration shows."""
        return not (self.convergence and Convergence(**self.convergence).moving)

    @property
    def numbers(self) -> dict[str, Any]:
        """What a run keeps of its calibration: ε̂, its standard errors, and the split that they were measured on."""
        return {"calibrated": self.calibrated, "stderr": self.stderr, "split": self.split}

    @property
    def hash(self) -> str:
        """The hash of the settings that determine this calibration."""
        return fingerprint(self.settings)

    def save(self, folder: Path, theta: Mapping[str, Tensor]) -> None:
        """Write theta.pt, then calibration.json, whose presence shows that both files are complete."""
        write_atomically(folder / "theta.pt", lambda part: torch.save(dict(theta), part))
        content = asdict(self) | {"hash": self.hash, "theta": file_digest(folder / "theta.pt")}
        write_json(folder / "calibration.json", content | {"digest": json_digest(content)})

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read a calibration. Raises CalibrationError if it is missing or damaged."""
        file = folder / "calibration.json"
        if not file.is_file():
            raise CalibrationError(
                f"{folder} holds no calibration. Make one with {command('calibrate')} and the same settings."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            digest = content.pop("digest", None)  # earlier versions wrote none
            if digest is not None and digest != json_digest(content):
                raise ValueError("it was changed after it was written")
            written = content.pop("hash")
            content.pop("theta", None)
            result = cls(**content)
            result.calibrated = {name: float(value) for name, value in result.calibrated.items()}
            stderr = result.stderr
            result.stderr = {name: nan if stderr[name] is None else float(stderr[name]) for name in result.calibrated}
            _ = result.settled  # raises TypeError for a convergence of other contents
            if result.hash != written:
                raise ValueError("its settings were changed after it was written")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = error if isinstance(error, OSError | ValueError) else "it does not have the contents of a calibration"
            raise CalibrationError(f"{file} is damaged ({reason}). Remove {folder} and calibrate again.") from error
        return result

    @staticmethod
    def theta(folder: Path) -> dict[str, Tensor]:
        """θ*: the state of the joint model and of the critics that were trained with it."""
        try:
            check_archive(folder / "theta.pt")
            written = json.loads((folder / "calibration.json").read_text(encoding="utf-8")).get("theta")
            if written is not None and written != file_digest(folder / "theta.pt"):
                raise ValueError("it is not the one that was written")
            state = dict(torch.load(folder / "theta.pt", map_location="cpu", weights_only=True))
        except Exception as error:  # unpickling can raise almost any exception
            raise CalibrationError(
                f"{folder / 'theta.pt'} is missing or damaged. Remove {folder} and calibrate again."
            ) from error
        return state

    def check(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Raise CalibrationError, naming the settings that differ, if this calibration was made for another problem."""
        differing = differences(self.settings, json.loads(json.dumps(settings, default=str)))
        if differing:
            raise CalibrationError(
                f"The calibration in {folder} was made with other settings (calibration → this run: "
                f"{'; '.join(differing[:5])}). Leave out epsilon.calibration to use or make a calibration that fits, or give "
                "the settings that this one was made with."
            )

    def bound(self, name: str, gamma: float, relative: bool, smallest: float) -> float:
        """max(ε̂, D_min) + γ, or with γ · ε̂ in place of γ if the slack is relative (γ₂ = 0.5 ε̂₂ in the paper).

        An unbiased estimate ε̂ may fall below D_min by its noise, where no model could meet a bound. A relative slack is γ times
        the largest of ε̂, its standard error and 0.

        Args:
            smallest: D_min, the lower limit of the divergence (see `Divergence.smallest`).
        """
        if name not in self.calibrated:
            raise CalibrationError(
                f"The calibration has no ε̂ for constraint {name!r}, only for {', '.join(self.calibrated) or 'none'}. "
                f"Give constraints.{name}.epsilon=NUMBER."
            )
        calibrated = self.calibrated[name]
        stderr = self.stderr[name]
        slack = gamma * max(calibrated, 0.0 if isnan(stderr) else stderr, 0.0) if relative else gamma
        return max(calibrated, smallest) + slack


def calibration_config(cfg: DictConfig) -> DictConfig:
    """The config of the calibration run: α = 0, λ fixed at the calibration weights, and its own seed and length."""
    derived: DictConfig = copy.deepcopy(cfg)
    derived.family = "calibration"
    derived.alpha.q = derived.alpha.p = 0.0
    derived.epsilon.source, derived.epsilon.calibration = "none", None
    derived.logger, derived.callbacks.lightning = {}, {}
    # ε̂ takes the divergences alone. How they are measured must not depend on settings that do not decide about a calibration.
    derived.callbacks.final = {"budget": BUDGET} | {k: v for k, v in derived.callbacks.final.items() if k == "terms"}
    derived.multiplier.learned, derived.multiplier.rate, derived.multiplier.optimizer = False, None, None
    derived.seed = derived.data.seed = cfg.calibration.seed
    derived.training.steps = cfg.calibration.steps
    derived.training.start = "scratch"
    derived.training.slacks = None
    for c in derived.constraints.values():
        c.epsilon, c.learned, c.multiplier = None, False, c.calibration_weight
    return derived


def uses_critics(cfg: DictConfig) -> bool:
    """Whether any divergence of the config may have a critic, by its class."""
    return any(getattr(locate(c.divergence._target_), "uses_critic", False) for c in cfg.constraints.values())


def uses_attribute(cfg: DictConfig) -> bool:
    """Whether any divergence of the config is about an attribute of x, by its class."""
    return any(getattr(locate(c.divergence._target_), "uses_attribute", False) for c in cfg.constraints.values())


def calibration_settings(cfg: DictConfig, data: DataModule) -> dict[str, Any]:
    """The settings that determine θ* and ε̂, flat: those with calibration=True in `lagvae.experiment.settings.RULES`.

    They are what the model, its divergences and their calibration weights are, how it is calibrated and optimised, and the
    data; not α, bounds, slacks, multipliers, the seed, the length of training, nor the machine. A digest of the samples stands
    in for their source, and one of its source file for each user-defined class.
    """
    chosen = settings_where(cfg, lambda rule: rule.calibration)
    if not uses_critics(cfg):
        chosen = {key: value for key, value in chosen.items() if not key.startswith("critic.")}
    if cfg.calibration.steps == AUTO:
        chosen["training.steps"] = cfg.training.steps  # the length from which the search starts
    if cfg.trainer.precision == BY_MACHINE:
        chosen["trainer.precision"] = choose_precision(cfg)
    digest = content_digest(data, test=cfg.calibration.split == "test")
    return chosen | {"data.shape": list(data.shape), "data.digest": digest} | digest_own_code(cfg)


def calibration_folder(cfg: DictConfig, settings: Mapping[str, Any]) -> Path:
    """The folder of the calibration with these settings."""
    return Path(cfg.paths.calibrations) / f"{cfg.data.name}-{cfg.model.name}-{fingerprint(settings)}"
