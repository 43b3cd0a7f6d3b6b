"""One run of a sweep: its settings, its folder, and whether it is trained and finished."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from lagvae.errors import CheckpointError, SettingError
from lagvae.experiment.fit import read_content
from lagvae.experiment.precision import BY_MACHINE, choose_precision, has_wide_layers
from lagvae.experiment.settings import (
    Attributes,
    assign,
    deciding_settings,
    differences,
    select,
    settings_where,
    stored_config,
    write_settings,
)
from lagvae.io import write_json
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.matching import match_config


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        source: its resolved config, or that as plain dicts, of which a config is made when one is asked for. A plan of a
            thousand runs asks for a few.
        obstacles: why it cannot train in an ensemble: its own code, as far as that has been tried, or wide layers.
        dropped: whether it is only a part of an interrupted ensemble, which goes on without it; its folder is not touched.
        references: of plain dicts, the dotted keys that are stored as a reference to the environment (see `kept_references`).
    """

    source: DictConfig | dict[str, Any]
    obstacles: list[str] = field(default_factory=list, compare=False)
    dropped: bool = False
    references: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def cfg(self) -> DictConfig:
        """The resolved config that config.yaml in the run's folder holds."""
        return self.source if isinstance(self.source, DictConfig) else to_config(self.stored)

    @property
    def stored(self) -> dict[str, Any]:
        """The content of `cfg` as plain dicts, where references to the environment are not resolved."""
        if isinstance(self.source, DictConfig):
            return dict(OmegaConf.to_container(self.source))  # type: ignore[arg-type]
        if not self.references:
            return self.source
        stored = copy.deepcopy(self.source)
        assign(stored, self.references)
        return stored

    @cached_property
    def plain(self) -> Any:
        """All settings, whose values are attributes too."""
        resolve = isinstance(self.source, DictConfig)
        return Attributes.of(OmegaConf.to_container(self.source, resolve=True) if resolve else self.source)

    @property
    def name(self) -> str:
        return str(self.source["name"])

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.source["paths"]["runs"]) / self.name)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that affect the numbers of the run, flat."""
        return settings_where(self.plain, lambda rule: not rule.machine)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: the run has a summary, or was dropped."""
        return self.dropped or self.folder.finished

    @property
    def trained(self) -> bool:
        """Whether training has ended, so that only the evaluation is left."""
        step, stopped = progress_of(self.folder)
        return stopped or step >= int(self.source["training"]["steps"])

    def check_folder(self) -> None:
        """Raise SettingError if the folder of this run holds a run with other settings."""
        if not self.folder.config.is_file():
            return
        try:
            stored = OmegaConf.load(self.folder.config)
            if not isinstance(stored, DictConfig) or not stored:
                raise ValueError("it holds no settings")
            differing = differences(deciding_settings(stored), self.settings)
        except Exception as error:  # YAML and OmegaConf raise many kinds of exception
            raise CheckpointError(
                f"{self.folder.config} is damaged ({error}). Remove {self.folder.path} and run again."
            ) from error
        if differing:
            raise SettingError(
                f"{self.folder.path} holds a run of another sweep (that run → this run: {'; '.join(differing[:3])}). Keep "
                "both with folder=NAME, or remove the old one."
            )

    def create_folder(self) -> None:
        """Create the folder of the run with its config, and remove the record of an earlier failure."""
        write_settings(self.cfg, self.folder.config)
        self.folder.failure.unlink(missing_ok=True)

    def record_failure(self, message: str) -> None:
        """Write why the run failed. The same sweep, run again, repeats the run."""
        write_json(self.folder.failure, {"error": message})


def progress_of(run: RunFolder) -> tuple[int, bool]:
    """The step of the last checkpoint of a run, 0 if none can be read, and whether training had stopped early."""
    try:
        content = read_content(run.last)
        stopped = content["callbacks"].get("FeasibilityWatch", {}).get("stopped_by") is not None
        return int(content["global_step"]), stopped
    except (CheckpointError, KeyError, AttributeError, TypeError, ValueError):  # missing, damaged or of another program
        return 0, False


def to_config(node: Mapping[str, Any]) -> DictConfig:
    """Make a config of plain values."""
    cfg = OmegaConf.create(dict(node))
    assert isinstance(cfg, DictConfig)
    return cfg


def compose_run(compose: Callable[[], DictConfig]) -> SweepRun:
    """Make a run of the config that Hydra composes, matched with the finished run that `match` names, if it names one.

    It keeps its types, which validation then need not give it.
    """
    cfg = prepare_config(compose())
    if cfg.match is not None:
        with flag_override(cfg, ["struct", "readonly"], False):
            cfg = match_config(cfg)
    stored = stored_config(cfg)
    settle_run_precision(stored)
    return SweepRun(stored)


def settle_run_precision(settings: Any) -> None:
    """Choose the precision where trainer.precision=auto leaves it to the machine; a run that has a folder keeps its own.

    So a sweep goes on, and finds what it has finished, on a machine that would choose another.

    Args:
        settings: those of one run, a config or plain dicts, of which trainer.precision is set.
    """
    if select(settings, "trainer.precision") != BY_MACHINE:
        return
    precision = choose_precision(settings)
    if has_wide_layers(settings):  # of all others the precision is the same everywhere
        file = RunFolder(Path(settings["paths"]["runs"]) / str(settings["name"])).config
        found = PRECISION.search(file.read_text(encoding="utf-8")) if file.is_file() else None
        precision = found[1] if found else precision
    settings["trainer"]["precision"] = precision


PRECISION = re.compile(r"^trainer:$(?:\n .*)*?\n +precision: (bf16-mixed|32-true)$", re.MULTILINE)
"""The precision in the text of a run's config.yaml, which is not parsed for it."""


def prepare_config(cfg: DictConfig) -> DictConfig:
    """A composed config without Hydra's own node. Raises SettingError if it is to resume a run."""
    with flag_override(cfg, ["struct", "readonly"], False):
        cfg.pop("hydra", None)
        if cfg.resume is not None:
            raise SettingError(
                f"resume={cfg.resume} continues one run: leave out -m and sweep=. A sweep goes on when its command is given "
                "again."
            )
    return cfg
