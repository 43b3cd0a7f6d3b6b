"""Around the entry points: schemas and resolvers for Hydra, and errors as one line instead of a wall."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.schema import Config, EvaluateConfig
from lagvae.sweep import NAME, for_wandb


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


def entry(root: Path, run: Callable[[], None], schema: type[Config] = Config) -> None:
    """Run a Hydra program; what a user can act on is printed as one paragraph, with exit status 1 (130 if stopped)."""
    from lagvae import report
    from lagvae.session import quiet

    full = os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    HERE.clear()
    sys.argv[1:] = [each for word in sys.argv[1:] for each in expanded(word)]
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants it in front
    quiet()
    failed = FAILED["here"] = []
    try:
        register(root, schema)
        run()
    except KeyboardInterrupt as stop:
        report.complain(readable(stop, root) or "Stopped.")
        sys.exit(130)
    except (LagvaeError, HydraException, OmegaConfBaseException) as error:
        report.complain(readable(error, root))
        sys.exit(1)
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        words = [(word, root / "conf" / word.partition("=")[0], word.partition("=")[2]) for word in sys.argv[1:]]
        odd = [word for word, group, name in words if group.is_dir() and not (group / f"{name}.yaml").is_file()]
        report.complain(f"{', '.join(odd)}: a group takes the name of an option.")
        sys.exit(1)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full
    if failed:
        report.complain("\n".join([f"{len(failed)} of the jobs failed, the others finished:", *failed]))
        sys.exit(1)


def expanded(word: str) -> list[str]:
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


def guarded(task: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Run one job. Alone it ends the program with a clear error; in a sweep the others go on, and the program fails last."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lagvae import report

    hydra = HydraConfig.get()
    try:
        if hydra.mode == RunMode.RUN and "cell" not in HERE and (sweep := hydra.runtime.choices.get("sweep")):
            raise SettingError(f"sweep={sweep} is many runs: add -m.")
        task(cfg)
    except LagvaeError as error:
        if isinstance(error, Stopped) and hydra.mode != RunMode.RUN:
            raise KeyboardInterrupt from error
        if hydra.mode == RunMode.RUN:
            report.complain(readable(error))
            sys.exit(130 if isinstance(error, Stopped) else 1)
        told = f"job {hydra.job.num} ({_swept(hydra.overrides.task)}): {readable(error)}"
        report.complain(told)
        if "here" not in FAILED:  # a launcher's own process tells by raising
            raise
        FAILED["here"].append(told)


def _swept(overrides: Iterable[str]) -> str:
    """Those overrides of a job that were not typed for all jobs alike."""
    typed = [word.partition("=") for word in sys.argv]
    alike = {key for key, _, _ in typed} - {key for key, _, value in typed if {",", "("} & set(value)}
    return " ".join(word for word in overrides if word.partition("=")[0] not in alike)


def readable(error: BaseException, root: Path | None = None) -> str:
    """The message of an error, with what Hydra, OmegaConf and worker processes wrap around it taken off."""
    seen: BaseException | None = error
    met: set[int] = set()  # an error that was raised again may have itself as context
    while seen is not None and id(seen) not in met:
        met.add(id(seen))
        if isinstance(seen, LagvaeError):
            text = str(seen)
            # A worker process hands its traceback on as text; the message is its last line.
            return text.rstrip().rpartition("\n")[2].partition(": ")[2] if text.startswith("Caught ") else text
        if isinstance(seen, MissingConfigException) and seen.missing_cfg_file is not None:
            return _unknown_option(seen, root)
        if isinstance(seen, OverrideParseException):
            return f"{seen.override!r} cannot be read as KEY=VALUE; quote special characters, as in \"KEY='a b'\"."
        if isinstance(seen, ConfigAttributeError | ConfigKeyError) and isinstance(seen.parent_node, DictConfig):
            return _unknown_key(seen)
        seen = seen.__cause__ or seen.__context__
    text = str(error).removeprefix("Error merging override ")
    if text != str(error) and error.__cause__ is not None:
        if "not a subclass of ConstraintConfig" in str(error.__cause__):
            return f"{text}: there is no such constraint; add its name to divergence=[…], a file of conf/divergence/."
        text += ": null is no value here" if "is not Optional" in str(error.__cause__) else f": {error.__cause__}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(
        line for line in lines if not line.startswith(("object_type=", "full_key:", "reference_type=", "Set the env"))
    )


def _unknown_option(error: MissingConfigException, root: Path | None) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = error.options or (sorted(file.stem for file in (root / "conf" / group).glob("*.yaml")) if root else [])
    return f"{group}={name} is unknown; choose one of {', '.join(options)}."


def _unknown_key(error: OmegaConfBaseException) -> str:
    there = [str(name) for name in error.parent_node if name != "hydra"]  # type: ignore[union-attr]
    parent, dot, name = str(error.full_key).rpartition(".")
    near = get_close_matches(name, there, 1)
    hint = f"did you mean {parent}{dot}{near[0]}?" if near else f"{parent or 'a config'} has {', '.join(there)}."
    return f"{error.full_key} is unknown; {hint}"


def write_wandb_sweeps(folder: Path) -> list[Path]:
    """Write every sweep of a folder as one of W&B, into wandb/ beside them."""
    written = []
    for file in sorted(folder.glob("*.yaml")):
        sweep = OmegaConf.to_container(OmegaConf.load(file))
        path = folder / "wandb" / file.name
        path.parent.mkdir(exist_ok=True)
        head = f"# Made by python src/wandb_sweeps.py. Use: wandb sweep sweeps/wandb/{file.name}, then wandb agent ID.\n"
        text = OmegaConf.to_yaml(OmegaConf.create(for_wandb(file.stem, sweep["hydra"]["sweeper"]["grids"])))  # type: ignore
        path.write_text(head + text, encoding="utf-8")
        written.append(path)
    return written
