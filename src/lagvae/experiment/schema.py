"""The config's schema: Hydra checks the type of every value against it before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class AlphaConfig:
    """The preference: α > 0 minimises information, α < 0 maximises it."""

    q: float = 0.0
    p: float = 0.0


@dataclass
class EpsilonConfig:
    """The source of the bounds: calibrated (ε̂ + γ), explicit (given numbers) or none (penalties only)."""

    source: str = MISSING
    calibration: str | None = None


@dataclass
class MultiplierConfig:
    """Whether multipliers are learned, with which optimizer and learning rate."""

    learned: bool = MISSING
    rate: float | None = None
    optimizer: Any = None


@dataclass
class ConstraintConfig:
    """One constraint; see `lagvae.lagrangian.Constraint`."""

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
    """The number of training steps, the interval between evaluations, and further settings of training."""

    steps: int = MISSING
    interval: int = MISSING
    log_every: int = 50
    gradient_clip: float | None = None
    start: str = "calibrated"
    threads: int | None = None
    average: float | None = None


@dataclass
class CalibrationConfig:
    """How θ* is trained, and on which split ε̂ is measured."""

    steps: int = MISSING
    seed: int = 0
    split: str = "val"


@dataclass
class LauncherConfig:
    """Where the runs of a sweep train, and how many of them in one job."""

    executor: Any = None
    runs_per_job: Any = "auto"
    compile: bool = True


@dataclass
class PathsConfig:
    """The folders of data, runs and calibrations."""

    root: str = MISSING
    data: str = "${paths.root}/data"
    runs: str = "${paths.root}/runs"
    calibrations: str = "${paths.root}/calibrations"


@dataclass
class Config:
    """The config of train.py and calibrate.py."""

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
    """The config of explain.py: a config of train.py, or an objective as text."""

    objective: str | None = None
    within: str | None = None
    table: str | None = None


@dataclass
class FeasibleConfig(Config):
    """The config of feasible.py: a config of train.py, and the optimizer of the weights of the constraints."""

    feasible: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """The config of evaluate.py."""

    run: str = "latest"
    checkpoint: str = "last"
    paths: PathsConfig = field(default_factory=PathsConfig)
