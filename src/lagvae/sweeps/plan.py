"""The plan of a sweep: which runs are left to do, which of them train together as an ensemble, and in which jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lagvae.data import Batch, DataModule
from lagvae.distributions import JointModel
from lagvae.divergences import check_preference
from lagvae.ensemble import Ensemble
from lagvae.errors import LagvaeError, OwnedError, SettingError
from lagvae.experiment.calibration import calibration_folder, calibration_settings, uses_attribute, uses_critics
from lagvae.experiment.factory import build_data, build_joint, enough_memory
from lagvae.experiment.own_code import check_targets, find_targets
from lagvae.experiment.precision import has_wide_layers, is_processor
from lagvae.experiment.report import IN_BF16, IN_BF16_WORDS
from lagvae.experiment.run import find_calibration
from lagvae.experiment.settings import UNKNOWN, differences, find_rule, fingerprint, settings_where
from lagvae.experiment.trial import ROWS, has_own_code, trial_model, try_own_code
from lagvae.experiment.validate import needs_calibration, validate, validate_again
from lagvae.introspection import first_line
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.job import SweepJob
from lagvae.sweeps.sweep_run import SweepRun
from lagvae.terminal import print_line, short_path


def trains_alone(run: SweepRun) -> bool:
    """Whether a run joins no ensemble: a front, critics, an attribute, callbacks, averaged weights, or its own obstacle."""
    own_callbacks = bool(run.plain.callbacks.get("lightning"))
    if run.plain.training.get("slacks") is not None:
        return True
    if uses_critics(run.plain) or uses_attribute(run.plain):
        return True
    return run.plain.training.average is not None or own_callbacks or bool(run.obstacles)


WIDE = "their layers are wide, and a processor is no faster with several"
"""What the plan says of runs that `note_wide_networks` keeps out of ensembles."""


def note_wide_networks(runs: Sequence[SweepRun], here: bool) -> None:
    """Add an obstacle to runs whose products of matrices take a processor whole already (`make bench`).

    Args:
        here: whether they train on this machine; elsewhere trainer.accelerator=auto may be a GPU.
    """
    for run in runs:
        accelerator = str(run.plain.trainer.accelerator)
        if has_wide_layers(run.plain) and (is_processor(accelerator) if here else accelerator == "cpu"):
            run.obstacles.append(WIDE)


def stacking_obstacle(run: SweepRun, data: DataModule) -> str | None:
    """Why a run with user-defined code cannot train in an ensemble, or None: an ensemble of two is tried on a few rows."""
    x, models = data.first_samples("train", ROWS), [trial_model(run.cfg, data) for _ in range(2)]
    try:
        ensemble = Ensemble(models, [(0, 0), (1, 1)], [])
        ensemble.measure(Batch(torch.stack([x, x]), torch.arange(len(x)), 0))
    except Exception as error:  # user code can raise anything
        text = str(error)
        return next((reason for sign, reason in OBSTACLES.items() if sign in text), first_line(error))
    return None


OBSTACLES = {
    "random operation": "their code draws random numbers itself, as dropout does",
    "data-dependent control flow": "their code has an if on a value",
    ".item()": "their code reads a value of a tensor",
    "data pointer": "torch has no other way than rsample to draw from their distribution",
}
"""A part of what vmap says → what the code does."""


def ensemble_key(run: SweepRun) -> dict[str, Any]:
    """The settings that runs must share to train as one ensemble.

    Beyond those whose rule says so: the sign of alpha.p, which decides what is computed, and the order of the constraints, for
    the vectors over constraints are stacked.
    """
    shared = {key: value for key, value in run.settings.items() if (find_rule(key) or UNKNOWN).ensemble == "same"}
    if trains_alone(run):
        shared["alone"] = run.name
    alpha_p = run.settings["alpha.p"]
    order = list(run.plain.constraints)
    return shared | {"the sign of alpha.p": (alpha_p > 0) - (alpha_p < 0), "the order of the constraints": order}


def dual_optimizer(run: SweepRun) -> dict[str, Any]:
    """The settings of the optimizer of λ, flat; empty if no multiplier is learned."""
    if not any(c.learned for c in run.plain.constraints.values()):
        return {}
    return {key: value for key, value in run.settings.items() if key.startswith("multiplier.optimizer")}


def group_runs(runs: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """Group the runs that can train as one ensemble. Runs without learned multipliers join a group with any optimizer of λ."""
    by_key: dict[str, list[SweepRun]] = {}
    for run in runs:
        by_key.setdefault(fingerprint(ensemble_key(run)), []).append(run)
    groups: list[list[SweepRun]] = []
    for candidates in by_key.values():
        by_optimizer: dict[str, list[SweepRun]] = {}
        for run in candidates:
            by_optimizer.setdefault(fingerprint(dual_optimizer(run)), []).append(run)
        fixed = by_optimizer.pop(fingerprint({}), [])
        parts = list(by_optimizer.values()) or [[]]
        place = {run.name: k for k, run in enumerate(candidates)}
        parts[0] = sorted(parts[0] + fixed, key=lambda run: place[run.name])
        groups += parts
    return groups


def differing_settings(groups: Sequence[Sequence[SweepRun]]) -> list[str]:
    """The settings by which groups of runs differ, each as "key: a → b"."""
    first = groups[0][0]
    differing: list[str] = []
    for other in groups[1:]:
        keys = ensemble_key(first), ensemble_key(other[0])
        differing += differences(*keys) or differences(dual_optimizer(first), dual_optimizer(other[0]))
    return list(dict.fromkeys(differing))


def check_runs(runs: Sequence[SweepRun]) -> None:
    """Raise SettingError if two runs have the same settings or the same folder, or if there are no runs."""
    if not runs:
        raise SettingError("The sweep has no runs: its grids are empty, or none of their runs matches your overrides.")
    by_settings: dict[str, str] = {}
    names: set[str] = set()
    for run in runs:
        RunFolder.check_name(run.name)
        key = fingerprint(run.settings)
        if key in by_settings:
            raise SettingError(
                f"The sweep has a run twice: {by_settings[key]} and {run.name} have the same settings. A grid contains a value "
                "twice, or an override removes the difference between runs."
            )
        by_settings[key] = run.name
        if run.name in names:
            raise SettingError(
                f"Two runs of the sweep would have the same folder, {run.name}. Add the settings that distinguish them to "
                "name, as in 'name=${folder}/${family}${label}-seed${seed}'."
            )
        names.add(run.name)


Jobs = list[tuple[SweepJob, list[SweepRun]]]
"""Jobs, each with its runs."""


@contextmanager
def enough_memory_for(run: SweepRun) -> Iterator[None]:
    """`enough_memory` for the settings of a run, whose config is made only where there is not enough."""
    try:
        yield
    except Exception:
        with enough_memory(run.cfg):
            raise


def validate_runs(runs: Iterable[SweepRun]) -> None:
    """Raise SettingError, which names the run, for the first whose settings are invalid. What runs share is checked once."""
    valid: set[str] = set()
    for run in runs:
        try:
            with enough_memory_for(run):
                if isinstance(run.source, DictConfig):  # which may lack the types of the schema
                    validate(run.cfg)
                else:
                    validate_again(run.plain, valid)
        except LagvaeError as error:
            raise SettingError(f"The run {run.name}: {error}") from error


IN_MODEL = ("data.", "model.")
"""The settings of a run that decide, with its data, whether its networks can be built."""

IN_CODE = ("model.", "constraints.", "kernel.", "data.batch", "trainer.")
"""The settings of a run that decide whether its user-defined code runs, in an ensemble too."""


def missing_calibrations(runs: Iterable[SweepRun]) -> list[list[SweepRun]]:
    """The runs that wait for a calibration, grouped by calibration. Raises an error for a run that does not fit its data.

    Data, networks and calibrations that several runs share are looked at once. `run.obstacles` of a run with user-defined
    code records why it cannot train in an ensemble.
    """
    loaded: dict[str, DataModule] = {}
    joints: dict[str, JointModel] = {}
    tried: dict[str, str | None] = {}
    sought: dict[str, Path | None] = {}
    missing: dict[Path, list[SweepRun]] = {}

    def key(run: SweepRun, *prefixes: str) -> str:
        return fingerprint({k: v for k, v in run.settings.items() if k.startswith(prefixes) and k != "data.seed"})

    for run in runs:
        with enough_memory_for(run):
            of_data, of_model = f"{key(run, 'data.')} {uses_attribute(run.plain)}", key(run, *IN_MODEL)
            if of_data not in loaded:
                loaded[of_data] = build_data(run.cfg)
            data = loaded[of_data]
            if of_model not in joints:
                joints[of_model] = build_joint(run.cfg, data)
            check_preference(run.plain.alpha.q, run.plain.alpha.p, joints[of_model])
            if has_own_code(run.plain):
                code = key(run, *IN_CODE)
                if code not in tried:
                    try_own_code(run.cfg, data)
                    tried[code] = None if trains_alone(run) else stacking_obstacle(run, data)
                run.obstacles.extend(obstacle for obstacle in (tried[code],) if obstacle)
            if needs_calibration(run.plain):
                of_calibration = calibration_key(run, of_data)
                if of_calibration not in sought:
                    found = find_calibration(run.cfg, data)
                    sought[of_calibration] = None if found else calibration_folder(run.cfg, calibration_settings(run.cfg, data))
                if (folder := sought[of_calibration]) is not None:
                    missing.setdefault(folder, []).append(run)
    return list(missing.values())


def calibration_key(run: SweepRun, data: str) -> str:
    """The same text for runs that look for the same calibration. `data`: the same text for runs with the same data."""
    plain = run.plain
    named = [plain.epsilon.calibration, plain.paths.calibrations, plain.data.name, plain.model.name, plain.training.steps, data]
    return fingerprint(settings_where(plain, lambda rule: rule.calibration) | {"named": named})


def plan_jobs(waiting: Sequence[SweepRun], folder: Path, settings: Any, workers: int) -> tuple[Jobs, Jobs]:
    """The jobs with their runs, and those that another process is at work on.

    Interrupted ensembles resume as they were, all other runs are grouped into new jobs.
    """
    left = {run.name: run for run in waiting}
    jobs: Jobs = []
    taken: Jobs = []

    def add(to: Path, runs: Sequence[SweepRun], options: Mapping[str, Any]) -> None:
        part = [run for run in runs if run.name not in options.get("dropped", ())]
        try:
            jobs.append((SweepJob.create(to, "train", runs, options), part))
        except OwnedError:
            taken.append((SweepJob(to), part))

    size = settings.runs_per_job
    new_options = {"compile": bool(settings.compile), "size": None if size == "auto" else size}
    for job, runs, options in interrupted_jobs(folder, left, lambda: new_jobs(waiting, folder, size, workers), new_options):
        trust = {target for run in waiting for _, target in find_targets(run.plain)}
        dropped = options["dropped"]
        for run in runs:
            if left.get(run.name) is not run:  # what this command names is trusted, and nothing else that is stored
                check_targets(run.stored, [*trust], whole=True)
            elif run.name not in dropped:
                del left[run.name]
        add(job.folder, runs, options)
    for job, part in new_jobs(list(left.values()), folder, size, workers):
        add(job.folder, part, new_options)
    return jobs, taken


def new_jobs(runs: Sequence[SweepRun], folder: Path, size: Any, workers: int) -> Jobs:
    """The jobs of runs that start anew, of which nothing is written.

    Args:
        size: the number of runs in a job, or "auto" to divide each group evenly among the workers.
    """
    if size != "auto" and (not isinstance(size, int) or size < 1):
        raise SettingError(f"launcher.runs_per_job={size} must be auto, or a whole number of at least 1.")
    jobs: Jobs = []
    for group in group_runs(runs):
        most = -(-len(group) // workers) if size == "auto" else size
        for start in range(0, len(group), most):
            part = group[start : start + most]
            jobs.append((SweepJob(folder / fingerprint({run.name: run.settings for run in part})), part))
    return jobs


def interrupted_jobs(
    folder: Path, waiting: Mapping[str, SweepRun], plan: Callable[[], Jobs], new_options: Mapping[str, Any]
) -> Iterator[tuple[SweepJob, list[SweepRun], dict[str, Any]]]:
    """The jobs that have a checkpoint of an ensemble with a waiting run, each with its runs and its options.

    The waiting runs take the place of those that are stored, whose paths may be of a folder that was moved. A run whose folder
    was removed starts anew, and one in whose folder there is another run now is left: the option `dropped` names those that
    the ensemble goes on without.

    Args:
        plan: the jobs of the waiting runs where they start anew, of which one with the same runs in the same order takes the
            place of a job that is damaged. new_options: the options of such a job.
    """
    for file in sorted(folder.glob("*/*/ensemble.ckpt")):
        job = SweepJob(file.parent.parent)
        reading = job.chunks
        try:
            (size, names), start = job.read_chunks(), int(file.parent.name.removeprefix("from"))
            reading = job.task
            try:
                _, stored, options = job.read()
            except Exception as error:
                alike = [part for new, part in plan() if new.folder == job.folder and [run.name for run in part] == names]
                if not alike:
                    raise
                print_line(f"{reading} is damaged ({first_line(error)}): its interrupted ensemble goes on as planned anew.")
                stored, options = alike[0], dict(new_options)
            same = {run.name for run in stored if run.name in waiting and run.settings == waiting[run.name].settings}
        except Exception as error:  # a damaged file can raise almost any exception
            print_line(f"{reading} is damaged ({first_line(error)}): the runs of its interrupted ensemble start anew.")
            file.unlink()
            continue
        if not same:
            continue
        runs = [waiting[run.name] if run.name in same else run for run in stored]
        members = runs[start : start + size]
        gone = [run.name for run in members if not run.folder.config.is_file()]
        other = [run.name for run in members if run.name not in gone and not has_its_folder(run)]
        if gone:
            print_line(f"Of an interrupted ensemble the folders of {', '.join(gone)} are gone: these start anew.")
        if other:
            print_line(
                f"Of an interrupted ensemble the folders of {', '.join(other)} hold other runs now: it leaves them alone."
            )
        dropped = gone + other
        if same <= set(dropped):
            file.unlink()
        else:
            yield job, runs, options | {"dropped": dropped}


def has_its_folder(run: SweepRun) -> bool:
    """Whether the folder of a run holds no run with other settings."""
    try:
        run.check_folder()
    except LagvaeError:
        return False
    return True


def common_folder(runs: Sequence[SweepRun]) -> Path:
    """The folder of a sweep, which holds the folders of its runs; that of all runs where they lie in several."""
    folders = {run.folder.path.parent for run in runs}
    return folders.pop() if len(folders) == 1 else Path(runs[0].plain.paths.runs)


def print_sweep_plan(runs: Sequence[SweepRun], already: int, jobs: Jobs, missing: Sequence[Sequence[SweepRun]]) -> None:
    """Print what the sweep is about to do. `already`: the number of runs that were finished before."""
    finished = f", {already} of them finished before" if already else ""
    sizes = sorted({len(part) for _, part in jobs}, reverse=True)
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[-1]} to {sizes[0]}"
    described = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} of {size} run{'s' if sizes[0] > 1 else ''}"
    print_line(f"{len(runs)} runs{finished}; {described}, in {short_path(common_folder(runs))}")
    waiting = [run for _, part in jobs for run in part]
    own = Counter(obstacle for run in waiting for obstacle in run.obstacles)
    if alone := sum(trains_alone(run) and not run.obstacles for run in waiting):
        print_line(
            f"{alone} of them train one at a time, because they are fronts, or have critics, averaged weights or callbacks"
        )
    for obstacle, count in own.items():
        print_line(f"{count} of them train one at a time, because {obstacle}")
    if halved := sum(str(run.plain.trainer.get("precision")) in IN_BF16 for run in waiting):
        print_line(f"{'all' if halved == len(waiting) else halved} of them train with {IN_BF16_WORDS}")
    groups = group_runs([run for run in waiting if not trains_alone(run)])
    if len(groups) > 1:
        differing = differing_settings(groups)
        more = " …" if len(differing) > 3 else ""
        print_line(f"{len(groups)} ensembles, because these settings differ: {'; '.join(differing[:3])}{more}")
    if missing:
        print_line(f"Calibrating first: {len(missing)} calibration{'s' if len(missing) > 1 else ''}.")
