"""Around the entry points: schemas and resolvers for Hydra, and errors as one line instead of a wall."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.schema import Config, EvaluateConfig


def register(root: Path) -> None:
    """Tell Hydra the schemas, the project's root, and every sweep of sweeps/ as `sweep=NAME`, from any working directory."""
    OmegaConf.register_new_resolver("project_root", lambda: os.environ.get("LAGVAE_ROOT", str(root)), replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    for file in sorted((root / "sweeps").glob("*.yaml")):
        try:
            sweep = OmegaConf.load(file)
        except Exception as error:  # YAML fails in many ways
            raise SettingError(f"{file} cannot be read: {error}") from error
        store.store(group="sweep", name=file.stem, node=sweep, package="_global_")


def entry(root: Path, run: Callable[[], None]) -> None:
    """Run a Hydra program; what a user can act on is printed as one paragraph, with exit status 1 (130 if stopped)."""
    from lagvae import report
    from lagvae.session import quiet

    full = os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    quiet()
    try:
        register(root)
        run()
    except KeyboardInterrupt:
        report.complain("Stopped.")
        sys.exit(130)
    except (LagvaeError, HydraException, OmegaConfBaseException) as error:
        report.complain(readable(error))
        sys.exit(1)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full


def guarded(task: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Run one job. Alone it ends the program with a clear error; in a sweep the other jobs go on and the error is told twice."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lagvae import report

    try:
        task(cfg)
    except LagvaeError as error:
        if HydraConfig.get().mode == RunMode.RUN:
            report.complain(str(error))
            sys.exit(130 if isinstance(error, Stopped) else 1)
        if isinstance(error, Stopped):
            raise KeyboardInterrupt from error
        report.complain(f"{HydraConfig.get().job.override_dirname}: {error}")
        raise


def readable(error: BaseException) -> str:
    """The message of an error, with what Hydra wraps around ours taken off."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LagvaeError):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n".join(line for line in lines if not line.startswith(("object_type=", "Set the environment variable")))
