"""Error messages of Hydra, OmegaConf and worker processes as one paragraph that a person can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lagvae.errors import LagvaeError, SettingError
from lagvae.experiment.schema import MOVED_OPTIONS, new_name
from lagvae.experiment.settings import broken_reference

MOST = 4
"""Settings that a message names at most."""

NAMED_BY_USER = ("callbacks.training", "callbacks.final", "callbacks.lightning")
"""The nodes to which a user adds parts under new names."""

NONE_AT_ALL = ("experiment", "sweep", "debug")
"""Groups of which a config needs no option."""

SEVERAL = ("divergence", "logger", "experiment", "debug")
"""Groups of which a config may have several options."""


def readable_message(error: BaseException, root: Path | None = None, words: Sequence[str] = ()) -> str:
    """The message of an error, with what Hydra, OmegaConf and worker processes wrap around it taken off.

    Args:
        root: of the project, for the options of a group.
        words: of the command line, which a hint repeats with other names.
    """
    seen: BaseException | None = error
    met: set[int] = set()  # an error that was raised again may have itself as context
    while seen is not None and id(seen) not in met:
        met.add(id(seen))
        if isinstance(seen, LagvaeError):
            text = str(seen)
            # A worker process hands its traceback on as text; the message is its last line.
            return text.rstrip().rpartition("\n")[2].partition(": ")[2] if text.startswith("Caught ") else text
        if isinstance(seen, MissingConfigException) and seen.missing_cfg_file is not None:
            return _unknown_option(seen, root)
        if isinstance(seen, OverrideParseException):
            return f"{seen.override!r} cannot be read as KEY=VALUE; quote special characters, as in \"KEY='a b'\"."
        if isinstance(seen, ConfigAttributeError | ConfigKeyError) and isinstance(seen.parent_node, DictConfig):
            return _unknown_key(seen, root, words)
        if (message := broken_reference(seen)) is not None:
            return message
        seen = seen.__cause__ or seen.__context__
    if unmatched := re.match(r"Could not override '(.+)'\. No match in the defaults list", str(error)):
        return f"{unmatched[1]} is not a group that this program takes; see --help."
    text = str(error).removeprefix("Error merging override ")
    if text != str(error) and error.__cause__ is not None:
        if "not a subclass of ConstraintConfig" in str(error.__cause__):
            return f"{text}: there is no such constraint; add its name to divergence=[…], a file of conf/divergence/."
        text += ": null is not allowed here" if "is not Optional" in str(error.__cause__) else f": {error.__cause__}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(
        line for line in lines if not line.startswith(("object_type=", "full_key:", "reference_type=", "Set the env"))
    )


def _unknown_option(error: MissingConfigException, root: Path | None) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if new := MOVED_OPTIONS.get((group, name)):
        return f"{group}={name} is now {group}={new}."
    options = list(error.options or (options_of(root, group) if root else []))
    near = get_close_matches(name, options, 1)
    hint = f"did you mean {near[0]}? Choose" if near else "choose"
    return f"{group}={name} is unknown; {hint} one of {', '.join(options)}."


def with_options(text: str, root: Path, choices: Mapping[str, Any]) -> str:
    """A message with the option of a group beside a class that this has chosen: ImplicitEncoder (posterior=point).

    Args:
        choices: group → the option that the config has.
    """
    for group, option in choices.items():
        file = root / "conf" / group / f"{option}.yaml"
        if file.is_file() and (
            target := re.search(r"^_target_: [\w.]*\b(\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        ):
            text = re.sub(rf"(?<![\w.=]){target[1]}\b(?! \()", rf"\g<0> ({group}={option})", text, count=1)
    return text


def refuse_several(word: str, root: Path) -> None:
    """Raise SettingError for a word that gives several options to a group of which a config has one."""
    group, _, value = word.partition("=")
    group = group.lstrip("+")
    if group not in SEVERAL and value.startswith("[") and "," in value and _is_group(root, group):
        options = value.strip("[]").split(",")
        raise SettingError(
            f"{word}: {group} takes one option; choose one of {', '.join(map(str.strip, options))}, or train a run with each: "
            f"-m {group}={','.join(map(str.strip, options))}."
        )


def options_of(root: Path, group: str) -> list[str]:
    """The options of a group of conf/."""
    return sorted(file.stem for file in (root / "conf" / group).glob("*.yaml"))


def loggers_of(root: Path) -> list[str]:
    """The options of logger=… that are a logger; `csv` stands for none beside metrics.csv."""
    files = (root / "conf" / "logger").glob("*.yaml")
    return sorted(file.stem for file in files if "_target_" in file.read_text(encoding="utf-8"))


def _unknown_key(error: OmegaConfBaseException, root: Path | None, words: Sequence[str]) -> str:
    """That a key is unknown, and what the user may have meant: a new name, a setting elsewhere, or one of a similar name."""
    unknown = str(error.full_key)
    typed, value = _typed(unknown, words)
    if new := new_name(unknown):
        return f"{unknown} is now {new}" + (f"; write {new_name(typed)}{value}." if value else ".")
    parent, dot, name = unknown.rpartition(".")
    own, named = _typed(f"{parent}._target_", words)
    if named and own == f"{parent}._target_":
        return f"{unknown} is unknown; if {named[1:]} takes it, write +{typed}{value}."
    if parent == "constraints" and typed == f"{unknown}.divergence._target_":
        return f"{unknown} is unknown; to add a constraint of your own, write +{typed}{value}."
    if name == "beta" and (preference := _preference_of_beta(value)):
        return f"{typed} is unknown; did you mean family=beta_vae {preference}? (β = 1 + alpha.q)"
    there = [str(key) for key in error.parent_node if key != "hydra"]  # type: ignore[union-attr]
    if parent == "logger" and root is not None and name in (loggers := loggers_of(root)):
        others = [logger for logger in there if logger in loggers]
        chosen = f"'logger=[{','.join([*others, name])}]'" if others else f"logger={name}"
        return f"{typed}{value} needs its logger: write {chosen}."
    settings = _settings(error.parent_node._get_root())  # type: ignore[union-attr]
    whole = typed == unknown
    if parent in NAMED_BY_USER and not get_close_matches(name, there, 1):
        addition = f"{unknown}._target_={value.removeprefix('=') or 'CLASS'}" if whole else f"{typed}{value}"
        return f"{unknown} is unknown; {parent} has {', '.join(there) or 'none'}. To add one, write +{addition}."
    found = _with_suffix(settings, name if whole else typed)
    if not found:
        beside = there + (_groups(root) if root is not None and "family" in there else [])
        leaves = [key.rpartition(".")[2] for key in settings] if whole else []
        near = get_close_matches(name, dict.fromkeys([*beside, *leaves]), 1)
        if near and near[0] in beside:
            found = [f"{parent}{dot}{near[0]}{typed[len(unknown) :]}"]
        elif near:
            found = _with_suffix(settings, near[0])
    if len(found) > MOST:
        return (
            f"{unknown} is unknown; {len(found)} settings end so, such as {_alternatives([k + value for k in found[:MOST]])}."
        )
    if found:
        return f"{unknown} is unknown; did you mean {_alternatives([key + value for key in found])}?"
    known = f"{unknown} is unknown; {parent or 'a config'} has {', '.join(there)}."
    addable = parent == "constraints" and root is not None and name in options_of(root, "divergence")
    return f"{known} Add it with divergence=[{','.join([*there, name])}]." if addable else known


def _groups(root: Path) -> list[str]:
    return [*(folder.name for folder in (root / "conf").iterdir() if folder.is_dir()), "sweep"]


def _typed(unknown: str, words: Sequence[str]) -> tuple[str, str]:
    """The key of the word that has an unknown key or starts with it, and "=" with its value; where none has, the key alone."""
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lstrip("+~")
        if equals and (key == unknown or key.startswith(f"{unknown}.")):
            return key, f"={value}"
    return unknown, ""


def _preference_of_beta(value: str) -> str | None:
    """The preference of a β-VAE, for "=β"; None where β is not a number."""
    try:
        return f"alpha.q={Decimal(value.removeprefix('=')) - 1}"
    except InvalidOperation:
        return None


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Dotted key → value of all settings of a composed config, unresolved."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    return dict(_leaves({key: node for key, node in plain.items() if key != "hydra"}))  # type: ignore[union-attr]


def _leaves(node: Mapping[Any, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{at}{name}.")
        elif not str(name).startswith("_"):
            yield f"{at}{name}", value


def _with_suffix(settings: Mapping[str, Any], suffix: str) -> list[str]:
    """The settings whose keys end so, the shortest paths first. Those that follow another one count only where all do."""
    found = sorted((key for key in settings if f".{key}".endswith(f".{suffix}")), key=lambda key: key.count("."))
    return [key for key in found if not str(settings[key]).startswith("${")] or found


def _alternatives(texts: Sequence[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} or {last}" if most else last


def group_message(error: ValueError, root: Path, words: Sequence[str]) -> str | None:
    """What to tell of a group that was given something that is not the name of an option; None for any other error."""
    if not str(error).startswith("Config group override"):
        return None
    parsed = OverridesParser.create().parse_overrides([word for word in words if "=" in word and not word.startswith("-")])
    odd = [o for o in parsed if _is_group(root, o.get_key_element()) and not _names_options(o.get_key_element(), o.value())]
    if not odd:
        return f"{error}."
    rest = [str(o.input_line) for o in parsed if o not in odd and not o.is_sweep_override()]
    settings = _settings(_composed(root, rest))
    return " ".join(_no_option(str(o.input_line), o.get_key_element(), root, settings) for o in odd)


def _names_options(group: str, value: Any) -> bool:
    """Whether a value of a group is the name of an option, a list of names, or null where a config needs no option."""
    return isinstance(value, str | list) or (value is None and group in NONE_AT_ALL)


def _is_group(root: Path, name: str) -> bool:
    return name != "" and (root / "conf" / name).is_dir()


def _composed(root: Path, words: list[str]) -> DictConfig:
    """The config that these words give; that of no words at all where they have an error of their own."""
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        try:
            return compose("config", overrides=words)
        except Exception:
            return compose("config")


def _no_option(word: str, group: str, root: Path, settings: Mapping[str, Any]) -> str:
    """That a group takes the name of an option, and the settings that could have been meant by a number for the group."""
    value = word.partition("=")[2]
    text = f"{word}: a group takes the name of an option: {', '.join(options_of(root, group))}."
    elsewhere = [key for key in _with_suffix(settings, group) if _takes_number(settings[key])]
    below = [key for key in settings if key.rpartition(".")[0] == group and _takes_number(settings[key])]
    found = [] if value == "null" else elsewhere or (below if len(below) <= MOST else [])
    if found and group == "epsilon":
        first, *others = found
        bounds = " ".join([f"{first}={value}", *(f"{key}=NUMBER" for key in others)])
        return f"{text} For a number, write epsilon=explicit {bounds}."
    return f"{text} For a number, write {_alternatives([f'{key}={value}' for key in found])}." if found else text


def _takes_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
