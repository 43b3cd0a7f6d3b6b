"""How much the tests notice: small faults are put into the package one at a time, and its tests must fail.

    python benchmarks/mutants.py --packages data metrics --count 20 --seed 0 --out results/mutants.md

A fault (a mutant) is one change of a copy of the package: a comparison or a sign flipped, a constant changed, a statement
dropped, a condition negated, or one split named for another. It is killed where a test of its package fails, or takes too
long, and survives where all pass. A survivor is a test that is missing, or a change that changes nothing.

Every test is run once without any fault, under coverage, to see which lines it reaches. A fault is tried with the tests that
reach its statement, and where these pass with all others that watch over its package, which see it through programs that they
start. What was found is kept line by line beside the table (--out with the ending .jsonl), and what the tests reach in a file
that ends in .lines.json: the same command goes on where it stopped. A fault is tried anew where its module has changed, and a
test file is run anew where it or the package has.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

import coverage
import pytest
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
    "algebra": ("algebra", "explain"),
    "callbacks": ("budget", "run_wiring", "lightning", "own_callbacks", "resume", "stopping", "experiment", "own_parts"),
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
    "divergences": ("attribute", "divergences", "critics", "total_correlation", "wiring", "family"),
    "ensemble.py": ("ensemble",),
    "front.py": ("front",),
    "experiment": (
        "settings",
        "data_profile",
        "figures",
        "pages",
        "own_callbacks",
        "debug_runs",
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
    "explain": ("explain", "algebra"),
    "inference.py": ("load", "conversion", "table_models", "use"),
    "information": ("information", "metrics"),
    "io.py": ("runs",),
    "lagrangian.py": ("lagrangian", "wiring", "feasible"),
    "log_ascent.py": ("log_ascent",),
    "metrics": (
        "metrics",
        "attribute",
        "factors",
        "total_correlation",
        "two_sample",
        "wiring",
        "own_distributions",
        "own_parts",
    ),
    "model.py": (
        "lightning",
        "own_callbacks",
        "recorded",
        "wiring",
        "run_wiring",
        "lagrangian",
        "experiment",
        "ddp",
        "attribute",
        "critics",
    ),
    "introspection.py": ("own_parts", "own_distributions", "lightning"),
    "networks.py": ("distributions", "own_distributions", "own_parts"),
    "noise.py": ("noise", "own_distributions", "own_parts"),
    "nupi.py": ("nupi",),
    "recorded.py": ("recorded",),
    "oracles": ("oracle_gaussian", "oracle_tabular", "rate_distortion", "duality"),
    "pages": ("pages",),
    "pareto": ("comparison", "figures", "pareto", "pages", "matching"),
    "ranks.py": ("ranks", "ddp"),
    "runs": (
        "layout",
        "own_callbacks",
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
    lines: tuple[int, int]
    """The first and the last line of its statement, of which a compound one is its head, and a function all of it."""

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
    tree, digest, found = ast.parse(content), hashlib.sha256(content).hexdigest()[:12], {}
    statements = [span(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    for node in mutable(tree):
        for kind, at, new in changes(node):
            start, end = starts[at.lineno - 1] + at.col_offset, starts[at.end_lineno - 1] + at.end_col_offset
            old = content[start:end].decode()
            around = [lines for lines in statements if lines[0] <= at.lineno <= lines[1]]
            lines = min(around, key=lambda lines: lines[1] - lines[0])
            mutant = Mutant(file.relative_to(PACKAGE).as_posix(), at.lineno, kind, old, new, start, end, digest, lines)
            found[mutant.key] = mutant
    return list(found.values())


def span(statement: ast.stmt) -> tuple[int, int]:
    """The lines that run when a statement does: of a compound one its head, of a function all of it."""
    first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
    last = statement.end_lineno or first
    if isinstance(statement, ast.If | ast.While | ast.For | ast.With | ast.Try | ast.ClassDef):
        last = max(statement.lineno, min(last, statement.body[0].lineno - 1))
    return first, last


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


PATIENCE = 150
"""Seconds for a single test, ten times what the longest takes: a fault by which one waits for ever is found soon."""

TOO_LONG = 86
"""The status of the process of a test that took longer."""


class InOrder:
    """Runs the tests that it is given alone, file by file as they come: the files' fixtures are made once.

    Args:
        wanted: ids of the tests in their order; None for all, as pytest finds them. without: ids of tests that are left out.
        patience: seconds for a single test.
    """

    def __init__(self, wanted: Sequence[str] | None = None, without: Iterable[str] = (), patience: int = PATIENCE) -> None:
        self.patience = patience
        self.place = None if wanted is None else {name: place for place, name in enumerate(wanted)}
        self.without = set(without)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        place = self.place
        if place is None:
            items[:] = [item for item in items if item.nodeid not in self.without]
        else:
            items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        signal.signal(signal.SIGALRM, lambda *given: os._exit(TOO_LONG))
        signal.alarm(self.patience)
        try:
            return (yield)
        finally:
            signal.alarm(0)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # all of these have been run before


class Watching:
    """Tells which lines of the package a test reaches, by itself or through fixtures that it shares, and how long it takes.

    A file of `output` has then {test: {"seconds": …, "lines": {module: [line, …]}}}, of the tests of one file.
    """

    def __init__(self, package: Path, output: Path) -> None:
        self.package, self.output = package, output
        self.found: dict[str, Any] = {}
        self.coverage = coverage.Coverage(data_file=None, source=[str(package)], config_file=False, messages=False)
        self.seconds: dict[str, float] = {}
        self.shared: dict[str, list[str]] = {}
        """A test → the fixtures of more than one test that it uses."""
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Any:
        self.shared[item.nodeid] = list(item.fixturenames)
        self.coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        before = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        self.coverage.switch_context(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.coverage.switch_context(before)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        reached: dict[str, dict[str, list[int]]] = {}  # a context → module → lines
        for file in data.measured_files():
            module = Path(file).relative_to(self.package).as_posix()
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts:
                    reached.setdefault(context, {}).setdefault(module, []).append(line)
        for test, seconds in self.seconds.items():
            lines: dict[str, set[int]] = {}
            for context in (test, *(f"fixture {name}" for name in self.shared[test])):
                for module, some in reached.get(context, {}).items():
                    lines.setdefault(module, set()).update(some)
            kept = {module: sorted(some) for module, some in lines.items()}
            self.found[test] = {"seconds": round(seconds, 3), "lines": kept}
        self.output.write_text(json.dumps(self.found))


def run_tests(copy: Path, tests: Sequence[str], timeout: float, plugin: Callable[[], object] = InOrder) -> str:
    """passed, failed or timeout. SystemExit where the tests could not be run."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    output = copy / "output.txt"
    process = context.Process(target=run_pytest, args=(copy, [f"tests/test_{name}.py" for name in tests], output, plugin))
    process.start()
    process.join(timeout)
    if process.is_alive():
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests started
        process.join()
        return "timeout"
    if process.exitcode == TOO_LONG:
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return "timeout"
    if process.exitcode not in (0, 1, 2):  # 2: a module that cannot be imported
        raise SystemExit(f"The tests could not be run:\n{output.read_text(errors='replace')}")
    return "failed" if process.exitcode else "passed"


def run_pytest(copy: Path, files: Sequence[str], output: Path, plugin: Callable[[], object]) -> NoReturn:
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
    os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-W", NO_REWRITE, *files], plugins=[plugin()]))


def digest_of(copy: Path, folders: Sequence[str], files: Iterable[Path] = ()) -> str:
    """A digest of Python files and settings: of whole folders of the project, and of single files."""
    named = [path for folder in folders for path in (copy / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    found = hashlib.sha256()
    for path in sorted({*named, *files}):
        found.update(path.relative_to(copy).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


class Reached:
    """What each test reaches, kept in a file.

    Args:
        copy: the project. file: where what is found is kept, by test file with a digest of all that decides about it.
    """

    def __init__(self, copy: Path, file: Path) -> None:
        self.copy, self.file = copy, file
        self.found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        helpers = [path for path in (copy / "tests").glob("*.py") if not path.name.startswith("test_")]
        self.common = digest_of(copy, ["src", "conf"], helpers)

    def digest(self, name: str) -> str:
        return f"{self.common}-{digest_of(self.copy, [], [self.copy / 'tests' / f'test_{name}.py'])}"

    def missing(self, names: Iterable[str]) -> list[str]:
        """The test files of which it is not known, in their order."""
        return [name for name in dict.fromkeys(names) if self.found.get(name, {}).get("digest") != self.digest(name)]

    def measure(self, name: str, timeout: float) -> None:
        """Run a test file once; SystemExit where it does not pass."""
        output = self.copy / "reached.json"
        if run_tests(self.copy, [name], timeout, partial(Watching, self.copy / PACKAGE, output)) != "passed":
            said = (self.copy / "output.txt").read_text(errors="replace")[-3000:]
            raise SystemExit(f"{said}\ntests/test_{name}.py fails, or takes too long, without any mutant: nothing can be told.")
        self.found[name] = {"digest": self.digest(name), "tests": json.loads(output.read_text())}
        self.file.write_text(json.dumps(self.found))

    def by(self, mutant: Mutant) -> list[str]:
        """Ids of the tests that reach the statement of a mutant, those of the quickest file first."""
        first, last = mutant.lines
        files = []
        for each in self.found.values():
            tests = {
                name: test["seconds"]
                for name, test in each["tests"].items()
                if any(first <= line <= last for line in test["lines"].get(mutant.file, ()))
            }
            if tests:
                files.append((sum(tests.values()), sorted(tests, key=lambda name: tests[name])))
        return [name for _, tests in sorted(files) for name in tests]


def copy_tree(root: Path, to: Path) -> None:
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (root / name).is_file():
            shutil.copy2(root / name, to / name)


def try_out(copy: Path, mutant: Mutant, near: Sequence[str], tests: Sequence[str], timeout: float) -> str:
    """killed, timeout or survived, by tests of some ids and then by the others of some files; the copy is then as before."""
    file = copy / PACKAGE / mutant.file
    content = file.read_bytes()
    mutated = content[: mutant.start] + mutant.new.encode() + content[mutant.end :]
    files = [name.partition("::")[0].removeprefix("tests/test_").removesuffix(".py") for name in near]
    try:
        compile(mutated, str(file), "exec")
        file.write_bytes(mutated)
        said = run_tests(copy, list(dict.fromkeys(files)), timeout, partial(InOrder, near)) if near else "passed"
        if said == "passed":
            said = run_tests(copy, tests, timeout, partial(InOrder, without=near))
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


def in_turn(chosen: dict[str, list[Mutant]]) -> Iterator[tuple[str, Mutant]]:
    """The first mutant of each package, then the second of each, so that what is known after a while is of all packages."""
    for turn in zip_longest(*chosen.values()):
        yield from ((package, mutant) for package, mutant in zip(chosen, turn, strict=True) if mutant is not None)


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
        reached = Reached(copy, args.out.with_suffix(".lines.json"))
        if any(mutant.key not in results for mutants in chosen.values() for mutant in mutants):
            missing = reached.missing(name for package in chosen for name in tests_of(package))
            for name in bar.track(missing, description="Tests without a fault"):
                reached.measure(name, args.timeout)
        task = bar.add_task("Mutants", total=sum(map(len, chosen.values())))
        for package, mutant in in_turn(chosen):
            if mutant.key not in results:
                bar.update(task, description=shortened(f"{package}: {mutant.name}"))
                start = time.perf_counter()
                result = try_out(copy, mutant, reached.by(mutant), tests_of(package), args.timeout)
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
