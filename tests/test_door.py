"""What a user meets first: --help, --version and answers to slips, before torch is imported."""

from __future__ import annotations

import gc
import io
import logging
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import program
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console
from small import ROOT, compose

from lagvae import __version__
from lagvae.cli import entry
from lagvae.errors import SettingError
from lagvae.terminal import (
    format_number,
    make_printable,
    plain_table,
    print_error,
    print_line,
    print_note,
    quick_imports,
    quiet_libraries,
    short_path,
    silence,
)

HEAVY = {"torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "matplotlib", "sklearn", "wandb"}
"""Packages that take long to import, and that only a run needs."""

QUICK_ANSWERS = (
    ("train", "--help"),
    ("train", "--version"),
    ("train", "model.laten=3"),
    ("train", "data=cifar"),
    ("train", "epsilon=24"),
    ("train", "sweep=figure1"),
    ("evaluate", "--help"),
    ("pareto", "--help"),
    ("pareto", "--version"),
    ("watch", "--help"),
)


@pytest.mark.parametrize(("script", "word"), QUICK_ANSWERS)
def test_an_answer_that_needs_no_run_imports_nothing_that_only_a_run_needs(tmp_path: Path, script: str, word: str) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "src" / f"{script}.py"), word]
    environment = os.environ | {"LAGVAE_ROOT": str(tmp_path)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == (0 if word.startswith("--") else 1), said.stderr[-1000:]
    imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines() if line.startswith("import time:")}
    assert {"lagvae", "pathlib"} <= imported
    assert not HEAVY & imported


@pytest.mark.parametrize("script", ["train", "calibrate", "evaluate", "data", "explain", "feasible", "pareto", "watch"])
def test_version_names_lagvae_and_what_decides_about_its_numbers(tmp_path: Path, script: str) -> None:
    said = program(tmp_path, "--version", script=script)
    assert said.status == 0
    assert said.out.startswith(f"lagvae {__version__} ")
    for name in ("torch", "pytorch-lightning"):
        assert f"{name} {version(name)}" in said.out


def test_help_lists_groups_settings_and_examples(tmp_path: Path) -> None:
    said = program(tmp_path, "--help", "data=linear_gaussian", "training.steps=7")
    assert (said.status, said.err) == (0, "")
    for group in sorted(folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir() and folder.name != "hydra"):
        options = ", ".join(sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml")))
        assert f"\n{group}: {options}\n" in said.out
    assert "\nsweep: alpha, family, family_learned, figure1, " in said.out
    assert "steps of training (7)" in said.out
    assert said.out.count("\n  python src/train.py ") == 3
    assert "$" not in said.out
    assert max(len(line) for line in said.out.splitlines() if not line.startswith(("divergence: ", "family: "))) < 240


@pytest.mark.parametrize("script", ["calibrate", "evaluate", "data", "explain", "feasible"])
def test_help_is_of_the_program_that_is_asked(tmp_path: Path, script: str) -> None:
    said = program(tmp_path, "--help", script=script)
    assert (said.status, said.err) == (0, "")
    assert f"Usage: python src/{script}.py" in said.out
    assert said.out.count(f"  python src/{script}.py") >= 3
    assert "train.py" not in said.out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, entry.SPIN_COUNT),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    entry.limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("before", [None, "0"])
def test_the_variables_of_the_user_are_as_before_after_a_program(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if before is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", before)
    with entry.command_line(["name=one"]):
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert os.environ.get("HYDRA_FULL_ERROR") == before


def test_ctrl_c_ends_a_program_with_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["src/train.py"])
    with pytest.raises(SystemExit) as stop:
        entry.run_program(ROOT, stopped)
    assert stop.value.code == 130
    assert "Stopped." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "modes"), [("name=one", "RUN"), ("-m", "MULTIRUN"), ("hydra.mode=MULTIRUN", "MULTIRUN MULTIRUN")]
)
def test_the_config_is_composed_once_where_no_word_may_set_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, modes: str
) -> None:
    """Where a word may, Hydra asks first for the mode, and heeds it."""
    load, seen = ConfigLoaderImpl.load_configuration, list[str]()

    def counted(self: ConfigLoaderImpl, config_name: Any, overrides: Any, run_mode: RunMode, **settings: Any) -> Any:
        seen.append(run_mode.name)
        return load(self, config_name, overrides, run_mode, **settings)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert program(tmp_path, word, "training.steps=0").status == 1
    assert " ".join(seen).startswith(modes)
    assert seen.count("RUN") == 1, "the run itself"


def test_paths_are_shown_from_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "runs" / "a") == "runs/a"
    assert short_path(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")
    assert short_path(tmp_path / "[a]") == r"\[a]", "rich would take it for a style"


def test_nothing_is_printed_in_silence_and_lines_are_not_broken_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    with silence():
        for say in (print_line, print_error, print_note):
            say("unheard")
    line = "word " * 100 + "end"
    print_line(line)
    print_error(line)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (f"{line}\n", f"Error: {line}\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [("strict", "replace"), ("surrogateescape", "replace"), ("backslashreplace", "backslashreplace"), ("ignore", "ignore")],
)
def test_only_a_stream_that_would_fail_at_a_sign_replaces_it(before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), "ascii", before) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    make_printable()
    assert [stream.errors for stream in streams] == [after] * 2


def test_numbers_have_no_colours_of_their_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_line("3.14 nats of 'digits' in /tmp/a")
    assert capsys.readouterr().out == "3.14 nats of 'digits' in /tmp/a\n"


def test_a_table_has_a_line_under_its_head_and_no_frame() -> None:
    table = plain_table("Two rows", "name")
    table.add_column("I", justify="right")
    table.add_row("a-long-name", "3.00")
    table.add_row("b", "10.00")
    shown = Console(width=40, file=io.StringIO(), record=True)
    shown.print(table)
    lines = [line.rstrip() for line in shown.export_text().splitlines()]
    assert lines[0] == "Two rows"
    head, rule, *rows = [line for line in lines if line][1:]
    assert [head.split(), *(row.split() for row in rows)] == [["name", "I"], ["a-long-name", "3.00"], ["b", "10.00"]]
    assert set(rule.strip()) == {"─"}
    assert all(line[0] == " " != line[1] for line in (head, rule, *rows)), "no more than a space on the left"


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        (0.00126, {}, "0.00"),
        (-87.126, {"stderr": 0.034}, "-87.13 ± 0.03"),
        (0.00126, {"nats": False}, "1.26e-03"),
        (0.00126, {"nats": False, "stderr": 0.0004}, "1.26e-03 ± 4e-04"),
        (1.5, {"stderr": float("nan")}, "1.50"),
        (None, {"stderr": 0.1}, "–"),
        (float("inf"), {}, "–"),
    ],
)
def test_nats_have_two_decimals_and_other_numbers_three_digits(
    value: float | None, options: dict[str, Any], shown: str
) -> None:
    assert format_number(value, **options) == shown


def test_libraries_warn_of_nothing_that_is_deliberate_and_others_are_heard() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.resetwarnings()
        quiet_libraries()
        for module in ("pytorch_lightning.trainer", "lightning_fabric.utilities", "lightning.pytorch", "numpy"):
            warnings.warn_explicit(f"by {module}", UserWarning, "file.py", 1, module=module)
        for said in (
            "`isinstance(treespec, LeafSpec)` is deprecated",
            "`lr_scheduler.step()` before `optimizer.step()`",
            "loss",
        ):
            warnings.warn_explicit(said, UserWarning, "file.py", 1, module="torch")
    assert [str(each.message) for each in heard] == ["by numpy", "loss"]
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)  # as Lightning does where it is imported later
        assert logger.getEffectiveLevel() == logging.ERROR


@pytest.mark.parametrize(
    ("words", "folders", "sorted_words"),
    [
        (["a=1", "-m", "b=2"], [], ["-m", "a=1", "b=2"]),
        (["--multirun", "a=1"], [], ["--multirun", "a=1"]),
        (["a=1", "--config-dir", "mine", "b=2"], ["mine"], ["--config-dir", "mine", "a=1", "b=2"]),
        (["a=1", "--config-dir=mine", "-cd=yours"], ["mine", "yours"], ["--config-dir=mine", "-cd=yours", "a=1"]),
        (["a=1", "-cd"], [], ["-cd", "a=1"]),
    ],
)
def test_what_hydra_only_takes_in_front_is_put_there(words: list[str], folders: list[str], sorted_words: list[str]) -> None:
    assert entry.own_folders(words) == [Path(folder).absolute() for folder in folders]
    assert entry.sorted_for_hydra(words) == sorted_words


def test_modules_of_the_user_are_found_after_all_others_and_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = [path for path in sys.path if path != str(tmp_path)]
    monkeypatch.setattr(sys, "path", list(before))
    for _ in range(2):
        entry.find_own_code(["--config-dir=mine", "a=1"])
    assert sys.path == [*before, str(tmp_path), str(tmp_path / "mine")]


def test_a_file_of_sweeps_is_read_again_where_it_was_changed_and_named_where_it_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("seed: 1\n")
    assert entry.read_sweep(file, 1) == {"folder": "own", "seed": 1}
    file.write_text("folder: other\nseed: 2\n")
    assert entry.read_sweep(file, 2) == {"folder": "other", "seed": 2}
    for k, (text, said) in enumerate({"seed: [": "own.yaml cannot be read: ", "- 1\n": "own.yaml holds no settings"}.items()):
        file.write_text(text)
        with pytest.raises(SettingError, match=said):
            entry.read_sweep(file, 3 + k)


def test_jobs_of_another_launcher_that_fail_leave_the_others_and_are_named_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def train(cfg: Any) -> None:
        if cfg.seed == 1:
            raise SettingError("seed=1 is unlucky.")
        done.append((cfg.seed, cfg.model.latent))

    monkeypatch.setattr("lagvae.cli.commands.train_command", train)
    words = ("-m", "hydra/launcher=basic", "model.latent=3", "family=vae,infovae", "seed=0,1")
    said = program(tmp_path, *words)
    assert (said.status, done) == (1, [(0, 3)] * 2)
    *_, head, first, second = said.err.splitlines()
    assert head == "Error: 2 of the jobs failed, the others finished:"
    assert first.startswith("job 1 (family=vae seed=1 "), "what was typed for all is not repeated"
    assert second.startswith("job 3 (family=infovae seed=1 ")
    assert first.endswith("): seed=1 is unlucky.")
    assert said.err.count("seed=1 is unlucky.") == 4, "each also when it fails"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["seed=1"], {}),
        (["trainer.devices=2"], {"devices": 2}),
        (["+trainer.precision=32-true"], {"precision": "32-true"}),
        (["trainer=cpu"], {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}),
        (["trainer=cpu", "trainer.precision=32-true"], {"accelerator": "cpu", "precision": "32-true"}),
    ],
)
def test_an_option_of_the_trainer_leaves_the_precision_to_the_run(
    words: list[str], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The precision decides about numbers; where the run goes on is a matter of the machine."""
    from lagvae.cli.commands import given_trainer

    cfg = compose([word.lstrip("+") for word in words])
    task = SimpleNamespace(overrides=SimpleNamespace(task=words))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: task))
    found = given_trainer(cfg)
    assert {key: found[key] for key in given} == given
    assert ("precision" in found) == any("precision" in word for word in words)
    assert bool(found) == bool(given)


def test_the_garbage_collector_is_off_while_libraries_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: kept.append(gc.isenabled()))
    with quick_imports():
        assert gc.isenabled(), "torch is there"
    monkeypatch.delitem(sys.modules, "torch")
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert kept == [False]
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled(), "it was off before"
    finally:
        gc.enable()
