"""A job of a sweep: runs that one process trains, as an ensemble if possible, and evaluates. Every executor runs such jobs.

A job has a folder: task.json holds the task, progress.json the progress, result.json the outcome and log.txt the output. While
an ensemble trains, chunks.json says which runs train together, and fromK/ensemble.ckpt is the checkpoint of those from the Kth
run on. The results of its runs are in their run folders.
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
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch

from lagvae.errors import LagvaeError, OwnedError, Stopped
from lagvae.experiment.factory import enough_memory
from lagvae.experiment.processes import validated_processes
from lagvae.experiment.run import calibrate, owned_by_first, proceed
from lagvae.io import bytes_digest, owned, write_json, write_text
from lagvae.ranks import end_with_parent, on_first
from lagvae.sweeps.sweep_run import SweepRun, to_config
from lagvae.terminal import print_line, quiet_libraries

COMPILED_FROM = 500
"""The least number of steps of runs whose step is compiled: in fewer, the time that compiling takes is not regained."""

MAX_EVALUATED_HERE = 4
"""Up to this many runs are evaluated in the job's own process, because starting other processes would take longer."""

EXIT_TAKEN = 75
"""The exit status of the process of a job that another process has (EX_TEMPFAIL)."""

PROGRESS_INTERVAL = 0.5
"""The least number of seconds between two updates of progress.json."""


class SweepJob:
    """The folder of a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reported = 0.0

    @property
    def task(self) -> Path:
        return self.folder / "task.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @classmethod
    def create(cls, folder: Path, kind: str, runs: Sequence[SweepRun], options: Mapping[str, Any]) -> SweepJob:
        """Create the folder of a job with its task. Raises OwnedError where another process is at work on it.

        Args:
            kind: "train" or "calibrate".
        """
        job = cls(folder)
        configs = [run.stored for run in runs]
        with job.locked(kind):
            job.result.unlink(missing_ok=True)  # of an earlier attempt
            (folder / "progress.json").unlink(missing_ok=True)
            content = {"kind": kind, "runs": configs, "options": dict(options)}
            # without line breaks it is made ten times faster
            write_text(job.task, json.dumps(content | {"digest": task_digest(content)}))
        return job

    def read(self) -> tuple[str, list[SweepRun], dict[str, Any]]:
        """The kind, the runs and the options of the task. ValueError where it is not the one that was written."""
        text = self.task.read_text(encoding="utf-8")
        content = json.loads(text)
        if content.pop("digest", None) not in (None, task_digest(content)):  # earlier versions wrote none
            raise ValueError("it was changed after it was written")
        options = content["options"]
        dropped = options.get("dropped", ())
        make = to_config if "${" in text else dict  # a reference to the environment is resolved by a config
        return content["kind"], [SweepRun(make(c), dropped=c["name"] in dropped) for c in content["runs"]], options

    @property
    def chunks(self) -> Path:
        return self.folder / "chunks.json"

    def read_chunks(self) -> tuple[int, list[str | None] | None]:
        """The number of runs in each ensemble of the job, and its runs by name, where earlier versions wrote none."""
        content = json.loads(self.chunks.read_text(encoding="utf-8"))
        return int(content["size"]), content.get("runs")

    def report_progress(self, steps: int, evaluated: int, note: str = "", now: bool = False) -> None:
        """Write the number of training steps, summed over the runs, and of evaluated runs to progress.json.

        Args:
            now: write even if the last update is less than `PROGRESS_INTERVAL` ago.
        """
        if now or time.monotonic() - self._reported > PROGRESS_INTERVAL:
            self._reported = time.monotonic()
            write_json(self.folder / "progress.json", {"steps": steps, "evaluated": evaluated, "note": note})

    def read_progress(self) -> dict[str, Any]:
        """The last progress that was written; empty if there is none."""
        try:
            content: dict[str, Any] = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def outcome(self) -> dict[str, str] | LagvaeError | None:
        """Run → error for those that failed, or the error that ended the job; None while there is no result."""
        try:
            content = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        failed: dict[str, str] = content.get("failed", {})
        return LagvaeError(content["error"]) if "error" in content else failed

    @contextlib.contextmanager
    def locked(self, kind: str = "train") -> Iterator[None]:
        """Own the job. Raises OwnedError, which says who does, if another process trains its runs; see `lagvae.io.owned`.

        Args:
            kind: "train" or "calibrate"; a calibration that another process makes is waited for.
        """
        waiting = (lambda owner: print_line(f"Waiting for a calibration by {owner}.")) if kind == "calibrate" else None
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(owned(self.folder, waiting))
            except OwnedError as error:
                raise OwnedError(f"Another process trains these runs now. {error}") from error
            yield


def task_digest(content: Mapping[str, Any]) -> str:
    """A hash of a task."""
    return bytes_digest(json.dumps(content).encode())


def run_job(folder: str) -> dict[str, str]:
    """Run a job. Returns run → error for those that failed; the others go on. The outcome is also written to result.json.

    Raises:
        LagvaeError: if the whole job fails.
    """
    job = SweepJob(Path(folder))
    quiet_libraries()
    with job.locked(job.read()[0]):
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
            message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]} (see {job.log})"
            write_json(job.result, {"error": message})
            raise LagvaeError(message) from error
        write_json(job.result, {"failed": failed})
    return failed


@contextlib.contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """Append what is printed inside to a file, because the terminal shows the progress of the whole sweep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def calibrate_all(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Make the calibration of each run. Returns run → error for those that failed."""
    failed: dict[str, str] = {}
    for run in runs:
        with record_failure(run, failed):
            calibrate(run.cfg)
    return failed


@contextlib.contextmanager
def record_failure(run: SweepRun, failed: dict[str, str]) -> Iterator[None]:
    """Add an error that is raised inside to `failed` and to the run's folder, unless another process has the run.

    An interruption by the user is not caught.
    """
    try:
        with enough_memory(run.cfg):
            yield
    except Stopped:
        raise
    except OwnedError as error:
        print_line(str(error))  # what becomes of the run is for its owner to say; the sweep waits for that
        return
    except LagvaeError as error:
        failed[run.name] = str(error)
    except Exception as error:
        traceback.print_exc()
        failed[run.name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if run.name in failed:
        with contextlib.suppress(LagvaeError, OSError):
            run.record_failure(failed[run.name])


def train_all(job: SweepJob, runs: Sequence[SweepRun], options: Mapping[str, Any]) -> dict[str, str]:
    """Train the runs that are not trained yet, in ensembles that fit the memory, then evaluate them in several processes."""
    failed: dict[str, str] = {}
    if len(runs) > 1 and not all(run.finished or run.trained for run in runs):
        from lagvae.sweeps.ensemble_training import train_in_chunks

        failed |= train_in_chunks(
            runs,
            job.folder,
            options.get("size"),
            lambda steps, note: job.report_progress(steps, 0, note),
            bool(options.get("compile")) and int(runs[0].plain.training.steps) >= COMPILED_FROM,
        )
    counted = [run for run in runs if not run.dropped]
    total = sum(int(run.plain.training.steps) for run in counted)
    waiting = [run for run in counted if run.name not in failed and not run.finished]
    evaluated = len(counted) - len(waiting) - len(failed)
    if len(runs) == 1:
        for run in waiting:
            with record_failure(run, failed):
                finish_run(run)
    else:
        job.report_progress(total, evaluated, now=True)
        for name, message in evaluate_all(waiting, cores()):
            if message is not None:
                failed[name] = message
            evaluated += 1
            job.report_progress(total, evaluated)
    job.report_progress(total, len(counted), now=True)
    return failed


def finish_run(run: SweepRun) -> dict[str, Any]:
    """Do what is left of a run, from its last checkpoint if there is one, and return its summary."""
    if run.finished:
        return run.folder.read_summary()
    run.check_folder()
    with validated_processes(run.cfg), owned_by_first(run.folder.path):
        if on_first(lambda: run.finished):  # by another process, before this one had the folder
            return run.folder.read_summary()
        on_first(run.create_folder)
        return proceed(run.cfg, run.folder)


def evaluate_all(runs: Sequence[SweepRun], processes: int) -> Iterator[tuple[str, str | None]]:
    """Evaluate trained runs, several at once unless there are few of them. Yields the name of each and its error, or None."""
    if len(runs) <= MAX_EVALUATED_HERE:
        threads = torch.get_num_threads()
        for run in runs:
            yield run.name, evaluate_one(run.stored)
        torch.set_num_threads(threads)
        return
    lost: list[SweepRun] = []
    for run, error in evaluate_in_pool(runs, processes):
        if isinstance(error, BrokenProcessPool):
            lost.append(run)
        else:
            yield run.name, error
    for run in lost:  # a process that dies takes the pool with it: each alone, so that only the run that kills it fails
        for _, error in evaluate_in_pool([run], 1):
            died = isinstance(error, BrokenProcessPool)
            yield run.name, "The process that evaluated it died (out of memory?)." if died else str(error) if error else None


def evaluate_in_pool(runs: Sequence[SweepRun], processes: int) -> Iterator[tuple[SweepRun, str | BrokenProcessPool | None]]:
    """Evaluate trained runs in processes of their own. Yields each with its error, or None.

    The error is a BrokenProcessPool for all runs that were under way or waiting when one of the processes died.
    """
    with ProcessPoolExecutor(min(processes, len(runs)), process_context(), die_with_pool) as pool:
        futures = {pool.submit(evaluate_one, run.stored): run for run in runs}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool as error:
                    yield futures[future], error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interruption must not wait for the runs that are still queued
            raise


def evaluate_one(config: Any) -> str | None:
    """Evaluate one trained run, in a process of a pool on a single thread. Returns its error, or None."""
    quiet_libraries()
    torch.set_num_threads(1)
    run = SweepRun(to_config(config))
    failed: dict[str, str] = {}
    with redirect_output(Path(os.devnull)), record_failure(run, failed):
        finish_run(run)
    return failed.get(run.name)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_context() -> Any:
    """How processes that evaluate are started: on Linux forked from one that has imported all they need, else each anew."""
    if sys.platform != "linux":  # elsewhere the system's own libraries may not survive a fork
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def die_with_pool() -> None:
    """Exit this process when the one whose pool it is part of has ended, even if it was killed."""
    of_pool = parent_process()

    def watch() -> None:
        if of_pool is not None:
            of_pool.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    try:
        run_job(sys.argv[1])
    except (KeyboardInterrupt, Stopped):
        sys.exit(130)
    except OwnedError:
        sys.exit(EXIT_TAKEN)
    except LagvaeError:
        sys.exit(1)
