"""Which setting decides what: a calibration, an ensemble, a comparison, or nothing but where and how fast a run is computed.

`RULES` is the one table; calibrations, ensembles and comparisons all ask it. A new setting needs a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Rule:
    """What a setting decides.

    calibration: whether it decides θ* and ε̂, so that a calibration made with another value does not fit.
    ensemble: "same" where all members of an ensemble must have it alike, "differs" where each has its own.
    comparison: "same" where all runs that are compared must have it alike, "method" where those of one method must,
        "varies" where it tells the runs of a method apart, "ignored" where it does not matter.
    machine: whether it decides about no number, only about where a run is kept, shown or computed.
    """

    calibration: bool
    ensemble: Literal["same", "differs"]
    comparison: Literal["same", "method", "varies", "ignored"]
    machine: bool = False


MACHINE = Rule(False, "differs", "ignored", machine=True)

RULES: dict[str, Rule] = {
    # what a run is called, and where it is kept, shown and computed
    **dict.fromkeys(("name", "folder", "label", "resume", "paths", "logger", "launcher"), MACHINE),
    **dict.fromkeys(("trainer", "training.threads", "data.workers", "callbacks.figures"), MACHINE),
    "trainer.precision": Rule(True, "same", "same"),
    # the problem: what is preferred, and within which bounds
    "family": Rule(False, "differs", "ignored"),
    "alpha": Rule(False, "differs", "varies"),
    "epsilon": Rule(False, "differs", "ignored"),
    "constraints.*.divergence": Rule(True, "same", "same"),
    "constraints.*.epsilon": Rule(False, "differs", "varies"),
    "constraints.*.gamma": Rule(False, "differs", "varies"),
    "constraints.*.gamma_relative": Rule(False, "differs", "varies"),
    "constraints.*.multiplier": Rule(False, "differs", "varies"),
    "constraints.*.learned": Rule(False, "differs", "varies"),
    "constraints.*.scale": Rule(False, "differs", "same"),
    "constraints.*.max_multiplier": Rule(False, "differs", "same"),
    "constraints.*.calibration_weight": Rule(True, "differs", "same"),
    "kernel": Rule(False, "same", "ignored"),  # the divergences that take a kernel hold it
    # how the multipliers ascend; an ensemble has one optimizer of λ, see lagvae.sweeps.plan
    "multiplier.learned": Rule(False, "differs", "ignored"),
    "multiplier.rate": Rule(False, "differs", "ignored"),  # the optimizer holds it
    "multiplier.optimizer": Rule(False, "differs", "method"),
    # the data; a calibration has a digest of the samples themselves in place of their source
    "data": Rule(True, "same", "same"),
    "data._target_": Rule(False, "same", "same"),
    "data.source": Rule(False, "same", "same"),
    "data.source.root": Rule(False, "same", "ignored"),
    "data.seed": Rule(False, "differs", "ignored"),  # follows `seed`
    # the networks and how they are trained
    "model": Rule(True, "same", "same"),
    "model.optimizer.lr": Rule(True, "differs", "same"),
    "critic.optimizer": Rule(True, "same", "ignored"),
    "critic.steps": Rule(True, "same", "ignored"),
    "critic.network": Rule(False, "same", "ignored"),  # the divergences that have a critic hold it
    "seed": Rule(False, "differs", "ignored"),
    "calibration": Rule(True, "differs", "same"),
    "training.steps": Rule(False, "same", "same"),
    "training.start": Rule(False, "differs", "same"),
    "training.interval": Rule(False, "same", "ignored"),
    "training.log_every": Rule(False, "same", "ignored"),
    "training.gradient_clip": Rule(True, "same", "same"),
    "training.average": Rule(True, "same", "same"),
    # what is measured
    "callbacks.training": Rule(False, "same", "ignored"),
    "callbacks.final": Rule(False, "same", "ignored"),
    "callbacks.final.terms": Rule(False, "same", "same"),
    "callbacks.final.information": Rule(False, "same", "same"),
}
"""Setting → what it decides. A row holds for all settings below its key that have no row of their own; * is any one name."""

UNKNOWN = Rule(True, "same", "same")
"""A setting without a row, of a run that another version made, is taken to decide everything."""


def find_rule(key: str) -> Rule | None:
    """The row of a setting: the most specific one that covers it; None where there is none."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        own = parts[:length]
        starred = [own[0], "*", *own[2:]] if length > 1 else own
        for candidate in (own, starred):
            if (rule := RULES.get(".".join(candidate))) is not None:
                return rule
    return None


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as dotted key → value; lists are values."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {k: v for name, part in value.items() for k, v in flatten(part, f"{key}.{name}" if key else str(name)).items()}


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def settings_where(config: Mapping[str, Any] | DictConfig, chosen: Callable[[Rule], bool]) -> dict[str, Any]:
    """The settings of a config whose rule is chosen, flat, as plain values that JSON holds."""
    plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    found = {key: value for key, value in flatten(plain).items() if chosen(find_rule(key) or UNKNOWN)}
    if "trainer.precision" in found:
        found["trainer.precision"] = str(found["trainer.precision"])  # 32 and "32" are one precision
    content: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return content


def deciding_settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings that decide about the numbers of a run, flat."""
    return settings_where(cfg, lambda rule: not rule.machine)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for the settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, as "key: a → b"; a setting that one of them lacks is "none" there."""
    keys = [*a, *(key for key in b if key not in a)]
    return [f"{key}: {_text(a.get(key))} → {_text(b.get(key))}" for key in keys if a.get(key) != b.get(key)]


# ---- runs that are compared


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
        shared = settings_where(config, lambda rule: rule.comparison == "same")
        return cls(
            shared=shared | {f"ε̂ of {name} (its calibration)": value for name, value in calibrated.items()},
            own=settings_where(config, lambda rule: rule.comparison == "method")
            | {"divergence": sorted(config["constraints"])},
            varied=settings_where(config, lambda rule: rule.comparison == "varies"),
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
