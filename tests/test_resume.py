"""A run that was stopped and resumed is the run that was never stopped, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from helpers import QUICK, program
from small import ROOT, TINY, compose

from lagvae.errors import Stopped
from lagvae.experiment.run import resume, train
from lagvae.model import LatentVariableModel
from lagvae.runs.layout import RunFolder

STEPS = 35  # two intervals and a shorter one, and three passes over the data
RUN = [
    *TINY,
    f"training.steps={STEPS}",
    "training.interval=15",
    "training.log_every=5",
    "callbacks.training.information.samples=100",
    "callbacks.final.information.components=0",
]


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


@pytest.fixture(scope="module", params=["lagvae", "infovae"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], RunFolder]:
    """Settings, and the run of them that was never stopped; a run that is stopped is kept beside it."""
    root = tmp_path_factory.mktemp(request.param)
    settings = [f"paths.root={root}", f"family={request.param}", "training.start=scratch", *RUN]
    train(compose([*settings, "name=whole"]))
    return settings, RunFolder(root / "runs" / "whole")


@pytest.mark.parametrize("stop", [6, 15, 23, 32])
def test_resume_is_bit_identical(whole: tuple[list[str], RunFolder], monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    settings, uninterrupted = whole
    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == stop and self.trainer.max_steps == STEPS:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        with pytest.raises(Stopped, match=f"resume=stopped-{stop}"):
            train(compose([*settings, f"name=stopped-{stop}"]))
    stopped = RunFolder(uninterrupted.path.with_name(f"stopped-{stop}"))
    assert not stopped.finished
    resume(stopped)
    assert_identical(uninterrupted, stopped)


def test_killed_run_resumes_bit_identical(tmp_path: Path) -> None:
    environment = os.environ | {"LAGVAE_ROOT": str(tmp_path)}
    settings = [*QUICK, "training.steps=250", "training.interval=50", "training.log_every=10"]
    command = [sys.executable, ROOT / "src" / "train.py"]
    assert program(tmp_path, *settings, "name=whole").status == 0
    run = RunFolder(tmp_path / "runs" / "killed")
    process = forked.Program([*command, *settings, "name=killed"], environment)
    deadline = time.monotonic() + 60
    while not run.last.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert run.last.is_file()
    assert not run.finished
    said = program(tmp_path, "resume=killed")
    assert said.status == 0, said.err
    assert "Verdict" in said.out
    assert_identical(RunFolder(tmp_path / "runs" / "whole"), run)


def test_interrupted_calibration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated in one go or in two, ε̂ and θ* are the same."""
    from lagvae.experiment.calibration import Calibration
    from lagvae.experiment.run import calibrate

    settings = [*RUN, f"calibration.steps={STEPS}"]
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path / "one"))
    uninterrupted, folder = calibrate(compose(settings))
    theta = Calibration.theta(folder)

    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path / "two"))
    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == 23:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        with pytest.raises(Stopped, match="same command"):
            calibrate(compose(settings))
    again, folder = calibrate(compose(settings))
    assert again.calibrated == uninterrupted.calibrated
    assert same(theta, Calibration.theta(folder)) == []


def test_metrics_have_one_row_per_step_and_name(whole: tuple[list[str], RunFolder]) -> None:
    _, run = whole
    lines = run.metrics.read_text().splitlines()
    keys = [line.rsplit(",", 1)[0] for line in lines]
    assert len(keys) == len(set(keys))
    assert json.loads(run.summary.read_text())["steps"] == STEPS
