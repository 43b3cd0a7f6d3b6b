"""Executors run the jobs of a sweep: in this process, on local devices, in local processes, or on a SLURM or Ray cluster.

An executor takes the folders of jobs. For each job it returns the runs that failed, or the error that ended the whole job.
"""

from __future__ import annotations

import importlib
import os
import queue
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lagvae.errors import LagvaeError, OwnedError, SettingError, Stopped
from lagvae.io import storage_error
from lagvae.ranks import STARTED_BY
from lagvae.sweeps.job import EXIT_TAKEN, SweepJob, cores, run_job

Outcome = dict[str, str] | Exception

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a cluster to answer at its address."""

NO_RESULT = "The job ended without a result (killed, or out of memory?); its log is {log}."


class Executor(ABC):
    """Runs the jobs of a sweep."""

    workers: int = 1
    """The largest number of jobs for each group of runs that can train together, unless `launcher.runs_per_job` is a number."""

    here: bool = True
    """Whether the jobs run on this machine."""

    @abstractmethod
    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        """Run all jobs, in any order, and return their outcomes in the order of the folders."""


def import_extra(module: str, name: str) -> Any:
    """Import a module of an optional dependency. Raises SettingError, which says how to install it, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingError(f"launcher={name} needs {module}: pip install -e '.[{name}]'.") from error


class LocalExecutor(Executor):
    """Runs one job after another in this process."""

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for folder in folders:
            try:
                outcomes.append(run_job(str(folder)))
            except Stopped:
                raise
            except LagvaeError as error:
                outcomes.append(error)
        return outcomes


class SubprocessExecutor(Executor):
    """A process of its own for each job, as many at once as there are environments; a job has one of them to itself.

    Threads wait for the processes that do the work: a process that is killed takes no other with it.

    Args:
        environments: variables that a process is started with, beside those of this one.
    """

    def __init__(self, environments: Sequence[dict[str, str]]) -> None:
        self.environments, self.workers = environments, len(environments)

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        free: queue.Queue[dict[str, str]] = queue.Queue()
        for environment in self.environments:
            free.put(environment)

        def one(folder: Path) -> Outcome:
            environment = free.get()
            try:
                return run_in_subprocess(folder, environment)
            finally:
                free.put(environment)

        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(one, folder) for folder in folders]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else a stop would start all that is queued
                raise


class DeviceExecutor(SubprocessExecutor):
    """A queue for local devices: each job sees one device only, and a device never has more jobs than asked.

    Args:
        devices: indices of GPUs among those that CUDA_VISIBLE_DEVICES leaves, as torch counts them; null for all of them.
        per_device: jobs that may share a device.
    """

    def __init__(self, devices: list[int] | None = None, per_device: int = 1) -> None:
        if devices is None:
            import torch

            devices = list(range(torch.cuda.device_count()))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not devices:
            hidden = "" if visible is None else f" among CUDA_VISIBLE_DEVICES={visible}"
            raise SettingError(
                f"launcher=gpus found no GPU{hidden}; name some with launcher.executor.devices=[0,1], or use launcher=ensemble."
            )
        if per_device < 1:
            raise SettingError(f"launcher.executor.per_device={per_device} must be at least 1.")
        if visible is None:
            environments = [{"CUDA_VISIBLE_DEVICES": str(device), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for device in devices]
        else:  # a device keeps the name, and the order, by which the user or the cluster chose it
            names = [name.strip() for name in visible.split(",") if name.strip()]
            if beyond := [device for device in devices if not 0 <= device < len(names)]:
                raise SettingError(
                    f"launcher.executor.devices={devices}: there is no device {beyond[0]} among the {len(names)} of "
                    f"CUDA_VISIBLE_DEVICES={visible}; name some from 0 to {len(names) - 1}, or leave it out for all."
                )
            environments = [{"CUDA_VISIBLE_DEVICES": names[device]} for device in devices]
        super().__init__(environments * per_device)


class ProcessExecutor(SubprocessExecutor):
    """Local processes, which share the cores.

    Args:
        jobs: processes at once; null for one per core. Each has its share of the threads.
    """

    def __init__(self, jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise SettingError(f"launcher.executor.jobs={jobs} must be at least 1, or null for one per core.")
        workers = jobs or cores()
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // workers)))
        super().__init__([{"OMP_NUM_THREADS": threads}] * workers)


def run_in_subprocess(folder: Path, environment: dict[str, str]) -> Outcome:
    """Run a job in a process of its own."""
    job = SweepJob(folder)
    try:
        opened = job.log.open("a", encoding="utf-8")
    except OSError as error:
        return storage_error(job.log, error)
    with opened as log:
        done = subprocess.run(
            [sys.executable, "-m", "lagvae.sweeps.job", str(folder)],
            env=os.environ | environment | {"PYTHONPATH": search_path(), STARTED_BY: str(os.getpid())},
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode == EXIT_TAKEN:
        return OwnedError(f"Another process trains the runs of {folder}.")
    return Stopped("Stopped.") if done.returncode == 130 else job_outcome(job)


def job_outcome(job: SweepJob) -> Outcome:
    """The outcome of a job whose process has ended."""
    outcome = job.outcome()
    return LagvaeError(NO_RESULT.format(log=job.log)) if outcome is None else outcome


def search_path() -> str:
    """The module search path of this process, as PYTHONPATH for another."""
    return os.pathsep.join(p for p in sys.path if p)


class SlurmExecutor(Executor):
    """Runs jobs as a job array on a SLURM cluster, with submitit. The nodes must share the folder of the project.

    Args:
        jobs: the number of jobs that each group of runs which can train together is divided into; see runs_per_job.
        partition, timeout_min, cpus_per_task, mem_gb, gpus_per_node: resources of each job; null for the cluster's default.
        setup: shell commands that run at the start of a job.
        additional: further parameters of sbatch, by name.
        patience: seconds to wait for the result of a job after it has left the queue.
    """

    here = False

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
            raise SettingError(f"launcher.executor.jobs={jobs} must be at least 1.")
        self.workers, self.patience = jobs, patience
        parameters = {
            "timeout_min": timeout_min,
            "slurm_partition": partition,
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "gpus_per_node": gpus_per_node,
            "slurm_setup": setup,
            "slurm_additional_parameters": additional,
        }
        self.parameters = {key: value for key, value in parameters.items() if value is not None}

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        submitit = import_extra("submitit", "slurm")
        logs = folders[0].parent / "slurm" / time.strftime("%Y%m%d-%H%M%S")
        os.environ["PYTHONPATH"] = search_path()  # sbatch passes the environment to the job
        try:
            executor = submitit.AutoExecutor(folder=str(logs), cluster="slurm")
            executor.update_parameters(name="lagvae", slurm_array_parallelism=len(folders), **self.parameters)
            jobs = executor.map_array(run_job, [str(folder) for folder in folders])
        except (RuntimeError, submitit.core.utils.FailedJobError) as error:  # SLURM is missing or rejects the job
            raise SettingError(f"SLURM does not accept the job: {str(error).strip().splitlines()[-1]}") from error
        ids = {folder: str(job.job_id) for folder, job in zip(folders, jobs, strict=True)}
        try:
            return self._wait(ids)
        except BaseException:
            for job in jobs:
                job.cancel()
            raise

    def _wait(self, ids: dict[Path, str]) -> list[Outcome]:
        """Wait for results on the shared disk. The queue shows which jobs have ended, so SLURM's accounting is not needed."""
        gone: dict[Path, float] = {}
        outcomes: dict[Path, Outcome] = {}
        while len(outcomes) < len(ids):
            queued = in_queue(sorted({name.partition("_")[0] for name in ids.values()}))
            for folder in ids.keys() - outcomes.keys():
                outcome = SweepJob(folder).outcome()
                if outcome is not None:
                    outcomes[folder] = outcome
                elif queued is not None and ids[folder] not in queued:
                    if time.monotonic() - gone.setdefault(folder, time.monotonic()) > self.patience:
                        outcomes[folder] = LagvaeError(
                            NO_RESULT.format(log=f"{SweepJob(folder).log}, and SLURM's in {folder.parent / 'slurm'}")
                        )
                else:
                    gone.pop(folder, None)
            time.sleep(1)
        return [outcomes[folder] for folder in ids]


def in_queue(arrays: Sequence[str]) -> set[str] | None:
    """The pending and running tasks of job arrays, as "array_task"; None if the queue did not answer."""
    answer = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(arrays)}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        # SLURM forgets arrays that have ended, and then reports their id as invalid.
        return set() if "Invalid job id" in answer.stderr else None
    return set(answer.stdout.split())


class RayExecutor(Executor):
    """Runs jobs as tasks on a Ray cluster. The nodes must share the folder of the project.

    Args:
        address: the address of the cluster; "auto" for one that runs on this machine, null to start one.
        jobs: the number of jobs that each group of runs which can train together is divided into; see runs_per_job.
        cpus, gpus: resources of each job.
    """

    here = False

    def __init__(self, address: str | None = None, jobs: int = 1, cpus: float = 1, gpus: float = 0) -> None:
        if jobs < 1:
            raise SettingError(f"launcher.executor.jobs={jobs} must be at least 1.")
        self.address, self.workers, self.cpus, self.gpus = address, jobs, cpus, gpus

    def run(self, folders: Sequence[Path]) -> list[Outcome]:
        ray = import_extra("ray", "ray")
        started = {"include_dashboard": False} if self.address is None else {"address": self.address}
        try:
            if self.address is not None and "://" not in self.address and ":" in self.address:
                host, _, port = self.address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()  # Ray itself would try for minutes
            ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": search_path()}}, **started)
        except (OSError, ValueError) as error:
            raise SettingError(f"launcher.executor.address={self.address}: no Ray cluster answers there ({error}).") from error
        try:
            remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, max_calls=1)(run_job)
            refs = [remote.remote(str(folder)) for folder in folders]
            outcomes: list[Outcome] = []
            for ref, folder in zip(refs, folders, strict=True):
                try:
                    outcomes.append(ray.get(ref))
                except ray.exceptions.RayError:  # the job failed, or its process died
                    outcomes.append(job_outcome(SweepJob(folder)))
            return outcomes
        finally:
            ray.shutdown()
