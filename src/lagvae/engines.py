"""Where the jobs of a sweep run: here, on local devices, in local processes, on a SLURM or a Ray cluster.

An engine takes job folders and returns, for each, the cells that failed, or the error that ended the whole job.
"""

from __future__ import annotations

import importlib
import os
import queue
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.work import Job, work

Outcome = dict[str, str] | Exception
LOST = "The job ended without a word (killed, or out of memory?); its log is {log}."


class Engine(ABC):
    """Runs jobs."""

    workers: int = 1
    """Jobs that may run at once, where that is known: a sweep is cut into as many."""

    @abstractmethod
    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        """Run all jobs, in any order; outcomes in the order of the folders."""


def extra(module: str, name: str) -> Any:
    """A module of an extra; SettingError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingError(f"launcher={name} needs {module}: pip install -e '.[{name}]'.") from error


class Local(Engine):
    """One job after another, in this process."""

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        found: list[Outcome] = []
        for folder in folders:
            try:
                found.append(work(str(folder)))
            except Stopped:
                raise
            except LagvaeError as error:
                found.append(error)
        return found


class Devices(Engine):
    """A queue for local devices: a process per job, which sees one device only, and never more than asked on one.

    Args:
        devices: indices of GPUs; null for all there are.
        per_device: jobs that may share a device.
    """

    def __init__(self, devices: list[int] | None = None, per_device: int = 1) -> None:
        if devices is None:
            import torch

            devices = list(range(torch.cuda.device_count()))
        if not devices:
            raise SettingError(
                "launcher=gpus found no GPU; name some with launcher.engine.devices=[0,1], or use launcher=stacked."
            )
        if per_device < 1:
            raise SettingError(f"launcher.engine.per_device={per_device} must be at least 1.")
        self.devices, self.per_device = devices, per_device
        self.workers = len(devices) * per_device

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        free: queue.Queue[int] = queue.Queue()
        for device in self.devices * self.per_device:
            free.put(device)

        def one(folder: Path) -> Outcome:
            device = free.get()
            try:
                return run_apart(folder, {"CUDA_VISIBLE_DEVICES": str(device), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
            finally:
                free.put(device)

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(one, folders))


def run_apart(folder: Path, environment: dict[str, str]) -> Outcome:
    """Run a job in a process of its own."""
    job = Job(folder)
    with job.log.open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "lagvae.work", str(folder)],
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=log,
            stderr=log,
            check=False,
        )
    return outcome(job, done.returncode)


def outcome(job: Job, status: int | None = None) -> Outcome:
    """What a job that ended left."""
    result = job.result()
    if result is not None:
        return result
    if status == 130:
        return Stopped("Stopped.")
    said = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if job.log.is_file() else []
    if status == 1 and said:
        return LagvaeError(said[-1])
    return LagvaeError(LOST.format(log=job.log))


class Joblib(Engine):
    """Local processes by joblib's pool.

    Args:
        jobs: processes; null for one per core. Each gets its share of the threads.
    """

    def __init__(self, jobs: int | None = None) -> None:
        from lagvae.work import cores

        if jobs is not None and jobs < 1:
            raise SettingError(f"launcher.engine.jobs={jobs} must be at least 1, or null for one per core.")
        self.workers = jobs or cores()

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        joblib = extra("joblib", "joblib")
        found: list[Outcome] = joblib.Parallel(self.workers, backend="loky")(
            joblib.delayed(run_apart)(folder, {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", self._threads())})
            for folder in folders
        )
        return found

    def _threads(self) -> str:
        from lagvae.work import cores

        return str(max(1, cores() // self.workers))


class Slurm(Engine):
    """A job array on a SLURM cluster, by submitit; the folder of the project must be shared with its nodes.

    Args:
        jobs: jobs that a sweep is cut into.
        partition, timeout_min, cpus_per_task, mem_gb, gpus_per_node: what each asks for; null for the cluster's default.
        setup: lines of shell that a job starts with.
        additional: further parameters of sbatch, by name.
        patience: seconds after which a job that left the queue without a result is lost.
    """

    def __init__(
        self,
        jobs: int = 1,
        partition: str | None = None,
        timeout_min: int = 1440,
        cpus_per_task: int | None = None,
        mem_gb: float | None = None,
        gpus_per_node: int | None = None,
        setup: list[str] | None = None,
        additional: dict[str, Any] | None = None,
        patience: float = 30.0,
    ) -> None:
        if jobs < 1:
            raise SettingError(f"launcher.engine.jobs={jobs} must be at least 1.")
        self.workers, self.patience = jobs, patience
        asked = {
            "timeout_min": timeout_min,
            "slurm_partition": partition,
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "gpus_per_node": gpus_per_node,
            "slurm_setup": setup,
            "slurm_additional_parameters": additional,
        }
        self.asked = {key: value for key, value in asked.items() if value is not None}

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        raise NotImplementedError


class Ray(Engine):
    """Tasks on a Ray cluster, or on one that is started here; the folder of the project must be shared with its nodes.

    Args:
        address: of the cluster, "auto" for the one that runs here; null starts one.
        jobs: jobs that a sweep is cut into.
        cpus, gpus: what each asks for.
    """

    def __init__(self, address: str | None = None, jobs: int = 1, cpus: float = 1, gpus: float = 0) -> None:
        if jobs < 1:
            raise SettingError(f"launcher.engine.jobs={jobs} must be at least 1.")
        self.address, self.workers, self.cpus, self.gpus = address, jobs, cpus, gpus

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        raise NotImplementedError


def wait(pause: float = 0.5) -> None:
    time.sleep(pause)
