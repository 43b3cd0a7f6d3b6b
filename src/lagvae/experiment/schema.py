"""The config's schema: Hydra checks the type of every value against it before anything runs."""

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

MOVED_OPTIONS = {
    ("launcher", "stacked"): "ensemble",
    ("launcher", "joblib"): "processes",
    ("divergence", "written"): "symbolic",
    ("posterior", "laplace"): "translation_l1",
    ("posterior", "normal"): "translation_l2; N(μ(x), diag σ(x)²), the encoder of a VAE, is posterior=gaussian",
}
"""Options that have a new name: group and old option → new option, with what else one may have meant by the old one."""


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
    """The preference: α > 0 minimises information, α < 0 maximises it."""

    q: float = 0.0
    p: float = 0.0


@dataclass
class EpsilonConfig:
    """The source of the bounds: calibrated (ε̂ + γ), explicit (numbers) or none: bounds only where epsilon is given."""

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
    """One constraint; see `lagvae.lagrangian.Constraint`. `warm_up` is a share of training.steps."""

    divergence: Any = MISSING
    epsilon: float | None = None
    gamma: float = 0.0
    gamma_relative: bool = False
    multiplier: float | None = 1.0
    learned: bool = "${multiplier.learned}"  # type: ignore[assignment]
    scale: float = 1.0
    max_multiplier: float = 100.0
    warm_up: float | None = 0.0
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
    slacks: list[float] | None = None


@dataclass
class CalibrationConfig:
    """How θ* is trained, and on which split ε̂ is measured. (The bounds that follow from ε̂ hold on training data.)"""

    steps: Any = MISSING
    seed: int = 0
    split: str = "val"


@dataclass
class LauncherConfig:
    """Where the runs of a sweep train, how many of them in one job, and whether its plan is only printed."""

    executor: Any = None
    runs_per_job: Any = "auto"
    compile: bool = True
    dry_run: bool = False


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
    match: str | None = None
    resume: str | None = None
    debug: str | None = None
    trust: Any = None
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
class DataConfig(Config):
    """The config of data.py: a config of train.py, and the file of the picture."""

    picture: str = MISSING


@dataclass
class EvaluateConfig:
    """The config of evaluate.py."""

    run: str = "latest"
    checkpoint: str = "last"
    trust: Any = None
    trainer: dict[str, Any] = field(default_factory=dict)
    paths: PathsConfig = field(default_factory=PathsConfig)
