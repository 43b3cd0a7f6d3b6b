"""Run the runs of a sweep: find what is left to do, calibrate once, group, hand jobs to an engine, watch, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from lagvae.errors import FailedRunsError, LagvaeError, SettingError, Stopped
from lagvae.experiment.factory import instantiate
from lagvae.experiment.run import resume, train
from lagvae.experiment.settings import fingerprint
from lagvae.experiment.validate import validate
from lagvae.io import check_writable, write_json
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.executors import Executor, Outcome
from lagvae.sweeps.job import SweepJob, finish_run
from lagvae.sweeps.plan import Jobs, check_runs, missing_calibrations, plan_jobs, print_sweep_plan
from lagvae.sweeps.progress import show_progress
from lagvae.sweeps.run import SweepRun, to_config
from lagvae.terminal import print_line, short_path


def train_command(cfg: DictConfig) -> None:
    """What src/train.py runs: a new run, resume=…, or a run of a sweep, which does only what is left of it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN or hydra.runtime.choices.get("sweep"):
        finish_run(compose_run(lambda: cfg.copy()))
        return
    if cfg.resume is None:
        train(cfg)
        return
    others = [o for o in HydraConfig.get().overrides.task if not o.startswith(("resume=", "paths."))]
    if others:
        raise SettingError(
            f"resume={cfg.resume} goes on with the run's own settings; leave out {', '.join(others)}, or start a new run."
        )
    resume(RunFolder.find(Path(cfg.paths.runs), cfg.resume))


def run_sweep(config: DictConfig, composers: Sequence[Callable[[], DictConfig]]) -> None:
    """Run all runs of a sweep that are not finished."""
    started = time.perf_counter()
    runs = [compose_run(compose) for compose in composers]
    check_runs(runs)
    for run in runs:
        try:
            validate(run.cfg)
        except LagvaeError as error:
            raise SettingError(f"The run {run.name}: {error}") from error
    root = Path(runs[0].cfg.paths.runs)
    check_writable(root)
    for run in runs:
        run.check_folder()
        if str(run.cfg.trainer.devices) not in ("1", "auto") or run.cfg.trainer.num_nodes != 1:
            raise SettingError(
                f"trainer.devices={run.cfg.trainer.devices}: a run of a sweep trains on one device; share runs out with "
                "launcher=gpus, or train one model on several with trainer=ddp and without -m."
            )
    settings = config.launcher
    executor: Executor = instantiate(settings.executor, _convert_="all")
    waiting = [run for run in runs if not run.finished]
    already = len(runs) - len(waiting)
    if waiting:
        missing = missing_calibrations(waiting)
        jobs = plan_jobs(waiting, root / ".jobs", settings, executor.workers)
        print_sweep_plan(runs, already, jobs, missing)
        failed = run_all(executor, missing, jobs, lambda left: plan_jobs(left, root / ".jobs", settings, executor.workers))
    else:
        failed = {}
    print_outcome(runs, already, failed, time.perf_counter() - started)


def compose_run(compose: Callable[[], DictConfig]) -> SweepRun:
    """A run from what Hydra composes of its overrides."""
    cfg = compose()
    with flag_override(cfg, ["struct", "readonly"], False):
        cfg.pop("hydra", None)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return SweepRun(to_config(resolved))


def run_all(
    executor: Executor, missing: Sequence[list[SweepRun]], jobs: Jobs, replan: Callable[[Sequence[SweepRun]], Jobs]
) -> dict[str, str]:
    """Calibrate, then train; run → what went wrong. Runs whose calibration failed are left out."""
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
        done = sum(run.finished for run in waiting)
        told = f"Stopped; {done} of {len(waiting)} runs are finished. Type the same command again to go on."
        raise KeyboardInterrupt from Stopped(told)
    return failed


def calibrate_first(executor: Executor, missing: Sequence[list[SweepRun]], folder: Path) -> dict[str, str]:
    """Make each calibration once, before the jobs that need it; run → why it has none."""
    made: Jobs = []
    for runs in missing:
        name = f"calibrate-{fingerprint(runs[0].content)}"
        made.append((SweepJob.create(folder / name, "calibrate", runs[:1], {}), runs[:1]))
    problems = failures_by_run(made, executor.run([job.folder for job, _ in made]))
    lost = [runs for runs in missing if runs[0].name in problems]
    return {c.name: f"Its calibration failed. {problems[runs[0].name]}" for runs in lost for c in runs}


def failures_by_run(jobs: Jobs, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Run → what went wrong; where a whole job ended, its unfinished runs are to blame."""
    failed: dict[str, str] = {}
    for (_, runs), outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Stopped):
            raise outcome
        if isinstance(outcome, Exception):
            for run in runs:
                if not run.finished:
                    failed[run.name] = str(outcome)
        else:
            failed |= outcome
    return failed


def print_outcome(runs: Sequence[SweepRun], already: int, failed: dict[str, str], seconds: float) -> None:
    """Say what became of every run, and write it beside them."""
    root = Path(runs[0].cfg.paths.runs)
    states = {run.name: "finished" if run.finished else "failed" if run.name in failed else "unfinished" for run in runs}
    lost = {name: "It has no summary; see its job's log." for name, state in states.items() if state == "unfinished"}
    failed = {name: message for name, message in (failed | lost).items() if states.get(name) != "finished"}
    folders = {run.folder.path.parent for run in runs}
    for folder in folders if len(folders) == 1 else ():
        write_json(folder / "sweep.json", {"runs": states, "failed": failed, "seconds": round(seconds, 1)})
    done = sum(state == "finished" for state in states.values())
    minutes = f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} s"
    verdicts: dict[str, int] = {}
    for run in runs:
        if states[run.name] == "finished":
            verdict = str(run.folder.read_summary()["verdict"])
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items(), key=lambda pair: -pair[1]))
    where = folders.pop() if len(folders) == 1 else root
    before = f" ({already} before)" if already else ""
    print_line(f"{done} of {len(runs)} runs finished{before} in {minutes}: {counts or 'none'}. They are in {short_path(where)}")
    if failed:
        lines = [f"{name}: {message}" for name, message in failed.items()]
        raise FailedRunsError("\n".join([f"{len(lines)} of the runs failed, the others finished:", *lines]))
