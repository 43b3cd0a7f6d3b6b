"""The typed shape of a config: what Hydra checks every value against before anything runs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pydoc import locate
from types import UnionType
from typing import Any, Union

from omegaconf import MISSING

from lagvae.errors import SettingError


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

    engine: Any = None
    cells_per_job: Any = "auto"
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


# ---- nodes with a _target_, which no schema knows: what their target takes is their schema

PLAIN: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def check_nodes(node: Any, key: str = "") -> None:
    """Raise SettingError where a `_target_` does not exist, or does not take a setting beside it, by its name or its type.

    Args:
        node: a config or a part of one, as plain dicts and lists; interpolations are left to the place they point to.
        key: where it stands.
    """
    if not isinstance(node, Mapping):
        return
    if (target := node.get("_target_")) is not None:
        _check_node(node, str(target), key)
    for name, value in node.items():
        check_nodes(value, f"{key}.{name}" if key else str(name))


def _check_node(node: Mapping[Any, Any], target: str, key: str) -> None:
    try:
        taker: Any = locate(target)
    except Exception as error:  # whatever a module does while it is imported
        raise SettingError(f"{key}._target_={target} cannot be imported: {error}.") from error
    if not callable(taker):
        raise SettingError(f"{key}._target_={target} does not exist; name a class or function by its full path.")
    parameters = inspect.signature(taker).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        hints = typing.get_type_hints(taker.__init__ if inspect.isclass(taker) else taker)
    except NameError:  # annotations that are only there for a type checker
        hints = {}
    for name, value in node.items():
        if str(name).startswith("_"):
            continue
        if name not in parameters and not takes_all:
            raise SettingError(f"{key}.{name} is unknown; {target} takes {', '.join(parameters)}.")
        if not fits(value, hints.get(name, Any)):
            raise SettingError(f"{key}.{name}={value} must be {in_words(hints[name])}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value of a config may stand where the annotation says `hint`; True where that cannot be told."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) or (isinstance(value, str) and value.startswith("${")):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in options)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(any(fits(v, option) for option in options) for v in value)
    if not isinstance(hint, type) or hint in (Any, object):
        return True
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def in_words(hint: Any) -> str:
    """What a user may write where the annotation says `hint`."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple, Sequence):
        return f"a list, each {in_words(options[0])}"
    if origin in (Union, UnionType):
        plain = [in_words(option) for option in options if option in PLAIN or option is type(None)]
        return " or ".join(plain) or str(hint)
    if hint is type(None):
        return "null"
    return PLAIN.get(hint) or f"a config node with the _target_ of a {getattr(hint, '__name__', hint)}"
