"""The typed shape of a config: what Hydra checks every value against before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from lagvae.errors import CheckpointError

MOVED = {
    "constraints.*.unit": "constraints.*.scale",
    "constraints.*.largest": "constraints.*.max_multiplier",
    "constraints.*.relative": "constraints.*.gamma_relative",
    "constraints.*.calibration": "constraints.*.calibration_weight",
    "constraints.written": "constraints.symbolic",
    "launcher.engine": "launcher.executor",
    "launcher.cells_per_job": "launcher.runs_per_job",
    "cell": "overrides",
}
"""Settings that have a new name: old key → new key, where * stands for any name."""

MOVED_OPTIONS = {("launcher", "stacked"): "ensemble", ("divergence", "written"): "symbolic"}
"""Options that have a new name: group and old option → new option."""


def new_name(key: str) -> str | None:
    """The new name of a setting that was moved, or that lies below one that was; None for all others."""
    parts = key.split(".")
    for old, new in MOVED.items():
        pattern = old.split(".")
        if len(parts) >= len(pattern) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=False)):
            parts[: len(pattern)] = [part if p == "*" else p for p, part in zip(new.split("."), parts, strict=False)]
    moved = ".".join(parts)
    return None if moved == key else moved


def check_moved(cfg: DictConfig, source: str) -> None:
    """Raise CheckpointError where the config of a run has settings under names that they no longer have.

    Args:
        source: what holds the config, for the message.
    """
    found = [f"{key} is now {name}" for key in _keys(OmegaConf.to_container(cfg)) if (name := new_name(key))]
    if found:
        raise CheckpointError(
            f"{source} was written by an earlier version, whose runs this one cannot continue: {'; '.join(found)}. Train "
            "the run again with the new names."
        )


def _keys(node: Any, key: str = "") -> Iterator[str]:
    """The dotted keys of nested settings; nothing below a setting that was moved."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            full = f"{key}.{name}" if key else str(name)
            yield full
            if new_name(full) is None:
                yield from _keys(value, full)


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
