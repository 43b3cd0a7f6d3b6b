"""Who may know whom: imports point down, and only some rooms know some of the tools."""

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
    # from a command line to objects and back: what is composed, run and reported
    # of one run, and of many: cells of a sweep, jobs that train some of them, engines that run jobs somewhere
    (
        *("build", "calibrating", "cli", "comparison", "experiment", "feasibility", "loggers", "report", "schema"),
        *("session", "summary"),
        *("explanation", "members", "table1"),
        *("cells", "engines", "launch", "stacking", "sweep", "work"),
    ),
    # a model in training on its data, on tables, or a stack of them; figures draw a trained model, and many runs compared
    ("callbacks", "data", "figures", "module", "stack", "tables"),
    # what is said of a model and of a run
    ("calibration", "diagnosis", "metrics", "pareto"),
    ("lagrangian",),
    ("estimators",),
    ("divergences", "information"),
    ("laws",),
    # what stands by itself; `runs` is the layout of a run folder and knows nothing of what is in it
    ("algebra", "dual", "noise", "oracles", "runs"),
    ("errors",),
)
"""Rooms of the package from top to bottom. A room may import its own layer and those below."""

ABOVE = {room: depth for depth, layer in enumerate(LAYERS) for room in layer}

EXPERIMENTS, TRAINING = LAYERS[0], LAYERS[1]

TOOLS: dict[str, frozenset[str]] = {
    "hydra": frozenset(EXPERIMENTS),
    "omegaconf": frozenset({*EXPERIMENTS, "pareto"}),
    "pytorch_lightning": frozenset({*EXPERIMENTS, "callbacks", "data", "module", "runs", "stack", "tables"}),
    "wandb": frozenset({"loggers"}),
    "matplotlib": frozenset({"figures"}),
    "rich": frozenset({*EXPERIMENTS, "callbacks", "data"}),
    "torchmetrics": frozenset({"metrics"}),
    "scipy": frozenset({"metrics", "oracles"}),
    "cvxpy": frozenset({"oracles"}),
    "sklearn": frozenset({"data", "metrics"}),
    "threadpoolctl": frozenset({"metrics"}),
    "torchvision": frozenset({"data"}),
    "PIL": frozenset({"data", "loggers"}),
    "numpy": frozenset({"data", "loggers", "metrics", "oracles"}),
    "psutil": frozenset({"stacking"}),
}
"""Third-party tool → the rooms that know it; torch is known to all."""


def files() -> dict[str, list[Path]]:
    """Room → its files. A room is a module or a package directly under lagvae."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            rooms.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return rooms


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports by a relative name; imports here are absolute"
            # `from lagvae import report` names a room, `from lagvae import __version__` does not.
            yield from (f"{node.module}.{alias.name}" if node.module == "lagvae" else str(node.module) for alias in node.names)


def rooms_known_to(room: str) -> set[str]:
    found = {name.split(".")[1] for path in files()[room] for name in imports(path) if name.startswith("lagvae.")}
    return (found & files().keys()) - {room}


def tools_known_to(paths: list[Path]) -> set[str]:
    own = {"lagvae", "torch", *sys.stdlib_module_names}
    return {name.split(".")[0] for path in paths for name in imports(path)} - own


def test_every_room_has_a_place() -> None:
    assert files().keys() == ABOVE.keys(), "a new module goes into LAYERS, below all that import it"
    assert sum(map(len, LAYERS)) == len(ABOVE), "a room stands in LAYERS twice"


@pytest.mark.parametrize("room", sorted(ABOVE))
def test_imports_point_down(room: str) -> None:
    up = {other for other in rooms_known_to(room) if ABOVE[other] < ABOVE[room]}
    assert not up, f"{room} imports {', '.join(sorted(up))} from above it"


def test_rooms_of_one_layer_do_not_go_in_circles() -> None:
    # Raises CycleError, which names the circle.
    TopologicalSorter({room: rooms_known_to(room) for room in files()}).prepare()


@pytest.mark.parametrize("room", sorted(ABOVE))
def test_tools_are_known_where_they_belong(room: str) -> None:
    for tool in tools_known_to(files()[room]):
        assert tool in TOOLS, f"{room} imports {tool}: say in TOOLS who may"
        assert room in TOOLS[tool], f"{room} imports {tool}, which is for {', '.join(sorted(TOOLS[tool]))}"


def test_the_entry_points_are_thin() -> None:
    entries = sorted(PACKAGE.parent.glob("*.py"))
    assert {path.stem for path in entries} >= {"train", "calibrate", "evaluate", "pareto"}
    for path in entries:
        known = {name.split(".")[1] for name in imports(path) if name.startswith("lagvae.")}
        assert known <= set(EXPERIMENTS), f"{path.name} imports {', '.join(sorted(known))}"
        assert tools_known_to([path]) <= {"hydra", "omegaconf"}


def test_there_is_no_room_for_leftovers() -> None:
    assert not {"utils", "util", "helpers", "common", "misc"} & {path.stem for path in PACKAGE.rglob("*")}
