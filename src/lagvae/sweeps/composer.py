"""Compose the configs of many runs: what their groups choose is composed once, and their values are set on copies of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from lagvae.experiment.own_code import settle_nodes


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

    @classmethod
    def of_sweep(cls, loader: ConfigLoaderImpl, sweep: DictConfig) -> Composer:
        """The composer of the runs of a sweep, from Hydra's loader and the config of the sweep."""
        words = list(sweep.hydra.overrides.hydra)
        _, repository = loader._parse_overrides_and_create_caching_repo(sweep.hydra.job.config_name, words)
        return cls(lambda overrides: loader.load_sweep_config(sweep, overrides), repository.group_exists)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config that Hydra composes from the overrides of one run, without what user-defined classes do not take."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        chosen = tuple(str(o.input_line) for o in parsed if o.is_hydra_override() or self.is_group(o.key_or_group))
        if chosen not in self.composed:
            self.composed[chosen] = pickle.dumps(self.load(list(chosen)))
        cfg: DictConfig = pickle.loads(self.composed[chosen])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o.input_line not in chosen], cfg)
        settle_nodes(cfg, overrides)
        return cfg
