"""What a sweep would do, how long it would take and how much memory: the plan that launcher.dry_run=true prints."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf

from lagvae.data import DataModule
from lagvae.ensemble import Ensemble
from lagvae.errors import CheckpointError
from lagvae.experiment.calibration import AUTO
from lagvae.experiment.factory import choose_threads, load_data
from lagvae.experiment.run import MOST_DOUBLINGS, read_config
from lagvae.experiment.settings import UNKNOWN, find_rule, select, settings_where
from lagvae.experiment.trial import trial_model
from lagvae.runs.layout import runs_below
from lagvae.sweeps.ensemble_training import MEMORY_FRACTION, free_memory, memory_per_run
from lagvae.sweeps.job import cores
from lagvae.sweeps.progress import EVALUATION_WORK
from lagvae.sweeps.sweep_run import SweepRun
from lagvae.terminal import format_duration, print_line

SECONDS = 1.0
"""How long a rate is measured, at least, after a first step."""

FEWEST = 6
"""The smallest number of steps of a measurement, of which the first does not count."""

MEASURED_TOGETHER = 16
"""The largest ensemble whose rate is measured."""

MOST_READ = 20
"""The largest number of finished runs whose rate is taken."""

GPUS = (1, 8, 64)
"""The numbers of GPUs for which the time is predicted."""


@dataclass(frozen=True)
class TrainingRate:
    """How fast runs train.

    Attributes:
        steps: training steps per second, summed over the runs that train at once. source: where that is known from.
    """

    steps: float
    source: str


def same_work(settings: Any) -> dict[str, Any]:
    """The settings that decide how much work a training step is: those of model, data and divergences, without lengths."""
    parts = ("model.", "data.", "constraints.")
    chosen = settings_where(settings, lambda rule: rule.ensemble == "same" and not rule.machine)
    return {key: value for key, value in chosen.items() if key.startswith(parts) and (find_rule(key) or UNKNOWN).calibration}


def finished_rates(run: SweepRun, together: int, gpu: bool) -> list[float]:
    """Training steps per second of finished runs in the folder of runs whose step is the same work.

    Args:
        together: the number of runs in the ensemble. For several runs the rates of ensembles are taken, for one those of runs
            that trained alone.
        gpu: whether to take runs with trainer=gpu, or those without.
    """
    root = Path(run.plain.paths.runs)
    own = same_work(run.plain)
    rates: list[float] = []
    for folder in runs_below(root, set()) if root.is_dir() else ():
        if len(rates) == MOST_READ:
            break
        try:
            summary = json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))
            if (summary["data"], summary["model"]) != (run.plain.data.name, run.plain.model.name):
                continue
            size = select(summary, "ensemble.runs") or 1
            if (size > 1) != (together > 1):
                continue
            seconds = select(summary, "ensemble.seconds") or summary["seconds"]["training"]
            config: Any = OmegaConf.to_container(read_config(folder))
            if (select(config, "trainer.accelerator") in ("gpu", "cuda")) == gpu and same_work(config) == own:
                rates.append(summary["steps"] * size / seconds)
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, CheckpointError):
            continue  # unfinished, damaged or of another version: it says nothing of how long this takes
    return rates


def measured_rate(run: SweepRun, data: DataModule, together: int) -> TrainingRate:
    """The rate of a few uncompiled training steps, in memory: values, gradients and the optimizer's step.

    Args:
        together: the number of runs in the ensemble; a run that trains alone has 1.
    """
    together = min(together, MEASURED_TOGETHER)
    models = [trial_model(run.cfg, data) for _ in range(together)]
    model = Ensemble(models, [(0, 0)] * together, []) if together > 1 else models[0]
    batch = data.first_batch(int(run.plain.data.batch))
    optimizer = model.primal(list(model.joint.parameters()))
    threads = torch.get_num_threads()
    torch.set_num_threads(choose_threads(run.cfg, models[0], together))
    steps, started = 0, time.perf_counter()
    try:
        while steps < FEWEST or time.perf_counter() - started < SECONDS:
            values = (
                model.measure(batch) if isinstance(model, Ensemble) else model.lagrangian.measure(model.samples(batch, "trial"))
            )
            optimizer.zero_grad()
            (sum(term.sum() for term in values.terms.values()) + values.divergences.sum()).backward()
            optimizer.step()
            steps += 1
            if steps == 1:
                started = time.perf_counter()
    finally:
        torch.set_num_threads(threads)
    rate = together * (steps - 1) / (time.perf_counter() - started)
    of = f"of {together} runs at once" if together > 1 else "of one run"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = f", while others kept the machine busy (load {load:.0f}), which makes it slow" if load > 1.5 * cores() else ""
    return TrainingRate(rate, f"measured here with {steps - 1} uncompiled steps {of} on the CPU{busy}")


def print_prediction(groups: Sequence[tuple[list[SweepRun], bool]], missing: Sequence[Sequence[SweepRun]]) -> None:
    """Print training steps, predicted time and memory of the runs that are left to do.

    Args:
        groups: the runs of each job, and whether they train one at a time. missing: runs by the calibration they wait for.
    """
    runs = [run for part, _ in groups for run in part]
    steps = sum(int(run.plain.training.steps) for run in runs)
    calibrating = sum(map(calibration_steps, missing))
    searched = any(part[0].plain.calibration.steps == AUTO for part in missing)
    extra = f", and {'at least ' if searched else ''}{calibrating:,} of calibrations" if missing else ""
    if searched:
        extra += f" (calibration.steps=auto doubles their length until they settle, {MOST_DOUBLINGS} times at most)"
    print_line(f"Training steps in all: {steps:,}{extra}. An interrupted run goes on from its checkpoint, and takes fewer.")
    part, alone = max(groups, key=lambda group: len(group[0]))
    first, together = part[0], 1 if alone else len(part)
    data = load_data(first.cfg)
    for line in [*memory_lines(first, data, together), *time_lines(first, data, together, steps + calibrating)]:
        print_line(line)


def calibration_steps(runs: Sequence[SweepRun]) -> int:
    """The steps of a calibration, or of the first of its search."""
    plain = runs[0].plain
    return int(plain.training.steps if plain.calibration.steps == AUTO else plain.calibration.steps)


def memory_lines(run: SweepRun, data: DataModule, together: int) -> Iterator[str]:
    """What a run and the largest ensemble take, as far as one forward pass shows."""
    member: Any = SimpleNamespace(data=data, model=trial_model(run.cfg, data))
    needed, free = memory_per_run(member), free_memory(torch.device("cpu"))
    fit = max(1, min(together, int(MEMORY_FRACTION * free / needed)))
    at_once = f"{fit} of {together} runs train at once" if together > 1 else "runs train one at a time"
    yield f"Memory: about {needed / 2**20:.0f} MiB a run; {free / 2**30:.1f} GiB are free on this machine: {at_once}."


def time_lines(run: SweepRun, data: DataModule, together: int, steps: int) -> Iterator[str]:
    """The predicted time on this machine, and on GPUs where a rate is known."""
    found = finished_rates(run, together, gpu=False)
    here = (
        TrainingRate(
            statistics.median(found), f"the median of {len(found)} finished runs of this model in {run.plain.paths.runs}"
        )
        if found
        else measured_rate(run, data, together)
    )
    measuring = f"measuring and figures are taken to add {EVALUATION_WORK:.0%}"
    time_here = format_duration(steps * (1 + EVALUATION_WORK) / here.steps)
    yield f"On this machine: about {time_here}, from {here.steps:,.0f} steps a second ({here.source}); {measuring}."
    on_gpu = finished_rates(run, together, gpu=True)
    if not on_gpu:
        yield (
            f"On GPUs: not predicted, for no finished run of this model in {run.plain.paths.runs} was trained with "
            "trainer=gpu. Train a few runs there, and ask again."
        )
        return
    rate = statistics.median(on_gpu)
    times = ", ".join(f"{count}: {format_duration(steps * (1 + EVALUATION_WORK) / rate / count)}" for count in GPUS)
    yield (
        f"On GPUs, {times}; from {rate:,.0f} steps a second on one (the median of {len(on_gpu)} finished runs), as if the runs "
        f"were shared evenly and smaller ensembles were no slower per run; {measuring}."
    )
