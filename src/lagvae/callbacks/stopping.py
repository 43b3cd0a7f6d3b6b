"""Lets SIGTERM stop a run of several processes as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytorch_lightning as pl


class StopOnSigterm(pl.Callback):
    """Interrupts each process of a data-parallel run at the signal.

    Lightning's own handler starts a collective operation from inside the signal, which waits for ever where another rank is in
    the middle of one. Lightning puts back the handler from before when it has finished.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            interrupt_on_sigterm()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_start(trainer, pl_module)


def interrupt_on_sigterm() -> Any:
    """Let SIGTERM raise KeyboardInterrupt. Returns the handler from before; None in a thread that signals do not reach."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)
