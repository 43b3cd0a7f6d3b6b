"""Runs with debug=fast, which are short, marked, and kept apart from all others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import QUICK, program, settings

from lagvae.errors import ComparisonError, SettingError
from lagvae.experiment.calibration import calibration_folder, calibration_settings
from lagvae.experiment.factory import build_data
from lagvae.experiment.validate import validate
from lagvae.pareto.points import collect
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.matching import matched_overrides
from lagvae.sweeps.sweep_run import SweepRun

TINY_DEBUG = [word for word in QUICK if not word.startswith(("training.steps", "training.interval", "calibration.steps"))]


@pytest.fixture(scope="module")
def debugged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a debug run, with its calibration."""
    root = tmp_path_factory.mktemp("debug")
    said = program(root, *TINY_DEBUG, "debug=fast", "name=smoke")
    assert said.status == 0, said.err
    assert "A debug run: its numbers mean nothing" in said.out
    return root


def test_a_debug_run_is_short_marked_and_in_a_folder_of_its_own(debugged: Path) -> None:
    assert {path.name for path in debugged.iterdir()} == {"debug"}
    run = RunFolder(debugged / "debug" / "runs" / "smoke")
    summary = run.read_summary()
    assert (summary["debug"], summary["steps"]) == ("fast", 10)
    assert "debug: fast" in run.config.read_text()
    (found,) = (debugged / "debug" / "calibrations").glob("*/calibration.json")
    assert json.loads(found.read_text())["settings"]["debug"] == "fast"


def test_no_other_run_uses_what_a_debug_run_left(debugged: Path) -> None:
    """Even with the same folders and all other settings the same."""
    debug = debugged / "debug"
    cfg = settings(debugged, *TINY_DEBUG, "debug=fast", "name=smoke")
    data = build_data(cfg)
    assert (calibration_folder(cfg, calibration_settings(cfg, data)) / "calibration.json").is_file()
    cfg.debug = None
    assert not calibration_folder(cfg, calibration_settings(cfg, data)).exists()
    with pytest.raises(SettingError, match="debug: fast → none"):
        SweepRun(cfg).check_folder()
    with pytest.raises(ComparisonError, match="it is a debug run, debug=fast"):
        collect([debug / "runs"])


def test_an_ordinary_run_has_the_settings_that_it_had_before_there_were_debug_runs(tmp_path: Path) -> None:
    run = SweepRun(settings(tmp_path, *QUICK))
    assert "debug" not in run.settings
    assert not [key for key in run.settings if key.startswith("callbacks.lightning")]


def test_a_debug_run_is_matched_with_none(tmp_path: Path) -> None:
    for name, debug in (("a", "null"), ("b", "fast")):
        folder = tmp_path / "runs" / "info" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"family: infovae\ndebug: {debug}\nalpha: {{q: -1}}\nseed: 0\n")
        (folder / "summary.json").write_text('{"name": "a"}')
    (words,) = matched_overrides("info", tmp_path / "runs", [], [])
    assert [word for word in words if word.startswith("match=")] == [f"match='{tmp_path / 'runs' / 'info' / 'a'}'"]


@pytest.mark.parametrize(
    "flag",
    [
        "fast_dev_run=true",
        "max_time=00:00:00:01",
        "limit_train_batches=2",
        "limit_val_batches=1",
        "limit_test_batches=1",
        "overfit_batches=1",
        "min_steps=9",
        "val_check_interval=3",
        "check_val_every_n_epoch=2",
    ],
)
def test_a_trainer_that_would_cut_a_run_short_is_refused(tmp_path: Path, flag: str) -> None:
    """The calibration of a run that was cut short would be taken for one that was not."""
    with pytest.raises(SettingError, match=rf"trainer.{flag.split('=')[0]}=.*debug=fast"):
        validate(settings(tmp_path, *QUICK, f"+trainer.{flag}"))


def test_a_debug_run_may_limit_its_batches(tmp_path: Path) -> None:
    validate(settings(tmp_path, *QUICK, "debug=fast", "trainer.limit_test_batches=1"))
    with pytest.raises(SettingError, match="fast_dev_run"):
        validate(settings(tmp_path, *QUICK, "debug=fast", "+trainer.fast_dev_run=true"))
