"""The progress bars of training, with step, epoch, −ELBO, bounds and multipliers, and of measuring; with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lagvae.terminal import is_silent

if TYPE_CHECKING:
    from lagvae.callbacks.evaluation import Evaluation  # which shows a bar itself


class NotedProgress(Progress):
    """A rich progress whose tasks have a note. It stands in a line below the bar, where a narrow terminal has room for it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis")


class ProgressBar:
    """A rich progress bar on a terminal, with a note below it. Elsewhere it prints a plain line after every tenth of the work.

    Args:
        title: the name of the task. total: the total amount of work, None if it is not known yet.
        count: the column that shows the progress. completed: the work that is already done.
    """

    def __init__(
        self, title: str, total: float | None, count: ProgressColumn, completed: int = 0, console: Console | None = None
    ) -> None:
        self.title, self.total = title, total
        # Not stderr=True: a sweep redirects sys.stderr later, to the log of a job that it trains in its own process.
        self.console = console or Console(file=sys.stderr, quiet=is_silent())
        self._tenth = -1
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = NotedProgress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), count, TimeElapsedColumn(),
                TimeRemainingColumn(), console=self.console, refresh_per_second=4, expand=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total, completed=completed, note="")
            self._bar.start()

    def update(self, completed: float, note: str, line: str | None = None) -> None:
        """Show the progress. Without a terminal `line` is printed, or the note if there is no line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, note=note)
        elif self.total and (tenth := int(10 * completed / self.total)) > self._tenth:
            self._tenth = tenth
            self.console.print(note if line is None else line, highlight=False, soft_wrap=True)

    def restart(self, title: str, total: float) -> None:
        """Start again from 0, with a new total."""
        self.title, self.total = title, total
        if self._bar is not None:
            self._bar.reset(self._task, total=total, description=title)

    def stop(self) -> None:
        """Stop updating the bar and leave it on the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


QUIET = 60.0
"""Seconds between two lines about measuring where there is no terminal."""


class MeasuringProgress:
    """Shows what is measured, and the time left by the share of the work that is done.

    Without a terminal it prints a line at the start, then one in `QUIET` seconds at most, and one before each part that will
    take as long.

    Args:
        title: the name of the task. total: the whole work, in any unit.
    """

    def __init__(self, title: str, total: float, console: Console | None = None) -> None:
        self.title, self.total, self.done, self.started = title, total, 0.0, time.perf_counter()
        self._bar = ProgressBar(title, total, TaskProgressColumn(), console=console)
        self._told: float | None = None

    def begin(self, what: str, work: float) -> None:
        """Show what is measured now, and count its work as done from its end on. A line is printed before a long part."""
        now = time.perf_counter()
        share = min(1.0, self.done / self.total) if self.total else 1.0
        # A smaller share says nothing yet of the time that the rest will take.
        rate = share / (now - self.started) if share >= 0.1 and now > self.started else None
        if self._bar.console.is_terminal:
            self._bar.update(self.done, what)
        elif self._told is None or now - self._told >= QUIET or (rate and work / self.total / rate >= QUIET):
            self._told = now
            time_left = f", {(1 - share) / rate:.0f} s left" if rate else ""
            self._bar.console.print(f"{self.title}: {share:.0%}{time_left}  {what}", highlight=False, soft_wrap=True)
        self.done += work

    def stop(self) -> None:
        """Leave the bar on the terminal, full if all of the work was begun."""
        if self._bar.console.is_terminal:
            self._bar.update(self.done, "")
        self._bar.stop()


class TrainingProgress(pl.Callback):
    """Shows the progress of training. The values in the bar are updated only at steps where the model logs them.

    Args:
        title: the name of the task.
        evaluation: its results contain the bounds on information.
    """

    def __init__(self, title: str, evaluation: Evaluation, console: Console | None = None) -> None:
        super().__init__()
        self.title, self.evaluation, self.console = title, evaluation, console
        self._bar: ProgressBar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._interval = getattr(pl_module, "log_every", 50)
        if trainer.is_global_zero:
            start, end = trainer.global_step, trainer.max_steps
            self._bar = ProgressBar(self.title, end, MofNCompleteColumn(), start, self.console)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self._interval == 0:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _show(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._bar is not None:
            step, note = trainer.global_step, self._note(trainer, pl_module)
            self._bar.update(step, note, f"{self.title}: {step}/{trainer.max_steps}  {note}")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _note(self, trainer: pl.Trainer, pl_module: Any) -> str:
        last = pl_module.last_logged
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        notes = [f"epoch {trainer.global_step / data.per_epoch:.0f}"]
        if "rate" in last and "distortion" in last:
            notes.append(f"−ELBO {float(last['rate'] + last['distortion']):.2f}")
        elif "neg_elbo" in last:  # of a front, at the γ that it is shown at
            notes.append(f"−ELBO {float(last['neg_elbo']):.2f}")
        elif "distortion" in last:
            notes.append(f"distortion {float(last['distortion']):.2f}")
        notes += [
            f"{c.name} {float(last[c.name]):.3g}"
            for c in pl_module.lagrangian.configured
            if c.name in last and c.name not in ("neg_elbo", "mmd")
        ]
        values = self.evaluation.results.get("train", {})
        if "i_q_lower" in values:
            low, high = (round(values[key], 1) + 0.0 for key in ("i_q_lower", "i_q_upper"))  # 0.0, and not −0.0
            notes.append(f"I_q [{low:.1f}, {high:.1f}]")
        learned = [c.name for c in pl_module.lagrangian.configured if c.learned]
        if learned and last:
            notes.append("λ " + ", ".join(f"{name} {float(last[f'multiplier/{name}']):.3g}" for name in learned))
        return "  ".join(notes)
