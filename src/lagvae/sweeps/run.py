"""One run of a sweep: its settings, where it is kept, and what is left to do of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lagvae.errors import CheckpointError, SettingError
from lagvae.experiment.settings import deciding_settings, differences
from lagvae.io import write_atomically, write_json
from lagvae.runs.layout import RunFolder


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep. `cfg` is resolved: it is what config.yaml of the run holds."""

    cfg: DictConfig

    @property
    def name(self) -> str:
        return str(self.cfg.name)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.cfg.paths.runs) / self.name)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The settings that decide about the numbers of the run, flat."""
        return deciding_settings(self.cfg)

    @property
    def finished(self) -> bool:
        """Whether the run is whole; a damaged summary is made again."""
        try:
            self.folder.read_summary()
        except CheckpointError:
            return False
        return True

    @property
    def trained(self) -> bool:
        """Whether nothing is left but to measure the run."""
        step, stopped = progress_of(self.folder)
        return stopped or step >= int(self.cfg.training.steps)

    def check_folder(self) -> None:
        """Raise where the folder of this run holds a run with other settings."""
        if not self.folder.config.is_file():
            return
        try:
            there = OmegaConf.load(self.folder.config)
            assert isinstance(there, DictConfig)
            found = differences(deciding_settings(there), self.content)
        except Exception as error:  # YAML and OmegaConf fail in many ways
            raise CheckpointError(
                f"{self.folder.config} is damaged ({error}). Remove {self.folder.path} and run again."
            ) from error
        if found:
            raise SettingError(
                f"{self.folder.path} holds a run of another sweep (there → here: {'; '.join(found[:3])}). Keep both with "
                "folder=NAME, or remove the old one."
            )

    def claim(self) -> None:
        """Make the folder of the run, with its config."""
        write_atomically(self.folder.config, lambda part: OmegaConf.save(self.cfg, part))
        self.folder.failure.unlink(missing_ok=True)

    def fail(self, message: str) -> None:
        """Remember why the run failed; it is tried again with the next sweep."""
        write_json(self.folder.failure, {"error": message})


def progress_of(run: RunFolder) -> tuple[int, bool]:
    """The step of the last checkpoint of a run (0 where there is none that can be read), and whether it stopped for good."""
    try:
        content = torch.load(run.last, map_location="cpu", weights_only=True)
        stopped = content["callbacks"].get("FeasibilityWatch", {}).get("stopped_by") is not None
        return int(content["global_step"]), stopped
    except Exception:  # missing, or unpickling failed in one of its many ways
        return 0, False


def to_config(node: Mapping[str, Any]) -> DictConfig:
    """A config from plain values."""
    cfg = OmegaConf.create(dict(node))
    assert isinstance(cfg, DictConfig)
    return cfg
