"""A sweep that is killed or stopped in a process of its own goes on as if it had not been."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import forked
from helpers import QUICK
from small import ROOT
from test_launch import SMALL, summaries, sweep

from lagvae.runs.metrics_table import read_rows


def start(root: Path, *words: str) -> forked.Program:
    """A sweep in a process of its own; what it says goes to a file."""
    root.mkdir(exist_ok=True)
    with (root / "said").open("w") as said:
        command = [sys.executable, ROOT / "src" / "train.py", "-m", *QUICK, *SMALL, *words]
        return forked.Program(command, os.environ | {"LAGVAE_ROOT": str(root)}, stdout=said, stderr=said)


def test_a_sweep_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Kill −9 while it trains, and again while it measures; the same summaries as an undisturbed sweep, to the bit."""
    words = ("alpha=maximize,minimize", "training.steps=200", "training.interval=50")
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
    words = ("seed=0,1", "training.steps=200", "training.interval=50")
    process = start(tmp_path, *words)
    until(lambda: any(tmp_path.rglob("ensemble.ckpt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(tmp_path / "runs" / "sweep")
    outcome = sweep(tmp_path, *words)
    assert outcome.status == 0, outcome.err
    for seed in (0, 1):
        rows = read_rows(tmp_path / "runs" / "sweep" / f"lagvae-seed{seed}" / "metrics.csv")
        assert min(int(row["step"]) for row in rows) == 50, "from the first step on"


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
