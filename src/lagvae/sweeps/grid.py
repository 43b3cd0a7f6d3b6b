"""Sweeps: a union of grids, and what a command line makes of it. Plain lists in, lists of overrides out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lagvae.errors import SettingError

Grid = Mapping[str, Any]

NAME = "name='${folder}/${family}${label}-seed${seed}'"
"""Where a run is kept: label is made of what tells it apart."""

UNLABELLED = ("family", "seed")


def expand(grids: Sequence[Grid], words: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep.

    A run takes one value of every key of its grid; the grids' runs follow each other. Words of the command line are
    for all runs; with several values, KEY=a,b, they multiply the runs. Where a grid sweeps the key of a word, the word
    is a *filter*: of that grid those runs stay whose value it names; grids that do not sweep the key stay as they are.

    Args:
        grids: key → value or list of values, each.
        words: overrides of the command line.

    Raises: SettingError for an empty grid, a value that is not plain, or a filter that no run fits.
    """
    checked = [_checked(grid, i) for i, grid in enumerate(grids)] or [{}]
    swept = {key for grid in checked for key in grid}
    fixed: list[str] = []
    typed: dict[str, list[str]] = {}
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        key = override.get_key_element()
        if key in swept or override.is_sweep_override():
            typed[key] = _values(override)
        else:
            fixed.append(word)
    for key in swept & typed.keys():
        known = list(dict.fromkeys(v for grid in checked for v in grid.get(key, [])))
        if odd := [a for a in typed[key] if not any(same_value(a, b) for b in known)]:
            raise SettingError(
                f"{key}={','.join(odd)} picks no run: the sweep has {key} in {', '.join(known)}. Name some of these, or leave "
                "it out."
            )
    found: list[list[str]] = []
    for grid in checked:
        axes: dict[str, list[str]] = {}
        for key, values in grid.items():
            axes[key] = [v for v in values if key not in typed or any(same_value(v, t) for t in typed[key])]
        axes |= {key: values for key, values in typed.items() if key not in swept}
        for chosen in product(*axes.values()):
            pairs = dict(zip(axes, chosen, strict=True))
            told = {key: value for key, value in pairs.items() if len(grid.get(key, "ab")) > 1}
            own = [*fixed, *(f"{key}={value}" for key, value in pairs.items()), f"label={run_label(told)}"]
            found.append(own if any(word.startswith("name=") for word in fixed) else [*own, NAME])
    return found


def run_label(pairs: Mapping[str, str]) -> str:
    """What tells a run apart, for the name of its folder: the last part of each key, or the one before where two share it."""
    keys = [key for key in pairs if key not in UNLABELLED]
    last = [key.rpartition(".")[2] for key in keys]
    text = ""
    for key, leaf in zip(keys, last, strict=True):
        parts = key.split(".")
        shown = parts[-2] if last.count(leaf) > 1 and len(parts) > 1 else leaf
        value = re.sub(r"[^\w.+-]+", "_", pairs[key]).strip("_")
        text += f"-{shown}{value}" if value[:1] in "+-.0123456789" else f"-{shown}_{value}"
    return text


def _checked(grid: Any, number: int) -> dict[str, list[str]]:
    """key → its values as words."""
    if not isinstance(grid, Mapping):
        raise SettingError(f"hydra.sweeper.grids[{number}] is {grid!r}; a grid is KEY: VALUE or KEY: [VALUES].")
    found: dict[str, list[str]] = {}
    for key, values in grid.items():
        values = values if isinstance(values, list) else [values]
        if not values:
            raise SettingError(f"hydra.sweeper.grids[{number}]: {key} has no values.")
        odd = [v for v in values if isinstance(v, dict | list)]
        if odd:
            raise SettingError(f"hydra.sweeper.grids[{number}]: {key} has the value {odd[0]}; use numbers and names.")
        found[str(key)] = [word_of(v) for v in values]
    return found


def _values(override: Override) -> list[str]:
    """The values of a word, as words."""
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def word_of(value: Any) -> str:
    """A plain value as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def same_value(a: str, b: str) -> bool:
    """Whether two words name the same value: numbers by their value, all else by its letters."""
    try:
        return float(a) == float(b)
    except ValueError:
        return a.strip("'\"") == b.strip("'\"")
