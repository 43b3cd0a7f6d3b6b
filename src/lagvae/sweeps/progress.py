"""One progress bar for all jobs of a sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import MofNCompleteColumn, TextColumn

from lagvae.callbacks.progress import ProgressBar
from lagvae.sweeps.plan import Jobs
from lagvae.sweeps.sweep_run import SweepRun
from lagvae.terminal import print_line

T = TypeVar("T")

EVALUATION_WORK = 0.5
"""The assumed time to evaluate a run, relative to the time to train it; used to estimate the time left."""


class SweepProgress:
    """Shows the progress of all jobs: evaluated runs, training step and time left. Without a terminal it prints plain lines."""

    def __init__(self, jobs: Jobs, calibrating: bool) -> None:
        self.jobs, self.calibrating = jobs, calibrating
        title = "Calibrating" if calibrating else "Starting"
        percentage = TextColumn("{task.percentage:>3.0f}%")
        self.bar = ProgressBar(title, None if calibrating else self.total, percentage)

    @property
    def runs(self) -> int:
        """The number of runs in all jobs."""
        return sum(len(runs) for _, runs in self.jobs)

    @property
    def total(self) -> float:
        """The work of all jobs, in training steps of a single run."""
        return (1 + EVALUATION_WORK) * sum(steps_of(runs) * len(runs) for _, runs in self.jobs)

    def start_training(self) -> None:
        """Start the bar again for the training, after all calibrations are made."""
        self.calibrating = False
        self.bar.restart("Training", self.total)

    def refresh(self) -> None:
        """Read the progress of the jobs and show it."""
        if self.calibrating:
            return
        progress = [(runs, job.read_progress()) for job, runs in self.jobs]
        steps = sum(of_job.get("steps", 0) for _, of_job in progress)
        evaluated = sum(of_job.get("evaluated", 0) for _, of_job in progress)
        done = steps + sum(EVALUATION_WORK * steps_of(runs) * of_job.get("evaluated", 0) for runs, of_job in progress)
        notes = sorted({of_job["note"] for _, of_job in progress if of_job.get("note")})
        text = f"{evaluated}/{self.runs} runs  "
        if len(self.jobs) == 1 and steps:
            last = steps_of(progress[0][0])
            text += f"step {min(steps // self.runs, last)}/{last}"
        else:
            text += f"{steps:,} training steps in all"
        self.bar.update(done, "  ".join([text, *notes]))

    def close(self) -> None:
        self.refresh()
        self.bar.stop()


def steps_of(runs: Sequence[SweepRun]) -> int:
    """The training steps of each run of a job."""
    return int(runs[0].plain.training.steps)


PATIENCE = 1.0
"""Seconds of planning after which something is shown."""


class PlanProgress:
    """Shows the progress of planning a sweep where it takes longer than `PATIENCE`: a bar, or a line without a terminal.

    Args:
        count: the number of runs.
    """

    def __init__(self, count: int) -> None:
        self.count, self.started = count, time.perf_counter()
        self.told = False

    def follow(self, title: str, items: Sequence[T]) -> Iterator[T]:
        """The items, one for each run. `title`: what is done with them."""
        bar: ProgressBar | None = None
        try:
            for done, item in enumerate(items):
                if bar is None and time.perf_counter() - self.started > PATIENCE:
                    bar = ProgressBar(title, self.count, MofNCompleteColumn())
                    if not bar.console.is_terminal and not self.told:
                        print_line(f"Planning {self.count} runs.")
                    self.told = True
                if bar is not None and bar.console.is_terminal:
                    bar.update(done, "")
                yield item
        finally:
            if bar is not None:
                bar.stop()


@contextmanager
def show_progress(jobs: Jobs, calibrating: bool) -> Iterator[SweepProgress]:
    """Show the progress of jobs while they run."""
    progress, stop = SweepProgress(jobs, calibrating), threading.Event()

    def refresh() -> None:
        while not stop.wait(0.5):
            progress.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        stop.set()
        thread.join()
        progress.close()
