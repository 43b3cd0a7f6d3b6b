"""Which runs of a sweep are left to do, which of them train together, and in which jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lagvae.data import DataModule
from lagvae.errors import SettingError
from lagvae.experiment.calibration import calibration_folder, calibration_settings, uses_critics
from lagvae.experiment.factory import build_data, build_joint
from lagvae.experiment.run import find_calibration
from lagvae.experiment.settings import UNKNOWN, differences, find_rule, fingerprint
from lagvae.experiment.validate import needs_calibration
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.job import SweepJob
from lagvae.sweeps.run import SweepRun
from lagvae.terminal import print_line, short_path


def trains_alone(run: SweepRun) -> bool:
    """Whether a run trains by itself: a critic, or an average of θ, is no part of an ensemble."""
    return uses_critics(run.cfg) or run.cfg.training.average is not None


def ensemble_key(run: SweepRun) -> dict[str, Any]:
    """What runs must share to train as one ensemble."""
    shared = {key: value for key, value in run.content.items() if (find_rule(key) or UNKNOWN).ensemble == "same"}
    if trains_alone(run):
        shared["alone"] = run.name
    p = run.content["alpha.p"]
    return shared | {"the sign of alpha.p": (p > 0) - (p < 0)}


def dual_optimizer(run: SweepRun) -> dict[str, Any]:
    """The settings of the optimizer of λ of a run, flat; empty where nothing is learned."""
    if not any(c.learned for c in run.cfg.constraints.values()):
        return {}
    return {key: value for key, value in run.content.items() if key.startswith("multiplier.optimizer")}


def group_runs(runs: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """Runs that can train as one ensemble, together; runs without learned multipliers go with any optimizer of λ."""
    keys: dict[str, list[SweepRun]] = {}
    for run in runs:
        keys.setdefault(fingerprint(ensemble_key(run)), []).append(run)
    found: list[list[SweepRun]] = []
    for alike in keys.values():
        duals: dict[str, list[SweepRun]] = {}
        for run in alike:
            duals.setdefault(fingerprint(dual_optimizer(run)), []).append(run)
        fixed = duals.pop(fingerprint({}), [])
        parts = list(duals.values()) or [[]]
        parts[0] = sorted(parts[0] + fixed, key=lambda run: alike.index(run))
        found += parts
    return found


def differing_settings(groups: Sequence[Sequence[SweepRun]]) -> list[str]:
    """The settings that keep groups apart, as "key: a → b"."""
    first = groups[0][0]
    apart: list[str] = []
    for other in groups[1:]:
        keys = ensemble_key(first), ensemble_key(other[0])
        apart += differences(*keys) or differences(dual_optimizer(first), dual_optimizer(other[0]))
    return list(dict.fromkeys(apart))


def check_runs(runs: Sequence[SweepRun]) -> None:
    """Raise SettingError for runs that are the same, or would be written to the same folder."""
    if not runs:
        raise SettingError("The sweep has no runs: its grids are empty, or no run of them fits your overrides.")
    contents: dict[str, str] = {}
    names: set[str] = set()
    for run in runs:
        RunFolder.check_name(run.name)
        mark = fingerprint(run.content)
        if mark in contents:
            raise SettingError(
                f"The sweep has a run twice: {contents[mark]} and {run.name} have the same settings. A value stands twice in "
                "a grid, or an override makes runs alike."
            )
        contents[mark] = run.name
        if run.name in names:
            raise SettingError(
                f"Two runs of the sweep would be kept in the same folder, {run.name}. Add what tells them apart to name, "
                "as in 'name=${folder}/${family}${label}-seed${seed}'."
            )
        names.add(run.name)


Jobs = list[tuple[SweepJob, list[SweepRun]]]
"""Jobs, each with its runs."""


def missing_calibrations(runs: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """The runs of each calibration that is not there yet; everything that does not fit the data is found here."""
    loaded: dict[str, DataModule] = {}
    found: dict[Path, list[SweepRun]] = {}
    for run in runs:
        key = fingerprint({k: v for k, v in run.content.items() if k.startswith("data.") and k != "data.seed"})
        data = loaded.get(key) or loaded.setdefault(key, build_data(run.cfg))
        build_joint(run.cfg, data)
        if needs_calibration(run.cfg) and find_calibration(run.cfg, data) is None:
            folder = calibration_folder(run.cfg, calibration_settings(run.cfg, data))
            found.setdefault(folder, []).append(run)
    return list(found.values())


def plan_jobs(waiting: Sequence[SweepRun], folder: Path, settings: Any, workers: int) -> Jobs:
    """Jobs with their runs: ensembles that were interrupted go on as they are, the rest is grouped anew."""
    size = settings.runs_per_job
    if size != "auto" and (not isinstance(size, int) or size < 1):
        raise SettingError(f"launcher.runs_per_job={size} must be auto, or a whole number of at least 1.")
    left = {run.name: run for run in waiting}
    jobs: Jobs = []
    for job, runs in interrupted_jobs(folder):
        mine = [left[run.name] for run in runs if run.name in left and run.content == left[run.name].content]
        if mine:
            job.forget()
            jobs.append((job, runs))
            for run in mine:
                del left[run.name]
    options = {"compile": bool(settings.compile), "size": None if size == "auto" else size}
    for alike in group_runs(list(left.values())):
        most = -(-len(alike) // workers) if size == "auto" else size
        for start in range(0, len(alike), most):
            part = alike[start : start + most]
            mark = fingerprint({run.name: run.content for run in part})
            jobs.append((SweepJob.create(folder / mark, "train", part, options), part))
    return jobs


def interrupted_jobs(folder: Path) -> Iterator[tuple[SweepJob, list[SweepRun]]]:
    """Jobs that hold a checkpoint of an ensemble. Whoever removed the folder of a run wants it anew: then it counts no more."""
    for file in sorted(folder.glob("*/*/ensemble.ckpt")):
        job = SweepJob(file.parent.parent)
        try:
            _, runs, _ = job.read()
        except (OSError, ValueError, KeyError):
            runs = []
        if runs and all(run.folder.config.is_file() for run in runs):
            yield job, runs
        else:
            file.unlink()


def print_sweep_plan(runs: Sequence[SweepRun], already: int, jobs: Jobs, missing: Sequence[Sequence[SweepRun]]) -> None:
    """What the sweep is about to do."""
    done = f", {already} of them finished before" if already else ""
    sizes = sorted({len(part) for _, part in jobs}, reverse=True)
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[-1]} to {sizes[0]}"
    what = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} of {each} run{'s' if sizes[0] > 1 else ''}"
    print_line(f"{len(runs)} runs{done}; {what}, in {short_path(Path(runs[0].cfg.paths.runs))}")
    todo = [run for _, part in jobs for run in part]
    if single := sum(map(trains_alone, todo)):
        print_line(f"{single} of them train one by one, for they have critics or an average of their weights")
    groups = group_runs([run for run in todo if not trains_alone(run)])
    if len(groups) > 1:
        apart = differing_settings(groups)
        print_line(f"{len(groups)} ensembles, for these differ: {'; '.join(apart[:3])}{' …' if len(apart) > 3 else ''}")
    if missing:
        print_line(f"Calibrating first, {len(missing)} time{'s' if len(missing) > 1 else ''}.")
