"""Expand the union of grids of a sweep, together with the words of a command line, into the overrides of each run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override

from lagvae.errors import SettingError

Grid = Mapping[str, Any]

NAME = "name='${folder}/${family}${label}-seed${seed}'"
"""The override that names the folder of a run. The label is made of the settings that distinguish it, see `run_label`."""

UNLABELLED = ("family", "seed")
"""Settings that are left out of the label, because the name has them already."""


def expand(grids: Sequence[Grid], words: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep.

    The runs of a grid are all combinations of its values, and the runs of a sweep are those of its grids, in order. A word of
    the command line applies to all runs; if it has several values, KEY=a,b, there is a run for each of them. If a grid sweeps
    the key of a word, the word is a *filter* instead: it selects the runs of that grid that have one of its values, and leaves
    grids that do not sweep the key unchanged.

    Args:
        grids: each maps a key to a value or a list of values.
        words: the overrides on the command line.

    Raises:
        SettingError: if a grid has no values, a value is neither a number nor a name, or a filter selects no run.

    Examples:
        >>> grids = [{"family": "lagvae", "alpha.q": [-1, 1]}, {"family": "vae"}]
        >>> len(expand(grids, ["seed=0,1"]))  # three runs with two seeds each
        6
        >>> len(expand(grids, ["alpha.q=1"]))  # a filter of the first grid
        2
    """
    checked = [_checked(grid, i) for i, grid in enumerate(grids)] or [{}]
    swept = {key for grid in checked for key in grid}
    fixed: list[str] = []
    given: dict[str, list[str]] = {}
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        key = override.get_key_element()
        if key in swept or override.is_sweep_override():
            given[key] = _values(override)
        else:
            fixed.append(word)
    for key in swept & given.keys():
        available = list(dict.fromkeys(v for grid in checked for v in grid.get(key, [])))
        if unknown := [a for a in given[key] if not any(same_value(a, b) for b in available)]:
            raise SettingError(
                f"{key}={','.join(unknown)} selects no run: the sweep has {key} in {', '.join(available)}. Give some of these "
                "values, or leave it out."
            )
    runs: list[list[str]] = []
    for grid in checked:
        axes: dict[str, list[str]] = {}
        for key, values in grid.items():
            axes[key] = [v for v in values if key not in given or any(same_value(v, g) for g in given[key])]
        axes |= {key: values for key, values in given.items() if key not in swept}
        for chosen in product(*axes.values()):
            pairs = dict(zip(axes, chosen, strict=True))
            # A key with a single value in its grid does not distinguish runs; one of the command line always counts.
            labelled = {key: value for key, value in pairs.items() if key not in grid or len(grid[key]) > 1}
            overrides = [*fixed, *(f"{key}={value}" for key, value in pairs.items()), label_word(run_label(labelled))]
            runs.append(overrides if any(word.startswith("name=") for word in overrides) else [*overrides, NAME])
    return runs


def run_label(pairs: Mapping[str, str]) -> str:
    """The settings that distinguish a run, as a part of the name of its folder.

    A key is shortened to its last part, or to the part before it if the last parts of two keys are the same.

    Examples:
        >>> run_label({"family": "lagvae", "alpha.q": "-1", "constraints.neg_elbo.gamma": "0.6"})
        '-q-1-gamma0.6'
    """
    keys = [key for key in pairs if key not in UNLABELLED]
    leaves = [key.rpartition(".")[2] for key in keys]
    text = ""
    for key, leaf in zip(keys, leaves, strict=True):
        parts = key.split(".")
        short = parts[-2] if leaves.count(leaf) > 1 and len(parts) > 1 else leaf
        value = re.sub(r"[^\w.+-]+", "_", pairs[key]).strip("_")
        text += f"-{short}{value}" if value[:1] in "+-.0123456789" else f"-{short}_{value}"
    return text


def label_word(label: str) -> str:
    """The override that sets the label, with quotes where Hydra needs them: around letters beyond ASCII."""
    return f"label={label}" if label.isascii() else f"label='{label}'"


def _checked(grid: Any, number: int) -> dict[str, list[str]]:
    """A grid as key → values, as they would be written on a command line."""
    if not isinstance(grid, Mapping):
        raise SettingError(f"hydra.sweeper.grids[{number}] is {grid!r}; a grid is KEY: VALUE or KEY: [VALUES].")
    checked: dict[str, list[str]] = {}
    for key, values in grid.items():
        values = values if isinstance(values, list) else [values]
        if not values:
            raise SettingError(f"hydra.sweeper.grids[{number}]: {key} has no values.")
        for value in values:
            if isinstance(value, dict | list):
                raise SettingError(f"hydra.sweeper.grids[{number}]: {key} has the value {value}; use numbers and names.")
        checked[str(key)] = [word_of(v) for v in values]
    return checked


def _values(override: Override) -> list[str]:
    """The values of an override, as they are written on the command line."""
    if isinstance(override.value(), Glob | IntervalSweep):
        key = override.get_key_element()
        raise SettingError(
            f"{override.input_line}: a sweep needs single values; list them, {key}=A,B, or use range(START,STOP)."
        )
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def word_of(value: Any) -> str:
    """A plain value as Hydra's command line writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def same_value(a: str, b: str) -> bool:
    """Whether two words mean the same: numbers by value, true and false in any spelling, all else as text without quotes.

    Examples:
        >>> same_value("1e-3", "0.001"), same_value("True", "true"), same_value("mlp", "conv")
        (True, True, False)
    """
    try:
        return float(a) == float(b)
    except ValueError:
        a, b = (text.lower() if text.lower() in ("true", "false") else text.strip("'\"") for text in (a, b))
        return a == b
