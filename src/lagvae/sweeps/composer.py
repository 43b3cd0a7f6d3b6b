"""Compose the configs of many runs: what their groups choose is composed once, and their values are set on copies of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from omegaconf import MISSING, DictConfig, OmegaConf

from lagvae.experiment.own_code import settle_nodes
from lagvae.experiment.settings import (
    PLAIN_INTERPOLATION,
    assign,
    full_paths,
    kept_references,
    leaves,
    stored_settings,
)
from lagvae.sweeps.sweep_run import SweepRun, compose_run, prepare_config, settle_run_precision


class Composer:
    """Composes the configs of many lists of overrides.

    Hydra reads and merges the files of all groups first, and then sets the values of the command line. The first step takes
    nearly all of the time and is the same for runs that differ in values only.

    Args:
        load: composes a config from overrides. is_group: whether the key of an override names a group of options.
    """

    def __init__(self, load: Callable[[list[str]], DictConfig], is_group: Callable[[str], bool]) -> None:
        self.load, self.is_group = load, is_group
        self.composed: dict[tuple[str, ...], bytes] = {}  # which are copied several times faster than a config
        self.templates: dict[tuple[Any, ...], Template | None] = {}

    @classmethod
    def of_sweep(cls, loader: ConfigLoaderImpl, sweep: DictConfig) -> Composer:
        """The composer of the runs of a sweep, from Hydra's loader and the config of the sweep."""
        words = list(sweep.hydra.overrides.hydra)
        _, repository = loader._parse_overrides_and_create_caching_repo(sweep.hydra.job.config_name, words)
        return cls(lambda overrides: loader.load_sweep_config(sweep, overrides), repository.group_exists)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config that Hydra composes from the overrides of one run, without what user-defined classes do not take."""
        parsed = [parse_word(word) for word in overrides]
        chosen = tuple(str(o.input_line) for o in parsed if o.is_hydra_override() or self.is_group(o.key_or_group))
        if chosen not in self.composed:
            self.composed[chosen] = pickle.dumps(self.load(list(chosen)))
        cfg: DictConfig = pickle.loads(self.composed[chosen])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o.input_line not in chosen], cfg)
        settle_nodes(cfg, overrides)
        return cfg

    def run(self, overrides: Sequence[str]) -> SweepRun:
        """The run of these overrides, as `compose_run` makes it of their config.

        Runs that set other numbers and names under the same keys are made of one template, thirty times faster.
        """
        parsed = [parse_word(word) for word in overrides]
        own = [o for o in parsed if not self.is_group(o.key_or_group)]
        values = {o.key_or_group: o for o in own if sets_value(o)}
        keys = [o.key_or_group for o in own]
        if len(set(keys)) < len(keys) or any(a.startswith(f"{b}.") for a in keys for b in keys):
            return compose_run(lambda: self.compose(overrides))  # the order of the words matters
        same = (tuple(values), tuple(str(o.input_line) for o in parsed if o.key_or_group not in values))
        if same not in self.templates:
            cfg = prepare_config(self.compose(overrides))
            self.templates[same] = None if cfg.match is not None else Template(cfg, list(values))
        template = self.templates[same]
        return compose_run(lambda: self.compose(overrides)) if template is None else template.run(list(values.values()))


@lru_cache(10_000)
def parse_word(word: str) -> Override:
    """The override that a word is, which is only read."""
    (parsed,) = OverridesParser.create().parse_overrides([word])
    return parsed


def sets_value(override: Override) -> bool:
    """Whether an override sets a number, a text, true, false or null, of which nothing else is composed or built."""
    value = override.value()
    text = value.text if isinstance(value, QuotedString) else value
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and not override.is_hydra_override()
        and not override.key_or_group.endswith("_target_")
        and override.key_or_group not in ("match", "resume")
        and (text is None or isinstance(text, str | int | float))
        and "${" not in str(text)
        and text != MISSING
    )


class Template:
    """The settings of a run, in which those of others are set that give other values to the same keys.

    Only what is set and what refers to it, as data.seed does to seed, is then asked of OmegaConf.

    Args:
        cfg: the config of one of these runs, not resolved. keys: the dotted keys that they set.
    """

    def __init__(self, cfg: DictConfig, keys: Sequence[str]) -> None:
        self.cfg, self.plain = cfg, pickle.dumps(stored_settings(cfg, references=False))
        self.changing = [*keys, *referring(cfg, keys)]
        kept = kept_references(cfg)
        self.references = {key: kept[key] for key in kept if key not in keys}

    def run(self, values: Sequence[Override]) -> SweepRun:
        """The run with these values, one for each of the keys."""
        ConfigLoaderImpl._apply_overrides_to_config(list(values), self.cfg)
        plain = pickle.loads(self.plain)
        for key in self.changing:
            value = OmegaConf.select(self.cfg, key)
            assign(plain, {key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value})
        assign(plain, full_paths(plain))
        settle_run_precision(plain)
        return SweepRun(plain, references=self.references)


def referring(cfg: DictConfig, keys: Sequence[str]) -> list[str]:
    """The dotted keys of the texts that refer to some keys, directly or not, or in a way that only OmegaConf understands."""
    texts = {key: value for key, value in leaves(OmegaConf.to_container(cfg)) if isinstance(value, str) and "${" in value}
    changed, found = set(keys), list[str]()
    while new := [key for key, text in texts.items() if key not in changed and may_refer(text, changed)]:
        changed |= set(new)
        found += new
    return found


def may_refer(text: str, keys: set[str]) -> bool:
    """Whether a text with interpolations may refer to one of these keys, or to a node above or below one."""
    names = [name for name in PLAIN_INTERPOLATION.findall(text) if not name.startswith("oc.env:")]
    if "${" in PLAIN_INTERPOLATION.sub("", text) or any(name.startswith(".") for name in names):
        return True
    return any(f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.") for name in names for key in keys)
