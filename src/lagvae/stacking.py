"""Train cells as one stack, each into its own run folder, with a checkpoint of all in every interval."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lagvae.build import build_data, make
from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch
from lagvae.callbacks.checkpoints import merit
from lagvae.callbacks.evaluation import computed
from lagvae.cells import Cell
from lagvae.data import Batch, Data
from lagvae.experiment import start_from
from lagvae.metrics import Divergences
from lagvae.module import LatentVariableModel, diverged
from lagvae.runs import MetricsTable, storage_error, write_atomically
from lagvae.session import interrupted, read_checkpoint
from lagvae.stack import Stack, StackData, cell_state

Tell = Callable[[int], None]
"""Hears the step that a stack has reached."""
LOOKED_AT = ("train", "val")


@dataclass
class Member:
    """A cell in training: its model, a live view of the stack, and what an ordinary run has around it."""

    cell: Cell
    model: LatentVariableModel
    data: Data
    table: MetricsTable
    evaluation: Evaluation
    watch: FeasibilityWatch
    best: float = float("inf")
    over: str | None = None
    """Why it trains no more: "trained", or what went wrong."""

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "over": self.over, "watch": self.watch.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.best, self.over = state["best"], state["over"]
        self.watch.load_state_dict(state["watch"])

    def callbacks(self) -> dict[str, Any]:
        """The states that an ordinary run's callbacks would have."""
        return {Checkpoints.__qualname__: {"best": self.best}, FeasibilityWatch.__qualname__: self.watch.state_dict()}


def enlist(cell: Cell, data: Data) -> Member:
    """Build what a cell needs for training."""
    cfg = cell.cfg
    own = data.reseeded(cfg.data.seed)
    model, _ = start_from(cfg, own)
    named = {f"constraint/{c.name}": c.divergence for c in model.lagrangian.constraints}
    evaluation = Evaluation(dict(make(cfg.callbacks.training)) | {"constraints": lambda: Divergences(named)}, {})
    return Member(cell, model, own, MetricsTable(cell.run.metrics, own.per_epoch), evaluation, FeasibilityWatch(evaluation))


@dataclass(eq=False)
class Keeper(pl.Callback):
    """After every interval: measures each cell, keeps its best, and saves the whole stack in one file.

    One file, moved into place in one step, so that a kill at any moment leaves all cells at the same step.
    """

    stack: Stack
    members: Sequence[Member]
    file: Path
    steps: int
    tell: Tell
    seconds: float = 0.0
    _better: set[int] = field(default_factory=set)
    _ended: set[int] = field(default_factory=set)
    _observed: dict[int, dict[str, list[Batch]]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return {"members": [m.state() for m in self.members], "seconds": self.seconds + time.perf_counter() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load(state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stack = self.stack
        self._start = time.perf_counter()
        self._from = trainer.global_step
        for k, member in enumerate(self.members):
            if member.over is not None:
                stack.retire(k)
        trainer.should_stop = not bool(stack.alive.any())
        self.tell(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.stack.log_every == 0:
            self.tell(trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stack = self.stack
        step = trainer.global_step
        if step == self._from and step > 0:
            return  # a resumed stack closes the interval of its checkpoint once more, without a batch
        stack.raise_if_broken()
        for k in stack.alive.nonzero().flatten().tolist():
            self._close_interval(stack, k, step)
        for k, error in stack.failed.items():
            self._give_up(k, str(error))
        self._save(trainer)
        for k in self._ended:
            stack.retire(k)
        if not bool(stack.alive.any()):
            trainer.should_stop = True

    def _close_interval(self, stack: Stack, k: int, step: int) -> None:
        member = self.members[k]
        self._measure(member, stack.device)
        member.table.log_metrics(member.evaluation.row(), step)
        probe = member.evaluation.results["train"].get("neg_elbo", 0.0)
        if (error := diverged([-1], [], step, probe)) is not None:
            stack.failed[k] = error
            stack.retire(k)
            return
        stop = member.watch.look(member.model)
        member.table.save()
        score = merit(member.model, member.evaluation.results)
        if score < member.best:
            member.best = score
            self._better.add(k)
        if stop or step >= self.steps:
            member.over = "trained"
            self._ended.add(k)

    @torch.no_grad()
    def _measure(self, member: Member, device: torch.device) -> None:
        """The light evaluation of an interval, as an ordinary run makes it."""
        seen = self._observed.setdefault(member.data.seed, {})
        if not seen:
            for split in LOOKED_AT:
                loader = member.data.eval_loader(split, device, most=2000)
                seen[split] = [member.data.observed(batch, member.data.noise(split)) for batch in loader]
        member.model.eval()
        builders = member.evaluation.builders[False].values()
        measures = {split: [build().to(device) for build in builders] for split in LOOKED_AT}
        for split, batches in seen.items():
            for batch in batches:
                samples = member.model.samples(batch, split)
                for measure in measures[split]:
                    measure.update(samples, batch.index)
        member.evaluation.results = computed(measures)
        member.model.train()

    def _give_up(self, k: int, message: str) -> None:
        """Keep what a failed cell had at the last checkpoint."""
        member = self.members[k]
        if member.over is not None:
            return
        member.over = message
        member.table.forget()
        member.cell.fail(message)
        if self.file.is_file():
            before = torch.load(self.file, map_location="cpu", weights_only=True)
            self._write(before, k, member.cell.run.last)

    def _save(self, trainer: pl.Trainer) -> None:
        part = self.file.with_suffix(".part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(part)  # calls on_save_checkpoint
            os.replace(part, self.file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise storage_error(self.file, error) from error

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        for k in sorted(self._better | self._ended):
            run = self.members[k].cell.run
            if k in self._better:
                self._write(checkpoint, k, run.checkpoints / "best.ckpt")
            if k in self._ended:
                self._write(checkpoint, k, run.last)
        self._better.clear()

    def _write(self, content: dict[str, Any], k: int, path: Path) -> None:
        member = self.members[k]
        own = cell_state(content, k, float(self.stack.factors[k]), any(c.learned for c in member.model.lagrangian.constraints))
        own["callbacks"] = member.callbacks()
        own["stack"] = {"cells": len(self.members), "seconds": self.seconds + time.perf_counter() - self._start}
        write_atomically(path, lambda part: torch.save(own, part))


def train_stack(cells: Sequence[Cell], folder: Path, tell: Tell, compile: bool = False) -> dict[str, str]:
    """Train cells as one stack, from where its checkpoint in `folder` stands; cell → what went wrong with it.

    Every cell that was trained has its last.ckpt, as an ordinary run has at its end. Stopped where the user stops it.
    """
    cfg = cells[0].cfg
    if cfg.training.threads is not None:
        torch.set_num_threads(cfg.training.threads)
    data = build_data(cfg)
    for cell in cells:
        cell.claim()
    members = [enlist(cell, data) for cell in cells]
    seeds = [(m.model.seed, m.data.seed) for m in members]
    stack = Stack([m.model for m in members], seeds, [m.table for m in members], compile)
    datas = {m.data.seed: m.data for m in members}
    file = folder / "stack.ckpt"
    checkpoint = file if file.is_file() else None
    step = read_checkpoint(file, stack)["global_step"] if checkpoint else 0
    for m in members:
        m.table.cut(step)
    keeper = Keeper(stack, members, file, cfg.training.steps, tell)
    trainer = pl.Trainer(
        **{str(key): value for key, value in cfg.trainer.items()},
        max_steps=cfg.training.steps,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )
    with interrupted(trainer):
        trainer.fit(stack, StackData([datas[seed] for _, seed in stack.parts]), ckpt_path=checkpoint, weights_only=True)
    failed = {m.cell.name: m.over for m in members if m.over not in (None, "trained")}
    file.unlink(missing_ok=True)
    return {name: message for name, message in failed.items() if message is not None}
