"""Who may know whom: imports point down, and only some packages know some of the tools."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lagvae

PACKAGE = Path(lagvae.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    # worlds with a known answer: for tests, benchmarks and data=linear_gaussian, so they may know all that they check
    ("oracles",),
    # python -m lagvae, and an estimator for scikit-learn, which makes its config as a command line does
    ("__main__", "sklearn"),
    # what a user types: Hydra, command lines, error messages
    ("cli",),
    # many runs compared, and objectives in words
    ("explain", "pareto"),
    # many runs: what to do, where, together or one by one
    ("sweeps",),
    # one run: from a config to objects, through its life, to a report
    ("experiment",),
    # the folder that a run leaves, and pages for a browser
    ("runs", "pages"),
    # what is measured of a model, and when
    ("callbacks",),
    ("metrics",),
    # a model in training on its data, or K of them as one
    ("ensemble", "front"),
    ("model",),
    # codes, samples and likelihoods of a trained model
    ("inference",),
    ("data",),
    # the constrained problem, and an optimizer of its multipliers
    ("lagrangian", "log_ascent", "nupi"),
    # a number and its gradient from samples
    ("divergences",),
    # pure mathematics: bounds on tensors, objectives as exact vectors
    ("algebra", "information"),
    # p(z), p(x|z), q(z|x) as modules that return torch distributions
    ("distributions",),
    ("networks",),
    # what stands by itself
    ("introspection", "io", "noise", "recorded", "terminal"),
    # the processes that share a run
    ("ranks",),
    ("errors",),
)
"""The packages and modules directly under lagvae, from top to bottom. Each may import the layers below its own."""

LEVEL = {package: level for level, layer in enumerate(LAYERS) for package in layer}

CONFIG_PACKAGES = ("cli", "experiment", "explain", "sweeps")
"""The packages that may see a config."""

TOOLS: dict[str, frozenset[str]] = {
    "hydra": frozenset(CONFIG_PACKAGES),
    "omegaconf": frozenset({*CONFIG_PACKAGES, "pareto"}),
    "pytorch_lightning": frozenset({"callbacks", "data", "ensemble", "experiment", "model", "oracles", "runs", "sweeps"}),
    "mlflow": frozenset({"runs"}),
    "tensorboard": frozenset({"runs"}),
    "wandb": frozenset({"runs"}),
    "wandb_workspaces": frozenset({"runs"}),
    "matplotlib": frozenset({"experiment", "pareto"}),
    "altair": frozenset({"experiment", "pages", "pareto"}),
    "jinja2": frozenset({"pages"}),
    "vl_convert": frozenset({"pages"}),
    "rich": frozenset({"callbacks", "cli", "data", "experiment", "explain", "pareto", "sweeps", "terminal"}),
    "torchmetrics": frozenset({"metrics"}),
    "scipy": frozenset({"experiment", "metrics", "oracles"}),
    "cvxpy": frozenset({"oracles"}),
    "sklearn": frozenset({"data", "metrics", "sklearn"}),
    "threadpoolctl": frozenset({"metrics"}),
    "torchvision": frozenset({"data"}),
    "PIL": frozenset({"cli", "data", "runs"}),
    "numpy": frozenset({"cli", "data", "experiment", "inference", "metrics", "oracles", "runs", "sklearn"}),
    "safetensors": frozenset({"experiment"}),
    "psutil": frozenset({"sweeps"}),
    "filelock": frozenset({"io"}),
    "yaml": frozenset({"cli", "experiment", "runs"}),
    "pyarrow": frozenset({"data"}),
}
"""Third-party tool → the packages that know it; torch is known to all."""


def files() -> dict[str, list[Path]]:
    """Package, or module directly under lagvae → its files."""
    packages: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            packages.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return packages


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports by a relative name; imports here are absolute"
            # `from lagvae import io` names a package, `from lagvae import __version__` does not.
            yield from (f"{node.module}.{alias.name}" if node.module == "lagvae" else str(node.module) for alias in node.names)


def packages_known_to(package: str) -> set[str]:
    found = {name.split(".")[1] for path in files()[package] for name in imports(path) if name.startswith("lagvae.")}
    return (found & files().keys()) - {package}


def module_of(path: Path) -> str:
    return ".".join(("lagvae", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def modules_known_to(path: Path) -> Iterator[str]:
    """The modules that a file imports when it is imported, not those that a function imports when it is called."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lagvae."):
            yield str(node.module)


def tools_known_to(paths: list[Path]) -> set[str]:
    own = {"lagvae", "torch", *sys.stdlib_module_names}
    return {name.split(".")[0] for path in paths for name in imports(path)} - own


def test_every_package_has_a_place() -> None:
    assert files().keys() == LEVEL.keys(), "a new package goes into LAYERS, below all that import it"
    assert sum(map(len, LAYERS)) == len(LEVEL), "a package stands in LAYERS twice"


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_imports_point_down(package: str) -> None:
    up = {other for other in packages_known_to(package) if LEVEL[other] <= LEVEL[package]}
    assert not up, f"{package} imports {', '.join(sorted(up))}, which is not below it"


def test_modules_do_not_import_each_other_in_circles() -> None:
    # Raises CycleError, which names the circle.
    TopologicalSorter({module_of(path): set(modules_known_to(path)) for paths in files().values() for path in paths}).prepare()


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_tools_are_known_where_they_belong(package: str) -> None:
    for tool in tools_known_to(files()[package]):
        assert tool in TOOLS, f"{package} imports {tool}: say in TOOLS who may"
        assert package in TOOLS[tool], f"{package} imports {tool}, which is for {', '.join(sorted(TOOLS[tool]))}"


def test_the_entry_points_are_thin() -> None:
    entries = sorted(PACKAGE.parent.glob("*.py"))
    assert {path.stem for path in entries} >= {"train", "calibrate", "evaluate", "pareto"}
    for path in entries:
        known = {name.split(".")[1] for name in imports(path) if name.startswith("lagvae.")}
        assert known <= {*CONFIG_PACKAGES}, f"{path.name} imports {', '.join(sorted(known))}"
        assert tools_known_to([path]) <= {"hydra", "omegaconf"}


def defined_names(path: Path) -> Iterator[str]:
    """The public classes and functions that a module defines."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name


def test_a_public_name_is_defined_in_one_place() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in defined_names(path):
            places.setdefault(name, []).append(module_of(path))
    assert places, "the package defines something"
    several = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not several, "two things of one name: " + "; ".join(f"{n} in {', '.join(m)}" for n, m in several.items())


def test_there_is_no_place_for_leftovers() -> None:
    assert not {"utils", "util", "helpers", "common", "misc"} & {path.stem for path in PACKAGE.rglob("*")}
