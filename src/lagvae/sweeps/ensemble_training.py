"""Train runs as one ensemble, each into its own run folder, with a checkpoint of all in every interval."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch
from lagvae.callbacks.checkpoints import exact_penalty, probe_value
from lagvae.data import Batch, DataModule
from lagvae.data.datamodule import SAMPLES_WHILE_TRAINING
from lagvae.ensemble import Ensemble, EnsembleData, member_checkpoint
from lagvae.experiment.factory import build_data, build_trainer
from lagvae.experiment.fit import build_evaluation, interrupted, read_checkpoint
from lagvae.experiment.run import build_start
from lagvae.io import storage_error, write_atomically, write_json
from lagvae.model import LatentVariableModel, divergence_error
from lagvae.runs.metrics_table import MetricsTable
from lagvae.sweeps.run import SweepRun

ProgressCallback = Callable[[int, str], None]
"""Hears the step that an ensemble has reached, and a remark."""

EVAL_SPLITS = ("train", "val")


@dataclass
class EnsembleMember:
    """A run in training: its model, a live view of the ensemble, and what an ordinary run has around it."""

    run: SweepRun
    model: LatentVariableModel
    data: DataModule
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


def make_member(run: SweepRun, data: DataModule) -> EnsembleMember:
    """Build what a run needs for training."""
    cfg = run.cfg
    own = data.reseeded(cfg.data.seed)
    model, _ = build_start(cfg, own)
    evaluation = build_evaluation(cfg, model, final=False)
    return EnsembleMember(
        run, model, own, MetricsTable(run.folder.metrics, own.per_epoch), evaluation, FeasibilityWatch(evaluation)
    )


@dataclass(eq=False)
class EnsembleCheckpoint(pl.Callback):
    """After every interval: measures each run, keeps its best, and saves the whole ensemble in one file.

    One file, moved into place in one step, so that a kill at any moment leaves all runs at the same step.
    """

    ensemble: Ensemble
    members: Sequence[EnsembleMember]
    file: Path
    steps: int
    tell: ProgressCallback
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
        ensemble = self.ensemble
        self._start = time.perf_counter()
        self._from = trainer.global_step
        for k, member in enumerate(self.members):
            if member.over is not None:
                ensemble.deactivate(k)
        trainer.should_stop = not bool(ensemble.alive.any())
        self.tell(trainer.global_step, ensemble.note)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.ensemble.log_every == 0:
            self.tell(trainer.global_step, self.ensemble.note)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ensemble = self.ensemble
        step = trainer.global_step
        if step == self._from and step > 0:
            return  # a resumed ensemble closes the interval of its checkpoint once more, without a batch
        ensemble.raise_if_broken()
        for k in ensemble.alive.nonzero().flatten().tolist():
            self._close_interval(ensemble, k, step)
        for k, error in ensemble.failed.items():
            self._give_up(k, str(error))
        self._save(trainer)
        for k in self._ended:
            ensemble.deactivate(k)
        if not bool(ensemble.alive.any()):
            trainer.should_stop = True

    def _close_interval(self, ensemble: Ensemble, k: int, step: int) -> None:
        member = self.members[k]
        member.evaluation.run(member.model, member.data, self._observe(member.data, ensemble.device))
        member.table.log_metrics(member.evaluation.row(), step)
        probe = probe_value(member.evaluation.results["train"])
        if (error := divergence_error([], [], step, probe)) is not None:
            ensemble.failed[k] = error
            ensemble.deactivate(k)
            return
        stop = member.watch.update(member.model)
        member.table.save()
        score = exact_penalty(member.model, member.evaluation.results)
        if score < member.best:
            member.best = score
            self._better.add(k)
        if stop or step >= self.steps:
            member.over = "trained"
            self._ended.add(k)

    def _observe(self, data: DataModule, device: torch.device) -> dict[str, list[Batch]]:
        """The batches of an interval's evaluation as a model observes them, the same in every interval: split → batches."""
        if data.seed not in self._observed:
            loaders = {split: data.eval_loader(split, device, most=SAMPLES_WHILE_TRAINING) for split in EVAL_SPLITS}
            self._observed[data.seed] = {
                split: [data.observed(batch, data.noise(split)) for batch in loader] for split, loader in loaders.items()
            }
        return self._observed[data.seed]

    def _give_up(self, k: int, message: str) -> None:
        """Keep what a failed run had at the last checkpoint."""
        member = self.members[k]
        if member.over is not None:
            return
        member.over = message
        member.table.forget()
        member.run.fail(message)
        if self.file.is_file():
            before = torch.load(self.file, map_location="cpu", weights_only=True)
            self._write(before, k, member.run.folder.last)

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
            folder = self.members[k].run.folder
            if k in self._better:
                self._write(checkpoint, k, folder.checkpoints / "best.ckpt")
            if k in self._ended:
                self._write(checkpoint, k, folder.last)
        self._better.clear()

    def _write(self, content: dict[str, Any], k: int, path: Path) -> None:
        member = self.members[k]
        own = member_checkpoint(
            content, k, float(self.ensemble.factors[k]), any(c.learned for c in member.model.lagrangian.constraints)
        )
        own["callbacks"] = member.callbacks()
        own["ensemble"] = {"runs": len(self.members), "seconds": self.seconds + time.perf_counter() - self._start}
        write_atomically(path, lambda part: torch.save(own, part))


def train_ensemble(runs: Sequence[SweepRun], folder: Path, tell: ProgressCallback, compile: bool = False) -> dict[str, str]:
    """Train runs as one ensemble, from where its checkpoint in `folder` stands; run → what went wrong with it.

    Every run that was trained has its last.ckpt, as an ordinary run has at its end. Stopped where the user stops it.
    """
    cfg = runs[0].cfg
    if cfg.training.threads is not None:
        torch.set_num_threads(cfg.training.threads)
    data = build_data(cfg)
    for run in runs:
        run.claim()
    members = [make_member(run, data) for run in runs]
    seeds = [(m.model.seed, m.data.seed) for m in members]
    ensemble = Ensemble([m.model for m in members], seeds, [m.table for m in members], compile)
    datas = {m.data.seed: m.data for m in members}
    file = folder / "ensemble.ckpt"
    checkpoint = file if file.is_file() else None
    step = read_checkpoint(file, ensemble)["global_step"] if checkpoint else 0
    for m in members:
        m.table.cut(step)
    keeper = EnsembleCheckpoint(ensemble, members, file, cfg.training.steps, tell)
    trainer = build_trainer(cfg, folder, [keeper], limit_val_batches=0)
    with interrupted(trainer):
        trainer.fit(
            ensemble, EnsembleData([datas[seed] for _, seed in ensemble.parts]), ckpt_path=checkpoint, weights_only=True
        )
    failed = {m.run.name: m.over for m in members if m.over not in (None, "trained")}
    file.unlink(missing_ok=True)
    return {name: message for name, message in failed.items() if message is not None}


SHARE = 0.6
"""The share of free memory that an ensemble may fill."""


def footprint(member: EnsembleMember, device: torch.device) -> int:
    """Bytes that one run takes in an ensemble, from one measured step.

    Its parameters five times (their gradient, two moments of the optimizer, a copy while saving) and twice what a step
    keeps for the gradient (the other half for what comes and goes).
    """
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.data_ptr()] = t.nbytes
        return t

    data, model = member.data, member.model
    batch = next(iter(data.train_loader(lambda: 0, torch.device("cpu"))))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model.lagrangian.measure(model.samples(data.observed(batch, data.noise("train")), "train"))
    parameters = sum(p.nbytes for p in model.joint.parameters())
    return 5 * parameters + 2 * sum(kept.values())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def train_in_chunks(
    runs: Sequence[SweepRun], folder: Path, size: int | None, tell: Callable[[int, str], None], compile: bool = False
) -> dict[str, str]:
    """Train runs in as few ensembles as fit the device, one after another; run → what went wrong with it.

    The first measure of what fits is remembered in `folder`, so that a job that was killed goes on in the same ensembles.

    Args:
        size: runs of an ensemble; None for as many as fit. tell: hears the run-steps that are done, and a remark.
    """
    remembered = folder / "chunks.json"
    note = ""
    if remembered.is_file():
        size = int(json.loads(remembered.read_text(encoding="utf-8"))["size"])
    elif size is None:
        device = build_trainer(runs[0].cfg, folder).strategy.root_device
        one, free = footprint(make_member(runs[0], build_data(runs[0].cfg)), device), free_memory(device)
        size = max(1, min(len(runs), int(SHARE * free / one)))
        print(f"A run takes about {one / 2**20:.0f} MiB; {size} of {len(runs)} at once in {free / 2**30:.1f} GiB.")
    if size < len(runs):
        note = f"{size} at once"
    write_json(remembered, {"size": size})
    failed: dict[str, str] = {}
    done = 0
    for start in range(0, len(runs), size):
        chunk = runs[start : start + size]
        if not all(run.finished or run.trained for run in chunk):

            def tell_all(step: int, remark: str, base: int = done, count: int = len(chunk)) -> None:
                tell(base + count * step, ", ".join(filter(None, (note, remark))))

            try:
                failed |= train_ensemble(chunk, folder / f"from{start}", tell_all, compile)
            except torch.OutOfMemoryError:
                if size == 1 or start > 0:
                    raise
                print(f"{size} runs at once are more than the memory holds; trying {size // 2}.")
                remembered.unlink()
                shutil.rmtree(folder / f"from{start}", ignore_errors=True)
                return train_in_chunks(runs, folder, size // 2, tell, compile)
        done += len(chunk) * int(chunk[0].cfg.training.steps)
    return failed
