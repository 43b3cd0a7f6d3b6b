"""Plugins for Hydra: a sweeper for a union of grids, and a launcher that trains the runs of a sweep together.

Hydra imports this module at every start, so its own imports are few. Hydra does not add it to sys.modules, so its annotations
must be objects and not strings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class UnionSweeperConf:
    """Settings of the sweeper.

    Attributes:
        grids: each maps a key to a value or a list of values. The runs are the union of the products of the grids.
    """

    _target_: str = "hydra_plugins.lagvae_sweep.UnionSweeper"
    grids: list[Any] = field(default_factory=list)


@dataclass
class SweepLauncherConf:
    """The launcher has no settings here: they are in the node `launcher` of the config."""

    _target_: str = "hydra_plugins.lagvae_sweep.SweepLauncher"


class UnionSweeper(Sweeper):
    """Passes all runs of a union of grids to the launcher at once."""

    def __init__(self, grids: Sequence[Any] = ()) -> None:
        self.grids = OmegaConf.to_container(OmegaConf.create(list(grids)))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        grids: Any = self.grids
        if match := OmegaConf.select(self.config, "match"):
            from lagvae.sweeps.matching import matched_overrides

            runs = matched_overrides(match, Path(self.config.paths.runs), grids, arguments)
        else:
            from lagvae.sweeps.grid import expand

            runs = expand(grids, arguments)
        returned = self.launcher.launch(runs, initial_job_idx=0)
        for job in returned:
            _ = job.return_value  # raises the job's exception, if it has one
        return [returned]


class SweepLauncher(Launcher):
    """Trains all runs of a sweep of train.py with the executor that `launcher` names. Other programs run one job at a time."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if self.config.hydra.job.name != "train":
            from hydra._internal.core_plugins.basic_launcher import BasicLauncher

            launcher = BasicLauncher()
            launcher.setup(hydra_context=self.context, task_function=self.task, config=self.config)
            return launcher.launch(job_overrides, initial_job_idx)
        from lagvae.sweeps.composer import Composer
        from lagvae.sweeps.runner import run_sweep

        composer = Composer.of_sweep(self.context.config_loader, self.config)  # type: ignore[arg-type]
        folder = run_sweep(self.config, [partial(composer.run, overrides) for overrides in job_overrides])
        if folder is not None and self.config.logger:
            from lagvae.pareto.report import log_sweep_comparison

            log_sweep_comparison(folder)
        return []


store = ConfigStore.instance()
store.store(group="hydra/sweeper", name="union", node=UnionSweeperConf, provider="lagvae")
store.store(group="hydra/launcher", name="lagvae", node=SweepLauncherConf, provider="lagvae")
