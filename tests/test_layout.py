"""The folder of a run: its name, its files, who waits for its summary, and how runs are found again."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import QUICK
from helpers import settings as made_settings

from lagvae.errors import CheckpointError, SettingError
from lagvae.experiment.run import create_folder
from lagvae.io import write_json
from lagvae.runs.layout import RunFolder, find_runs, runs_below


def config(run: RunFolder, age: float = 0.0) -> RunFolder:
    run.config.write_text("seed: 0\n")
    os.utime(run.config, (1e9 - age, 1e9 - age))
    return run


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made = [RunFolder.create(runs, name).path for name in ("a", "a", "b", "a", "grid/run", "grid/run")]
    assert [str(folder.relative_to(runs)) for folder in made] == ["a", "a-2", "b", "a-3", "grid/run", "grid/run-2"]
    assert all(folder.is_dir() for folder in made)


def test_latest_points_at_the_newest(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b", "grid/run"):
        run = RunFolder.create(runs, name)
        assert (runs / "latest").is_symlink()
        assert (runs / "latest").resolve() == run.path.resolve()
        assert not Path(os.readlink(runs / "latest")).is_absolute()  # the folder of runs may move
    assert sorted(p.name for p in runs.iterdir()) == ["a", "b", "grid", "latest"]


def test_a_run_is_made_where_no_folder_is_yet_and_what_a_killed_process_left_does_no_harm(tmp_path: Path) -> None:
    runs = tmp_path / "deep" / "runs"
    first = RunFolder.create(runs, "a")
    (runs / f".latest.{os.getpid()}").symlink_to("nowhere")  # of a process with the same number
    second = RunFolder.create(runs, "b")
    assert first.path.is_dir()
    assert (runs / "latest").resolve() == second.path.resolve()
    assert sorted(p.name for p in runs.iterdir()) == ["a", "b", "latest"]


@pytest.mark.parametrize("at", ["latest", "config.yaml"])
def test_a_full_disk_leaves_nothing_of_a_run_that_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """So that the same command, given again, makes the run under its own name."""
    cfg, runs, replace = made_settings(tmp_path, *QUICK, "name=a"), tmp_path / "runs", Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(SettingError, match="The disk is full"):
            create_folder(cfg)
    assert {p.name for p in runs.iterdir()} <= {"latest"}
    assert create_folder(cfg).path == runs / "a"


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/../../b", "/a", "latest", "latest/a", ".multirun"])
def test_a_name_that_cannot_be_a_run_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=r"name=.* cannot be a folder under runs/"):
        RunFolder.create(tmp_path / "runs", name)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_found_by_name_by_path_and_as_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    a, newest = (config(RunFolder.create(runs, name)) for name in ("a", "grid/run"))
    for which, run in {"a": a, "grid/run": newest, "latest": newest, str(a.path): a}.items():
        assert RunFolder.find(runs, which).path == run.path.resolve()
    monkeypatch.chdir(runs)
    assert RunFolder.find(tmp_path / "elsewhere", "a").path == a.path.resolve()


def test_the_message_for_a_missing_run_lists_existing_ones(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(CheckpointError, match=r"'latest' is not a run.*Make one with python src/train\.py"):
        RunFolder.find(runs, "latest")
    for age, name in enumerate(("f", "e", "d", "c", "b", "grid/a")):
        config(RunFolder.create(runs, name), age)
    RunFolder.create(runs, "without-config")
    with pytest.raises(CheckpointError, match=r"'x' is not a run: .* The newest there: b, c, d, e, f\."):
        RunFolder.find(runs, "x")
    with pytest.raises(CheckpointError, match="is not a run"):
        RunFolder.find(runs, "without-config")


def test_a_summary_marks_a_run_as_finished(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "a")
    assert not run.finished
    with pytest.raises(CheckpointError, match="is missing or damaged"):
        run.read_summary()
    write_json(run.summary, {"verdict": "met"})
    assert run.finished
    assert run.read_summary() == {"verdict": "met"}
    run.summary.write_text('{"verdict": ')
    with pytest.raises(CheckpointError, match="damaged"):
        run.read_summary()


def test_the_paths_of_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    paths: dict[str, Any] = {name: getattr(run, name) for name in ("config", "summary", "metrics", "last", "figures")}
    assert {name: str(path.relative_to(tmp_path)) for name, path in paths.items()} == {
        "config": "config.yaml",
        "summary": "summary.json",
        "metrics": "metrics.csv",
        "last": "checkpoints/last.ckpt",
        "figures": "figures",
    }


def test_what_to_do_without_a_checkpoint_depends_on_whether_the_run_has_finished(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a")
    assert run.last_checkpoint is None
    assert run.checkpoint_cure == f"The run has no checkpoint yet: resume it with python src/train.py resume={run.path}."
    run.write_summary({"verdict": "met"})
    assert "train it again, as a new run, with python src/train.py." in run.checkpoint_cure
    run.checkpoints.mkdir()
    run.last.touch()
    assert run.last_checkpoint == run.last


def test_who_waits_for_a_summary_is_told_once_before_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    run, told = RunFolder(tmp_path), list[tuple[Any, bool]]()

    def tell(summary: Mapping[str, Any]) -> None:
        told.append((summary["verdict"], run.finished))

    run.follow(tell)
    RunFolder(tmp_path / "link").follow(tell)
    run.write_summary({"verdict": "met"})
    run.write_summary({"verdict": "violated"})
    assert told == [("met", False)] * 2
    run.follow(tell)
    run.unfollow()
    run.unfollow()
    run.write_summary({"verdict": "met"})
    assert len(told) == 2


def test_a_summary_that_was_changed_counts_as_damaged_and_durations_do_not_matter(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_summary({"verdict": "met", "seconds": 12.5, "ensemble": {"seconds": 1.5}})
    text = run.summary.read_text(encoding="utf-8")
    run.summary.write_text(text.replace("12.5", "13.5").replace("1.5", "2.5"), encoding="utf-8")
    assert run.read_summary()["verdict"] == "met"
    for changed in (text.replace("met", "violated"), "{}", "[1]", "3"):
        run.summary.write_text(changed, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"summary\.json is missing or damaged\. Resume the run"):
            run.read_summary()


def test_settings_that_cannot_be_read_are_empty(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_settings() == {}
    for text, settings in {"a: {b: 1}": {"a": {"b": 1}}, "a: '${b}'": {"a": "${b}"}, "a: [": {}, "- a": {}, "": {}}.items():
        run.config.write_text(text, encoding="utf-8")
        assert run.read_settings() == settings


def test_runs_below_a_folder_are_found_once_and_nothing_that_is_no_run_of_its_own(tmp_path: Path) -> None:
    own = ("b", "a", "sweep/c", "sweep/c/below")
    other = ("latest", "pareto-analysis", ".jobs/d", "a/evaluation", "a/checkpoints", "a/figures", "calibrated")
    for name in (*own, *other):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        config(RunFolder(tmp_path / name))
    for name in ("evaluation", "sweep/figures"):  # below no run these are names as any other
        (tmp_path / name).mkdir()
        config(RunFolder(tmp_path / name))
    (tmp_path / "calibrated" / "calibration.json").touch()
    (tmp_path / "sweep" / "again").symlink_to(tmp_path)
    seen: set[Path] = set()
    found = [str(run.path.relative_to(tmp_path)) for run in runs_below(tmp_path, seen)]
    assert found == ["a", "b", "evaluation", "sweep/c", "sweep/c/below", "sweep/figures"]
    assert list(runs_below(tmp_path / "sweep", seen)) == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SettingError, match=rf"{tmp_path} cannot be read \(Permission denied\)"):
        list(runs_below(tmp_path, set()))


def test_a_folder_of_runs_is_found_by_its_path_or_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(SettingError, match=r"'a' is not a folder of runs: .*A sweep makes some: python src/train\.py -m"):
        find_runs(runs, "a")
    for k in range(12):
        (runs / f"s{k:02d}").mkdir(parents=True)
    (runs / "file").touch()
    assert find_runs(runs, "s03") == runs / "s03"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s03").mkdir()
    assert find_runs(runs, "s03") == Path("s03"), "where the user stands comes first"
    with pytest.raises(SettingError, match=r"There are s00, .*, s09\.$"):
        find_runs(runs, "file")
