"""Results say by what code they were made, and the documentation has no figure that is in none of them."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small import ROOT

CODE = '''
"""A module."""

LEAST = 3  # the least
"""A docstring of a constant."""


def above(x):
    """Whether x is above."""
    return x > LEAST
'''
SETTINGS = "a: 1 # one\nb: [x, y]\n"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import results

    results.code_hash.cache_clear()
    return results


@pytest.fixture
def project(results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project with one result, whose script writes its argument; code_hash is fresh for every test."""
    for name, text in {"code/a.py": CODE, "code/b.yaml": SETTINGS, "results/one.md": "old\n", "make.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    rows = {"one": results.Result("results/one.md", ("python make.py {root}",), ("code",), 1.0)}
    monkeypatch.setattr(results, "RESULTS", rows)
    return tmp_path


def hash_with(results: ModuleType, project: Path, name: str, text: str) -> str:
    (project / "code" / name).write_text(text, encoding="utf-8")
    results.code_hash.cache_clear()
    found: str = results.code_hash("one")
    return found


@pytest.mark.parametrize(
    ("name", "old", "new", "same"),
    [
        ("a.py", "# the least", "# three", True),
        ("a.py", "Whether x is above.", "Says whether x is above.", True),
        ("a.py", "A docstring of a constant.", "Words.", True),
        ("a.py", "x > LEAST", "(x\n        > LEAST)", True),
        ("a.py", "LEAST = 3", "LEAST = 4", False),
        ("a.py", "x > LEAST", "x >= LEAST", False),
        ("a.py", "LEAST = 3", "LEAST = None", False),
        ("b.yaml", "# one", "# a comment", True),
        ("b.yaml", "[x, y]", "\n  - x\n  - y", True),
        ("b.yaml", "a: 1", "a: 2", False),
        ("b.yaml", "[x, y]", "[y, x]", False),
    ],
)
def test_only_behaviour_changes_the_hash(name: str, old: str, new: str, same: bool, results: ModuleType, project: Path) -> None:
    text = {"a.py": CODE, "b.yaml": SETTINGS}[name]
    assert old in text
    before = hash_with(results, project, name, text)
    assert (hash_with(results, project, name, text.replace(old, new)) == before) is same


def test_a_result_is_made_stamped_and_stale_when_its_code_changes(results: ModuleType, project: Path) -> None:
    script, file = project / "make.py", project / "results" / "one.md"
    assert results.state("one") == "unstamped"
    script.write_text("import pathlib, sys\npathlib.Path('results/one.md').write_text(f'new, {sys.argv[1]}\\n')\n")
    assert results.make("one")
    assert results.state("one") == "fresh"
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"new, {project / 'runs' / '.results'}")
    assert re.search(r'\n\nMade by `make results ARGS="--make one"` on \d{4}-\d\d-\d\d; code [0-9a-f]{8}\.\n$', text)
    results.write_stamp("one")
    assert file.read_text(encoding="utf-8") == text, "a stamp takes the place of the one before"
    hash_with(results, project, "a.py", CODE.replace("3", "4"))
    assert results.state("one").startswith("stale, of 20")
    file.unlink()
    assert results.state("one") == "missing"


@pytest.mark.parametrize("script", ["raise SystemExit(2)", "open('code/a.py', 'a').write('MORE = 1\\n')"])
def test_nothing_is_stamped_that_failed_or_whose_code_changed_meanwhile(
    script: str, results: ModuleType, project: Path
) -> None:
    (project / "make.py").write_text(script)
    assert not results.make("one")
    assert (project / "results" / "one.md").read_text() == "old\n"


def test_fresh_results_are_not_made_again(
    results: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write_stamp("one")
    (project / "make.py").write_text("raise SystemExit(2)")
    monkeypatch.setattr(sys, "argv", ["results.py", "remake"])
    results.main()
    monkeypatch.setattr(sys, "argv", ["results.py"])
    results.main()
    assert capsys.readouterr().out.split()[:3] == ["one", "fresh", "results/one.md"]
    hash_with(results, project, "a.py", CODE.replace("3", "4"))
    monkeypatch.setattr(sys, "argv", ["results.py", "remake"])
    with pytest.raises(SystemExit, match="Not made: one"):
        results.main()


@pytest.mark.parametrize("changed", ["", "numbers", "commands", "what no probe uses"])
def test_a_result_is_carried_over_a_change_that_leaves_its_numbers(
    changed: str, results: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    results.write_stamp("one")
    before = tmp_path_factory.mktemp("before")
    shutil.copytree(project, before, dirs_exist_ok=True)
    hash_with(results, project, "a.py", CODE.replace("return x > LEAST", "return LEAST < x"))
    assert results.state("one").startswith("stale")
    monkeypatch.setattr(results, "PROBED", () if changed == "what no probe uses" else ("code/",))
    monkeypatch.setattr(
        results, "fresh_in", lambda tree: {"one": ["python other.py"] if changed == "commands" else ["python make.py {root}"]}
    )
    monkeypatch.setattr(results.unchanged, "extract", lambda commit, folder: before)
    monkeypatch.setattr(results.unchanged, "differences", lambda commit: ["a number"] if changed == "numbers" else [])
    monkeypatch.setattr(results.subprocess, "run", lambda *args, **kw: SimpleNamespace(stdout="abc1234\n"))
    with pytest.raises(SystemExit, match="a number") if changed == "numbers" else nullcontext():
        assert results.carry("HEAD") == ([] if changed else ["one"])
    assert results.state("one").startswith("stale" if changed else "fresh")
    if not changed:
        assert results.carry("HEAD") == [], "a fresh result needs nothing"
        hash_with(results, project, "a.py", CODE.replace("3", "4"))
        assert results.state("one").startswith("stale"), "the new hash is that of the code that was compared"
        assert results.carry("HEAD") == ["one"]
        assert (project / "results" / "one.md").read_text().count("with the same bits") == 1
        results.write_stamp("one")
        assert "same bits" not in (project / "results" / "one.md").read_text()


def test_runs_differ_where_a_number_of_before_is_missing_or_another(results: ModuleType) -> None:
    def found(before: object, after: object) -> list[str]:
        sides = ({"summary.json": dict(results.unchanged.leaves(side))} for side in (before, after))
        return list(results.unchanged.compare(*sides))

    x = torch.tensor([0.0, 1.0])
    assert not found({"x": x, "a": [1, float("nan")], "seconds": 3}, {"x": x.clone(), "a": [1, float("nan")], "seconds": 4})
    assert not found({"a": 1}, {"a": 1, "b": 2}), "a new key changes no number"
    assert found({"a": 1, "b": 2}, {"a": 1}) == ["summary.json: /b: 2 before, None after"]
    assert found({"x": x}, {"x": -x}) == ["summary.json: /x: 8 bytes before, 8 bytes after"]  # −0.0 has other bits than 0.0
    assert len(found({"a": list(range(9))}, {"a": list(range(1, 10))})) == 4
    assert list(results.unchanged.compare({"a": {}}, {"b": {}})) == ["a: only before", "b: only after"]


# ---- the table


OWN_RECORD = tuple(f"results/{name}.{ending}" for name in ("mutants", "faults") for ending in ("md", "jsonl"))
"""benchmarks/mutants.py and faults.py try a fault again where the code has changed, and keep that line by line themselves."""


def test_every_result_has_a_row_and_every_row_a_result(results: ModuleType) -> None:
    rows = {row.file for row in results.RESULTS.values()}
    missing = {file for file in rows if not (ROOT / file).is_file()}
    assert not missing, f"make results: {missing}"
    assert all(row.file in command or str(Path(row.file).parent) in command or Path(row.file).stem in command
               for row in results.RESULTS.values() for command in row.commands[-1:])  # fmt: skip
    for path in sorted((ROOT / "results").rglob("*")):
        name = str(path.relative_to(ROOT))
        if path.is_dir() or name in OWN_RECORD:
            continue
        # A picture or a table belongs to the result beside it: mnist-samples.png, family/ and all in a folder with pareto.md.
        of = [
            file for file in rows if name.startswith(file.removesuffix(".md")) or str(Path(name).parent / "pareto.md") == file
        ]
        assert of, f"{name} has no row in benchmarks/results.py"


def test_every_module_decides_about_a_result_or_about_none(results: ModuleType) -> None:
    deciding = {path for row in results.RESULTS.values() for path in results.files_below(row.code)}
    others = set(results.files_below(results.UNDECIDING))
    modules = set((ROOT / "src" / "lagvae").rglob("*.py"))
    left = {str(path.relative_to(ROOT)) for path in modules - deciding - others if path.name != "__init__.py"}
    assert not left, f"a module of a row in benchmarks/results.py, or UNDECIDING: {left}"


INDIFFERENT = {
    ("estimators", "src/lagvae/experiment/factory.py"): "it makes a kernel of its settings",
}
"""(result, file that its code imports) → why its numbers do not depend on it."""


def test_what_the_code_of_a_result_imports_decides_about_it_too(results: ModuleType) -> None:
    others = set(results.files_below(results.UNDECIDING))
    for name, row in results.RESULTS.items():
        code = set(results.files_below(row.code))
        there = {part for file in code | others for part in (file, file.parent)}  # of a package, at least one module
        for file in sorted(file for file in code if file.suffix == ".py"):
            for module in imported(file):
                known = module in there or (name, str(module.relative_to(ROOT))) in INDIFFERENT
                assert known, f"{name}: {file.relative_to(ROOT)} imports {module.relative_to(ROOT)}; add it to the row"


@cache
def imported(file: Path) -> frozenset[Path]:
    """The files of the package and of benchmarks/ that a Python file imports, wherever in it; of a package its folder."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for path in (name.replace(".", "/") for name in names):
            candidates = [ROOT / f"src/{path}.py", ROOT / f"benchmarks/{path}.py"]
            candidates += [ROOT / "src" / path] if path.startswith("lagvae/") else []
            # grid.py starts runs and sets tables.
            found |= {there for there in candidates if there.exists() and there.name != "grid.py"}
    return frozenset(found)


# ---- figures of the documentation


PAPER = "of the paper"
EXCEPTIONS = {
    ("README.md", "3.11"): "a version of Python",
    ("docs/sweeps.md", "0.0005"): PAPER,
}
"""(document, figure) that no result has → why."""

MADE = ("estimators.md", "table1.md")
"""Pages of docs/ that commands write."""

DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if path.name not in MADE)]

DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])")


def figures(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every number with a decimal point, and the results that its paragraph or item links to.

    Code, and what stands indented as code (commands, formulas and what a terminal shows), is left out.
    """
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    for part in re.split(r"\n\s*\n|\n(?=- )", text):
        links = re.findall(r"\]\((?:\.\./)?(results/[^)#]*\.md|estimators\.md)", part)
        for number in DECIMAL.findall(re.sub(r"`[^`]*`|\]\([^)]*\)", "", part)):
            yield number, links


def numbers_of(files: list[Path]) -> set[str]:
    return {number for file in files for number in DECIMAL.findall(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_figures_of_the_documentation_are_results(document: str) -> None:
    every = numbers_of([*(ROOT / "results").rglob("*.md"), ROOT / "docs" / "estimators.md"])
    for number, links in figures((ROOT / document).read_text(encoding="utf-8")):
        linked = [ROOT / ("docs" if name == "estimators.md" else "") / name for name in links]
        there = numbers_of(linked) if linked else every
        if (document, number) not in EXCEPTIONS:
            assert number in there, f"{document} says {number}, which is not in {', '.join(links) or 'any result'}"


def test_figures_are_found_where_they_stand() -> None:
    text = (
        "It gains 3.25 nats ([a](../results/a.md)).\n\n    1.5 in a block\n\n- `2.5` and 4.75 %\n- by 1.3e-04, version 3.11.2\n"
    )
    assert list(figures(text)) == [("3.25", ["results/a.md"]), ("4.75", []), ("1.3e-04", [])]
