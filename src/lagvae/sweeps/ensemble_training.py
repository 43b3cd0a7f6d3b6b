"""Train runs as one ensemble. Each run has its own folder; a checkpoint of the whole ensemble is saved in every interval."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lagvae.callbacks import Checkpoints, Evaluation, FeasibilityWatch
from lagvae.callbacks.checkpoints import evaluated_loss, exact_penalty
from lagvae.data import Batch, DataModule
from lagvae.data.datamodule import SAMPLES_WHILE_TRAINING
from lagvae.ensemble import Ensemble, EnsembleData, member_checkpoint
from lagvae.errors import CheckpointError
from lagvae.experiment.factory import build_data, build_trainer, choose_threads
from lagvae.experiment.fit import build_evaluation, interrupted, read_checkpoint, read_content
from lagvae.experiment.logger_settings import build_other_loggers
from lagvae.experiment.run import build_start, check_origin
from lagvae.io import owned, write_atomically, write_json
from lagvae.model import LatentVariableModel, nonfinite_error
from lagvae.runs.loggers import LoggerList, leave
from lagvae.runs.metrics_table import MetricsTable
from lagvae.sweeps.sweep_run import SweepRun

ProgressCallback = Callable[[int, str], None]
"""Called with the amount of work that is done and a note for the progress bar."""

EVAL_SPLITS = ("train", "val")


@dataclass
class EnsembleMember:
    """A run that trains in an ensemble: its model, whose parameters are views of the ensemble's, its data and its callbacks.

    Its rows go to metrics.csv, and while it trains to its other loggers.
    """

    run: SweepRun
    model: LatentVariableModel
    data: DataModule
    table: MetricsTable
    evaluation: Evaluation
    watch: FeasibilityWatch
    best: float = float("inf")
    table_is_whole: bool = True
    """Whether metrics.csv was, wherever training went on, what had been written."""
    ended: str | None = None
    """None while it trains; afterwards "trained", or the message of the error that ended its training."""

    def __post_init__(self) -> None:
        self.loggers = LoggerList(self.table)

    def open_loggers(self) -> None:
        """Begin to log to what `logger` names."""
        self.loggers.loggers += build_other_loggers(self.run.cfg, self.run.folder, several=True)

    def leave_loggers(self, failed: bool) -> None:
        """End what the other loggers do while it trains; whoever evaluates it opens them again."""
        while len(self.loggers.loggers) > 1:
            leave(self.loggers.loggers.pop(), failed)

    def state(self) -> dict[str, Any]:
        trained_on = {key: (self.model.origin or {}).get(key) for key in ("bounds", "digest")}
        table = {"digest": self.table.digest(), "whole": self.table_is_whole}
        watch = self.watch.state_dict()
        return {"best": self.best, "ended": self.ended, "watch": watch, "trained_on": trained_on, "table": table}

    def load(self, state: dict[str, Any]) -> None:
        check_origin(state.get("trained_on", {}), self.model.origin or {}, f"The ensemble that {self.run.name} is part of")
        self.best, self.ended = state["best"], state["ended"]
        written = state.get("table", {"digest": self.table.digest(), "whole": True})  # earlier versions wrote none
        self.table_is_whole = written["whole"] and written["digest"] == self.table.digest()
        self.watch.load_state_dict(state["watch"])

    def callbacks(self) -> dict[str, Any]:
        """The callback states that a checkpoint of the run has if it trains alone."""
        # Where the table is not whole, the digest is that of no table, by which `Fit.train` tells it.
        checkpoints = {"best": self.best, "table": self.table.digest() if self.table_is_whole else "not whole"}
        return {Checkpoints.__qualname__: checkpoints, FeasibilityWatch.__qualname__: self.watch.state_dict()}


def make_member(run: SweepRun, data: DataModule) -> EnsembleMember:
    """Build the model, the data and the callbacks of a run."""
    cfg = run.cfg
    data = data.reseeded(cfg.data.seed)
    model, _ = build_start(cfg, data)
    evaluation = build_evaluation(cfg, model, final=False)
    table = MetricsTable(run.folder.metrics, data.per_epoch)
    return EnsembleMember(run, model, data, table, evaluation, FeasibilityWatch(evaluation))


@dataclass(eq=False)
class EnsembleCheckpoint(pl.Callback):
    """After every interval, evaluates each run, updates its best checkpoint and saves the whole ensemble in one file.

    An ensemble trains without `Fit`: this callback does for its members what `Evaluation`, `Checkpoints` and `FeasibilityWatch`
    do for a run. A change to one of these needs its counterpart here.

    The file is replaced atomically. If the process is killed at any moment, all runs therefore resume from the same step.
    """

    ensemble: Ensemble
    members: Sequence[EnsembleMember]
    file: Path
    steps: int
    report_progress: ProgressCallback
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
            if member.run.dropped:
                member.ended = "trained"
            if member.ended is None:
                member.open_loggers()
            else:
                ensemble.deactivate(k)
        trainer.should_stop = not bool(ensemble.alive.any())
        self.report_progress(trainer.global_step, ensemble.note)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.ensemble.log_every == 0:
            self.report_progress(trainer.global_step, self.ensemble.note)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ensemble = self.ensemble
        step = trainer.global_step
        if step == self._from and step > 0:
            return  # a resumed ensemble ends the interval of its checkpoint once more, without training on a batch
        ensemble.handle_nonfinite()
        for k in ensemble.alive.nonzero().flatten().tolist():
            self._end_interval(k, step)
        for k, error in ensemble.failed.items():
            self._record_failure(k, str(error))
        write_atomically(self.file, trainer.save_checkpoint)  # calls on_save_checkpoint
        for k in self._ended:
            ensemble.deactivate(k)
            self.members[k].leave_loggers(failed=False)
        self._ended.clear()  # its last.ckpt is written, and what is left of it in the ensemble is zeros
        if not bool(ensemble.alive.any()):
            trainer.should_stop = True

    def _end_interval(self, k: int, step: int) -> None:
        """Evaluate a member, write its rows, and find out whether it is better than before, has ended or has diverged."""
        ensemble, member = self.ensemble, self.members[k]
        member.evaluation.run(member.model, member.data, self._observed_batches(member.data, ensemble.device))
        member.loggers.log_metrics(member.evaluation.row(), step)
        loss = evaluated_loss(member.evaluation.results["train"])
        if (error := nonfinite_error([], [], step, loss)) is not None:
            ensemble.failed[k] = error
            ensemble.deactivate(k)
            return
        stop = member.watch.update(member.model)
        member.loggers.save()
        score = exact_penalty(member.model, member.evaluation.results)
        if score < member.best:
            member.best = score
            self._better.add(k)
        if stop or step >= self.steps:
            member.ended = "trained"
            self._ended.add(k)

    def _observed_batches(self, data: DataModule, device: torch.device) -> dict[str, list[Batch]]:
        """The observed batches of the evaluation in every interval, split → batches. They are always the same, so cached."""
        if data.seed not in self._observed:
            loaders = {split: data.eval_loader(split, device, most=SAMPLES_WHILE_TRAINING) for split in EVAL_SPLITS}
            self._observed[data.seed] = {
                split: [data.observed(batch, data.noise(split)) for batch in loader] for split, loader in loaders.items()
            }
        return self._observed[data.seed]

    def _record_failure(self, k: int, message: str) -> None:
        """Record that a run failed, and leave it as it was at the last checkpoint of the ensemble."""
        member = self.members[k]
        if member.ended is not None:
            return
        member.ended = message
        member.table.forget()
        member.leave_loggers(failed=True)
        member.run.record_failure(message)
        if self.file.is_file():
            content = read_content(self.file)
            self._write(content, k, member.run.folder.last)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        for k in sorted(self._better | self._ended):
            folder = self.members[k].run.folder
            if k in self._better:
                self._write(checkpoint, k, folder.checkpoints / "best.ckpt")
            if k in self._ended:
                self._write(checkpoint, k, folder.last)
        self._better.clear()

    def _write(self, content: dict[str, Any], k: int, path: Path) -> None:
        """Write the checkpoint of one member from that of the ensemble."""
        member = self.members[k]
        learned = any(c.learned for c in member.model.lagrangian.constraints)
        checkpoint = member_checkpoint(content, k, float(self.ensemble.factors[k]), learned)
        checkpoint["callbacks"] = member.callbacks()
        member.model.on_save_checkpoint(checkpoint)
        checkpoint["ensemble"] = {"runs": len(self.members), "seconds": self.seconds + time.perf_counter() - self._start}
        write_atomically(path, lambda part: torch.save(checkpoint, part))


def train_ensemble(
    runs: Sequence[SweepRun], folder: Path, report_progress: ProgressCallback, compile: bool = False
) -> dict[str, str]:
    """Train runs as one ensemble, from its checkpoint in `folder` if there is one. Returns run → error for those that failed.

    Every trained run has a last.ckpt, as a run that trains alone has. Raises Stopped if the user interrupts it, and OwnedError
    if another process has one of the runs.

    Args:
        report_progress: called with the training step and a note.
    """
    with ExitStack() as folders:
        for run in runs:
            if not run.dropped:
                folders.enter_context(owned(run.folder.path))
        # What another process has finished before this one had the folder is not trained again.
        left = [replace(run, dropped=True) if run.finished else run for run in runs]
        return {} if all(run.dropped for run in left) else fit_ensemble(left, folder, report_progress, compile)


def fit_ensemble(runs: Sequence[SweepRun], folder: Path, report_progress: ProgressCallback, compile: bool) -> dict[str, str]:
    """`train_ensemble` in folders that this process owns."""
    cfg = runs[0].cfg
    data = build_data(cfg)
    for run in runs:
        if not run.dropped:
            run.create_folder()
    members = [make_member(run, data) for run in runs]
    seeds = [(m.model.seed, m.data.seed) for m in members]
    ensemble = Ensemble([m.model for m in members], seeds, [m.loggers for m in members], compile)
    data_of_seed = {m.data.seed: m.data for m in members}
    file = folder / "ensemble.ckpt"
    checkpoint = file if file.is_file() else None
    step = checkpoint_step(file, ensemble) if checkpoint else 0
    for m in members:
        if not m.run.dropped:
            m.table.cut(step)
    callback = EnsembleCheckpoint(ensemble, members, file, cfg.training.steps, report_progress)
    trainer = build_trainer(cfg, folder, [callback], limit_val_batches=0)
    ensemble_data = EnsembleData([data_of_seed[seed] for _, seed in ensemble.parts])
    torch.set_num_threads(choose_threads(cfg, members[0].model, len(members)))
    try:
        with interrupted(trainer):
            trainer.fit(ensemble, ensemble_data, ckpt_path=checkpoint, weights_only=True)
    finally:
        for m in members:
            m.leave_loggers(failed=True)  # of those that have not ended
    failed = {m.run.name: m.ended for m in members if m.ended not in (None, "trained")}
    file.unlink(missing_ok=True)
    return {name: message for name, message in failed.items() if message is not None}


def checkpoint_step(file: Path, ensemble: Ensemble) -> int:
    """The step of the checkpoint of an ensemble. Raises CheckpointError, which says what to do, where it is damaged."""
    try:
        return int(read_checkpoint(file, ensemble)["global_step"])
    except CheckpointError as error:
        raise CheckpointError(f"{error} Or remove {file}: the runs of this ensemble then start anew.") from error


MEMORY_FRACTION = 0.6
"""The fraction of the free memory that an ensemble may use."""


def memory_per_run(member: EnsembleMember) -> int:
    """An estimate of the memory in bytes that a run takes in an ensemble, from one forward pass.

    It is five times the parameters (themselves, their gradients, two moments of the optimizer, and a copy while saving) plus
    twice the tensors that are saved for the backward pass (the other half stands for temporary tensors).
    """
    saved: dict[int, int] = {}

    def record_size(t: torch.Tensor) -> torch.Tensor:
        saved[t.data_ptr()] = t.nbytes
        return t

    data, model = member.data, member.model
    batch = next(iter(data.train_loader(lambda: 0, torch.device("cpu"))))
    with torch.autograd.graph.saved_tensors_hooks(record_size, lambda t: t):
        model.lagrangian.measure(model.samples(data.observed(batch, data.noise("train")), "train"))
    parameters = sum(p.nbytes for p in model.joint.parameters())
    return 5 * parameters + 2 * sum(saved.values())


def free_memory(device: torch.device) -> int:
    """The free memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def read_size(file: Path) -> int | None:
    """The number of runs in an ensemble that a file holds; None where it is missing or damaged."""
    try:
        return max(1, int(json.loads(file.read_text(encoding="utf-8"))["size"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train_in_chunks(
    runs: Sequence[SweepRun], folder: Path, size: int | None, report_progress: ProgressCallback, compile: bool = False
) -> dict[str, str]:
    """Train runs in as few ensembles as fit the memory, one after another. Returns run → error for those that failed.

    The size of the ensembles and the names of their runs are stored in `folder`, so that a job that was killed resumes with the
    same ensembles.

    Args:
        size: the number of runs in an ensemble; None for as many as fit. report_progress: called with the number of training
            steps, summed over the runs, and a note.
    """
    size_file = folder / "chunks.json"
    note = ""
    size = read_size(size_file) or size
    if size is None:
        device = build_trainer(runs[0].cfg, folder).strategy.root_device
        needed, free = memory_per_run(make_member(runs[0], build_data(runs[0].cfg))), free_memory(device)
        size = max(1, min(len(runs), int(MEMORY_FRACTION * free / needed)))
        print(f"A run takes about {needed / 2**20:.0f} MiB; {free / 2**30:.1f} GiB are free: {size} of {len(runs)} at once.")
    if size < len(runs):
        note = f"{size} at once"
    write_json(size_file, {"size": size, "runs": [None if run.dropped else run.name for run in runs]})
    failed: dict[str, str] = {}
    done = 0
    for start in range(0, len(runs), size):
        chunk = runs[start : start + size]
        count = sum(not run.dropped for run in chunk)
        if not all(run.finished or run.trained for run in chunk):

            def report_chunk(step: int, chunk_note: str, base: int = done, count: int = count) -> None:
                report_progress(base + count * step, ", ".join(filter(None, (note, chunk_note))))

            try:
                failed |= train_ensemble(chunk, folder / f"from{start}", report_chunk, compile)
            except torch.OutOfMemoryError:
                if size == 1 or start > 0:
                    raise
                print(f"The memory is too small for {size} runs at once; trying {size // 2}.")
                size_file.unlink()
                shutil.rmtree(folder / f"from{start}", ignore_errors=True)
                return train_in_chunks(runs, folder, size // 2, report_progress, compile)
        done += count * int(chunk[0].cfg.training.steps)
    return failed
