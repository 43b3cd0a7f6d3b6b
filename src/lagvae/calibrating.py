"""Which calibration a config needs: the settings that matter to it, their hash, and the config of the run that makes it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lagvae.calibration import fingerprint
from lagvae.data import Data


def digest(data: Data) -> str:
    """A hash of the samples themselves, so that a renamed file matches and a changed one does not."""
    if data.arrays.digest is None:
        data.arrays.digest = _digest(data)
    return data.arrays.digest


def _digest(data: Data) -> str:
    content = hashlib.sha256()
    for part in (data.arrays.x, data.arrays.second):
        if isinstance(part, Tensor):
            content.update(str((tuple(part.shape), part.dtype)).encode())
            content.update(part.contiguous().numpy().tobytes())
        elif part is not None:
            for file in part.files:
                content.update(f"{file.name}:{file.stat().st_size};".encode())
    return content.hexdigest()[:16]


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
        c.epsilon, c.learned, c.multiplier = None, False, c.calibration
    return derived


def alone(cfg: DictConfig, name: str) -> DictConfig:
    """The config whose calibration minimises one constraint and no other."""
    single: DictConfig = copy.deepcopy(cfg)
    single.epsilon.calibration = None
    for other, c in single.constraints.items():
        c.calibration = (c.calibration or 1 / c.unit) if other == name else 0.0
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


def together_settings(cfg: DictConfig, derived: DictConfig, data: Data) -> dict[str, Any]:
    """The settings that matter to it: those of a calibration, the references, and how the weights ascend."""
    of_each = {str(name): {"reference": c.epsilon, "unit": c.unit} for name, c in derived.constraints.items()}
    return calibration_settings(cfg, data) | {
        "together": {"constraints": of_each, "optimizer": OmegaConf.to_container(derived.multiplier.optimizer, resolve=True)}
    }


def uses_critics(cfg: DictConfig) -> bool:
    """Whether a divergence of the config has a critic."""
    return any("network" in c.divergence for c in cfg.constraints.values())


def calibration_settings(cfg: DictConfig, data: Data) -> dict[str, Any]:
    """The settings that matter to a calibration: those that could change θ* or ε̂."""
    derived = calibration_config(cfg)

    def plain(key: str) -> Any:
        return OmegaConf.to_container(OmegaConf.select(derived, key), resolve=True)

    constraints = {
        str(name): {
            "divergence": OmegaConf.to_container(c.divergence, resolve=True),
            "weight": c.calibration,
        }
        for name, c in derived.constraints.items()
    }
    chosen = {k: cfg.data[k] for k in ("name", "likelihood", "batch", "split_seed", "val", "test", "draws")}
    return {
        "data": chosen | {"shape": list(data.shape), "content": digest(data)},
        "model": plain("model"),
        "constraints": constraints,
        "calibration": {"steps": cfg.calibration.steps, "seed": cfg.calibration.seed, "split": cfg.calibration.split},
        "gradient_clip": cfg.training.gradient_clip,
        "average": cfg.training.average,
        "critic": {"optimizer": plain("critic.optimizer"), "steps": cfg.critic.steps} if uses_critics(cfg) else None,
        "precision": str(cfg.trainer.precision),
    }


def calibration_folder(cfg: DictConfig, settings: Mapping[str, Any]) -> Path:
    """Where the calibration of these settings is kept."""
    return Path(cfg.paths.calibrations) / f"{cfg.data.name}-{cfg.model.name}-{fingerprint(settings)}"
