"""What Hydra and OmegaConf do more than once, done once: they make the same configs, in less than half the time."""

from __future__ import annotations

import copy
import pickle
import sys
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from hydra import version as hydra_version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core import utils
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, _utils, base
from omegaconf.grammar_parser import parse

_compose_mode = Hydra.get_mode
_load_config = ConfigRepository.load_config
_load_part = ConfigLoaderImpl._load_single_config
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_create_interpolation_map = defaults_list._create_interpolation_map
_get_yaml_loader = _utils.get_yaml_loader

_loaded: dict[object, tuple[ConfigResult, object]] = {}
"""What was read of files and taken out of Hydra's store; version → config, and what the version is of."""

_parts: dict[tuple[Any, ...], bytes] = {}
"""Each of these in its place of the config; its name, package and version → content. Bytes are copied fastest."""

_merged: dict[tuple[Any, ...], bytes] = {}
"""What was merged of these; their names and versions → content."""


def make_hydra_faster() -> None:
    """Replace seven parts of Hydra and two of OmegaConf by ones with the same results. Calling it again changes nothing."""
    Hydra.get_mode = get_mode  # type: ignore[assignment, method-assign]
    ConfigRepository.load_config = load_config  # type: ignore[assignment, method-assign]
    ConfigLoaderImpl._load_single_config = load_part  # type: ignore[assignment, method-assign]
    ConfigLoaderImpl._compose_config_from_defaults_list = merge  # type: ignore[assignment, method-assign]
    defaults_list._create_interpolation_map = interpolation_map  # type: ignore[assignment]
    hydra_version._get_version = parse_version  # type: ignore[assignment]
    _utils.get_yaml_loader = yaml_loader
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


def load_config(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A part of a config, which is read once for all configs that are composed of it, and again when it has changed.

    All get the same object, which Hydra only reads until it puts it in its place; `load_part` makes a copy for that.
    """
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    key, origin = (None, None) if source is None else version(source, config_path)
    if key is None:
        return _load_config(repository, config_path)
    if key not in _loaded:
        result = _load_config(repository, config_path)
        assert result is not None
        vars(result).update(version=key)
        _loaded[key] = result, origin
    return _loaded[key][0]


def version(source: ConfigSource, config_path: str) -> tuple[object, object]:
    """What tells a part of a config from others of its name, or None where nothing does; and the object that it is of."""
    name = source._normalize_file_name(config_path)
    if source.scheme() == "structured":
        node = ConfigStore.instance()._load(name).node
        # While it is kept, no other object has its id. What is no DictConfig, a file of sweeps/, reads itself again.
        return (source.provider, name, id(node)) if isinstance(node, DictConfig) else None, node
    file = Path(source.path, name)
    return (source.provider, str(file), file.stat().st_mtime_ns if file.is_file() else 0), None


def load_part(loader: ConfigLoaderImpl, default: Any, repo: Any) -> ConfigResult:
    """A part of a config in its place, which is put there once. All get copies, since Hydra moves their nodes into its own."""
    if hasattr(default, "merged"):  # it stands for the parts that a config begins with: see `merge`
        return ConfigResult(provider="", path="", config=pickle.loads(default.merged), header={})
    found = repo.load_config(default.config_path)
    if not hasattr(found, "version"):
        return _load_part(loader, default, repo)
    key = part_of(default, found.version)
    if key not in _parts:
        of_copy: Any = SimpleNamespace(load_config=lambda config_path: copy.deepcopy(found))
        of_copy.get_schema_source = repo.get_schema_source
        _parts[key] = pickle.dumps(_load_part(loader, default, of_copy))
    part: ConfigResult = pickle.loads(_parts[key])
    return part


def part_of(default: Any, version: object) -> tuple[Any, ...]:
    """What decides about a part of a config in its place."""
    return default.config_path, default.package, default.primary, version


def merge(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    """The config that these parts make, before the command line sets values. It is merged once for the same parts.

    The parts of Hydra and of the primary config, which come first, are merged once for all configs that begin with them.
    """
    versions = [getattr(repo.load_config(default.config_path), "version", None) for default in defaults]
    if None in versions:
        return _merge(loader, defaults, repo)
    key = tuple(part_of(default, version) for default, version in zip(defaults, versions, strict=True))
    if key not in _merged:
        start = next((k for k, default in enumerate(defaults, 1) if default.primary), 0)
        if key[:start] not in _merged:
            _merged[key[:start]] = pickle.dumps(_merge(loader, defaults[:start], repo))
        begun = ResultDefault("config")
        vars(begun)["merged"] = _merged[key[:start]]
        _merged[key] = pickle.dumps(_merge(loader, [begun, *defaults[start:]], repo))
    merged: DictConfig = pickle.loads(_merged[key])
    return merged


@cache
def yaml_loader() -> Any:
    """What reads YAML for OmegaConf, with the parser of libyaml, where PyYAML has it: ten times faster."""
    loader = _get_yaml_loader()
    if not yaml.__with_libyaml__:
        return loader
    parser = yaml.CSafeLoader.__mro__[1]

    def begin(self: Any, stream: Any) -> None:
        parser.__init__(self, stream)  # type: ignore[misc]
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)

    return type(loader.__name__, (parser, loader), {"__init__": begin})


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

parse_version = lru_cache(hydra_version._get_version)
"""The version of Hydra whose behaviour is asked for, which Hydra parses 500 times for a config."""
