"""Which setting decides what: calibrations, ensembles and comparisons."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for the settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Keys whose values differ, as "key: a → b", where a branch that one of them lacks is "none"."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [*a, *(k for k in b if k not in a)]
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{at}.{k}" if at else str(k))]
    return [] if a == b else [f"{at}: {_short(a)} → {_short(b)}"]


def _short(value: Any) -> str:
    return "none" if value is None else "given" if isinstance(value, Mapping) else str(value)


ASIDE = (
    "name",
    "folder",
    "label",
    "resume",
    "paths",
    "logger",
    "launcher",
    "callbacks.figures",
    "training.threads",
    "data.workers",
)
"""Settings that do not decide about the numbers of a run, or about where they are written."""

OWN = ("family", "alpha", "epsilon", "seed", "data.seed", "calibration", "multiplier", "training.start", "model.optimizer.lr")
"""Settings in which the runs of an ensemble may differ, beside numbers of constraints."""

SHARED_OF_CONSTRAINTS = ("divergence",)


def deciding_settings(cfg: DictConfig) -> dict[str, Any]:
    plain = without(OmegaConf.to_container(cfg, resolve=True), ASIDE)
    plain["trainer"] = {"precision": str(plain.get("trainer", {}).get("precision"))}
    # A file holds what JSON and YAML can tell apart; so does this.
    content: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return content


def without(node: Any, keys: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested dict without some dotted keys."""
    found: dict[str, Any] = copy.deepcopy(node)
    for key in keys:
        *parents, leaf = key.split(".")
        at: Any = found
        for parent in parents:
            at = at.get(parent) or {}
        at.pop(leaf, None)
    return found


SECTIONS = ("data", "model", "calibration", "training.steps", "training.start", "training.gradient_clip")

MEASURES = ("callbacks.final.terms", "callbacks.final.information", "trainer.precision")

FREE = ("data.seed", "data.workers", "data.source.root")
"""Of those sections: `data.seed` follows `seed`; workers and the place of a download decide about no number."""

SWEPT = ("epsilon", "gamma", "gamma_relative", "multiplier", "learned")
"""What tells the runs of a sweep apart, of each constraint."""


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as dotted key → value; lists are values."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{key}.{name}" if key else str(name)).items()}


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


@dataclass(frozen=True)
class ComparedSettings:
    """The settings of a run, flat, by who must share them.

    shared: all runs of a comparison. own: beyond that, the runs of one method. varied: nobody; they tell its runs apart.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], calibrated: Mapping[str, float]) -> ComparedSettings:
        """Sort a resolved config; `calibrated` is constraint → ε̂, the same for all runs of one calibration."""
        constraints: Mapping[str, Mapping[str, Any]] = config["constraints"]
        shared: dict[str, Any] = {}
        for key in (*SECTIONS, *MEASURES):
            shared |= flat(select(config, key), key)
        for name, constraint in constraints.items():
            shared |= flat({k: v for k, v in constraint.items() if k not in SWEPT}, f"constraints.{name}")
        shared |= {f"ε̂ of {name} (its calibration)": value for name, value in calibrated.items()}
        return cls(
            shared={key: value for key, value in shared.items() if key not in FREE},
            own=flat(select(config, "multiplier.optimizer"), "multiplier.optimizer") | {"divergence": sorted(constraints)},
            varied=flat({"alpha": config["alpha"], **{n: {k: c.get(k) for k in SWEPT} for n, c in constraints.items()}}),
        )


def disagreements(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In words, every key that has several values among some runs, with two of them and who has them.

    A run without a constraint has nothing to say about it; any other key that a run lacks is "none" there.

    Args:
        settings: run → key → value.
    """
    found = []
    for key in dict.fromkeys(k for values in settings.values() for k in values):
        optional = key.startswith(("constraints.", "ε̂"))
        runs: dict[str, list[str]] = {}
        for name, values in settings.items():
            if key in values or not optional:
                runs.setdefault(_text(values.get(key)), []).append(name)
        if len(runs) > 1:
            (a, at_a), (b, at_b) = list(runs.items())[:2]
            others = f", among {len(runs)} values" if len(runs) > 2 else ""
            found.append(f"{key} is {a} in {_such_as(at_a)} and {b} in {_such_as(at_b)}{others}")
    return found


def _text(value: Any) -> str:
    """A value as it is compared and shown; 1 and 1.0 are the same."""
    whole = isinstance(value, float) and value.is_integer()
    return "none" if value is None else str(int(value) if whole else value)


def _such_as(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs such as {names[0]}"
