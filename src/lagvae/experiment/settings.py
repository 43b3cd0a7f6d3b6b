"""The role of every setting: whether it affects calibrations, ensembles and comparisons, or only where and how fast a run is
computed.

The table `RULES` is the single source for calibrations, ensembles and comparisons. A new setting needs a row in it, unless the
row of its group is true of it as well; one that no row covers counts as `UNKNOWN`. What an ensemble needs beyond single
settings (no critics, one optimizer of λ, one sign of alpha.p) is in `lagvae.sweeps.plan`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, UnsupportedInterpolationType

from lagvae.io import write_text


@dataclass(frozen=True)
class Rule:
    """The role of a setting.

    Attributes:
        calibration: whether it determines θ* and ε̂, so that a calibration made with another value does not fit.
        ensemble: "same" if all members of an ensemble must share its value, "differs" if each member may have its own: then
            `Ensemble` must hold a value for each member, or `lagvae.sweeps.plan` must keep such runs apart.
        comparison: "same" if all compared runs must share its value, "method" if the runs of one method must, "varies" if it
            distinguishes the runs of a method, "ignored" if it does not matter.
        machine: whether it affects no number, but only where a run is stored, shown or computed.
    """

    calibration: bool
    ensemble: Literal["same", "differs"]
    comparison: Literal["same", "method", "varies", "ignored"]
    machine: bool = False


MACHINE = Rule(False, "differs", "ignored", machine=True)

RULES: dict[str, Rule] = {
    # the name of a run, and where it is stored, shown and computed
    **dict.fromkeys(("name", "folder", "label", "match", "resume", "trust", "paths", "logger", "launcher"), MACHINE),
    **dict.fromkeys(
        ("trainer", "training.threads", "data.workers", "data.allow", "data.source.remembered", "callbacks.figures"), MACHINE
    ),
    "trainer.precision": Rule(True, "same", "same"),
    # the constrained problem: the preference and the bounds
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
    "constraints.*.warm_up": Rule(False, "differs", "method"),
    "constraints.*.calibration_weight": Rule(True, "differs", "same"),
    "kernel": Rule(False, "same", "ignored"),  # it appears in the settings of the divergences that use it
    # the optimizer of the multipliers; an ensemble has a single one, see lagvae.sweeps.plan
    "multiplier.learned": Rule(False, "differs", "ignored"),
    "multiplier.rate": Rule(False, "differs", "ignored"),  # it appears in the settings of the optimizer
    "multiplier.optimizer": Rule(False, "differs", "method"),
    # the data; a calibration depends on a digest of the samples instead of their source
    "data": Rule(True, "same", "same"),
    "data._target_": Rule(False, "same", "same"),
    "data.source": Rule(False, "same", "same"),
    "data.source.root": Rule(False, "same", "ignored"),
    "data.layout": Rule(False, "same", "same"),
    "data.seed": Rule(False, "differs", "ignored"),  # follows `seed`
    # the networks and how they are trained
    "model": Rule(True, "same", "same"),
    "model.optimizer.lr": Rule(True, "differs", "same"),
    "critic.optimizer": Rule(True, "same", "ignored"),
    "critic.steps": Rule(True, "same", "ignored"),
    "critic.network": Rule(False, "same", "ignored"),  # it appears in the settings of the divergences that use it
    "seed": Rule(False, "differs", "ignored"),
    "calibration": Rule(True, "differs", "same"),
    "training.steps": Rule(False, "same", "same"),
    "training.start": Rule(False, "differs", "same"),
    "training.slacks": Rule(False, "same", "method"),
    "training.interval": Rule(False, "same", "ignored"),
    "training.log_every": Rule(False, "same", "ignored"),
    "training.gradient_clip": Rule(True, "same", "same"),
    "training.average": Rule(True, "same", "same"),
    # the metrics
    "callbacks.training": Rule(False, "same", "ignored"),
    "callbacks.final": Rule(False, "same", "ignored"),
    "callbacks.final.budget": Rule(False, "same", "ignored"),
    "callbacks.final.terms": Rule(False, "same", "same"),
    "callbacks.final.information": Rule(False, "same", "same"),
    "callbacks.final.information.kde": Rule(False, "same", "ignored"),  # an estimate of its own, which no bound depends on
    # what others add: a callback may stop a run or change it, and a debug run is none that counts
    "callbacks.lightning": Rule(False, "same", "same"),
    "debug": Rule(True, "same", "same"),
}
"""Setting → its rule. A row applies to all settings below its key that have no row of their own; * stands for any one name."""

ADDED: dict[str, Any] = {
    **{"debug": None, "data.layout": "auto", "data.standardize": False, "data.source.attribute": None},
    "callbacks.final.attribute._target_": "lagvae.metrics.AttributeScores",
    **{"callbacks.final.attribute._partial_": True, "callbacks.final.attribute.samples": 5000},
}
"""Setting that was added when runs were stored already → the value that these had: with it, a run is the same as without.

A setting that decides about calibrations needs a row here; otherwise those that users have would not fit any more.
"""

UNKNOWN = Rule(True, "same", "same")
"""The rule of a setting without a row, which a run of another version may have: it is assumed to affect everything."""


@cache
def find_rule(key: str) -> Rule | None:
    """The most specific row that covers a setting, or None."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = parts[:length]
        wildcard = [prefix[0], "*", *prefix[2:]] if length > 1 else prefix
        for candidate in (prefix, wildcard):
            if (rule := RULES.get(".".join(candidate))) is not None:
                return rule
    return None


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted key → value. Lists are kept as values."""
    if not isinstance(value, dict | Mapping):  # a dict is told from others ten times faster than a mapping
        return {key: value}
    return {k: v for name, part in value.items() for k, v in flatten(part, f"{key}.{name}" if key else str(name)).items()}


class Attributes(dict[str, Any]):
    """Nested plain settings whose values are attributes too, as those of a config, which takes a hundred times longer to make.

    Examples:
        >>> Attributes.of({"alpha": {"q": -1.0}}).alpha.q
        -1.0
    """

    @classmethod
    def of(cls, value: Any) -> Any:
        """Nested dicts as `Attributes`; any other value as it is."""
        return cls({str(name): cls.of(part) for name, part in value.items()}) if isinstance(value, dict) else value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def settings_where(config: Mapping[str, Any] | DictConfig, chosen: Callable[[Rule], bool]) -> dict[str, Any]:
    """The settings of a config whose rule satisfies `chosen`, flat, as plain values that JSON can hold."""
    plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    settings = {key: value for key, value in flatten(plain).items() if chosen(find_rule(key) or UNKNOWN)}
    settings = {key: value for key, value in settings.items() if key not in ADDED or value != ADDED[key]}
    if "trainer.precision" in settings:
        settings["trainer.precision"] = str(settings["trainer.precision"])  # 32 and "32" are the same precision
    content: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return content


BUILT = ("alpha", "constraints", "critic", "epsilon", "model", "multiplier", "seed", "training")
"""The settings from which a model is built, whose checkpoint holds them. `lagvae.load` uses nothing else of a stored config."""

GOES_WITH = ("family", "data.batch", "data.draws", "data.seed")
"""Settings beside `BUILT` that decide about a run whose model and data are given; its checkpoint holds them too."""

AT_INTERVALS = ("training.interval", "training.log_every")
"""Settings of training that decide what is written and when."""

NAMES = ("name", "folder", "label", "match", "resume", "trust")
"""Settings that are names of folders and of runs."""

PLAIN_INTERPOLATION = re.compile(r"\$\{(oc\.env:[^{}]*|[\w.]+)\}")
"""A reference to the environment or to another setting, which makes no settings of a text."""


PATHS = (
    *("data.source.path", "data.source.root", "data.source.remembered", "epsilon.calibration"),
    *("paths.root", "paths.data", "paths.runs", "paths.calibrations"),
)
"""Settings that are files and folders. They are stored in full, so that a stored run works from any working directory."""


def full_paths(settings: Any) -> dict[str, str]:
    """The dotted key and the absolute path of every setting that is a path relative to the working directory or to the home."""
    found = {}
    for key in PATHS:
        value = select(settings, key)
        if isinstance(value, str) and value and "${" not in value and not os.path.isabs(value):
            full = os.path.abspath(os.path.expanduser(value))
            if key.startswith("paths.") or os.path.exists(full):  # one's own source may have another kind of path
                found[key] = full
    return found


def stored_settings(cfg: DictConfig, references: bool = True) -> dict[str, Any]:
    """The settings of a config as they are stored, as plain dicts and lists.

    All are resolved but what comes from the environment and decides about no number. A key or a password that is given as
    ${oc.env:NAME} is then in no file. What decides about numbers is stored as it was.

    Args:
        references: whether to leave references to the environment as they are.
    """
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    assign(settings, full_paths(settings) | (kept_references(cfg) if references else {}))
    return dict(settings)


def assign(settings: Any, values: Mapping[str, Any]) -> None:
    """Set the values of dotted keys in nested dicts and lists."""
    for key, value in values.items():
        *path, name = key.split(".")
        node = settings
        for part in path:
            node = node[int(part) if isinstance(node, list) else part]
        node[int(name) if isinstance(node, list) else name] = value


class SettingsDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes plain settings as OmegaConf writes a config, several times faster."""


SettingsDumper.add_representer(str, get_omega_conf_dumper().str_representer)


def write_settings(cfg: DictConfig, path: Path) -> None:
    """Write the `stored_settings` of a config, atomically."""
    write_text(path, yaml.dump(stored_settings(cfg), Dumper=SettingsDumper, sort_keys=False, allow_unicode=True))


def stored_config(cfg: DictConfig) -> DictConfig:
    """`stored_settings` as a config that has the types of `cfg`."""
    stored: DictConfig = pickle.loads(pickle.dumps(cfg))  # several times faster than copy.deepcopy
    try:
        OmegaConf.resolve(stored)
    except OmegaConfBaseException:
        OmegaConf.to_container(stored, resolve=True)  # whose error knows the setting
        raise
    with flag_override(stored, ["struct", "readonly"], False):
        for key, value in (full_paths(OmegaConf.to_container(stored)) | kept_references(cfg)).items():
            OmegaConf.update(stored, key, value)
    return stored


def kept_references(cfg: DictConfig) -> dict[str, str]:
    """The dotted key and the text of every setting that is stored as a reference to the environment."""
    plain = OmegaConf.to_container(cfg)
    return {
        key: value
        for key, value in leaves(plain)
        if isinstance(value, str)
        and "${" in value
        and not key.startswith(NAMES)
        and (key.startswith("data.source.") or (find_rule(key) or UNKNOWN).machine)
        and is_from_environment(value, plain)
        and "${" not in PLAIN_INTERPOLATION.sub("", value)
    }


def is_from_environment(value: Any, settings: Any) -> bool:
    """Whether a value has a reference to the environment, or to another setting that has one."""
    references = PLAIN_INTERPOLATION.findall(value) if isinstance(value, str) else []
    return any(r.startswith("oc.env:") or is_from_environment(select(settings, r), settings) for r in references)


BROKEN = {
    r"Interpolation key '(.+)' not found": "there is no setting {}. Name one that there is",
    r".*Environment variable '(.+)' not found": "the environment has no variable {}. Set that",
    r"(Recursive) interpolation": "it leads back to itself. Name another setting",
}
"""What OmegaConf says of a reference → what to tell of it."""


def broken_reference(error: BaseException) -> str | None:
    """The setting whose reference to another one, or to the environment, cannot be followed; None for any other error."""
    kinds = (InterpolationResolutionError, UnsupportedInterpolationType)
    if not isinstance(error, kinds) or error.full_key is None or error.parent_node is None:
        return None
    root: Any = error.parent_node._get_root()
    plain: Any = OmegaConf.to_container(root)
    key, seen = str(error.full_key), set[str]()
    while key not in seen:  # until the setting that is broken itself
        seen.add(key)
        for name in PLAIN_INTERPOLATION.findall(str(select(plain, key))):
            try:
                OmegaConf.select(root, name)
            except OmegaConfBaseException:
                key = name if "${" in str(select(plain, name)) else key
    said = str(error).splitlines()[0].rstrip(".")
    told = (reason.format(found[1]) for text, reason in BROKEN.items() if (found := re.match(text, said)))
    text = select(plain, key)
    return f"{key}{'' if text is None else f'={text}'}: {next(told, f'{said}. Correct it')}, or give {key} a value."


def leaves(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and the value of everything in nested dicts and lists that is neither."""
    if isinstance(settings, Mapping | list):
        for name, value in settings.items() if isinstance(settings, Mapping) else enumerate(settings):
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, settings


def deciding_settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings that affect the numbers of a run, flat."""
    return settings_where(cfg, lambda rule: not rule.machine)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A hash of the settings, as eight hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


FOLLOWS = {"data.seed": "seed", "multiplier.optimizer.lr": "multiplier.rate", "multiplier.optimizer.steps": "training.steps"}
"""Setting → the one whose value it takes in conf/, unless a user sets it."""


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The settings whose values differ, each as "key: a → b". A missing setting is shown as "none".

    A setting that differs only because it follows another one is left out.
    """
    keys = [*a, *(key for key in b if key not in a)]
    values = {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
    own = [key for key in values if values.get(FOLLOWS.get(key, "")) != values[key]]
    return [f"{key}: {setting_text(a.get(key))} → {setting_text(b.get(key))}" for key in own]


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any], more: bool = True) -> list[str]:
    """What differs between the settings in a checkpoint and those in the config of its run; see `differences`.

    Args:
        more: whether to compare `GOES_WITH` too, and not only the settings from which the model is built.
    """

    def chosen(config: Mapping[str, Any]) -> dict[str, Any]:
        built = settings_where({key: config[key] for key in BUILT if key in config}, lambda rule: not rule.machine)
        found = {key: value for key, value in built.items() if key not in AT_INTERVALS}
        return found | ({key: select(config, key) for key in GOES_WITH} if more else {})

    return differences(chosen(then), chosen(now))


# ---- comparisons of runs


@dataclass(frozen=True)
class ComparedSettings:
    """The settings of a run, flat, grouped by which runs of a comparison must share them.

    Attributes:
        shared: those that all runs must share. own: those that only the runs of one method must share.
        varied: those that distinguish the runs of a method.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], calibrated: Mapping[str, float]) -> ComparedSettings:
        """Group the settings of a resolved config. `calibrated`: constraint → ε̂, shared by the runs of one calibration."""
        shared = settings_where(config, lambda rule: rule.comparison == "same")
        return cls(
            shared=shared | {f"ε̂ of {name} (its calibration)": value for name, value in calibrated.items()},
            own=settings_where(config, lambda rule: rule.comparison == "method")
            | {"divergence": sorted(config["constraints"])},
            varied=settings_where(config, lambda rule: rule.comparison == "varies"),
        )


def disagreements(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for every setting on which some runs disagree, with two of its values and runs that have them.

    A run without a constraint is left out for the settings of that constraint. Any other missing setting counts as "none".

    Args:
        settings: run → key → value.
    """
    sentences = []
    for key in dict.fromkeys(k for values in settings.values() for k in values):
        optional = key.startswith(("constraints.", "ε̂"))
        runs: dict[str, list[str]] = {}
        for name, values in settings.items():
            if key in values or not optional:
                runs.setdefault(setting_text(values.get(key)), []).append(name)
        if len(runs) > 1:
            (a, runs_a), (b, runs_b) = list(runs.items())[:2]
            others = f", among {len(runs)} values" if len(runs) > 2 else ""
            sentences.append(f"{key} is {a} in {_such_as(runs_a)} and {b} in {_such_as(runs_b)}{others}")
    return sentences


def setting_text(value: Any) -> str:
    """A value as text, for comparison and display: 1 and 1.0 are the same."""
    whole = isinstance(value, float) and value.is_integer()
    return "none" if value is None else str(int(value) if whole else value)


def _such_as(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs such as {names[0]}"
