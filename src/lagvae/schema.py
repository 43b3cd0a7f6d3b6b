"""The typed shape of a config: what Hydra checks every value against before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class AlphaConfig:
    """Preference: α > 0 minimises, α < 0 maximises information."""

    q: float = 0.0
    p: float = 0.0


@dataclass
class EpsilonConfig:
    """Where bounds come from: calibrated (ε̂ + γ), explicit (the numbers given), none (penalties only)."""

    source: str = MISSING
    calibration: str | None = None


@dataclass
class MultiplierConfig:
    """Whether multipliers are learned, and by which optimizer."""

    learned: bool = MISSING
    optimizer: Any = None


@dataclass
class ConstraintConfig:
    """One constraint, see `lagvae.lagrangian.Constraint`."""

    divergence: Any = MISSING
    epsilon: float | None = None
    gamma: float = 0.0
    relative: bool = False
    multiplier: float = 1.0
    learned: bool = "${multiplier.learned}"  # type: ignore[assignment]
    unit: float = 1.0
    largest: float = 100.0
    calibration: float = 1.0


@dataclass
class TrainingConfig:
    """Length and rhythm of training."""

    steps: int = MISSING
    interval: int = MISSING
    log_every: int = 50
    gradient_clip: float | None = None
    start: str = "calibrated"
    threads: int | None = None


@dataclass
class CalibrationConfig:
    """How θ* is found and ε̂ measured."""

    steps: int = MISSING
    seed: int = 0
    split: str = "val"


@dataclass
class PathsConfig:
    """Where things are kept."""

    root: str = MISSING
    data: str = "${paths.root}/data"
    runs: str = "${paths.root}/runs"
    calibrations: str = "${paths.root}/calibrations"


@dataclass
class Config:
    """A run of train.py or calibrate.py."""

    family: str = MISSING
    name: str = MISSING
    seed: int = 0
    resume: str | None = None
    alpha: AlphaConfig = field(default_factory=AlphaConfig)
    epsilon: EpsilonConfig = field(default_factory=EpsilonConfig)
    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)
    constraints: dict[str, ConstraintConfig] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    kernel: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """A run of evaluate.py."""

    run: str = "latest"
    checkpoint: str = "last"
    paths: PathsConfig = field(default_factory=PathsConfig)
