"""The command `lagvae`: what a wheel holds, and that an installed package needs no clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from helpers import program
from hydra.core.global_hydra import GlobalHydra
from small import ROOT, TINY

from lagvae import __version__
from lagvae.cli import programs
from lagvae.cli.use import USES
from lagvae.terminal import COMMAND, command

Lagvae = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this clone by way of its sdist, built without a network and outside of the clone, where files would stay."""
    pytest.importorskip("setuptools", "77", reason="packages are built with setuptools 77 or newer")
    clone = tmp_path_factory.mktemp("clone")
    for name in ("src", "conf", "sweeps"):
        leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, clone)
    (clone / "tests").mkdir()
    (clone / "tests" / "test_one.py").touch()
    built = build("sdist", clone)
    with tarfile.open(built) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
        content.extractall(unpacked := tmp_path_factory.mktemp("unpacked"), filter="data")
    assert {"LICENSE", "README.md", "pyproject.toml", "src/lagvae/py.typed"} <= names
    assert not [name for name in names if name.startswith("tests")], "tests need what lies beside them"
    return build("wheel", unpacked / built.name.removesuffix(".tar.gz"))


def build(kind: str, folder: Path) -> Path:
    """The sdist or the wheel of a source tree, in its folder dist."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, "dist"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Deprecat" not in done.stderr
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def lagvae(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Lagvae:
    """Runs `python -m lagvae` from the installed wheel, in a folder of the user's."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LAGVAE_")}

    def run(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lagvae", *words],
            cwd=cwd,
            env=environment | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_a_user_of_the_package_gets_no_tools_of_its_developers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        required = re.findall(
            r"^Requires-Dist: ([\w-]+)([^\n]*)", content.read(f"lagvae-{__version__}.dist-info/METADATA").decode(), re.M
        )
    assert ("torch", ">=2.11") in required
    tools = {"pytest", "pytest-xdist", "ruff", "mypy", "pre-commit", "mkdocs", "cvxpy"}
    assert tools <= {name for name, marker in required if "extra ==" in marker}
    assert not tools & {name for name, marker in required if "extra ==" not in marker}


def test_a_wheel_holds_settings_sweeps_types_plugin_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        entry_points = content.read(f"lagvae-{__version__}.dist-info/entry_points.txt").decode()
    settings = {f"lagvae/cli/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    sweeps = {f"lagvae/cli/sweeps/{file.name}" for file in (ROOT / "sweeps").glob("*.yaml")}
    assert {name for name in names if name.endswith(".yaml")} == settings | sweeps
    assert {"lagvae/py.typed", "hydra_plugins/lagvae_sweep.py", "lagvae/__main__.py"} <= names
    assert {f"lagvae/{file.relative_to(ROOT / 'src/lagvae')}" for file in (ROOT / "src/lagvae").rglob("*.py")} <= names
    assert {f"lagvae/pages/templates/{file.name}" for file in (ROOT / "src/lagvae/pages/templates").iterdir()} <= names
    assert {name.partition("/")[0] for name in names} == {"lagvae", "hydra_plugins", f"lagvae-{__version__}.dist-info"}
    module, _, function = entry_points.partition("lagvae = ")[2].strip().partition(":")
    assert (module, function) == (programs.__name__, programs.run_command.__name__)


@pytest.mark.slow
def test_an_installed_package_trains_in_the_working_directory(lagvae: Lagvae, tmp_path: Path) -> None:
    said = lagvae(tmp_path, "train", "family=vae", "name=one", *TINY)
    assert said.returncode == 0, said.stderr[-2000:]
    assert "Written in" in said.stdout
    assert (tmp_path / "runs" / "one" / "summary.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_an_installed_package_looks_for_runs_in_the_working_directory(lagvae: Lagvae, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    said = lagvae(tmp_path, "pareto")
    assert "python -m lagvae pareto needs the runs to compare. Name folders of runs, such as one." in said.stderr
    said = lagvae(tmp_path, "train", "--cfg", "job", "--package", "paths", "--resolve")
    assert f"root: {tmp_path}\n" in said.stdout


def test_an_installed_package_knows_the_sweeps(lagvae: Lagvae, tmp_path: Path) -> None:
    said = lagvae(tmp_path, "train", "sweep=figure1")
    assert (said.returncode, said.stdout) == (1, "")
    assert "sweep=figure1 is many runs: add -m." in said.stderr


def test_help_of_an_installed_program_is_that_of_a_clone(lagvae: Lagvae, tmp_path: Path) -> None:
    said, clone = lagvae(tmp_path, "train", "--help", "name=one"), program(tmp_path, "--help", "name=one")
    assert said.returncode == 0
    assert said.stdout == clone.out.replace("python src/train.py", "python -m lagvae train")


def lagvae_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Status, output and errors of `lagvae` in this process and clone."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lagvae", *words])
    environment, status = dict(os.environ), 0
    try:
        programs.run_command()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        GlobalHydra.instance().clear()
    return status, *capsys.readouterr()


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_lagvae_lists_its_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, out, err = lagvae_here(monkeypatch, capsys, *words)
    assert (status, err) == (0, "")
    scripts = {file.stem for file in (ROOT / "src").glob("*.py")} - {"wandb_sweeps"}
    assert {line.split()[0] for line in out.splitlines() if line.startswith("  ")} == scripts | {*USES}


@pytest.mark.parametrize(
    ("word", "hint"), [("trian", "Did you mean lagvae train?"), ("family=vae", "Write one of train, calibrate, ")]
)
def test_a_program_that_there_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str, hint: str
) -> None:
    status, out, err = lagvae_here(monkeypatch, capsys, word)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"{word} is not a program of lagvae. {hint}" in err


def test_the_list_of_programs_imports_neither_torch_nor_hydra() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "lagvae"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}
    assert "lagvae.terminal" in imported
    assert not {"torch", "hydra", "omegaconf"} & imported


def test_version_of_lagvae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = lagvae_here(monkeypatch, capsys, "--version")
    assert (status, out.startswith(f"lagvae {__version__} ")) == (0, True)


@pytest.mark.parametrize(
    ("line", "choices"),
    [("lagvae tr", " ".join(programs.PROGRAMS)), ("lagvae train fam", "family="), ("lagvae evaluate che", "checkpoint=")],
)
def test_bash_completes_programs_and_their_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, choices: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    status, out, err = lagvae_here(monkeypatch, capsys, "-sc", "query=bash")
    assert (status, out.strip(), err) == (0, choices, "")


def test_completion_is_installed_for_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COMP_LINE", raising=False)
    _, out, _ = lagvae_here(monkeypatch, capsys, "-sc", "install=bash")
    assert out.rstrip().endswith("complete -o nospace -o default -F hydra_bash_completion lagvae")


def test_in_a_clone_runs_are_at_its_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("LAGVAE_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    status, _, err = lagvae_here(monkeypatch, capsys, "evaluate", "run=no-such-run")
    assert status == 1
    assert f"there is no {ROOT / 'runs' / 'no-such-run' / 'config.yaml'}" in " ".join(err.split())


def test_lagvae_trains_and_names_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    status, out, err = lagvae_here(monkeypatch, capsys, "train", "family=vae", "name=one", *TINY)
    assert (status, "Written in" in out) == (0, True), err
    assert (tmp_path / "runs" / "one" / "summary.json").is_file()
    _, out, _ = lagvae_here(monkeypatch, capsys, "train", "resume=one")
    assert "Evaluate it again with lagvae evaluate run=" in " ".join(out.split())


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "python src/train.py"), ("lagvae", "lagvae train"), ("python -m lagvae", "python -m lagvae train")],
)
def test_messages_name_the_command_that_the_user_has(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    monkeypatch.delenv(COMMAND, raising=False)
    if given:
        monkeypatch.setenv(COMMAND, given)
    assert command("train") == expected


def test_no_message_names_a_script_by_itself() -> None:
    """What to type comes from `command`; the heads of the programs' help are translated by `run`, and W&B starts the script."""
    exempt = {"programs.py", "terminal.py", "wandb_sweeps.py"}
    files = (file for file in (ROOT / "src" / "lagvae").rglob("*.py") if file.name not in exempt)
    assert not [file.name for file in files if "python src/" in file.read_text(encoding="utf-8")]


def test_the_other_processes_of_one_training_are_started_with_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Lightning starts them with sys.argv, as it is while the program runs."""
    seen: list[list[str]] = []
    monkeypatch.setattr("lagvae.cli.commands.train_command", lambda cfg: seen.append(list(sys.argv)))
    status, _, _ = lagvae_here(monkeypatch, capsys, "train", "name=one")
    assert (status, seen) == (0, [["/usr/bin/lagvae", "train", "name=one"]])


@pytest.mark.parametrize("words", [["--help"], ["-sc", "install=bash"]], ids=" ".join)
def test_a_program_ends_quietly_where_nobody_reads_its_output(words: list[str], tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as out, (tmp_path / "err").open("w+") as err:
        done = forked.run([sys.executable, "-m", "lagvae", *words], stdout=out, stderr=err)
    assert done.returncode == 1
    said = (tmp_path / "err").read_text()
    assert said == "", said


@pytest.mark.parametrize("name", ["pareto", "train"])
def test_ctrl_c_while_libraries_are_imported_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Stopping:
        def find_spec(self, module: str, *_: object) -> None:
            if module in ("lagvae.cli.compare", "lagvae.cli.entry"):
                raise KeyboardInterrupt

    for module in ("lagvae.cli.compare", "lagvae.cli.entry"):
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.delattr(f"{module.rpartition('.')[0]}.{module.rpartition('.')[2]}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Stopping(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        programs.run(name, ROOT)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Note: Stopped.\n"
