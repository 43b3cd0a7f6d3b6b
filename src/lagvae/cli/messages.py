"""Error messages of Hydra, OmegaConf and worker processes as one paragraph that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lagvae.errors import LagvaeError


def readable_message(error: BaseException, root: Path | None = None) -> str:
    """The message of an error, with what Hydra, OmegaConf and worker processes wrap around it taken off."""
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
            return _unknown_key(seen)
        seen = seen.__cause__ or seen.__context__
    text = str(error).removeprefix("Error merging override ")
    if text != str(error) and error.__cause__ is not None:
        if "not a subclass of ConstraintConfig" in str(error.__cause__):
            return f"{text}: there is no such constraint; add its name to divergence=[…], a file of conf/divergence/."
        text += ": null is no value here" if "is not Optional" in str(error.__cause__) else f": {error.__cause__}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(
        line for line in lines if not line.startswith(("object_type=", "full_key:", "reference_type=", "Set the env"))
    )


def _unknown_option(error: MissingConfigException, root: Path | None) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = error.options or (sorted(file.stem for file in (root / "conf" / group).glob("*.yaml")) if root else [])
    return f"{group}={name} is unknown; choose one of {', '.join(options)}."


def _unknown_key(error: OmegaConfBaseException) -> str:
    there = [str(name) for name in error.parent_node if name != "hydra"]  # type: ignore[union-attr]
    parent, dot, name = str(error.full_key).rpartition(".")
    near = get_close_matches(name, there, 1)
    hint = f"did you mean {parent}{dot}{near[0]}?" if near else f"{parent or 'a config'} has {', '.join(there)}."
    return f"{error.full_key} is unknown; {hint}"


def group_message(error: ValueError, root: Path, words: Sequence[str]) -> str | None:
    """What to tell of a group that was given something that is no name of an option; None for any other error."""
    if not str(error).startswith("Config group override"):
        return None
    options = [(word, root / "conf" / word.partition("=")[0], word.partition("=")[2]) for word in words]
    odd = [word for word, group, name in options if group.is_dir() and not (group / f"{name}.yaml").is_file()]
    return f"{', '.join(odd)}: a group takes the name of an option."
