"""The programs: `lagvae train`, `python -m lagvae train` and, in a clone, `python src/train.py` are the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from lagvae.cli.use import USES, use_model
from lagvae.runs.layout import clone_root
from lagvae.terminal import COMMAND, command, make_printable, print_error, print_note, quick_imports


@dataclass(frozen=True)
class HydraProgram:
    """A program that Hydra makes a config for.

    Attributes:
        function: what it does with the config, as module:function.
        about: the head of its help. config: a file of conf/. schema: a class of lagvae.experiment.schema.
    """

    function: str
    about: str
    config: str = "config"
    schema: str = "Config"


HYDRA_PROGRAMS = {
    "train": HydraProgram(
        "lagvae.cli.commands:train_command",
        """Train a model of the family, or the runs of a sweep.

Usage: python src/train.py [GROUP=OPTION ...] [KEY=VALUE ...]
       python src/train.py -m sweep=NAME [KEY=VALUE,VALUE ...]
       python src/train.py resume=RUN

Examples:
  python src/train.py alpha=minimize constraints.neg_elbo.gamma=0.6
  python src/train.py family=beta_vae alpha.q=3 data=mnist
  python src/train.py -m sweep=pareto seed=0,1,2""",
    ),
    "calibrate": HydraProgram(
        "lagvae.cli.commands:calibrate_command",
        """Find the values of the divergences that a model can reach, which bounds are then set from.

Usage: python src/calibrate.py [GROUP=OPTION ...] [KEY=VALUE ...]

Examples:
  python src/calibrate.py
  python src/calibrate.py data=mnist model=conv
  python src/calibrate.py family=infovae calibration.steps=10000""",
    ),
    "evaluate": HydraProgram(
        "lagvae.cli.commands:evaluate_command",
        """Evaluate a run again from a checkpoint, and draw its figures.

Usage: python src/evaluate.py [run=RUN] [checkpoint=last|best|FILE]

Examples:
  python src/evaluate.py
  python src/evaluate.py run=first
  python src/evaluate.py run=first checkpoint=best""",
        "evaluate",
    ),
    "feasible": HydraProgram(
        "lagvae.cli.commands:feasible_command",
        """Find the bounds that a model can meet, before training it.

Usage: python src/feasible.py [GROUP=OPTION ...] [KEY=VALUE ...] [feasible.rate=RATE]

Examples:
  python src/feasible.py
  python src/feasible.py data=mnist model=conv
  python src/feasible.py family=infovae constraints.mmd.epsilon=1e-3""",
        "feasible",
        "FeasibleConfig",
    ),
    "data": HydraProgram(
        "lagvae.cli.commands:data_command",
        """Look at data before training: what they are, what is changed, what is unusual, and a picture of eight samples.

Usage: python src/data.py [data=NAME] [KEY=VALUE ...] [picture=FILE]

Examples:
  python src/data.py
  python src/data.py data=array data.source.path=mine.npz
  python src/data.py data=folder data.source.path=photos data.source.size=64 picture=photos.png""",
        "data",
        "DataConfig",
    ),
    "explain": HydraProgram(
        "lagvae.explain.explain:explain",
        """Explain the objective that settings give, or one that is written out.

Usage: python src/explain.py [GROUP=OPTION ...] [KEY=VALUE ...]
       python src/explain.py objective="..." [within=likelihood|unary|binary]
       python src/explain.py table=FILE

Examples:
  python src/explain.py family=infovae alpha.q=-2
  python src/explain.py objective="-I_q + KL(q(x|z)||p(x|z)) + 2*JS(q(z)||p(z))"
  python src/explain.py objective="-E_q[log p(x)]" within=likelihood""",
        "explain",
        "ExplainConfig",
    ),
}

PROGRAMS = {
    **{name: program.about.partition("\n")[0] for name, program in HYDRA_PROGRAMS.items()},
    "pareto": "Compare finished runs: who dominates whom, tables and figures.",
    "compare": "Show finished runs side by side: settings that differ, results with errors.",
    "watch": "Watch a run or a sweep while another process trains it.",
    "dashboard": "Save a view and a report of the runs of a W&B project.",
    **USES,
}
"""Name → what it does, in a line."""


@contextmanager
def ending_with_reader() -> Iterator[None]:
    """A context that ends the process where its output cannot be written: without a message where what reads it has ended, as
    `head` does. Where the user stops it while libraries are imported, it says no more than that.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        print_note("Stopped.")
        sys.exit(130)
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and (error.filename is not None or not stdout_fails()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
        if not isinstance(error, BrokenPipeError):
            print_error(
                f"Standard output cannot be written ({error.strerror}). Send it elsewhere; a stopped run can be resumed."
            )
        sys.exit(1)


def stdout_fails() -> bool:
    """Whether standard output still holds text that it cannot write."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def check_working_directory() -> None:
    """End the process with a message where its working directory was removed, which libraries cannot do without."""
    try:
        os.getcwd()
    except FileNotFoundError:
        print_error("The working directory was removed. Change to one that exists (cd), and start again.")
        sys.exit(1)


@ending_with_reader()
def run(name: str, root: Path) -> None:
    """Run a program with the words of the command line.

    Args:
        root: the folder of conf/ and sweeps/, and of what the program writes, where LAGVAE_ROOT does not name another.
    """
    make_printable()
    check_working_directory()
    if name in ("pareto", "compare"):
        from lagvae.cli import compare

        return compare.main(root) if name == "pareto" else compare.compare_runs(root)
    if name == "watch":
        from lagvae.cli.watch import watch

        return watch(root)
    if name == "dashboard":
        from lagvae.cli.dashboard import save

        return save()
    if name in USES:
        return use_model(name, root)

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from lagvae.cli.entry import guarded, run_program
    from lagvae.experiment import schema

    program = HYDRA_PROGRAMS[name]

    def task(cfg: DictConfig) -> None:
        if COMMAND in os.environ and sys.argv[1:2] != [name]:
            sys.argv.insert(1, name)  # Lightning starts the other processes of trainer=ddp with the words of this one
        with guarded():
            name_of_module, _, function = program.function.partition(":")
            with quick_imports():
                from lagvae.experiment.factory import enough_memory
                from lagvae.experiment.own_code import settle_nodes

                module = import_module(name_of_module)
            typed: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
            settle_nodes(cfg, typed)
            with enough_memory(cfg):
                getattr(module, function)(cfg)

    task.__module__ = f"lagvae.{name}"  # its last part is what Hydra calls the job
    main = hydra.main(version_base="1.3", config_path=str(root / "conf"), config_name=program.config)(task)
    about = program.about.replace(f"python src/{name}.py", command(name))
    run_program(root, main, getattr(schema, program.schema), about)


def home() -> Path:
    """The folder of conf/ and sweeps/: the root of a clone, or in an installed package this one."""
    return clone_root() or Path(__file__).resolve().parent


@ending_with_reader()
def run_command() -> None:
    """The command `lagvae`."""
    words = sys.argv[1:]
    os.environ[COMMAND] = "python -m lagvae" if Path(sys.argv[0]).name == "__main__.py" else "lagvae"
    if words[:1] in ([], ["-h"], ["--help"]):
        print(f"Usage: {command('PROGRAM')} ...\n")
        print("\n".join(f"  {name:<10} {line}" for name, line in PROGRAMS.items()))
        print(f"\n{command('PROGRAM')} --help says what a program takes; {command('--version')} prints versions.")
        return
    if words[0] == "-sc":  # Hydra completes the words of one program, which stands in the line
        start, _, line = os.environ.get("COMP_LINE", "lagvae train ").partition(" ")
        name, space, line = line.lstrip().partition(" ")
        if not space:
            return print(" ".join(PROGRAMS))
        if name not in HYDRA_PROGRAMS:
            return
        os.environ["COMP_LINE"] = f"{start} {line}"
        words.insert(0, name)
        sys.argv.insert(1, name)
    if words[0] == "--version":
        from lagvae.cli.version import describe_version

        return print(describe_version())
    if words[0] not in PROGRAMS:
        near = get_close_matches(words[0], PROGRAMS, 1)
        hint = f"Did you mean {command(near[0])}?" if near else f"Write one of {', '.join(PROGRAMS)} first."
        print_error(f"{words[0]} is not a program of lagvae. {hint}")
        sys.exit(1)
    del sys.argv[1]
    root = home()
    if root == Path(__file__).resolve().parent:
        os.environ.setdefault("LAGVAE_ROOT", os.getcwd())  # an installed package is no place for runs
    run(words[0], root)
