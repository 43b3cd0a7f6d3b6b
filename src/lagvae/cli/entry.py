"""Around the entry points: schemas and resolvers for Hydra, and errors as one line instead of a wall."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lagvae.cli.messages import readable_message
from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.experiment.schema import Config, EvaluateConfig
from lagvae.sweeps.grid import NAME


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
    """Run a Hydra program; what a user can act on is printed as one paragraph, with exit status 1 (130 if stopped)."""
    from lagvae.terminal import print_error, quiet_libraries

    full = os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    HERE.clear()
    sys.argv[1:] = [each for word in sys.argv[1:] for each in expand_word(word)]
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants it in front
    quiet_libraries()
    failed = FAILED["here"] = []
    try:
        register(root, schema)
        run()
    except KeyboardInterrupt as stop:
        print_error(readable_message(stop, root) or "Stopped.")
        sys.exit(130)
    except (LagvaeError, HydraException, OmegaConfBaseException) as error:
        print_error(readable_message(error, root))
        sys.exit(1)
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        words = [(word, root / "conf" / word.partition("=")[0], word.partition("=")[2]) for word in sys.argv[1:]]
        odd = [word for word, group, name in words if group.is_dir() and not (group / f"{name}.yaml").is_file()]
        print_error(f"{', '.join(odd)}: a group takes the name of an option.")
        sys.exit(1)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full
    if failed:
        print_error("\n".join([f"{len(failed)} of the jobs failed, the others finished:", *failed]))
        sys.exit(1)


def expand_word(word: str) -> list[str]:
    """cell='A B' as the words A and B of one cell of a sweep: how an agent of W&B, which knows no unions, names it.

    An objective is quoted for Hydra, which would take its parentheses for a call.
    """
    key, equals, value = word.partition("=")
    if equals and key == "objective" and not value.startswith(("'", '"')):
        escaped = value.replace("'", r"\'")
        return [f"objective='{escaped}'"]
    if not equals or key != "cell":
        return [word]
    HERE["cell"] = value
    return [*shlex.split(value.strip("'\"")), NAME]


HERE: dict[str, str] = {}
"""Under "cell" the one cell of a sweep that this program was started for."""

FAILED: dict[str, list[str]] = {}
"""Under "here" the jobs of a sweep that failed, with what went wrong, in the process that the user started."""


def run_guarded(task: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Run one job. Alone it ends the program with a clear error; in a sweep the others go on, and the program fails last."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lagvae.terminal import print_error

    hydra = HydraConfig.get()
    try:
        if hydra.mode == RunMode.RUN and "cell" not in HERE and (sweep := hydra.runtime.choices.get("sweep")):
            raise SettingError(f"sweep={sweep} is many runs: add -m.")
        task(cfg)
    except LagvaeError as error:
        if isinstance(error, Stopped) and hydra.mode != RunMode.RUN:
            raise KeyboardInterrupt from error
        if hydra.mode == RunMode.RUN:
            print_error(readable_message(error))
            sys.exit(130 if isinstance(error, Stopped) else 1)
        told = f"job {hydra.job.num} ({_swept(hydra.overrides.task)}): {readable_message(error)}"
        print_error(told)
        if "here" not in FAILED:  # a launcher's own process tells by raising
            raise
        FAILED["here"].append(told)


def _swept(overrides: Iterable[str]) -> str:
    """Those overrides of a job that were not typed for all jobs alike."""
    typed = [word.partition("=") for word in sys.argv]
    alike = {key for key, _, _ in typed} - {key for key, _, value in typed if {",", "("} & set(value)}
    return " ".join(word for word in overrides if word.partition("=")[0] not in alike)
