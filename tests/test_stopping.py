"""A sweep that is killed or stopped in a process of its own goes on as if it had not been."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from helpers import QUICK, ended_process, settings
from small import ROOT
from test_launch import SMALL, summaries, sweep

from lagvae.ranks import STARTED_BY
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import MetricsTable, read_rows
from lagvae.sweeps import runner
from lagvae.sweeps.ensemble_training import EnsembleCheckpoint
from lagvae.sweeps.job import SweepJob
from lagvae.sweeps.sweep_run import SweepRun

LONGER = ("training.steps=100", "training.interval=25", "calibration.steps=2")
"""After QUICK: three quarters of the training follow the first checkpoint, so that a sweep can be killed in between."""

BOUNDS = ("constraints.neg_elbo.epsilon=20", "constraints.mmd.epsilon=1e-3")


def start(root: Path, *words: str) -> forked.Program:
    """A sweep in a process of its own; what it says goes to a file."""
    root.mkdir(exist_ok=True)
    with (root / "said").open("w") as said:
        command = [sys.executable, ROOT / "src" / "train.py", "-m", *QUICK, *SMALL, *words]
        return forked.Program(command, os.environ | {"LAGVAE_ROOT": str(root)}, stdout=said, stderr=said)


def test_a_sweep_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Kill −9 while it trains, and again while it measures; the same summaries as an undisturbed sweep, to the bit."""
    words = ("alpha=maximize,minimize", *LONGER)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert sweep(whole, *words).status == 0
    killed = start(cut, *words)
    until(lambda: any(cut.rglob("ensemble.ckpt")), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not any((cut / "runs" / "sweep").rglob("summary.json"))
    killed = start(cut, *words)
    until(lambda: any((cut / "runs" / "sweep").rglob("summary.json")), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = start(cut, *words)
    assert again.wait() == 0, (cut / "said").read_text()
    assert summaries(cut / "runs" / "sweep") == summaries(whole / "runs" / "sweep")


def test_runs_that_were_removed_are_trained_anew(tmp_path: Path) -> None:
    words = ("seed=0,1", *LONGER)
    process = start(tmp_path, *words)
    until(lambda: any(tmp_path.rglob("ensemble.ckpt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(tmp_path / "runs" / "sweep")
    outcome = sweep(tmp_path, *words)
    assert outcome.status == 0, outcome.err
    for seed in (0, 1):
        rows = read_rows(tmp_path / "runs" / "sweep" / f"lagvae-seed{seed}" / "metrics.csv")
        assert min(int(row["step"]) for row in rows) == 25, "from the first step on"


ENSEMBLE = ("seed=0,1", "training.start=scratch", "epsilon=explicit", *BOUNDS)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an ensemble of two runs that was interrupted after 35 of its 40 steps, moved to another place."""

    def interrupt(self: EnsembleCheckpoint, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 35:
            raise KeyboardInterrupt

    root = tmp_path_factory.mktemp("interrupted") / "made"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnsembleCheckpoint, "on_train_batch_end", interrupt)
        assert sweep(root, *ENSEMBLE).status == 130
    return root.rename(root.with_name("moved"))


@pytest.mark.parametrize(
    "what",
    [
        "moved",
        "one removed",
        "task damaged",
        "task damaged, in another order",
        "task changed",
        "chunks damaged",
        "a row lost",
    ],
)
def test_an_interrupted_ensemble_goes_on_where_it_can(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """In a copy of the folder, to which the row "moved" does nothing else. A lost task is planned again."""
    root = shutil.copytree(interrupted, tmp_path / "root", symlinks=True)
    (file,) = root.rglob("ensemble.ckpt")
    gone = root / "runs" / "sweep" / "lagvae-seed1"
    if what == "one removed":
        shutil.rmtree(gone)
    elif what == "a row lost":
        rows = (gone / "metrics.csv").read_text().splitlines(keepends=True)
        (gone / "metrics.csv").write_text("".join(rows[:-1]))
    elif what == "task changed":
        task = file.parents[1] / "task.json"
        text = task.read_text()
        assert '"seed": 1' in text
        task.write_text(text.replace('"seed": 1', '"seed": 3'))
    else:
        (file.parents[1] / f"{what.split()[0]}.json").write_text("{")
    cut, resumed_at = MetricsTable.cut, {}

    def spied(self: MetricsTable, step: int) -> None:
        resumed_at.setdefault(self.path.parent.name, step)
        cut(self, step)

    monkeypatch.setattr(MetricsTable, "cut", spied)
    outcome = sweep(root, *ENSEMBLE, *(["seed=1,0"] if what.endswith("order") else []))
    assert outcome.status == 0, outcome.err
    at = {"one removed": (30, 0), "chunks damaged": (0, 0), "task damaged, in another order": (0, 0)}.get(what, (30, 30))
    assert resumed_at == {"lagvae-seed0": at[0], "lagvae-seed1": at[1]}
    assert ("lagvae-seed1 are gone: these start anew" in outcome.out) == (what == "one removed")
    for name in ("task", "chunks"):
        damaged = what.startswith((f"{name} damaged", f"{name} changed"))
        assert (f"{name}.json is damaged" in " ".join(outcome.out.split())) == damaged
    for seed in (0, 1):
        run = RunFolder(root / "runs" / "sweep" / f"lagvae-seed{seed}")
        rows = [(row["step"], row["split"], row["name"]) for row in read_rows(run.metrics)]
        assert len(rows) == len(set(rows))
        assert {int(step) for step, split, _ in rows if split == "val"} == {10, 20, 30, 40}
        told = any("metrics.csv is not what the run had written" in message for message in run.read_summary()["messages"])
        assert told == (what == "a row lost" and seed == 1)
        content = torch.load(run.last, weights_only=True)
        assert content["global_step"] == 40
        assert content["state_dict"]["joint.decoder.network.layers.0.weight"].abs().sum() > 1


def test_an_interrupted_ensemble_leaves_what_its_folders_hold_now(interrupted: Path) -> None:
    """The folder of one of its runs was removed, and another sweep has begun to train a run in it."""
    root = shutil.copytree(interrupted, interrupted.with_name("made"), symlinks=True)
    other = RunFolder(root / "runs" / "sweep" / "lagvae-seed1")
    shutil.rmtree(other.path)
    assert sweep(root, *ENSEMBLE[1:], "seed=1", "training.steps=20").status == 0
    other.summary.unlink()
    before = other.config.read_text(), other.metrics.read_text(), other.last.read_bytes()
    outcome = sweep(root, *ENSEMBLE[1:], "seed=0")
    assert outcome.status == 0, outcome.err
    assert "lagvae-seed1 hold other runs now" in " ".join(outcome.out.split())
    assert (other.config.read_text(), other.metrics.read_text(), other.last.read_bytes()) == before
    assert RunFolder(root / "runs" / "sweep" / "lagvae-seed0").finished
    assert not other.finished


def test_a_second_process_with_the_same_sweep_waits_and_has_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("seed=0,1", *LONGER)
    first = start(tmp_path, *words)
    until(lambda: any(tmp_path.rglob("ensemble.ckpt")), first)
    first.send_signal(signal.SIGSTOP)
    wait = runner.wait_for_owner

    def wait_while_it_goes_on(*given: Any) -> bool:
        first.send_signal(signal.SIGCONT)
        return bool(wait(*given))

    monkeypatch.setattr(runner, "wait_for_owner", wait_while_it_goes_on)
    try:
        second = sweep(tmp_path, *words)
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0, (tmp_path / "said").read_text()
    assert second.status == 0, second.err
    assert f"process {first.pid} on" in second.out
    assert "does the same sweep now: waiting for its runs" in " ".join(second.out.split())
    assert "2 of 2 runs finished" in second.out
    for seed in (0, 1):
        rows = read_rows(tmp_path / "runs" / "sweep" / f"lagvae-seed{seed}" / "metrics.csv")
        assert len(rows) == len({(row["step"], row["split"], row["name"]) for row in rows})


def test_a_job_whose_sweep_was_killed_before_it_had_begun_ends(tmp_path: Path) -> None:
    run = SweepRun(settings(tmp_path, *QUICK, "epsilon=explicit", *BOUNDS, "training.steps=1000000", "name=a"))
    job = SweepJob.create(tmp_path / "runs" / ".jobs" / "a", "train", [run], {})
    words = [sys.executable, "-m", "lagvae.sweeps.job", job.folder]
    process = forked.Program(words, os.environ | {STARTED_BY: ended_process()})
    try:
        assert process.wait(30) == 1
    finally:
        process.kill()
    assert job.outcome() is None


def until(happened: object, process: forked.Program, patience: float = 120.0) -> None:
    """Wait for something while a process runs."""
    end = time.monotonic() + patience
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        assert process.poll() is None, "it ended before"
        time.sleep(0.02)


def test_ctrl_c_stops_a_sweep_with_a_word_on_how_to_go_on(tmp_path: Path) -> None:
    words = ("seed=0,1", "training.steps=5000", "training.interval=100")
    process = start(tmp_path, *words)
    until(lambda: any(tmp_path.rglob("ensemble.ckpt")), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert re.search(r"Stopped; 0 of 2 runs are finished\. Run the same command again to resume\.", " ".join(said.split()))
    (states,) = (json.loads(file.read_text())["runs"] for file in tmp_path.rglob("sweep.json"))
    assert list(states.values()) == ["unfinished"] * 2, "so that a comparison knows of runs that have not begun"
