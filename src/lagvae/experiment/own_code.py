"""User-defined classes in a config: where they are, a digest of their code, and the settings that they do not take."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from lagvae import distributions, divergences, networks
from lagvae.data import sources
from lagvae.experiment.signatures import matches_type, signature
from lagvae.networks import is_ours

PACKAGES = ("lagvae.", "torch.", "torchmetrics.", "pytorch_lightning.", "torchvision.")
"""The packages whose classes are not user-defined."""

BUILT_LATER = re.compile(
    r"data\.source|model\.(encoder|decoder|prior|posterior|likelihood|optimizer)|critic\.(network|optimizer)"
    r"|callbacks\.(training|final)\.[^.]+"
)
"""The settings of which a class or function is made that is called later."""


def find_nodes(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """The dotted key and the node of every `_target_` below a node."""
    if not isinstance(node, DictConfig) or node._is_none():
        return
    for name in list(node):
        if name != "hydra" and not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            yield from find_nodes(node[name], f"{key}.{name}" if key else str(name))
    if not OmegaConf.is_missing(node, "_target_") and node.get("_target_") is not None:
        yield key, node


def is_own(node: DictConfig) -> bool:
    """Whether a node names a user-defined class or function."""
    return not str(node["_target_"]).startswith(PACKAGES)


def digest_own_code(cfg: DictConfig) -> dict[str, str]:
    """Module → a hash of its file, for the user-defined classes that decide what a model is and how it is trained."""
    found: dict[str, str] = {}
    for key, node in find_nodes(cfg):
        if is_own(node) and key.split(".")[0] in ("model", "constraints", "critic", "kernel"):
            module = str(getattr(locate(str(node["_target_"])), "__module__", ""))
            file = Path(str(getattr(sys.modules.get(module), "__file__", "")))
            if file.is_file():
                found[f"code of {module}"] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
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
    with flag_override(cfg, ["struct", "readonly"], False):
        for key, node in list(find_nodes(cfg)):
            if BUILT_LATER.fullmatch(key) and "_partial_" not in node:
                node["_partial_"] = True
            if is_own(node):
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
    """The names of all settings that networks, distributions, divergences and data sources of lagvae take."""
    modules = (networks, distributions, divergences, sources)
    found = [value for module in modules for value in vars(module).values() if callable(value) and is_ours(value)]
    kinds = [value for value in found if value.__module__ != "lagvae.errors"]
    return frozenset(name for kind in kinds for name in inspect.signature(kind).parameters)
