"""The cells of a sweep: a run each, where it is kept, what is left to do of it, and which of them can train as one stack."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lagvae.calibrating import uses_critics
from lagvae.calibration import differences, fingerprint
from lagvae.errors import CheckpointError, SettingError
from lagvae.runs import Run, write_atomically, write_json

ASIDE = (
    "name",
    "folder",
    "label",
    "resume",
    "paths",
    "logger",
    "launcher",
    "callbacks.figures",
    "training.threads",
    "data.workers",
)
"""Settings that do not decide about the numbers of a run, or about where they are written."""
OWN = ("family", "alpha", "epsilon", "seed", "data.seed", "calibration", "multiplier", "training.start", "model.optimizer.lr")
"""Settings in which the cells of a stack may differ, beside numbers of constraints."""
SHARED_OF_CONSTRAINTS = ("divergence",)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. `cfg` is resolved: it is what config.yaml of the run holds."""

    cfg: DictConfig

    @property
    def name(self) -> str:
        return str(self.cfg.name)

    @property
    def run(self) -> Run:
        return Run(Path(self.cfg.paths.runs) / self.name)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The settings that decide about the numbers of the run."""
        return content_of(self.cfg)

    @property
    def finished(self) -> bool:
        """Whether the run is whole; a damaged summary is made again."""
        try:
            self.run.read_summary()
        except CheckpointError:
            return False
        return True

    @property
    def trained(self) -> bool:
        """Whether nothing is left but to measure the run."""
        step, stopped = progress_of(self.run)
        return stopped or step >= int(self.cfg.training.steps)

    def check_folder(self) -> None:
        """Raise where the folder of this cell holds a run with other settings."""
        if not self.run.config.is_file():
            return
        try:
            there = OmegaConf.load(self.run.config)
            assert isinstance(there, DictConfig)
            found = differences(content_of(there), self.content)
        except Exception as error:  # YAML and OmegaConf fail in many ways
            raise CheckpointError(f"{self.run.config} is damaged ({error}). Remove {self.run.folder} and run again.") from error
        if found:
            raise SettingError(
                f"{self.run.folder} holds a run of another sweep (there → here: {'; '.join(found[:3])}). Keep both with "
                "folder=NAME, or remove the old one."
            )

    def claim(self) -> None:
        """Make the folder of the run, with its config."""
        write_atomically(self.run.config, lambda part: OmegaConf.save(self.cfg, part))
        self.run.failure.unlink(missing_ok=True)

    def fail(self, message: str) -> None:
        """Remember why the run failed; it is tried again with the next sweep."""
        write_json(self.run.failure, {"error": message})


def content_of(cfg: DictConfig) -> dict[str, Any]:
    plain = without(OmegaConf.to_container(cfg, resolve=True), ASIDE)
    plain["trainer"] = {"precision": str(plain.get("trainer", {}).get("precision"))}
    # A file holds what JSON and YAML can tell apart; so does this.
    content: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return content


def without(node: Any, keys: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested dict without some dotted keys."""
    found: dict[str, Any] = copy.deepcopy(node)
    for key in keys:
        *parents, leaf = key.split(".")
        at: Any = found
        for parent in parents:
            at = at.get(parent) or {}
        at.pop(leaf, None)
    return found


def progress_of(run: Run) -> tuple[int, bool]:
    """The step of the last checkpoint of a run (0 where there is none that can be read), and whether it stopped for good."""
    try:
        content = torch.load(run.last, map_location="cpu", weights_only=True)
        stopped = content["callbacks"].get("FeasibilityWatch", {}).get("stopped_by") is not None
        return int(content["global_step"]), stopped
    except Exception:  # missing, or unpickling failed in one of its many ways
        return 0, False


def alone(cell: Cell) -> bool:
    """Whether a cell trains by itself: a critic, or an average of θ, is no part of a stack."""
    return uses_critics(cell.cfg) or cell.cfg.training.average is not None


def stack_key(cell: Cell) -> dict[str, Any]:
    """What cells must share to train as one stack."""
    shared = without(cell.content, OWN)
    constraints = cell.content["constraints"].items()
    shared["constraints"] = {name: {key: c[key] for key in SHARED_OF_CONSTRAINTS} for name, c in constraints}
    if alone(cell):
        shared["alone"] = cell.name
    p = cell.content["alpha"]["p"]
    shared["preference on I_p"] = (p > 0) - (p < 0)
    return shared


def dual_of(cell: Cell) -> str | None:
    """The optimizer of λ of a cell, as text; None where nothing is learned."""
    optimizer = cell.content["multiplier"]["optimizer"]
    learns = any(c["learned"] for c in cell.content["constraints"].values())
    return json.dumps(optimizer, sort_keys=True) if learns else None


def group(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that can train as one stack, together; cells without learned multipliers go with any optimizer of λ."""
    keys: dict[str, list[Cell]] = {}
    for cell in cells:
        keys.setdefault(fingerprint(stack_key(cell)), []).append(cell)
    found: list[list[Cell]] = []
    for alike in keys.values():
        duals: dict[str | None, list[Cell]] = {}
        for cell in alike:
            duals.setdefault(dual_of(cell), []).append(cell)
        fixed = duals.pop(None, [])
        parts = list(duals.values()) or [[]]
        parts[0] = sorted(parts[0] + fixed, key=lambda cell: alike.index(cell))
        found += parts
    return found


def why_apart(groups: Sequence[Sequence[Cell]]) -> list[str]:
    """The settings that keep groups apart, as "key: a → b"."""
    first = groups[0][0]
    apart: list[str] = []
    for other in groups[1:]:
        apart += differences(stack_key(first), stack_key(other[0])) or differences(
            first.content["multiplier"], other[0].content["multiplier"], "multiplier"
        )
    return list(dict.fromkeys(apart))


def check_cells(cells: Sequence[Cell]) -> None:
    """Raise SettingError for cells that are the same, or would be written to the same folder."""
    if not cells:
        raise SettingError("The sweep has no cells: its grids are empty, or no cell of them fits your overrides.")
    contents: dict[str, str] = {}
    names: set[str] = set()
    for cell in cells:
        Run.check_name(cell.name)
        mark = fingerprint(cell.content)
        if mark in contents:
            raise SettingError(
                f"The sweep has a cell twice: {contents[mark]} and {cell.name} have the same settings. A value stands twice in "
                "a grid, or an override makes cells alike."
            )
        contents[mark] = cell.name
        if cell.name in names:
            raise SettingError(
                f"Two cells of the sweep would be kept in the same folder, {cell.name}. Add what tells them apart to name, "
                "as in 'name=${folder}/${family}${label}-seed${seed}'."
            )
        names.add(cell.name)


def settings_of(node: Mapping[str, Any]) -> DictConfig:
    """A config from plain values."""
    cfg = OmegaConf.create(dict(node))
    assert isinstance(cfg, DictConfig)
    return cfg
