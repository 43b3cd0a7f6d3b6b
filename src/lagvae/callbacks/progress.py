"""One progress bar: steps, epoch, −ELBO, the information interval, multipliers, time left."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lagvae.callbacks.evaluation import Evaluation


class Progress(pl.Callback):
    """A rich progress bar that looks at numbers only when the model logs them; plain lines where there is no terminal.

    Args:
        title: what is being done.
        evaluation: where the information interval comes from.
    """

    def __init__(self, title: str, evaluation: Evaluation, console: Console | None = None) -> None:
        super().__init__()
        self.title, self.evaluation = title, evaluation
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._said = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._every = getattr(pl_module, "log_every", 50)
        if not trainer.is_global_zero:
            return
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=4,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step, note="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self._every or not trainer.is_global_zero:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=self._note(trainer, pl_module))
            return
        tenth = 10 * step // trainer.max_steps
        if tenth > self._said:
            self._said = tenth
            line = f"{self.title}: {step}/{trainer.max_steps}  {self._note(trainer, pl_module)}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _note(self, trainer: pl.Trainer, pl_module: Any) -> str:
        latest = pl_module.last_logged
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        notes = [f"epoch {trainer.global_step / data.per_epoch:.0f}"]
        if "rate" in latest and "distortion" in latest:
            notes.append(f"−ELBO {float(latest['rate'] + latest['distortion']):.2f}")
        elif "distortion" in latest:
            notes.append(f"distortion {float(latest['distortion']):.2f}")
        notes += [
            f"{c.name} {float(latest[c.name]):.3g}"
            for c in pl_module.lagrangian.constraints
            if c.name in latest and c.name not in ("neg_elbo", "mmd")
        ]
        val = self.evaluation.results.get("train", {})
        if "i_q_lower" in val:
            notes.append(f"I [{val['i_q_lower']:.1f}, {val['i_q_upper']:.1f}]")
        learned = [c.name for c in pl_module.lagrangian.constraints if c.learned]
        if learned and latest:
            notes.append("λ " + " ".join(f"{float(latest[f'multiplier/{n}']):.3g}" for n in learned))
        return "  ".join(notes)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, note=self._note(trainer, pl_module))
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()
