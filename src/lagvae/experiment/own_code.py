"""User-defined classes in a config: which are trusted, a digest of their code, and the settings that they do not take."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lagvae import distributions, divergences, log_ascent, networks, nupi
from lagvae.data import sources
from lagvae.errors import SettingError
from lagvae.experiment.settings import PLAIN_INTERPOLATION, leaves
from lagvae.experiment.signatures import matches_type, signature
from lagvae.introspection import is_of_lagvae
from lagvae.io import file_digest
from lagvae.runs.loggers import kind_of_logger

PACKAGES = ("lagvae.", "torch.", "torchmetrics.", "pytorch_lightning.", "torchvision.")
"""The packages whose classes are not user-defined."""

BUILT_LATER = re.compile(
    r"data\.source|model\.(encoder|decoder|prior|posterior|likelihood|optimizer)|critic\.(network|optimizer)"
    r"|multiplier\.optimizer|callbacks\.(training|final)\.[^.]+"
)
"""The settings of which a class or function is made that is called later."""


def find_targets(cfg: DictConfig | Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The dotted key of every node that has a `_target_`, and that target. `cfg`: a config, or one as resolved plain dicts."""

    def below(node: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, Mapping):
            for name, value in node.items():
                if name != "hydra":
                    yield from below(value, f"{key}.{name}" if key else str(name))
            if node.get("_target_") not in (None, MISSING):
                target = str(node["_target_"])
                yield key, str(OmegaConf.select(cfg, key)["_target_"]) if "${" in target else target  # type: ignore[arg-type]

    # plain dicts are looked through ten times faster
    return below(OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg, "")


def is_own(target: str) -> bool:
    """Whether a target is a user-defined class or function."""
    return not target.startswith(PACKAGES)


def digest_own_code(cfg: DictConfig) -> dict[str, str]:
    """Module → a hash of its file, for the user-defined classes that decide what a model is and how it is trained."""
    found: dict[str, str] = {}
    for key, target in find_targets(cfg):
        if is_own(target) and key.split(".")[0] in ("model", "constraints", "critic", "kernel"):
            module = str(getattr(locate(target), "__module__", ""))
            file = Path(str(getattr(sys.modules.get(module), "__file__", "")))
            if file.is_file():
                found[f"code of {module}"] = file_digest(file)
    return found


def settle_nodes(cfg: DictConfig, words: Sequence[str]) -> None:
    """Adapt a composed config to user-defined classes.

    A node whose object is built later, such as an optimizer, gets `_partial_`. A user-defined class inherits the settings that
    conf/ gives to the class that it replaces, such as hidden of a network: each one that its constructor does not accept is
    deleted, unless the user typed it, or no class of lagvae has a setting of that name, so that validation reports a typo.

    Args:
        cfg: a composed config. words: the overrides that were typed.
    """
    typed = {word.lstrip("+~").partition("=")[0] for word in words}
    unsettled = [
        (key, later, is_own(target))
        for key, target in find_targets(cfg)
        if (later := BUILT_LATER.fullmatch(key) is not None) or is_own(target)
    ]
    unsettled = [each for each in unsettled if each[2] or "_partial_" not in OmegaConf.select(cfg, each[0])]
    if not unsettled:  # as it mostly is; to set the flags takes longer than to look
        return
    with flag_override(cfg, ["struct", "readonly"], False):
        for key, later, own in unsettled:
            node = OmegaConf.select(cfg, key)
            if later and "_partial_" not in node:
                node["_partial_"] = True
            if own:
                for name in leftovers(node):
                    if not any(word == f"{key}.{name}" or word.startswith(f"{key}.{name}.") for word in typed):
                        del node[name]


def leftovers(node: DictConfig) -> list[str]:
    """The settings of a node that its class does not take, by their names or types, and some class of lagvae does."""
    try:
        parameters, hints = signature(locate(str(node["_target_"])))
    except Exception:  # validation says what is wrong with it
        return []
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    plain: Any = OmegaConf.to_container(node, resolve=False)
    return [
        name
        for name, value in plain.items()
        if not ((name in parameters or takes_all) and matches_type(value, hints.get(name, Any)))
        and name in settings_of_classes()
    ]


@cache
def settings_of_classes() -> frozenset[str]:
    """The names of all settings that networks, distributions, divergences, data sources and optimizers of λ take."""
    modules = (networks, distributions, divergences, sources, log_ascent, nupi)
    found = [value for module in modules for value in vars(module).values() if callable(value) and is_of_lagvae(value)]
    kinds = [value for value in found if value.__module__ != "lagvae.errors"]
    return frozenset(name for kind in kinds for name in inspect.signature(kind).parameters)


LOADERS = ("torch.serialization", "torch.hub", "torch.jit", "torch.package", "pickle", "_pickle", "joblib", "dill")
"""The modules of functions that read objects from files, and so run the code in them."""


def check_targets(settings: Any, trust: str | Sequence[str] = (), whole: bool = False) -> None:
    """Raise SettingError for a `_target_` that could run the code of others, or that is trusted but cannot be found.

    Only classes that are known run no code of others.

    The package that a name begins with does not suffice, because names such as torch.os.system lead from one to any other.

    Args:
        settings: nested dicts and lists, not resolved. trust: prefixes of names that are not checked further.
        whole: whether they are all settings of a run, which also name sources of data (functions of `lagvae.data` and
            `lagvae.oracles`), loggers and callbacks, and may refer to each other and to the environment.
    """
    trusted = (trust,) if isinstance(trust, str) else tuple(trust)
    for key, value in leaves(settings):
        if key.split(".")[-1] != "_target_":
            if isinstance(value, str) and "${" in (PLAIN_INTERPOLATION.sub("", value) if whole else value):
                raise SettingError(f"{key}={value} is not loaded: stored settings do not refer to others.")
        elif value is None and whole:
            continue  # no logger
        elif whole and key.startswith("logger") and kind_of_logger(str(value)) is not None:
            continue  # known by its name, wherever an earlier version had it
        elif not isinstance(value, str) or not (value.startswith(trusted) or is_known(value, whole)):
            package = str(value).split(".")[0] + "."
            if package in PACKAGES and found_at(str(value)) is None:
                raise SettingError(
                    f"{key}={value} is not loaded: the version of {package[:-1]} that is installed has nothing of that name. "
                    "Install the version that the run was made with, or train it again."
                )
            raise SettingError(
                f"{key}={value} is not loaded, because it may run any code. Only classes of lagvae, and networks, optimizers "
                f"and schedules of {', '.join(prefix.rstrip('.') for prefix in PACKAGES[1:])} are. If you trust it, "
                + (f"add trust=[{package}]." if whole else f"pass trust=({package!r},).")
            )
        elif value.startswith(trusted):
            check_found(key, value)


def trusted_names(setting: Any) -> tuple[str, ...]:
    """The prefixes of names that the setting `trust` holds: a name, a list of names, or null."""
    names = [setting] if isinstance(setting, str) else list(setting or ())
    if not all(isinstance(name, str) and name for name in names):
        raise SettingError(f"trust={setting} must be a list of names, such as trust=[mynet.].")
    return tuple(names)


def check_found(key: str, target: str) -> None:
    """Raise SettingError where Python does not find a class that is trusted, whose module it imports."""
    try:
        found = locate(target)
    except Exception as error:  # importing a module can raise any exception
        raise SettingError(f"{key}={target} cannot be imported: {error}.") from error
    if found is None:
        raise SettingError(
            f"{key}={target} cannot be found. Load the model where Python finds {target.rpartition('.')[0]}: with its file in "
            "the working directory, or its folder in sys.path or PYTHONPATH."
        )
    if str(getattr(found, "__module__", "")).startswith(LOADERS):
        raise SettingError(f"{key}={target} is not loaded, trusted or not: it runs the code in the file that it reads.")


def is_known(target: str, whole: bool) -> bool:
    """Whether a name is that of a class of lagvae, or of a network, optimizer or schedule of a known package.

    Args:
        whole: whether sources of data, loggers and callbacks count too.
    """
    if not target.startswith(PACKAGES):
        return False
    found = found_at(target)
    home = str(getattr(found, "__module__", ""))
    if not isinstance(found, type):
        return whole and home.startswith(("lagvae.data.", "lagvae.oracles."))
    return home.startswith("lagvae.") or issubclass(found, BASES + ((Callback, Logger) if whole else ()))


def found_at(target: str) -> Any:
    """What a name leads to; None where that is nothing."""
    try:
        return locate(target)
    except Exception:  # importing a module can raise any exception
        return None


BASES = (nn.Module, Optimizer, LRScheduler)
"""Of the classes of other packages those are known that are derived from one of these."""
