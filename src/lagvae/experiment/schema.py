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
    """Whether multipliers are learned, and by which optimizer, at which rate."""

    learned: bool = MISSING
    rate: float | None = None
    optimizer: Any = None


@dataclass
class ConstraintConfig:
    """One constraint, see `lagvae.lagrangian.Constraint`."""

    divergence: Any = MISSING
    epsilon: float | None = None
    gamma: float = 0.0
    gamma_relative: bool = False
    multiplier: float = 1.0
    learned: bool = "${multiplier.learned}"  # type: ignore[assignment]
    scale: float = 1.0
    max_multiplier: float = 100.0
    calibration_weight: float = 1.0


@dataclass
class TrainingConfig:
    """Length and rhythm of training."""

    steps: int = MISSING
    interval: int = MISSING
    log_every: int = 50
    gradient_clip: float | None = None
    start: str = "calibrated"
    threads: int | None = None
    average: float | None = None


@dataclass
class CalibrationConfig:
    """How θ* is found and ε̂ measured."""

    steps: int = MISSING
    seed: int = 0
    split: str = "val"


@dataclass
class LauncherConfig:
    """Where the cells of a sweep train, and how many in one job."""

    executor: Any = None
    runs_per_job: Any = "auto"
    compile: bool = True


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
    folder: str = "sweep"
    label: str = ""
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
    critic: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)


@dataclass
class ExplainConfig(Config):
    """A run of explain.py: a config of train.py, or an objective written out."""

    objective: str | None = None
    within: str | None = None
    table: str | None = None


@dataclass
class FeasibleConfig(Config):
    """A run of feasible.py: a config of train.py, and how the weights of the constraints ascend."""

    feasible: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """A run of evaluate.py."""

    run: str = "latest"
    checkpoint: str = "last"
    paths: PathsConfig = field(default_factory=PathsConfig)
