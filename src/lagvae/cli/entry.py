"""Around the entry points: schemas and resolvers for Hydra, and errors as one paragraph instead of a traceback."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lagvae.cli.messages import group_message, readable_message
from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.experiment.schema import Config, EvaluateConfig
from lagvae.sweeps.grid import NAME
from lagvae.terminal import print_error, quiet_libraries

_failures: ContextVar[list[str] | None] = ContextVar("failures", default=None)
"""The failed jobs of Hydra's own launcher, in the process that the user started; None in a process that a launcher started."""


def register(root: Path, schema: type[Config] = Config) -> None:
    """Tell Hydra the schemas, the project's root, and every sweep of sweeps/ as `sweep=NAME`, from any working directory."""
    OmegaConf.register_new_resolver("project_root", lambda: os.environ.get("LAGVAE_ROOT", str(root)), replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    for file in sorted((root / "sweeps").glob("*.yaml")):
        try:
            sweep = OmegaConf.load(file)
        except Exception as error:  # YAML fails in many ways
            raise SettingError(f"{file} cannot be read: {error}") from error
        store.store(group="sweep", name=file.stem, node=OmegaConf.merge({"folder": file.stem}, sweep), package="_global_")


def run_program(root: Path, run: Callable[[], None], schema: type[Config] = Config) -> None:
    """Run a Hydra program; an error that a user can act on is printed as one paragraph, with exit status 1 (130 if stopped).

    Args:
        root: of the project. run: a function that `hydra.main` has decorated. schema: of its config.
    """
    quiet_libraries()
    failed: list[str] = []
    token = _failures.set(failed)
    try:
        with command_line(sys.argv[1:]):
            register(root, schema)
            run()
    except KeyboardInterrupt as stop:
        print_error(readable_message(stop, root) or "Stopped.")
        sys.exit(130)
    except (LagvaeError, HydraException, OmegaConfBaseException) as error:
        print_error(readable_message(error, root))
        sys.exit(1)
    except ValueError as error:
        if (message := group_message(error, root, sys.argv[1:])) is None:
            raise
        print_error(message)
        sys.exit(1)
    finally:
        _failures.reset(token)
    if failed:
        print_error("\n".join([f"{len(failed)} of the jobs failed, the others finished:", *failed]))
        sys.exit(1)


@contextmanager
def command_line(words: Sequence[str]) -> Iterator[None]:
    """Hand the words of a command line to Hydra as it takes them, and its errors to us; afterwards all is as it was."""
    before, full = list(sys.argv), os.environ.get("HYDRA_FULL_ERROR")
    expanded = [each for word in words for each in expand_word(word)]
    sys.argv[1:] = sorted(expanded, key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants it in front
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them
    try:
        yield
    finally:
        sys.argv[:] = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


def expand_word(word: str) -> list[str]:
    """overrides='A B' as the words A and B of one run of a sweep: how an agent of W&B, which knows no unions, names it.

    An objective is quoted for Hydra, which would take its parentheses for a call.
    """
    key, equals, value = word.partition("=")
    if equals and key == "objective" and not value.startswith(("'", '"')):
        escaped = value.replace("'", r"\'")
        return [f"objective='{escaped}'"]
    if not equals or key != "overrides":
        return [word]
    return [*shlex.split(value.strip("'\"")), NAME]


def run_guarded(task: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Run one job. Alone it ends the program with a clear error; in a sweep the others go on, and the program fails last."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    try:
        words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # an interpolation may lead nowhere
        alone = hydra.mode == RunMode.RUN and NAME not in words
        if alone and (sweep := hydra.runtime.choices.get("sweep")):
            raise SettingError(f"sweep={sweep} is many runs: add -m.")
        task(cfg)
    except LagvaeError as error:
        if isinstance(error, Stopped) and hydra.mode != RunMode.RUN:
            raise KeyboardInterrupt from error
        if hydra.mode == RunMode.RUN:
            print_error(readable_message(error))
            sys.exit(130 if isinstance(error, Stopped) else 1)
        message = f"job {hydra.job.num} ({_swept(hydra.overrides.task)}): {readable_message(error)}"
        print_error(message)
        if (failed := _failures.get()) is None:
            raise
        failed.append(message)


def _swept(overrides: Iterable[str]) -> str:
    """Those overrides of a job that were not typed for all jobs alike."""
    typed = [word.partition("=") for word in sys.argv]
    alike = {key for key, _, _ in typed} - {key for key, _, value in typed if {",", "("} & set(value)}
    return " ".join(word for word in overrides if word.partition("=")[0] not in alike)
