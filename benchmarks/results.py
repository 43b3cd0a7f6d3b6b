"""Which results were made by the code as it is, and which are to be made again.

    python benchmarks/results.py                    # list every result: fresh, stale or unstamped
    python benchmarks/results.py remake             # make all that are not fresh, the quickest first
    python benchmarks/results.py --make dual mnist  # make these
    python benchmarks/results.py --carry COMMIT     # keep those that were fresh at COMMIT, where no number has changed since

A result ends with a line that names its command, its date and a hash of what decides about its numbers: the commands, the
benchmark, the modules of lagvae and the settings of its row in `RESULTS`. Comments, docstrings and formatting do not change
the hash. The stamp is written only after all commands have succeeded, on code that did not change meanwhile; a command that
fails or is interrupted writes nothing. Runs are kept in runs/.results/NAME-HASH, so that the same command goes on with them.

A clean-up, a message or a new module changes the hash and no number. Where benchmarks/unchanged.py finds the same bits before
and after it, --carry adds a line with the new hash to a result; one whose benchmark, sweep or oracle has changed is left stale.

To add a result: a row in `RESULTS`. A command finds {root}, the folder of its runs (also LAGVAE_ROOT), and {data}.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import unchanged
import yaml

ROOT = Path(__file__).resolve().parents[1]


def below(folder: str, names: str) -> tuple[str, ...]:
    """The paths of names that stand in a folder."""
    return tuple(f"{folder}/{name}" for name in names.split())


ESTIMATES = below("src/lagvae", "distributions divergences information introspection.py metrics networks.py noise.py")
"""What decides about a measurement."""

SETTINGS = (
    *below(
        "conf", "alpha callbacks config.yaml data/base data/digits.yaml divergence/mmd.yaml divergence/neg_elbo.yaml epsilon"
    ),
    *below("conf", "family/infovae.yaml family/lagvae.yaml kernel/mixture.yaml likelihood/auto.yaml model/mlp.yaml multiplier"),
    *below("conf", "posterior/gaussian.yaml prior/normal.yaml trainer"),
)
"""What decides about LagVAE and InfoVAE on digits; {data} and networks of their own stand in the rows."""

TRAINING = (
    *ESTIMATES,
    *below(
        "src/lagvae",
        "callbacks/budget.py callbacks/checkpoints.py callbacks/evaluation.py data lagrangian.py log_ascent.py model.py",
    ),
    *below("src/lagvae", "front.py nupi.py recorded.py"),
    *below("src/lagvae/experiment", "calibration.py convergence.py diagnostics.py factory.py fit.py precision.py run.py"),
    *SETTINGS,
)
"""What decides about a run."""

ENSEMBLES = (*TRAINING, *below("src/lagvae", "ensemble.py sweeps/ensemble_training.py"))
"""What decides about the runs of a sweep."""

COMPARISON = (*ENSEMBLES, *below("src/lagvae/pareto", "comparison.py fronts.py points.py tables.py"))
"""What decides about a comparison of runs."""


@dataclass(frozen=True)
class Result:
    """A file of results.

    Args:
        file: relative to the project.
        commands: made one after another; python is this interpreter.
        code: files and folders that decide about the numbers.
        minutes: about how long the commands take on two cores.
    """

    file: str
    commands: tuple[str, ...]
    code: tuple[str, ...]
    minutes: float


def benchmark(script: str, options: str, code: tuple[str, ...], minutes: float, file: str | None = None) -> Result:
    """The result of one script in benchmarks/."""
    command = f"python benchmarks/{script}.py {options}".strip()
    return Result(file or f"results/{script}.md", (command,), (f"benchmarks/{script}.py", *code), minutes)


def comparison(name: str, sweep: str, minutes: float, seeds: int = 1, settings: str = "", code: tuple[str, ...] = ()) -> Result:
    """The result of `src/pareto.py` on a sweep, one command for each seed."""
    train = f"python src/train.py -m sweep={sweep} folder={name} {settings}".strip()
    commands = [*(f"{train} seed={seed}" for seed in range(seeds)), f"python src/pareto.py {name} --out results/{name}"]
    return Result(f"results/{name}/pareto.md", tuple(commands), (*COMPARISON, f"sweeps/{sweep}.yaml", *code), minutes)


MNIST_NETWORK = "'model.encoder.hidden=[256,256]' 'model.decoder.hidden=[256,256]'"
MNIST_LENGTH = "training.steps=4320 training.interval=1080 calibration.steps=4320"

OWN_LAMBDA, FIXED_LAMBDA = (f"constraints.neg_elbo.learned={learned}" for learned in ("true", "false"))

RESULTS: dict[str, Result] = {
    "alpha": Result(
        "results/alpha.md",
        (
            "python src/train.py -m sweep=alpha folder=alpha callbacks=light",
            "python benchmarks/alpha.py {root}/runs/alpha --out results/alpha.md",
        ),
        (*ENSEMBLES, *below("benchmarks", "alpha.py grid.py"), "sweeps/alpha.yaml"),
        10,
    ),
    "anomaly": benchmark(
        "anomaly",
        "--root {root} --out results/anomaly.md",
        (*TRAINING, "conf/data/table.yaml", *below("conf", "alpha family/vae.yaml"), "benchmarks/grid.py"),
        5,
    ),
    "fair": benchmark(
        "fair",
        "--root {root} --out results/fair.md",
        (
            *TRAINING,
            *below("conf", "data/table.yaml family/controllable_fair.yaml divergence/attribute_information.yaml critic"),
            "benchmarks/grid.py",
        ),
        10,
    ),
    "front": benchmark(
        "front",
        "--root {root} --out results/front.md",
        (
            *(*TRAINING, "conf/family/front.yaml", "conf/data/linear_gaussian.yaml"),
            *below("src/lagvae/oracles", "gaussian.py rate_distortion.py source.py"),
            *below("benchmarks", "grid.py linear_gaussian.py"),
        ),
        60,
    ),
    "continuous": benchmark(
        "continuous",
        "--root {root} --out results/continuous.md",
        (*TRAINING, "conf/data/array.yaml", "conf/likelihood/normal.yaml", "benchmarks/grid.py"),
        8,
    ),
    "convergence": Result(
        "results/convergence.md",
        (
            *(
                f"python src/train.py -m seed=0,1,2 alpha.q=-1,1 training.steps={n} folder=steps{n} callbacks.figures=false"
                for n in (1833, 5500, 16500)
            ),
            "python benchmarks/convergence.py {root}/runs/steps1833 {root}/runs/steps5500 {root}/runs/steps16500 "
            "--out results/convergence.md",
        ),
        (*ENSEMBLES, *below("benchmarks", "convergence.py grid.py")),
        15,
    ),
    "dashboard": benchmark(
        "dashboard",
        "--root {root} --out results/dashboard.md",
        (*below("src/lagvae", "cli/watch.py runs terminal.py"), "tests/wandb_files.py", "sweeps/pareto.yaml"),
        6,
    ),
    "dual": benchmark("dual", "--root {root} --out results/dual.md", (*TRAINING, "benchmarks/grid.py"), 30),
    "duality": benchmark(
        "duality",
        "--out results/duality.md",
        (
            *ESTIMATES,
            *below("src/lagvae", "data/batches.py lagrangian.py model.py nupi.py recorded.py"),
            *below("src/lagvae/oracles", "duality.py softmax_tables.py tabular.py"),
        ),
        3,
    ),
    "ensemble": benchmark(
        "ensemble", "--out results/ensemble.md", (*ENSEMBLES, "benchmarks/step.py", "conf/model/mlp_paper.yaml"), 7
    ),
    "estimators": benchmark(
        "estimators",
        "--out docs/estimators.md",
        (*ESTIMATES, "conf/kernel", *below("benchmarks", "estimators_text.py worlds.py")),
        14,
        "docs/estimators.md",
    ),
    "factors": benchmark(
        "factors",
        "--root {root} --out results/factors.md",
        (*TRAINING, *below("conf", "data/array.yaml family/beta_vae.yaml family/vae.yaml"), "benchmarks/grid.py"),
        12,
    ),
    "family": Result(
        "results/family.md",
        (
            "python src/train.py -m sweep=family seed=0,1,2 launcher=processes training.threads=1",
            "python src/train.py -m sweep=family_learned seed=0,1,2 launcher=processes training.threads=1",
            "python benchmarks/family.py {root}/runs/family {root}/runs/family_learned --out results/family.md",
        ),
        (
            *TRAINING,
            *below("conf", "critic data/digits_pairs.yaml divergence family kernel likelihood model posterior prior"),
            *below("sweeps", "family.yaml family_learned.yaml"),
            "benchmarks/family.py",
        ),
        60,
    ),
    "figure1": comparison("figure1", "figure1", 9),
    "images": benchmark(
        "images",
        "--root {root} --out results/images.md",
        (*TRAINING, *below("conf", "data/array.yaml likelihood model/conv.yaml"), "benchmarks/grid.py"),
        8,
    ),
    "inputs": benchmark(
        "inputs",
        "--root {root} --out results/inputs.md",
        (
            *TRAINING,
            *below("conf", "data family/vae.yaml likelihood"),
            *below("src/lagvae/experiment", "data_profile.py"),
            "benchmarks/grid.py",
        ),
        4,
    ),
    "interval": benchmark(
        "interval",
        "--mnist --root {root} --out results/interval.md",
        (*TRAINING, "conf/data/mnist.yaml", *below("benchmarks", "grid.py mnist.py")),
        12,
    ),
    "linear_gaussian": benchmark(
        "linear_gaussian",
        "--root {root} --out results/linear_gaussian.md",
        (
            *TRAINING,
            "conf/data/linear_gaussian.yaml",
            *below("src/lagvae/oracles", "gaussian.py rate_distortion.py source.py"),
            "benchmarks/grid.py",
        ),
        30,
    ),
    "matched-digits": Result(
        "results/matched-digits/pareto.md",
        (
            "python src/train.py -m sweep=pareto folder=infovae family=infovae seed=2,3,4 callbacks=light "
            "callbacks.final.information.most=40000",
            "python src/train.py -m sweep=matched folder=matched match=infovae",
            "python src/pareto.py infovae matched --out results/matched-digits",
        ),
        (*COMPARISON, *below("sweeps", "matched.yaml pareto.yaml")),
        60,
    ),
    "maximising": benchmark(
        "maximising", "--out results/maximising.md", below("src/lagvae/oracles", "maximising.py tabular.py"), 2
    ),
    "mnist": benchmark(
        "mnist", "--root {root} --out results/mnist", (*TRAINING, "conf/data/mnist.yaml", "benchmarks/grid.py"), 4
    ),
    "paper-mnist": comparison(
        "paper-mnist",
        "paper",
        50,
        settings="family=lagvae constraints.neg_elbo.epsilon=84,90 training.steps=6000 training.interval=2000 callbacks=light "
        "paths.data={data}",
        code=("conf/data/mnist.yaml", *below("conf/experiment", "paper_mnist.yaml paper_mnist_short.yaml")),
    ),
    "pareto-digits": comparison("pareto-digits", "pareto", 18, seeds=2),
    "pareto-digits-scratch": comparison("pareto-digits-scratch", "pareto", 9, settings="training.start=scratch"),
    "pareto-mnist": comparison(
        "pareto-mnist",
        "pareto",
        58,
        settings=f"data=mnist paths.data={{data}} {MNIST_NETWORK} {MNIST_LENGTH}",
        code=("conf/data/mnist.yaml",),
    ),
    "regret": Result(
        "results/regret.md",
        (
            f"python src/train.py -m sweep=oracle folder=default {OWN_LAMBDA} seed=2,3,4 callbacks=light",
            f"python src/train.py -m sweep=oracle folder=oracle {FIXED_LAMBDA} seed=2,3,4 callbacks=light",
            "python src/train.py -m folder=warm_up seed=2,3,4 alpha.q=-1 constraints.mmd.learned=false callbacks=light "
            "callbacks.final.information.most=40000 callbacks.final.information.components=0 "
            "callbacks.final.information.pairs=30000000 "
            "multiplier.optimizer._target_=benchmarks.warm_up.WarmUp '~multiplier.optimizer.reach' "
            "+multiplier.optimizer.start=0.1,0.2 constraints.neg_elbo.warm_up=0 "
            "constraints.neg_elbo.multiplier=0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.7,0.8,0.9,1.0,1.15,1.3",
            "python benchmarks/regret.py {root}/runs/default {root}/runs/oracle {root}/runs/warm_up --out results/regret.md",
        ),
        (*ENSEMBLES, *below("benchmarks", "grid.py regret.py warm_up.py"), "sweeps/oracle.yaml"),
        90,
    ),
    "sensitivity": benchmark(
        "sensitivity", "--root {root} --out results/sensitivity.md", (*ENSEMBLES, "benchmarks/grid.py"), 5
    ),
    "step": benchmark("step", "--out results/step.md", (*TRAINING, "conf/model/mlp_paper.yaml"), 3),
    "targets": benchmark(
        "targets",
        "--root {root} --out results/targets.md",
        (
            *TRAINING,
            *below("conf", "data/array.yaml divergence/distortion.yaml divergence/rate.yaml likelihood/normal.yaml"),
            *below("conf/family", "geco.yaml target_rate.yaml"),
            *below("benchmarks", "continuous.py grid.py"),
        ),
        10,
    ),
}
"""Name → result. The hash is over what stands here, so that a row that changes makes its result stale."""

UNDECIDING = (
    *below(
        "src/lagvae",
        "__init__.py __main__.py algebra cli errors.py explain inference.py io.py pages ranks.py runs sklearn.py terminal.py",
    ),
    *below(
        "src/lagvae",
        "callbacks/feasibility.py callbacks/progress.py callbacks/stopping.py pareto/figures.py pareto/page.py "
        "pareto/report.py pareto/side_by_side.py",
    ),
    *below(
        "src/lagvae/experiment",
        "data_picture.py data_profile.py export.py feasibility.py figures.py loading.py logger_settings.py own_code.py page.py "
        "processes.py report.py sample_figures.py schema.py settings.py signatures.py style.py summary.py trial.py validate.py",
    ),
    *below(
        "src/lagvae/sweeps",
        "composer.py executors.py grid.py job.py matching.py plan.py prediction.py progress.py runner.py sweep_run.py "
        "wandb_sweeps.py",
    ),
)
"""What decides about no number in a result: messages, pictures, folders, loading, and which settings and runs are allowed."""

STAMP = re.compile(r"^Made by `make results ARGS=\"--make (\S+)\"` on (\S+); code (\w+)\.$", re.M)

CARRIED = re.compile(
    r"^Code (\w+) ends short runs of every kind with the same bits \(`benchmarks/unchanged.py (\w+)`, (\S+)\)\.$", re.M
)

PROBED = ("src/lagvae/", "conf/")
"""What the runs of benchmarks/unchanged.py use; but no run trains on an oracle other than data=linear_gaussian."""


def files_below(paths: tuple[str, ...]) -> Iterator[Path]:
    """The Python and YAML files that paths name, and those in folders that they name, each once."""
    found: set[Path] = set()
    for path in paths:
        there = [ROOT / path] if (ROOT / path).is_file() else [*(ROOT / path).rglob("*.py"), *(ROOT / path).rglob("*.yaml")]
        if not there:
            raise FileNotFoundError(f"{path}, which a result in {Path(__file__).name} depends on, is not there.")
        found |= set(there)
    return iter(sorted(found))


def behaviour(file: Path) -> Any:
    """What a file does, without its comments, docstrings and formatting, the same in every version of Python."""
    text = file.read_text(encoding="utf-8")
    return plain(ast.parse(text)) if file.suffix == ".py" else yaml.safe_load(text)


def plain(node: Any) -> Any:
    """A syntax tree as lists and texts: without texts that stand as statements, and without empty fields."""
    if isinstance(node, ast.AST):
        return [
            type(node).__name__,
            *([name, plain(value)] for name, value in ast.iter_fields(node) if value not in (None, [])),
        ]
    if isinstance(node, list):
        return [plain(item) for item in node if not is_docstring(item)]
    return repr(node)


def is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def code_hash(name: str) -> str:
    """Eight hexadecimal digits for all that decides about a result."""
    result = RESULTS[name]
    parts = [(str(file.relative_to(ROOT)), behaviour(file)) for file in files_below(result.code)]
    return hashlib.sha256(json.dumps([result.commands, parts], sort_keys=True).encode()).hexdigest()[:8]


def state(name: str) -> str:
    """Fresh, stale, unstamped or missing."""
    file = ROOT / RESULTS[name].file
    if not file.is_file():
        return "missing"
    stamp = STAMP.search(file.read_text(encoding="utf-8"))
    if stamp is None:
        return "unstamped"
    carried = CARRIED.search(file.read_text(encoding="utf-8"))
    hashes = {stamp[3], carried[1] if carried else ""}
    return "fresh" if stamp[1] == name and code_hash(name) in hashes else f"stale, of {stamp[2]}"


def write_stamp(name: str) -> None:
    """End the file of a result with its command, the date and the hash of what decided about it."""
    file = ROOT / RESULTS[name].file
    text = CARRIED.sub("", STAMP.sub("", file.read_text(encoding="utf-8"))).rstrip()
    write(file, f'{text}\n\nMade by `make results ARGS="--make {name}"` on {date.today()}; code {code_hash(name)}.\n')


def write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def carry(commit: str) -> list[str]:
    """Stamp the results that were fresh at a commit, and are stale now, with the hash of code that changes no number.

    Returns: their names. SystemExit, with nothing stamped, where the code ends short runs with other numbers.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = unchanged.extract(commit, Path(folder))
        fresh = fresh_in(before)
        stale = [name for name in RESULTS if state(name).startswith("stale")]
        names = [n for n in stale if fresh.get(n) == list(RESULTS[n].commands) and is_probed(n, before)]
    if not names:
        return []
    if found := unchanged.differences(commit):
        raise SystemExit("\n".join([*found, "Nothing is stamped: make the results again."]))
    short = subprocess.run(["git", "rev-parse", "--short", commit], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names:
        file = ROOT / RESULTS[name].file
        line = f"Code {code_hash(name)} ends short runs of every kind with the same bits "
        line += f"(`benchmarks/unchanged.py {short.strip()}`, {date.today()})."
        write(file, f"{CARRIED.sub('', file.read_text(encoding='utf-8')).rstrip()}\n\n{line}\n")
    return names


def fresh_in(tree: Path) -> dict[str, list[str]]:
    """The results that are fresh in another tree, with their commands."""
    program = (
        "import json, results as r; print(json.dumps({n: r.RESULTS[n].commands for n in r.RESULTS if r.state(n) == 'fresh'}))"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=tree / "benchmarks", check=True, capture_output=True).stdout
    found: dict[str, list[str]] = json.loads(output)
    return found


def is_probed(name: str, before: Path) -> bool:
    """Whether all that has changed of what decides about a result is used by the runs of benchmarks/unchanged.py."""
    for file in files_below(RESULTS[name].code):
        path = str(file.relative_to(ROOT))
        probed = path.startswith(PROBED) and not path.startswith("src/lagvae/oracles/")
        if not probed and not ((before / path).is_file() and behaviour(before / path) == behaviour(file)):
            return False
    return True


def make(name: str) -> bool:
    """Run the commands of a result, and stamp it; whether it succeeded."""
    before = code_hash(name)
    root = ROOT / "runs" / ".results" / f"{name}-{before}"
    for command in RESULTS[name].commands:
        words = [word.format(root=root, data=ROOT / "data") for word in shlex.split(command)]
        print(f"{name}: {shlex.join(words)}", flush=True)
        python = [sys.executable, *words[1:]]
        if status := subprocess.run(python, cwd=ROOT, env=os.environ | {"LAGVAE_ROOT": str(root)}).returncode:
            print(f"{name}: status {status}; {RESULTS[name].file} is not stamped.", file=sys.stderr)
            return False
    code_hash.cache_clear()
    if code_hash(name) != before:
        print(f"{name}: its code has changed meanwhile; {RESULTS[name].file} is not stamped.", file=sys.stderr)
        return False
    write_stamp(name)
    return True


def listing() -> Iterator[str]:
    """A line for each result."""
    for name, result in RESULTS.items():
        yield f"{name:<22} {state(name):<18} {result.file:<40} about {result.minutes:g} min"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("list", "remake"), default="list")
    parser.add_argument("--make", nargs="+", choices=list(RESULTS), metavar="NAME", help=", ".join(RESULTS))
    parser.add_argument("--carry", metavar="COMMIT", help="keep what was fresh at this commit, where no number has changed")
    options = parser.parse_args()
    if options.carry:
        names = carry(options.carry)
        print(f"Still fresh: {', '.join(names)}." if names else "There is nothing to carry.")
        return
    if options.make is None and options.what == "list":
        print("\n".join(listing()))
        return
    names = options.make or sorted((n for n in RESULTS if state(n) != "fresh"), key=lambda n: RESULTS[n].minutes)
    try:
        failed = [name for name in names if not make(name)]
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on with the runs that are there.")
    if failed:
        sys.exit(f"Not made: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
