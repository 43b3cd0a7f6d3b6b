"""The processes that share the training of a run: those that torchrun or srun started, or that the first one starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import TimeoutExpired
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

from lagvae.callbacks.stopping import interrupt_on_sigterm
from lagvae.errors import SettingError
from lagvae.experiment.factory import error_context
from lagvae.experiment.precision import BY_MACHINE, choose_precision
from lagvae.experiment.validate import validate
from lagvae.ranks import GRACE, STARTED_BY, end_with_parent, is_joined, joined_ranks, on_first
from lagvae.terminal import console, print_error

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
"""Variables of the environment that every launcher sets."""


def adopt_launcher(cfg: DictConfig, stored: bool = False) -> None:
    """Train in as many processes as torchrun started, where the settings do not say in how many.

    Args:
        stored: whether the settings are those of a stored run, which may have had another number of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or cfg.get("trainer") is None:
        return
    if not stored and cfg.trainer.get("devices") not in (1, "1", "auto"):
        return
    here, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    alone, strategy = world == 1, cfg.trainer.get("strategy", "auto")
    cfg.trainer.devices, cfg.trainer.num_nodes = here, world // here
    cfg.trainer.strategy = "auto" if alone else "ddp" if strategy == "auto" else strategy


def in_one_process(cfg: DictConfig) -> None:
    """Use one process, where a run was trained by several."""
    if cfg.trainer.get("devices") not in (1, "1", "auto") or cfg.trainer.get("num_nodes", 1) != 1:
        cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.strategy = 1, 1, "auto"


def settle_precision(cfg: DictConfig) -> None:
    """Put the precision that the first process chooses in the place of trainer.precision=auto."""
    if cfg.trainer.get("precision") == BY_MACHINE:
        cfg.trainer.precision = on_first(lambda: choose_precision(cfg))


@contextmanager
def validated_processes(cfg: DictConfig) -> Iterator[None]:
    """Validate the settings, and enter a context that all processes of a run enter together.

    The first process starts the others, where no launcher has, and chooses the precision where that is left to the machine.

    Raises: SettingError for an invalid setting, and where the processes that a launcher started are not those of the settings.
    """
    if is_joined():
        settle_precision(cfg)
        yield
        return
    trainer = validate(cfg)
    # Lightning takes it from whatever LOCAL_RANK or SLURM_PROCID there is.
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
    strategy, started = trainer.strategy, []
    if trainer.world_size > 1:
        check_launcher(cfg, strategy)
        launcher: Any = strategy.launcher
        connected = threading.Event()
        if STARTED_BY in os.environ:  # until then only this tells that the first was killed
            end_with_parent(connected)
        os.environ[STARTED_BY] = str(os.getpid())
        try:
            with error_context(f"trainer.devices={cfg.trainer.devices} with trainer.num_nodes={cfg.trainer.num_nodes}"):
                launcher.launch(strategy.setup_environment)
        finally:
            del os.environ[STARTED_BY]
        connected.set()
        # From here on every process notices by itself that another one ends; Lightning would kill them all, without a word.
        started = list(launcher.procs)
        launcher.procs.clear()
        interrupt_on_sigterm()
    try:
        with joined_ranks(trainer.global_rank, trainer.world_size, strategy.broadcast, print_last_error):
            settle_precision(cfg)
            yield
    finally:
        for process in started:
            try:
                process.wait(2 * GRACE)
            except TimeoutExpired:
                process.kill()


def check_launcher(cfg: DictConfig, strategy: object) -> None:
    """Raise SettingError where the processes of a run cannot be started, or would wait for others that do not exist."""
    chosen = str(cfg.trainer.strategy)
    if any(word in chosen for word in ("spawn", "fork", "notebook")):
        raise SettingError(f"trainer.strategy={chosen} does not work here; use trainer.strategy=ddp.")
    environment = getattr(strategy, "cluster_environment", None)
    from_launcher = isinstance(environment, LightningEnvironment) and environment.creates_processes_externally
    if from_launcher and (missing := [name for name in ADDRESS if name not in os.environ]):
        raise SettingError(
            f"LOCAL_RANK={os.environ['LOCAL_RANK']} is set, but {' and '.join(missing)} not: no launcher started this process, "
            "and it would wait for others. Remove the variable (unset LOCAL_RANK), or start with torchrun."
        )


def print_last_error(text: str) -> None:
    """An error, before the process ends in the middle of its work."""
    console(stderr=True).show_cursor()
    print_error(text)
