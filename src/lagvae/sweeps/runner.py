"""Run a sweep: find the runs that are left to do, calibrate, group runs into jobs, execute the jobs and report the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from lagvae.errors import FailedRunsError, OwnedError, SettingError, Stopped
from lagvae.experiment.factory import instantiate
from lagvae.experiment.settings import fingerprint
from lagvae.io import check_writable, owned, tidy, wait_for_owner, write_json
from lagvae.runs.layout import SWEEP_FILE
from lagvae.sweeps.executors import Executor, Outcome
from lagvae.sweeps.job import SweepJob
from lagvae.sweeps.plan import (
    Jobs,
    check_runs,
    common_folder,
    missing_calibrations,
    new_jobs,
    note_wide_networks,
    plan_jobs,
    print_sweep_plan,
    trains_alone,
    validate_runs,
)
from lagvae.sweeps.progress import PlanProgress, show_progress
from lagvae.sweeps.sweep_run import SweepRun
from lagvae.terminal import command, format_duration, print_line, short_path

MOST_IDLE = 3
"""How often a sweep is planned anew, at most, where neither this process nor another one has done any of it."""


def run_sweep(config: DictConfig, makers: Sequence[Callable[[], SweepRun]]) -> Path | None:
    """Run all runs of a sweep that are not finished. Returns the folder of the sweep where there is something new to compare.

    Args:
        config: Hydra's config of the sweep. makers: make each run of its settings.
    """
    started = time.perf_counter()
    progress = PlanProgress(len(makers))
    runs = [make() for make in progress.follow("Reading settings", makers)]
    check_runs(runs)
    validate_runs(progress.follow("Checking settings", runs))
    root = Path(runs[0].plain.paths.runs)
    check_writable(root)
    for run in runs:
        run.check_folder()
        if str(run.plain.trainer.devices) not in ("1", "auto") or run.plain.trainer.num_nodes != 1:
            raise SettingError(
                f"trainer.devices={run.plain.trainer.devices}: a run of a sweep trains on one device; distribute the runs over "
                "devices with launcher=gpus, or train one model on several devices with trainer=ddp and without -m."
            )
    settings = config.launcher
    if settings.executor is None:
        raise SettingError(
            "launcher.executor=null: null is not allowed here; use launcher=ensemble, gpus, processes, ray or slurm."
        )
    executor: Executor = instantiate(settings.executor, _convert_="all")
    note_wide_networks(runs, executor.here)
    already = sum(run.finished for run in runs)
    if settings.dry_run:
        print_dry_run(runs, already, settings, executor.workers, progress)
        return None
    failed: dict[str, str] = {}
    idle = 0
    while idle < MOST_IDLE and (waiting := [run for run in runs if not run.finished and run.name not in failed]):
        missing = missing_calibrations(progress.follow("Building models", waiting))
        jobs, taken = plan_jobs(waiting, root / ".jobs", settings, executor.workers)
        if jobs:
            print_sweep_plan(runs, already, jobs, missing)
            write_states(runs, failed, 0.0)  # so that a comparison can name runs that have not begun
            failed |= run_all(
                executor, missing, jobs, lambda left: plan_jobs(left, root / ".jobs", settings, executor.workers)[0]
            )
        waited = wait_for_others([*jobs, *taken])
        left = [run for run in waiting if not run.finished and run.name not in failed]
        idle = 0 if waited or len(left) < len(waiting) else idle + 1
    print_outcome(runs, already, failed, time.perf_counter() - started)
    folder = common_folder(runs)
    return folder if folder != root and 1 < len(runs) != already else None


def print_dry_run(runs: Sequence[SweepRun], already: int, settings: DictConfig, workers: int, progress: PlanProgress) -> None:
    """Print what a sweep would do, without doing any of it; see `lagvae.sweeps.prediction`."""
    from lagvae.sweeps.prediction import print_prediction  # a sweep that runs has no need of it

    waiting = [run for run in runs if not run.finished]
    if not waiting:
        print_line(f"All {len(runs)} runs are finished.")
        return
    missing = missing_calibrations(progress.follow("Building models", waiting))
    jobs = new_jobs(waiting, Path(runs[0].plain.paths.runs) / ".jobs", settings.runs_per_job, workers)
    print_sweep_plan(runs, already, jobs, missing)
    print_prediction([(part, trains_alone(part[0])) for _, part in jobs], missing)
    print_line("launcher.dry_run=true: nothing was started or written.")


def wait_for_others(jobs: Jobs) -> bool:
    """Wait for other processes that are at work on runs of these jobs, as those are that were given the same sweep.

    Returns: whether there were any.
    """

    def say(owner: str) -> None:
        print_line(f"{owner} does the same sweep now: waiting for its runs.")

    waited = False
    for job, runs in jobs:
        for folder in (job.folder, *(run.folder.path for run in runs)):
            if not all(run.finished for run in runs):
                waited |= wait_for_owner(folder, say)
    return waited


def run_all(
    executor: Executor, missing: Sequence[list[SweepRun]], jobs: Jobs, replan: Callable[[Sequence[SweepRun]], Jobs]
) -> dict[str, str]:
    """Calibrate, then train. Returns run → error for those that failed. Runs whose calibration failed are not trained.

    Args:
        missing: the runs that wait for a calibration, grouped by calibration. replan: plans the jobs of the remaining runs.
    """
    failed: dict[str, str] = {}
    waiting = [run for _, runs in jobs for run in runs]
    try:
        with show_progress(jobs, len(missing) > 0) as progress:
            if missing:
                failed = calibrate_first(executor, missing, jobs[0][0].folder.parent)
                if failed:
                    progress.jobs = jobs = replan([run for run in waiting if run.name not in failed])
                progress.start_training()
            failed |= failures_by_run(jobs, executor.run([job.folder for job, _ in jobs]) if jobs else [])
    except (Stopped, KeyboardInterrupt):
        finished = sum(run.finished for run in waiting)
        message = f"Stopped; {finished} of {len(waiting)} runs are finished. Run the same command again to resume."
        raise KeyboardInterrupt from Stopped(message)
    return failed


def calibrate_first(executor: Executor, missing: Sequence[list[SweepRun]], folder: Path) -> dict[str, str]:
    """Make each calibration once, before the runs that need it. Returns run → error for those whose calibration failed."""
    jobs: Jobs = []
    for runs in missing:
        name = f"calibrate-{fingerprint(runs[0].settings)}"
        jobs.append((SweepJob.create(folder / name, "calibrate", runs[:1], {}), runs[:1]))
    errors = failures_by_run(jobs, executor.run([job.folder for job, _ in jobs]))
    return {
        run.name: f"Its calibration failed. {errors[runs[0].name]}"
        for runs in missing
        if runs[0].name in errors
        for run in runs
    }


def failures_by_run(jobs: Jobs, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Run → error, from the outcomes of the jobs. The error of a whole job is that of each of its unfinished runs."""
    failed: dict[str, str] = {}
    for (_, runs), outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Stopped):
            raise outcome
        if isinstance(outcome, OwnedError):
            continue  # another process has its runs, and is waited for
        if isinstance(outcome, Exception):
            for run in runs:
                if not run.finished:
                    failed[run.name] = str(outcome)
        else:
            failed |= outcome
    return failed


def states_of(runs: Sequence[SweepRun], failed: Mapping[str, str]) -> dict[str, str]:
    """Run → finished, failed or unfinished."""
    return {run.name: "finished" if run.finished else "failed" if run.name in failed else "unfinished" for run in runs}


def write_states(runs: Sequence[SweepRun], failed: Mapping[str, str], seconds: float) -> Path:
    """Write sweep.json into the folder of a sweep, and return the folder. Runs in several folders have no such file."""
    folder = common_folder(runs)
    if all(run.folder.path.parent == folder for run in runs):
        folder.mkdir(parents=True, exist_ok=True)
        with owned(folder, waiting=lambda owner: None):  # all that are given the sweep write it
            content = {"runs": states_of(runs, failed), "failed": dict(failed), "seconds": round(seconds, 1)}
            write_json(folder / SWEEP_FILE, content)
    return folder


def print_outcome(runs: Sequence[SweepRun], already: int, failed: dict[str, str], seconds: float) -> None:
    """Print the outcome of a sweep and write it to sweep.json in its folder. Raises FailedRunsError if runs failed.

    Args:
        already: the number of runs that were finished before. failed: run → error.
    """
    root = Path(runs[0].plain.paths.runs)
    states = states_of(runs, failed)
    unfinished = {name: "It has no summary; see its job's log." for name, state in states.items() if state == "unfinished"}
    failed = {name: message for name, message in (failed | unfinished).items() if states.get(name) != "finished"}
    folder = write_states(runs, failed, seconds)
    for job in (root / ".jobs").glob("*/"):
        tidy(job)
    finished = sum(state == "finished" for state in states.values())
    verdicts: dict[str, int] = {}
    for run in runs:
        if states[run.name] == "finished":
            verdict = str(run.folder.read_summary()["verdict"])
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items(), key=lambda pair: -pair[1]))
    location = short_path(folder)
    before = f" ({already} before)" if already else ""
    duration = format_duration(seconds)
    print_line(f"{finished} of {len(runs)} runs finished{before} in {duration}: {counts or 'none'}. They are in {location}")
    if finished > 1 and folder != root and not failed:
        print_line(f"Compare them: {command('pareto')} {location}")
    if failed:
        lines = [f"{name}: {message}" for name, message in failed.items()]
        raise FailedRunsError("\n".join([f"{len(lines)} of the runs failed, the others finished:", *lines]))
