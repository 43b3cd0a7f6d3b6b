"""A job of a sweep: runs that one process trains, as one ensemble where it can, and measures. What an engine runs, anywhere.

A job is a folder: task.json says what to do, progress.json how far it is, result.json what went wrong, log.txt what was
printed. Its runs' run folders are what it leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from lagvae.errors import LagvaeError, Stopped
from lagvae.experiment.run import calibrate, resume
from lagvae.io import write_json
from lagvae.sweeps.run import SweepRun, to_config
from lagvae.terminal import quiet_libraries

FEW = 4
"""Runs that are measured sooner than new processes would have started."""

EVERY = 0.5
"""Seconds between two notes of progress."""


class SweepJob:
    """A job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told = 0.0

    @property
    def task(self) -> Path:
        return self.folder / "task.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @classmethod
    def create(cls, folder: Path, kind: str, runs: Sequence[SweepRun], options: Mapping[str, Any]) -> SweepJob:
        """Write down what to do. kind: "train" or "calibrate"."""
        job = cls(folder)
        job.forget()
        configs = [OmegaConf.to_container(run.cfg) for run in runs]
        write_json(job.task, {"kind": kind, "runs": configs, "options": dict(options)})
        return job

    def forget(self) -> None:
        """Remove what an earlier try said; LagvaeError where it still goes on."""
        with self.locked():
            self.result.unlink(missing_ok=True)
            (self.folder / "progress.json").unlink(missing_ok=True)

    def read(self) -> tuple[str, list[SweepRun], dict[str, Any]]:
        content = json.loads(self.task.read_text(encoding="utf-8"))
        return content["kind"], [SweepRun(to_config(c)) for c in content["runs"]], content["options"]

    def report_progress(self, steps: int, measured: int, note: str = "", now: bool = False) -> None:
        """Note how far the job is: run-steps trained, runs measured."""
        if now or time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            write_json(self.folder / "progress.json", {"steps": steps, "evaluated": measured, "note": note})

    def read_progress(self) -> dict[str, Any]:
        """What was noted last; empty before."""
        try:
            content: dict[str, Any] = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def outcome(self) -> dict[str, str] | LagvaeError | None:
        """The runs that failed, or what ended the job; None while there is neither."""
        try:
            content = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        failed: dict[str, str] = content.get("failed", {})
        return LagvaeError(content["error"]) if "error" in content else failed

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the job; LagvaeError where another process does. The system lets go where a process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.folder / "lock").acquire(timeout=0)
        except Timeout as error:
            raise LagvaeError(
                "Another process trains these runs now. Wait for it, or stop it, and type the same command again."
            ) from error
        with lock:
            yield


def run_job(folder: str) -> dict[str, str]:
    """Do a job; run → what went wrong with it. A run that fails leaves the others to go on.

    Raises: LagvaeError where the whole job cannot be done. Either is left in result.json.
    """
    job = SweepJob(Path(folder))
    quiet_libraries()
    with job.locked():
        kind, runs, options = job.read()
        try:
            with redirect_output(job.log):
                failed = calibrate_all(runs) if kind == "calibrate" else train_all(job, runs, options)
        except Stopped:
            raise
        except LagvaeError as error:
            write_json(job.result, {"error": str(error)})
            raise
        except Exception as error:
            with job.log.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]} (see {job.log})"
            write_json(job.result, {"error": told})
            raise LagvaeError(told) from error
        write_json(job.result, {"failed": failed})
    return failed


@contextlib.contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """What a job prints goes to its log: the terminal belongs to the sweep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def calibrate_all(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Make the calibrations of runs, one each."""
    failed: dict[str, str] = {}
    for run in runs:
        with record_failure(run, failed):
            calibrate(run.cfg)
    return failed


@contextlib.contextmanager
def record_failure(run: SweepRun, failed: dict[str, str]) -> Iterator[None]:
    """Whatever goes wrong is the run's alone, and remembered in its folder; a stop by the user is not caught."""
    try:
        yield
    except Stopped:
        raise
    except LagvaeError as error:
        failed[run.name] = str(error)
    except Exception as error:
        traceback.print_exc()
        failed[run.name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if run.name in failed:
        with contextlib.suppress(LagvaeError, OSError):
            run.fail(failed[run.name])


def train_all(job: SweepJob, runs: Sequence[SweepRun], options: Mapping[str, Any]) -> dict[str, str]:
    """Train what is not trained, in ensembles that fit the device; then measure, in as many processes as there are cores."""
    failed: dict[str, str] = {}
    total = 0
    if len(runs) > 1 and not all(run.finished or run.trained for run in runs):
        from lagvae.sweeps.ensemble_training import train_in_chunks

        failed |= train_in_chunks(
            runs,
            job.folder,
            options.get("size"),
            lambda steps, note: job.report_progress(steps, 0, note),
            bool(options.get("compile")),
        )
    total = sum(int(run.cfg.training.steps) for run in runs)
    waiting = [run for run in runs if run.name not in failed and not run.finished]
    measured = len(runs) - len(waiting) - len(failed)
    if len(runs) == 1:
        for run in waiting:
            with record_failure(run, failed):
                finish_run(run)
    else:
        job.report_progress(total, measured, now=True)
        for name, message in evaluate_all(waiting, int(options.get("processes") or cores())):
            if message is not None:
                failed[name] = message
            measured += 1
            job.report_progress(total, measured)
    job.report_progress(total, len(runs), now=True)
    return failed


def finish_run(run: SweepRun) -> dict[str, Any]:
    """The summary of a run: read where it is there, else trained from where its last checkpoint stands."""
    if run.finished:
        return run.folder.read_summary()
    run.check_folder()
    run.claim()
    return resume(run.folder)


def evaluate_all(runs: Sequence[SweepRun], processes: int) -> Iterator[tuple[str, str | None]]:
    """Evaluate and draw trained runs, several at once; yields (run, what went wrong). A few are done here."""
    if len(runs) <= FEW:
        threads = torch.get_num_threads()
        for run in runs:
            yield run.name, evaluate_one(OmegaConf.to_container(run.cfg))
        torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(min(processes, len(runs)), get_context("spawn"), die_with_parent, (os.getpid(),)) as pool:
        futures = {pool.submit(evaluate_one, OmegaConf.to_container(run.cfg)): run for run in runs}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future].name, future.result()
                except BrokenProcessPool:
                    yield futures[future].name, "The process that measured it ended without a word (out of memory?)."
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else a stop would wait for all that is queued
            raise


def evaluate_one(config: Any) -> str | None:
    """Evaluate and draw one trained run, on one thread; what went wrong, or None."""
    quiet_libraries()
    torch.set_num_threads(1)
    run = SweepRun(to_config(config))
    failed: dict[str, str] = {}
    with redirect_output(Path(os.devnull)), record_failure(run, failed):
        finish_run(run)
    return failed.get(run.name)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    die_with_parent(os.getppid())
    try:
        run_job(sys.argv[1])
    except (KeyboardInterrupt, Stopped):
        sys.exit(130)
    except LagvaeError:
        sys.exit(1)
