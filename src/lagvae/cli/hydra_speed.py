"""What Hydra and OmegaConf do more than once, done once: they make the same configs, in less than half the time."""

from __future__ import annotations

import pickle
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core import utils
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, _utils, base
from omegaconf.grammar_parser import parse

Plugins.instance()  # it loads the class that reads files, and registers it
FILES: list[Any] = [SourcesRegistry.instance().resolve(scheme) for scheme in ("file", "pkg")]
"""The classes that read the files of conf/, and Hydra's own."""

_compose_mode = Hydra.get_mode
_load_config = {kind: kind.load_config for kind in FILES}
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_create_interpolation_map = defaults_list._create_interpolation_map

_parsed: dict[tuple[str, str, int], bytes] = {}
"""Files of configs as they were read; provider, file, time of its last change → content. Bytes are copied fastest."""

_merged: dict[tuple[Any, ...], bytes] = {}
"""What was merged of files; their names and versions → content."""


def make_hydra_faster() -> None:
    """Replace six parts of Hydra and one of OmegaConf by ones with the same results. Calling it again changes nothing."""
    Hydra.get_mode = get_mode  # type: ignore[assignment, method-assign]
    for kind in FILES:
        kind.load_config = load_config
    ConfigLoaderImpl._compose_config_from_defaults_list = merge  # type: ignore[assignment, method-assign]
    defaults_list._create_interpolation_map = interpolation_map  # type: ignore[assignment]
    base.parse = _utils.parse = parse_once  # type: ignore[attr-defined]
    vars(utils)["copy"] = SimpleNamespace(deepcopy=copy_config)  # what copies the config of a job twice
    # Hydra copies the store whenever it looks for a config, 140 times for --help. What is taken out of the store is copied
    # as well, so one store serves them all.
    store = ConfigStore.instance()
    vars(store)["__deepcopy__"] = lambda memo: store


def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """What Hydra asks first: the `hydra.mode` of the config, None where nothing sets it, and -m or its absence decides.

    Hydra composes the whole config for this answer, and then once more to run the program. No file of conf/ sets the mode,
    so only words that may set it, or that bring in other files, are worth the first composition.
    """
    setting = any(word.lstrip("+~").startswith(("hydra", "sweep=")) for word in overrides)
    elsewhere = any(word.startswith(("--config-", "-c")) for word in sys.argv[1:])
    return _compose_mode(hydra, config_name, overrides) if setting or elsewhere else None


def load_config(source: ConfigSource, config_path: str) -> ConfigResult:
    """A file of a config, which is parsed once for all configs that are composed of it, and again when it has changed."""
    file = Path(source.path, source._normalize_file_name(config_path))
    key = (source.provider, str(file), file.stat().st_mtime_ns if file.is_file() else 0)
    if key not in _parsed:
        result = _load_config[type(source)](source, config_path)
        result.version = key
        _parsed[key] = pickle.dumps(result)
    read: ConfigResult = pickle.loads(_parsed[key])
    return read


def merge(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    """The config that these files make, before the command line sets values. It is merged once for the same files."""
    key = tuple((d.config_path, d.package, d.primary, version(repo.load_config(d.config_path))) for d in defaults)
    if any(found is None for *_, found in key):
        return _merge(loader, defaults, repo)
    if key not in _merged:
        _merged[key] = pickle.dumps(_merge(loader, defaults, repo))
    merged: DictConfig = pickle.loads(_merged[key])
    return merged


def version(loaded: ConfigResult) -> object:
    """What tells the content of a config from others of its name; None where nothing does, as for what a word has stored."""
    schema = OmegaConf.get_type(loaded.config)
    return getattr(loaded, "version", None if schema is dict else schema)


def interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    """The choices that options of a defaults list may refer to, as in `data: ${model}`. It is made only where one does."""
    if any(default.is_interpolation() for default in defaults if not default.is_self()):
        return _create_interpolation_map(overrides, defaults, self_added)
    return None


def copy_config(cfg: DictConfig) -> DictConfig:
    """A copy of a config, several times faster than by copy.deepcopy."""
    copied: DictConfig = pickle.loads(pickle.dumps(cfg))
    return copied


parse_once = lru_cache(10_000)(parse)
"""The parse tree of an interpolation such as ${seed}, which is only read; a config has some fifty of them."""
