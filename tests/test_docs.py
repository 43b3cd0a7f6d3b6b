"""What the documentation shows works: its Python runs, its commands are accepted, its links lead somewhere."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import settings
from omegaconf import OmegaConf
from small import ROOT, TINY, compose

import lagvae
from lagvae.cli.entry import expand_word
from lagvae.cli.programs import HYDRA_PROGRAMS, PROGRAMS
from lagvae.cli.use import USES, parser_of
from lagvae.experiment import schema
from lagvae.experiment.fit import Fit
from lagvae.experiment.run import create_folder, setup, train
from lagvae.sweeps.grid import expand

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

LIMITS = {"README.md": 900, "docs/design.md": 1000}
"""Page → the largest number of its words."""

EXAMPLES = sorted(path for path in (ROOT / "src" / "lagvae").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
"""The modules whose docstrings hold examples."""


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# ---- Python


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/latest is a run of the default network and data, after a few steps; runs/front is one of a front."""
    root = tmp_path_factory.mktemp("trained")
    small = [*(word for word in TINY if not word.startswith("model.")), "training.steps=4", "training.interval=2"]
    train(settings(root, *small, "family=front", "calibration.steps=2", "name=front"))
    cfg = settings(root, *small, "family=vae", "name=one")
    data, model, _ = setup(cfg)
    folder = create_folder(cfg)
    Fit(cfg, data, model, folder, "Training").train()
    folder.write_summary({"verdict": "met"})
    return root


@pytest.fixture
def at_home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a user: empty, and on Python's path; `latest` is the run of `trained`."""
    monkeypatch.setenv("LAGVAE_ROOT", str(trained))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # what a page wrote
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def execute(page: str, names: dict[str, Any]) -> None:
    """Run the blocks of a page in one namespace, in the working directory, with 20 steps of training instead of thousands.

    A block that starts with the comment `# NAME.py` is first saved under that name. After so few steps a front has less
    information than one asks for, so that a value of its curve stands for it.
    """
    for block in python_blocks(page):
        if file := re.match(r"# (\w+\.py)\n", block):
            Path(file[1]).write_text(block, encoding="utf-8")
            importlib.invalidate_caches()
        block = re.sub(r"(steps\s*=\s*)\d{3,}", r"\g<1>20", re.sub(r"(max_epochs\s*=\s*)\d+", r"\g<1>1", block))
        block = block.replace("pick(information=9)", 'pick(information=curve[0]["i_q"])')
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_the_python_of_a_page_runs(page: str, at_home: Path) -> None:
    """The pages of docs/ go on from the names of README, such as `model` and `x`, of which a few rows suffice."""
    names: dict[str, Any] = {"__name__": "page"}
    execute("README.md", names)
    if page != "README.md":
        names["x"] = names["x"][:100]
        execute(page, names)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT / "src" / "lagvae")))
def test_the_examples_of_docstrings_run(path: Path, at_home: Path) -> None:
    """After `from MODULE import *`, with which the reference says that they start."""
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    names: dict[str, Any] = {"__name__": name}
    exec(f"from {name} import *", names)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(importlib.import_module(name), globs=names, optionflags=flags)
    assert tried
    assert not failed


CALLED = (
    "algebra data distributions divergences front inference information lagrangian log_ascent metrics model networks noise "
    "nupi oracles pareto sklearn"
)
"""The packages and modules whose functions and classes a user calls from Python."""

PROGRAMS_ONLY = "callbacks cli ensemble errors experiment explain introspection io pages ranks recorded runs sweeps terminal"
"""What runs, sweeps and programs consist of: used by commands, and by `lagvae.load`, which has an example."""

WITHOUT_EXAMPLE = {
    "it is what a function with an example returns": (
        "Aggregate Batch Closest Combination Form ImageDistributions Optimum SymbolicLagrangian Term Values"
    ),
    "it is abstract, and its subclasses have examples": (
        "CriticDivergence EvaluationData FDivergence Kernel LatentMetric PosteriorSamples"
    ),
    "it is for the messages and checks of this package": (
        "check_trainer check_whole nonfinite_error frozen has_hooks observation_of on_accelerator only_watches part_name "
        "skip_accelerator_check trained_parameters"
    ),
    "it prepares what another class or function takes": (
        "CommonNoise FrontLagrangian LeakyReLU NegElboNear ScaleShift at_every_knot can_be_modulated condition eval_splits "
        "generators_seeded "
        " prepare_run seed_of unchanged_process unconditioned"
    ),
    "it needs labels or a second domain of the data, which a run has": (
        "AttributeScores ClassifierScore CodeAgreement PairingAccuracy"
    ),
    "it is of a collection of finished runs, which `lagvae pareto` reads and reports": (
        "Analysis Collection Domination Group MatchedPair RunPoint SlackCurve analyse collect comparison_markdown "
        "dominated_rows domination_rows matched_rows matched_summary_rows notes slack_rows summary_rows training_line "
        "write_csv write_markdown"
    ),
    "it trains for seconds: docs/guide.md has an example, which a test runs": "LagVAE",
}
"""Why a function or class that a user may call has no example → its names."""


def test_the_reference_leaves_out_what_only_programs_use() -> None:
    lines = ast.parse(read("docs/pages.py")).body
    (internal,) = [line.value for line in lines if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "INTERNAL"]
    assert {*ast.literal_eval(internal), "errors"} == {*PROGRAMS_ONLY.split()}  # errors are caught in Python


def exported(name: str) -> dict[str, Any]:
    """The functions and classes that a package exports, or that are public in a module directly under lagvae."""
    module = importlib.import_module(f"lagvae.{name}")
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
    found = {key: getattr(module, key) for key in names}
    return {key: value for key, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}


def test_what_a_user_calls_has_an_example() -> None:
    package = ROOT / "src" / "lagvae"
    there = {path.stem for path in package.glob("[a-z]*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there == {*CALLED.split(), *PROGRAMS_ONLY.split()}
    without = {key for name in CALLED.split() for key, value in exported(name).items() if ">>> " not in (value.__doc__ or "")}
    assert without == {name for names in WITHOUT_EXAMPLE.values() for name in names.split()}


MUTABLE = {
    *("callbacks.budget.Plan", "cli.watch.JobFiles", "cli.watch.WatchedRun", "data.cells.Cells", "data.sources.Arrays"),
    *("experiment.calibration.Calibration", "experiment.data_profile.DataProfile", "lagrangian.Values"),
    *("oracles.gaussian.LinearGaussian", "oracles.rate_distortion.WaterFilling", "oracles.softmax_tables.TableReconstruction"),
    *("pareto.points.Collection", "sweeps.ensemble_training.EnsembleCheckpoint", "sweeps.ensemble_training.EnsembleMember"),
}
"""The dataclasses beside the schema that may be changed. All others are values: what one is given stays as it was found."""


def test_values_cannot_be_changed() -> None:
    found = set()
    for info in pkgutil.walk_packages(lagvae.__path__, "lagvae."):
        if not info.name.endswith(("__main__", ".schema")):
            for name, value in vars(importlib.import_module(info.name)).items():
                if is_dataclass(value) and value.__module__ == info.name and not value.__dataclass_params__.frozen:
                    found.add(f"{info.name.removeprefix('lagvae.')}.{name}")
    assert found == MUTABLE


# ---- commands

COMMAND = re.compile(r"(?:\w+=\S* )*(?:(?:\S*python )?src/\w+\.py|(?:python -m )?lagvae(?! on )(?= \w|$)|make)\b")
"""How a command begins. The report of a run, which is no command, begins with `lagvae on digits`."""


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a page, in a block or in a code span, without variables and comments."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in fenced if kind in ("bash", "sh", "console") for line in block.splitlines()]
    lines += re.findall(r"^    (.*)", text, re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^    .*", "", text, flags=re.MULTILINE))
    for line in (*lines, *(" ".join(span.split()) for span in spans)):
        for part in line.removeprefix("$ ").partition(" #")[0].split(" && "):
            if COMMAND.match(part) and "…" not in part:
                words = shlex.split(part)
                yield words[next(k for k, word in enumerate(words) if "=" not in word) :]


def accept(program: str, words: list[str]) -> None:
    """Compose the config that a program of lagvae would get."""
    assert program in PROGRAMS, f"{program} is not a program of lagvae"
    if (
        program in ("pareto", "compare", "watch", "dashboard")
        or "--config-dir" in words
        or any(word in ("--help", "--version") for word in words)
    ):
        return
    if program in USES:
        parser_of(program).parse_args(words)
        return
    words = [each for word in words if word != "-m" for each in expand_word(word)]
    sweeps = [word.partition("=")[2] for word in words if word.startswith("sweep=")]
    grids: Any = [{}]
    for sweep in sweeps:
        grids = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / f"{sweep}.yaml"))["hydra"]["sweeper"]["grids"]  # type: ignore[index, call-overload]
    runs = expand(grids, [word for word in words if not word.startswith("sweep=")])
    about = HYDRA_PROGRAMS[program]
    compose([word for word in runs[0] if not word.startswith(("label=", "name="))], getattr(schema, about.schema), about.config)


def recipe(target: str) -> re.Match[str] | None:
    """The program and the first words that a target of the Makefile stands for, where it takes ARGS."""
    makefile = read("Makefile")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is no target"
    return re.search(rf"^{target}:.*\n\t@\$\(PY\) src/(\w+)\.py (.*)\$\(ARGS\)$", makefile, re.MULTILINE)


OWN_PARTS = "docs/extending.md"
"""The page whose commands need the files that it shows: tests/test_own_examples.py runs them."""


@pytest.mark.parametrize("page", [page for page in PAGES if page != OWN_PARTS and list(commands(read(page)))])
def test_the_commands_of_a_page_are_accepted(page: str) -> None:
    for words in commands(read(page)):
        if words[0] == "make":
            given = dict(word.split("=", 1) for word in words if "=" in word)
            for target in (word for word in words[1:] if "=" not in word and not word.startswith("-")):
                found = recipe(target)
                if found is not None and found[1] != "pareto":
                    accept(found[1], shlex.split(found[2]) + shlex.split(given.get("ARGS", "")))
        elif words[0].endswith("lagvae") or words[1:2] == ["-m"]:
            rest = words[words.index("lagvae") + 1 :]
            if rest and not rest[0].startswith("-"):
                accept(rest[0], rest[1:])
        else:
            script = words[1] if words[0].endswith("python") else words[0]
            accept(Path(script).stem, words[words.index(script) + 1 :])


def test_commands_are_found_where_they_stand() -> None:
    text = (
        "    python src/train.py a=1   # 1\n    make calibrate && make train  # 2\n\n`PYTHONPATH=. python src/train.py\nb=2`"
        ' and `lagvae encode RUN`, but `make train ARGS="…"` and `lagvae`, `src/lagvae/`\n\n```python\nlagvae.load(1)\n```\n'
    )
    found = [" ".join(words) for words in commands(text)]
    assert found == [
        "python src/train.py a=1",
        "make calibrate",
        "make train",
        "python src/train.py b=2",
        "lagvae encode RUN",
        "lagvae",
    ]


# ---- text


@pytest.mark.parametrize("page", LIMITS)
def test_a_page_is_no_longer_than_it_may_be(page: str) -> None:
    assert len(read(page).split()) <= LIMITS[page]


def test_every_promise_of_reliability_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| ([A-Z].*?) \| (.*) \|$", read("docs/reliability.md"), re.MULTILINE)
    assert len(rows) > 20
    for promise, tests in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert named, promise
        for file, name in named:
            assert f"def {name}(" in read(f"tests/{file}"), name


@pytest.mark.parametrize("preset", sorted((ROOT / "conf" / "family").glob("*.yaml")), ids=lambda preset: preset.stem)
def test_the_readme_lists_every_preset_with_the_year_of_its_paper(preset: Path) -> None:
    row = re.search(rf"^\|\[{preset.stem}\]\(conf/family/{preset.name}\).*\|$", read("README.md"), re.MULTILINE)
    assert row is not None
    stated = preset.read_text(encoding="utf-8").splitlines()[1]  # the line below "# @package _global_"
    assert row[0].endswith(f" {re.findall(r'[12][0-9]{3}', stated)[-1]}|"), stated


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them; `make docs` checks those of the site."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head.strip()).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page} links to {link}"
