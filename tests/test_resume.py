"""A run that was stopped and resumed is the run that was never stopped, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small import ROOT, TINY, compose

from lagvae.errors import Stopped
from lagvae.experiment.run import resume, train
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder

STEPS = 70  # two intervals and a shorter one
RUN = [*TINY, f"training.steps={STEPS}", "training.interval=30", "training.log_every=10"]


def same(a: Any, b: Any, at: str = "") -> list[str]:
    """Paths at which two checkpoints differ in any bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [at]
    if isinstance(a, dict):
        assert a.keys() == b.keys(), at
        return [d for k in a for d in same(a[k], b[k], f"{at}.{k}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), at
        return [d for k, (x, y) in enumerate(zip(a, b, strict=True)) for d in same(x, y, f"{at}[{k}]")]
    return [] if a == b or a is b else [at]


def assert_identical(one: RunFolder, two: RunFolder) -> None:
    a, b = (torch.load(run.last, weights_only=True) for run in (one, two))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(a[key], b[key], key) == []
    assert one.metrics.read_text() == two.metrics.read_text()
    first, second = one.read_summary(), two.read_summary()
    for summary in (first, second):
        summary.pop("seconds")
    assert first == second


@pytest.mark.parametrize("family", ["lagvae", "infovae"])
@pytest.mark.parametrize("stop", [12, 30, 47, 65])
def test_resume_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, stop: int) -> None:
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    settings = [f"family={family}", "training.start=scratch", *RUN]
    train(compose([*settings, "name=whole"]))

    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == stop and self.trainer.max_steps == STEPS:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        with pytest.raises(Stopped, match="resume=stopped"):
            train(compose([*settings, "name=stopped"]))
    stopped = RunFolder(tmp_path / "runs" / "stopped")
    assert not stopped.finished
    resume(stopped)
    assert_identical(RunFolder(tmp_path / "runs" / "whole"), stopped)


def test_killed_run_resumes_bit_identical(tmp_path: Path) -> None:
    environment = os.environ | {"LAGVAE_ROOT": str(tmp_path)}
    settings = [*TINY, "training.steps=400", "training.interval=50", "training.log_every=10"]

    def command(*words: str) -> list[str]:
        return [sys.executable, str(ROOT / "src" / "train.py"), *words]

    subprocess.run(command(*settings, "name=whole"), env=environment, check=True, capture_output=True)
    run = RunFolder(tmp_path / "runs" / "killed")
    process = subprocess.Popen(
        command(*settings, "name=killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not run.last.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.last.is_file()
    assert not run.finished
    done = subprocess.run(command("resume=killed"), env=environment, check=True, capture_output=True, text=True)
    assert "Verdict" in done.stdout
    assert_identical(RunFolder(tmp_path / "runs" / "whole"), run)


def test_interrupted_calibration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated in one go or in two, ε̂ and θ* are the same."""
    from lagvae.experiment.calibration import Calibration
    from lagvae.experiment.run import calibrate

    settings = [*TINY, "calibration.steps=70", "training.interval=30"]
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path / "one"))
    whole, folder = calibrate(compose(settings))
    theta = Calibration.theta(folder)

    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path / "two"))
    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == 45:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        with pytest.raises(Stopped, match="same command"):
            calibrate(compose(settings))
    again, folder = calibrate(compose(settings))
    assert again.epsilon == whole.epsilon
    assert same(theta, Calibration.theta(folder)) == []


def test_metrics_have_one_row_per_step_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    train(compose([*RUN, "name=rows", "training.start=scratch", "family=vae"]))
    run = RunFolder(tmp_path / "runs" / "rows")
    lines = run.metrics.read_text().splitlines()
    keys = [line.rsplit(",", 1)[0] for line in lines]
    assert len(keys) == len(set(keys))
    assert json.loads(run.summary.read_text())["steps"] == STEPS
