"""How much the tests notice: small faults are put into the package one at a time, and its tests must fail.

    python benchmarks/mutants.py --packages data metrics --count 20 --seed 0 --out results/mutants.md

A fault (a mutant) is one change of a copy of the package: a comparison or a sign flipped, a constant changed, a statement
dropped, a condition negated, or one split named for another. It is killed where a test of its package fails or takes longer
than --timeout, and survives where all pass. A survivor is a test that is missing, or a change that changes nothing.

What was found is kept line by line beside the table (--out with the ending .jsonl): the same command goes on where it stopped,
and a fault is tried anew only where its module has changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src") / "lagvae"
COPIED = (
    *(
        "src",
        "tests",
        "conf",
        "sweeps",
        "benchmarks",
        "docs",
        "examples",
        "results",
        "Makefile",
        "pyproject.toml",
        "mkdocs.yml",
    ),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "MANIFEST.in"),
)
"""What the tests need of the project."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "algebra": ("algebra",),
    "callbacks": ("budget", "run_wiring", "lightning", "resume", "stopping", "experiment", "own_parts"),
    "cli": (
        "door",
        "command",
        "use",
        "bad_settings",
        "bad_data",
        "bad_runs",
        "pareto",
        "pages",
        "matching",
        "own_parts",
        "watch",
        "configs",
    ),
    "data": ("data", "conversion", "tables", "factors", "wiring", "run_wiring", "own_parts", "bad_data"),
    "distributions": ("distributions", "colour", "table_models", "family", "own_distributions"),
    "divergences": ("divergences", "critics", "total_correlation", "wiring", "family"),
    "ensemble.py": ("ensemble",),
    "front.py": ("front",),
    "experiment": (
        "settings",
        "data_profile",
        "figures",
        "pages",
        "lightning",
        "wiring",
        "run_wiring",
        "diagnostics",
        "convergence",
        "feasible",
        "load",
        "use",
        "experiment",
        "own_parts",
        "budget",
        "ranks",
        "resume",
        "bad_settings",
        "bad_runs",
        "configs",
    ),
    "explain": ("algebra",),
    "inference.py": ("load", "conversion", "table_models", "use"),
    "information": ("information", "metrics"),
    "io.py": ("runs",),
    "lagrangian.py": ("lagrangian", "wiring", "feasible"),
    "log_ascent.py": ("log_ascent",),
    "metrics": ("metrics", "factors", "total_correlation", "two_sample", "wiring", "own_distributions", "own_parts"),
    "model.py": ("lightning", "wiring", "run_wiring", "lagrangian", "experiment", "ddp"),
    "networks.py": ("distributions", "own_distributions", "own_parts"),
    "noise.py": ("noise", "own_distributions", "own_parts"),
    "nupi.py": ("nupi",),
    "oracles": ("oracle_gaussian", "oracle_tabular", "rate_distortion", "duality"),
    "pages": ("pages",),
    "pareto": ("comparison", "figures", "pareto", "pages", "matching"),
    "ranks.py": ("ranks", "ddp"),
    "runs": (
        "layout",
        "loggers",
        "live_loggers",
        "mlflow",
        "wandb_server",
        "wandb_comparison",
        "runs",
        "run_wiring",
        "bad_runs",
    ),
    "sklearn.py": ("sklearn",),
    "sweeps": (
        "executors",
        "prediction",
        "settings",
        "sweep",
        "matching",
        "launch",
        "ensemble",
        "live_loggers",
        "stopping",
        "own_parts",
        "own_examples",
        "configs",
    ),
    "terminal.py": ("door", "command", "bad_runs"),
}
"""A package or module of lagvae → the test files that watch over it, those that are fastest and closest first."""

EVERYWHERE = ("docs",)
"""Test files that watch over every package, by the examples of its docstrings. They come last."""


def tests_of(package: str) -> tuple[str, ...]:
    """The test files of a package."""
    return (*PACKAGES[package], *EVERYWHERE)


COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SPLITS = {"train": "val", "val": "test", "test": "train"}


@dataclass(frozen=True)
class Mutant:
    """One fault: the bytes from `start` to `end` of a module become `new`."""

    file: str
    line: int
    kind: str
    old: str
    new: str
    start: int
    end: int
    source: str
    """A digest of the module that it is of."""

    @property
    def key(self) -> str:
        return f"{self.source}:{self.start}:{self.end}:{self.new}"

    @property
    def name(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}:{self.line} {self.kind}: {shortened(old)} → {shortened(new)}"


def shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


# ---- which faults there are


def changes(node: Any) -> Iterator[tuple[str, Any, str]]:
    """The faults that a node can have: kind, the node that is replaced, and what stands in its place."""
    if isinstance(node, ast.Compare):
        flipped = ast.Compare(node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
        yield "comparison", node, ast.unparse(flipped)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and not is_text(node):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield "sign", node, ast.unparse(ast.BinOp(node.left, other, node.right))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign", node, ast.unparse(ast.UnaryOp(ast.UAdd(), node.operand))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant", node, repr(not node.value)
        elif isinstance(node.value, int):
            yield "constant", node, repr(node.value + 1)
        elif isinstance(node.value, float):
            yield "constant", node, repr(2 * node.value or 1.0)
        elif node.value in SPLITS:
            yield "split", node, repr(SPLITS[node.value])
    elif (
        (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or isinstance(node, ast.AugAssign)
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript))
    ):
        yield "dropped", node, "pass"
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
        yield "condition", node.test, f"(not ({ast.unparse(node.test)}))"


def is_text(node: ast.BinOp) -> bool:
    """Whether a sum is of texts."""
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str)) for n in ast.walk(node)
    )


def mutable(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but what decides about nothing that a test should see: words, annotations, what is raised."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.FunctionDef) and node.name == "__repr__":
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from mutable(child)


def mutants_of(root: Path, file: Path) -> list[Mutant]:
    """All faults of a module."""
    content = (root / file).read_bytes()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    digest, found = hashlib.sha256(content).hexdigest()[:12], {}
    for node in mutable(ast.parse(content)):
        for kind, at, new in changes(node):
            start, end = starts[at.lineno - 1] + at.col_offset, starts[at.end_lineno - 1] + at.end_col_offset
            old = content[start:end].decode()
            mutant = Mutant(file.relative_to(PACKAGE).as_posix(), at.lineno, kind, old, new, start, end, digest)
            found[mutant.key] = mutant
    return list(found.values())


def sample(root: Path, package: str, count: int, seed: int) -> list[Mutant]:
    """Some faults of a package, the same ones for the same seed."""
    path = root / PACKAGE / package
    files = sorted(file.relative_to(root) for file in ([path] if path.is_file() else path.rglob("*.py")))
    all_of_them = [mutant for file in files for mutant in mutants_of(root, file)]
    return random.Random(f"{seed}/{package}").sample(all_of_them, min(count, len(all_of_them)))


# ---- what the tests say of them


LOADED = ("torch.utils.data", "pytorch_lightning", "torchmetrics", "hydra", "sklearn.mixture", "matplotlib.pyplot", "pytest")
"""What tests would spend their time importing: they run in processes that are forked from one that has it loaded."""


NO_REWRITE = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
"""Plugins of pytest that are loaded before it starts are no fault of a test."""


def run_tests(copy: Path, tests: Sequence[str], timeout: float) -> str:
    """passed, failed or timeout. SystemExit where the tests could not be run."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    output = copy / "output.txt"
    process = context.Process(target=run_pytest, args=(copy, [f"tests/test_{name}.py" for name in tests], output))
    process.start()
    process.join(timeout)
    if process.is_alive():
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests started
        process.join()
        return "timeout"
    if process.exitcode not in (0, 1, 2):  # 2: a module that cannot be imported
        raise SystemExit(f"The tests could not be run:\n{output.read_text(errors='replace')}")
    return "failed" if process.exitcode else "passed"


def run_pytest(copy: Path, files: Sequence[str], output: Path) -> NoReturn:
    """Run tests of a copy of the package, with what they say in a file; the process ends with pytest's status."""
    os.setsid()
    with output.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.chdir(copy)
    sys.path[:] = [str(copy / "src"), *(path for path in sys.path if path and Path(path).resolve() != ROOT / "src")]
    os.environ["PYTHONPATH"] = str(copy / "src")
    # The process that this one is forked from may serve others, too, and have loaded the package that is not changed.
    for name in [name for name in sys.modules if name.partition(".")[0] == "lagvae"]:
        del sys.modules[name]
    # A compiled module stands for its file by size and second of change, which two faults may share.
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    import pytest

    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-W", NO_REWRITE, *files]))


def copy_tree(root: Path, to: Path) -> None:
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (root / name).is_file():
            shutil.copy2(root / name, to / name)


def try_out(copy: Path, mutant: Mutant, tests: Sequence[str], timeout: float) -> str:
    """killed, timeout or survived; the copy is afterwards what it was."""
    file = copy / PACKAGE / mutant.file
    content = file.read_bytes()
    mutated = content[: mutant.start] + mutant.new.encode() + content[mutant.end :]
    try:
        compile(mutated, str(file), "exec")
        file.write_bytes(mutated)
        said = run_tests(copy, tests, timeout)
    finally:
        file.write_bytes(content)
    return {"failed": "killed", "passed": "survived"}.get(said, said)


def read_results(file: Path) -> dict[str, dict[str, str]]:
    """What was found before: key of a mutant → its line."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.endswith("}")]  # a line that a kill cut short is tried again
    return {each["key"]: each for each in found}


def table(chosen: dict[str, list[Mutant]], results: dict[str, dict[str, str]]) -> str:
    """The report, in Markdown."""
    lines = ["| package | mutants | killed | of these by time | survived |", "|---|---:|---:|---:|---:|"]
    survivors = []
    for package, mutants in chosen.items():
        said = [results[m.key]["result"] for m in mutants if m.key in results]
        slow, alive = said.count("timeout"), said.count("survived")
        lines.append(f"| {package} | {len(said)} | {len(said) - alive} | {slow} | {alive} |")
        survivors += [m.name for m in mutants if results.get(m.key, {}).get("result") == "survived"]
    named = ["", "Survivors:", "", *(f"- `{name}`" for name in survivors)] if survivors else []
    return "\n".join(["# Mutants", "", *lines, *named]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--packages", nargs="+", default=list(PACKAGES), choices=list(PACKAGES), metavar="NAME", help=", ".join(PACKAGES)
    )
    parser.add_argument("--count", type=int, default=10, help="mutants of each package (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the tests of a mutant (default: 900)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mutants.md", help="the table; .jsonl lies beside it")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    lines = args.out.with_suffix(".jsonl")
    lines.parent.mkdir(parents=True, exist_ok=True)
    results = read_results(lines)
    chosen = {package: sample(ROOT, package, args.count, args.seed) for package in args.packages}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, Progress(*columns, console=Console(stderr=True)) as bar:
        copy = Path(name)
        copy_tree(ROOT, copy)
        task = bar.add_task("Mutants", total=sum(map(len, chosen.values())))
        for package, mutants in chosen.items():
            left = [mutant for mutant in mutants if mutant.key not in results]
            bar.advance(task, len(mutants) - len(left))
            if left:
                bar.update(task, description=f"{package}: its tests as they are")
                if run_tests(copy, tests_of(package), args.timeout) != "passed":
                    raise SystemExit(f"The tests of {package} fail, or take too long, without any mutant: nothing can be told.")
            for mutant in left:
                bar.update(task, description=shortened(f"{package}: {mutant.name}"))
                start = time.perf_counter()
                result = try_out(copy, mutant, tests_of(package), args.timeout)
                seconds = round(time.perf_counter() - start, 1)
                found = {"key": mutant.key, "package": package, "result": result, "seconds": seconds, **asdict(mutant)}
                results[mutant.key] = found
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found, ensure_ascii=False) + "\n")
                bar.advance(task)
    report = table(chosen, results)
    args.out.write_text(report, encoding="utf-8")
    print(report, end="")


if __name__ == "__main__":
    main()
