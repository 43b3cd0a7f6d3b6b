"""The progress of all jobs of a sweep."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lagvae.sweeps.plan import Jobs
from lagvae.sweeps.run import SweepRun

MEASURING = 0.5
"""The work of measuring a run, as a share of that of training it; for the bar's time left."""


class SweepProgress:
    """The progress of all jobs in one bar: runs done, step, time left; plain lines where there is no terminal."""

    def __init__(self, jobs: Jobs, calibrating: bool) -> None:
        self.jobs, self.calibrating = jobs, calibrating
        self.console = Console(file=sys.stderr)
        self._said = -1
        self.bar: Progress | None = None
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, refresh_per_second=4, expand=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self.task = self.bar.add_task(
                "Calibrating" if calibrating else "Starting", total=None if calibrating else self.total
            )
            self.bar.start()

    @property
    def runs(self) -> int:
        """The runs of all jobs."""
        return sum(len(runs) for _, runs in self.jobs)

    @property
    def total(self) -> float:
        """The work of all jobs, in run-steps."""
        return (1 + MEASURING) * sum(steps_of(runs) * len(runs) for _, runs in self.jobs)

    def training(self) -> None:
        """Calibrations are made; from here on time is counted anew."""
        self.calibrating = False
        if self.bar is not None:
            self.bar.reset(self.task, total=self.total)

    def look(self) -> None:
        """Read what the jobs noted, and show it."""
        if self.calibrating:
            return
        told = [(job, runs, job.told()) for job, runs in self.jobs]
        steps = sum(note.get("steps", 0) for _, _, note in told)
        measured = sum(note.get("measured", 0) for _, _, note in told)
        done = steps + sum(MEASURING * steps_of(runs) * note.get("measured", 0) for _, runs, note in told)
        remarks = {note["note"] for _, _, note in told if note.get("note")}
        text = f"{measured}/{self.runs} runs  "
        if len(self.jobs) == 1 and steps:
            most = steps_of(told[0][1])
            text += f"step {min(steps // self.runs, most)}/{most}"
        else:
            text += f"{steps:,} run-steps"
        text += "".join(f"  {remark}" for remark in sorted(remarks))
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=text)
        elif self.total and (tenth := int(10 * done / self.total)) > self._said:
            self._said = tenth
            self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.look()
        if self.bar is not None:
            self.bar.stop()


def steps_of(runs: Sequence[SweepRun]) -> int:
    """The steps of each run of a job."""
    return int(runs[0].cfg.training.steps)


@contextmanager
def show_progress(jobs: Jobs, calibrating: bool) -> Iterator[SweepProgress]:
    """Show the progress of jobs while they run, wherever they do."""
    watch, over = SweepProgress(jobs, calibrating), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            watch.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.close()
