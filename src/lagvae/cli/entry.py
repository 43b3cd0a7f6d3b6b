"""Around the entry points: schemas and resolvers for Hydra, and errors as one paragraph instead of a traceback."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lagvae.cli.hydra_speed import make_hydra_faster
from lagvae.cli.messages import group_message, readable_message, refuse_several, with_options
from lagvae.cli.programs import home
from lagvae.cli.version import describe_version
from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.experiment.schema import Config, EvaluateConfig, new_name
from lagvae.sweeps.grid import NAME
from lagvae.terminal import print_error, print_note, quiet_libraries

_failures: ContextVar[list[str] | None] = ContextVar("failures", default=None)
"""The failed jobs of Hydra's own launcher, in the process that the user started; None in a process that a launcher started."""


SPIN_COUNT = "10000"
"""How often a waiting thread of GNU OpenMP checks for work before it sleeps.

By default it spins for so long that one other busy process on the machine makes training many times slower.
"""


def limit_spinning() -> None:
    """Let idle OpenMP threads sleep soon, unless the user chose how they wait. To be called before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The config that `lagvae train` makes of these words, for a caller in Python. Raises SettingError where it makes none."""
    root = home()
    try:
        register(root)
        with initialize_config_dir(str(root / "conf"), version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingError(readable_message(error, root, overrides)) from error


class SweepFile:
    """A file of sweeps/ in Hydra's store, which copies what it hands out: the copy is made by reading the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __deepcopy__(self, memo: object) -> DictConfig:
        return read_sweep(self.path, self.path.stat().st_mtime_ns).copy()


@lru_cache
def read_sweep(path: Path, changed: int) -> DictConfig:
    """A sweep, with the folder of its runs; SettingError where the file is damaged.

    Args:
        changed: when the file was last written, so that it is read again after that.
    """
    try:
        sweep = OmegaConf.load(path)
    except Exception as error:  # YAML fails in many ways
        raise SettingError(f"{path} cannot be read: {error}") from error
    if not isinstance(sweep, DictConfig):
        raise SettingError(f"{path} holds no settings; it needs hydra.sweeper.grids.")
    merged = OmegaConf.merge({"folder": path.stem}, sweep)
    assert isinstance(merged, DictConfig)
    return merged


def register(root: Path, schema: type[Config] = Config, about: str = "") -> None:
    """Tell Hydra the schemas, the project's root, and every sweep as `sweep=NAME`, from any working directory.

    Sweeps are the files of sweeps/, in the root and in a folder that --config-dir names.
    """
    OmegaConf.register_new_resolver("project_root", lambda: os.environ.get("LAGVAE_ROOT", str(root)), replace=True)
    OmegaConf.register_new_resolver("about", lambda: about, replace=True)
    make_hydra_faster()
    store = ConfigStore.instance()
    store.repo["schema.yaml"] = schema_node(schema)  # type: ignore[arg-type]
    store.repo["evaluate_schema.yaml"] = schema_node(EvaluateConfig)
    store.repo["sweep"] = {
        file.name: ConfigNode(file.name, node=SweepFile(file), group="sweep", package="_global_", provider=None)  # type: ignore[arg-type]
        for folder in (root, *own_folders(sys.argv[1:]))
        for file in sorted((folder / "sweeps").glob("*.yaml"))
    }


@lru_cache
def schema_node(schema: type[Any]) -> ConfigNode:
    """A schema as Hydra's store keeps it."""
    return ConfigNode(schema.__name__, OmegaConf.structured(schema), None, None, None)  # type: ignore[arg-type]


FOLDER_WORDS = ("--config-dir", "-cd")
"""How the command line names a folder of options."""


def own_folders(words: Sequence[str]) -> list[Path]:
    """The folders that --config-dir names in a command line."""
    found = []
    for k, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in FOLDER_WORDS and (equals or k + 1 < len(words)):
            found.append(Path(value if equals else words[k + 1]).absolute())
    return found


def sorted_for_hydra(words: Sequence[str]) -> list[str]:
    """The words of a command line with -m and --config-dir, which Hydra only takes in front, in front."""
    front: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word in FOLDER_WORDS and left:
            front += [word, left.pop(0)]
        else:
            (front if word in ("-m", "--multirun") or word.partition("=")[0] in FOLDER_WORDS else rest).append(word)
    return front + rest


def find_own_code(words: Sequence[str]) -> None:
    """Let Python find the modules of the working directory and of the folders of --config-dir, after those of all others."""
    folders = [os.getcwd(), *map(str, own_folders(words))]
    sys.path += [folder for folder in folders if folder not in sys.path]


def run_program(root: Path, run: Callable[[], None], schema: type[Config] = Config, about: str = "") -> None:
    """Run a Hydra program; an error that a user can act on is printed as one paragraph, with exit status 1 (130 if stopped).

    Args:
        root: of the project. run: a function that `hydra.main` has decorated. schema: of its config.
        about: the head of its help.
    """
    if "--version" in sys.argv[1:]:
        print(describe_version())
        return
    find_own_code(sys.argv[1:])
    limit_spinning()
    quiet_libraries()
    failed: list[str] = []
    token = _failures.set(failed)
    try:
        with command_line(sys.argv[1:]):
            register(root, schema, about)
            run()
    except KeyboardInterrupt as stop:
        print_note(readable_message(stop, root) or "Stopped.")
        sys.exit(130)
    except (LagvaeError, HydraException, OmegaConfBaseException) as error:
        print_error(readable_message(error, root, sys.argv[1:]))
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print_error(f"{error.filename} cannot be read or written ({error.strerror}).")
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
    """Set sys.argv to the form that Hydra expects, and make Hydra raise its errors; restore both on exit."""
    before, full = list(sys.argv), os.environ.get("HYDRA_FULL_ERROR")
    refuse_options(words)
    expanded = [each for word in words for each in expand_word(word)]
    sys.argv[1:] = sorted_for_hydra(expanded)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them
    try:
        yield
    finally:
        sys.argv[:] = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


def refuse_options(words: Sequence[str]) -> None:
    """Raise SettingError for an option that Hydra does not know, such as --steps: settings are words without dashes."""
    unknown = [word for word in get_args_parser().parse_known_args(list(words))[1] if word.startswith("--")]
    if unknown:
        raise SettingError(
            f"{unknown[0]} is no option. Settings are words KEY=VALUE without dashes, such as training.steps=1000; --help "
            "lists the options."
        )


def expand_word(word: str) -> list[str]:
    """overrides='A B' as the words A and B of one run of a sweep: how an agent of W&B, which knows no unions, names it.

    An objective is quoted for Hydra, which would take its parentheses for a call. A class for p(x|z) replaces the name there,
    and one for a new constraint makes the constraint.
    """
    key, equals, value = word.partition("=")
    refuse_several(word, home())
    if equals and key == "objective" and not value.startswith(("'", '"')):
        escaped = value.replace("'", r"\'")
        return [f"objective='{escaped}'"]
    if equals and (name := new_name(key.lstrip("+~"))):
        raise SettingError(f"{key} is now {name}; write {shlex.quote(f'{name}={value}')}.")
    if key == "model.likelihood._target_":  # beside a name, such as bernoulli, no setting can stand
        return [f"model.likelihood={{_target_:{value},_partial_:true}}"]
    if equals and (new := re.fullmatch(r"\+constraints\.(\w+)\.divergence\._target_", key)):
        # Hydra adds no typed node from the command line, but it does from an option of a group.
        node = {"constraints": {new[1]: {"divergence": {"_target_": value}}}}
        ConfigStore.instance().store("constraint", OmegaConf.create(node), f"own_{new[1]}", "_global_")
        return [f"+own_{new[1]}=constraint"]
    if not equals or key != "overrides":
        return [word]
    return [*shlex.split(value.strip("'\"")), NAME]


@contextmanager
def guarded() -> Iterator[None]:
    """Report the errors of one job. A single run ends the program; a sweep goes on and fails at its end."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # an interpolation may lead nowhere
    try:
        alone = hydra.mode == RunMode.RUN and NAME not in overrides
        if alone and (sweep := hydra.runtime.choices.get("sweep")):
            raise SettingError(f"sweep={sweep} is many runs: add -m.")
        yield
    except (LagvaeError, OmegaConfBaseException) as error:
        if isinstance(error, Stopped) and hydra.mode != RunMode.RUN:
            raise KeyboardInterrupt from error
        text = with_options(readable_message(error, home(), sys.argv[1:]), home(), hydra.runtime.choices)
        if hydra.mode == RunMode.RUN:
            stopped = isinstance(error, Stopped)
            (print_note if stopped else print_error)(text)
            sys.exit(130 if stopped else 1)
        message = f"job {hydra.job.num} ({_swept(overrides)}): {text}"
        print_error(message)
        if (failed := _failures.get()) is None:
            raise
        failed.append(message)


def _swept(overrides: Iterable[str]) -> str:
    """Those overrides of a job that were not typed for all jobs alike."""
    typed = [word.partition("=") for word in sys.argv]
    alike = {key for key, _, _ in typed} - {key for key, _, value in typed if {",", "("} & set(value)}
    return " ".join(word for word in overrides if word.partition("=")[0] not in alike)
