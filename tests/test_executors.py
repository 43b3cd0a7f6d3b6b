"""Where the jobs of a sweep run: what processes, SLURM and Ray are given, and what becomes of jobs that end without a result.

Stand-ins answer here for the clusters; test_clusters.py has the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lagvae.errors import LagvaeError, OwnedError, SettingError, Stopped
from lagvae.ranks import STARTED_BY
from lagvae.sweeps import executors
from lagvae.sweeps.executors import (
    DeviceExecutor,
    LocalExecutor,
    ProcessExecutor,
    RayExecutor,
    SlurmExecutor,
    SubprocessExecutor,
    in_queue,
    run_in_subprocess,
)
from lagvae.sweeps.job import EXIT_TAKEN


def folders(root: Path, count: int) -> list[Path]:
    made = [root / f"job{k}" for k in range(count)]
    for folder in made:
        folder.mkdir()
    return made


def finish(folder: Path, **content: Any) -> None:
    (folder / "result.json").write_text(json.dumps(content or {"failed": {}}))


# ---- on this machine


def test_a_job_that_fails_here_leaves_the_others_and_a_stop_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop by the user."""
    begun: list[str] = []

    def pretend(folder: str) -> dict[str, str]:
        begun.append(folder)
        if folder in raised:
            raise raised[folder]
        return {}

    monkeypatch.setattr(executors, "run_job", pretend)
    raised: dict[str, Exception] = {"b": LagvaeError("no")}
    assert LocalExecutor().run([Path(name) for name in "abc"]) == [{}, raised["b"], {}]
    begun.clear()
    raised = {"b": Stopped("by the user")}
    with pytest.raises(Stopped):
        LocalExecutor().run([Path(name) for name in "abc"])
    assert begun == ["a", "b"]


def test_a_stop_of_processes_starts_none_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def pretend(folder: Path, environment: dict[str, str]) -> Any:
        begun.append(folder)
        time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "run_in_subprocess", pretend)
    with pytest.raises(KeyboardInterrupt):
        SubprocessExecutor([{}]).run([tmp_path / str(k) for k in range(9)])
    assert len(begun) < 9


@pytest.mark.parametrize(
    ("jobs", "given", "environments"),
    [
        (2, None, [{"OMP_NUM_THREADS": "4"}] * 2),
        (3, None, [{"OMP_NUM_THREADS": "2"}] * 3),
        (20, None, [{"OMP_NUM_THREADS": "1"}] * 20),
        (None, None, [{"OMP_NUM_THREADS": "1"}] * 8),
        (2, "3", [{"OMP_NUM_THREADS": "3"}] * 2),
    ],
)
def test_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, jobs: int | None, given: str | None, environments: list[dict[str, str]]
) -> None:
    monkeypatch.setattr(executors, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    executor = ProcessExecutor(jobs)
    assert (executor.environments, executor.workers) == (environments, len(environments))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProcessExecutor(0), r"launcher\.executor\.jobs=0 must be at least 1, or null"),
        (lambda: SlurmExecutor(0), r"launcher\.executor\.jobs=0 must be at least 1"),
        (lambda: RayExecutor(jobs=0), r"launcher\.executor\.jobs=0 must be at least 1"),
        (lambda: DeviceExecutor([0], 0), r"launcher\.executor\.per_device=0 must be at least 1"),
    ],
)
def test_no_jobs_at_once_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_one_job_at_once_is_the_least_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = (ProcessExecutor(1), SlurmExecutor(1), SlurmExecutor(), RayExecutor(), DeviceExecutor([0], 1), LocalExecutor())
    assert [executor.workers for executor in made] == [1] * 6
    assert DeviceExecutor().workers == 3


@pytest.mark.parametrize(
    ("status", "kind"), [(0, LagvaeError), (1, LagvaeError), (-9, LagvaeError), (130, Stopped), (EXIT_TAKEN, OwnedError)]
)
def test_the_status_of_a_process_says_what_became_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception]
) -> None:
    (folder,) = folders(tmp_path, 1)
    given: dict[str, Any] = {}

    def pretend(command: Sequence[str], **settings: Any) -> Any:
        given.update(settings, command=list(command))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", pretend)
    outcome = run_in_subprocess(folder, {"OWN": "1"})
    assert type(outcome) is kind
    assert given["command"] == [sys.executable, "-m", "lagvae.sweeps.job", str(folder)]
    assert given["env"].items() >= {"OWN": "1", "PATH": os.environ["PATH"], STARTED_BY: str(os.getpid())}.items()
    assert Path(executors.__file__).parents[2] in [Path(p) for p in given["env"]["PYTHONPATH"].split(os.pathsep)]
    if status in (0, 1):
        finish(folder, failed={"a": "no"})
        assert run_in_subprocess(folder, {}) == {"a": "no"}


# ---- SLURM


@pytest.mark.parametrize(
    ("status", "out", "err", "found"),
    [
        (0, "7_0\n7_1\n", "", {"7_0", "7_1"}),
        (0, "", "", set()),
        (1, "", "slurm_load_jobs error: Invalid job id specified\n", set()),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller\n", None),
    ],
)
def test_a_queue_that_does_not_answer_is_no_empty_queue(
    monkeypatch: pytest.MonkeyPatch, status: int, out: str, err: str, found: set[str] | None
) -> None:
    asked: list[str] = []

    def squeue(command: Sequence[str], **settings: Any) -> Any:
        asked.extend(command)
        return subprocess.CompletedProcess(command, status, out, err)

    monkeypatch.setattr(subprocess, "run", squeue)
    assert in_queue(["7", "8"]) == found
    assert {"squeue", "--jobs=7,8"} <= set(asked)


class Clock:
    """A clock that stands still but for sleep; after each second one more thing happens."""

    def __init__(self, *events: Callable[[], Any]) -> None:
        self.now, self.events = 100.0, list(events)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 1000, "it waits for ever"
        if self.events:
            self.events.pop(0)()

    def strftime(self, form: str) -> str:
        return "now"


class Submitit:
    """In place of submitit: jobs 7_0, 7_1, … that never run by themselves."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self.core = SimpleNamespace(utils=SimpleNamespace(FailedJobError=RuntimeError))
        self.refused = ""

    def AutoExecutor(self, folder: str, cluster: str) -> Any:
        self.logs = folder
        return self

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters |= parameters

    def map_array(self, function: Any, given: list[str]) -> list[Any]:
        if self.refused:
            raise RuntimeError(self.refused)
        self.given = given
        names = [f"7_{k}" for k in range(len(given))]
        return [SimpleNamespace(job_id=name, cancel=lambda name=name: self.cancelled.append(name)) for name in names]


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> Submitit:
    made = Submitit()
    monkeypatch.setitem(sys.modules, "submitit", made)
    monkeypatch.setenv("PYTHONPATH", "before")
    return made


def queued(monkeypatch: pytest.MonkeyPatch, clock: Clock, *answers: set[str] | None) -> None:
    """What the queue answers second by second, the last answer for ever."""
    left = list(answers)
    monkeypatch.setattr(executors, "time", clock)
    monkeypatch.setattr(executors, "in_queue", lambda arrays: left.pop(0) if len(left) > 1 else left[0])


def test_slurm_is_given_what_is_set_and_an_array_of_all_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: Submitit
) -> None:
    jobs = folders(tmp_path, 3)
    for folder in jobs:
        finish(folder)
    queued(monkeypatch, Clock(), set())
    assert SlurmExecutor(3, partition="gpu", gpus_per_node=0, additional={"nice": 5}).run(jobs) == [{}] * 3
    assert submitit.given == [str(folder) for folder in jobs]
    assert submitit.parameters == {
        "name": "lagvae",
        "slurm_array_parallelism": 3,
        "timeout_min": 1440,
        "slurm_partition": "gpu",
        "gpus_per_node": 0,
        "slurm_additional_parameters": {"nice": 5},
    }
    assert Path(submitit.logs) == tmp_path / "slurm" / "now"
    assert os.environ["PYTHONPATH"] == executors.search_path(), "sbatch hands the environment on"
    assert submitit.cancelled == []


def test_a_job_that_left_the_queue_without_a_result_is_given_up_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: Submitit
) -> None:
    """The others are waited for; a result may show up late, where the disk of a node is slow."""
    lost, late, long = folders(tmp_path, 3)
    clock = Clock(*[lambda: None] * 3, lambda: finish(late), *[lambda: None] * 9, lambda: finish(long))
    queued(monkeypatch, clock, {"7_0", "7_1", "7_2"}, {"7_2"})
    outcomes = SlurmExecutor(3, patience=5).run([lost, late, long])
    assert outcomes[1:] == [{}, {}]
    assert isinstance(outcomes[0], LagvaeError)
    assert "ended without a result" in str(outcomes[0])
    assert str(lost / "log.txt") in str(outcomes[0])
    assert clock.now == 115, "until the last result, a second after it was written"


def test_the_patience_with_a_job_starts_when_it_leaves_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: Submitit
) -> None:
    """That the queue does not answer, or that a job is queued again, says nothing of it."""
    clock = Clock()
    queued(monkeypatch, clock, set(), set(), {"7_0"}, *[None] * 20, set())
    (outcome,) = SlurmExecutor(patience=5).run(folders(tmp_path, 1))
    assert isinstance(outcome, LagvaeError)
    assert clock.now == 100 + 23 + 6 + 1, "seen gone at 123, given up when more than 5 s have passed"


def test_a_stop_cancels_the_jobs_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: Submitit) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    queued(monkeypatch, Clock(lambda: None, stop), {"7_0", "7_1"})
    with pytest.raises(KeyboardInterrupt):
        SlurmExecutor(2).run(folders(tmp_path, 2))
    assert submitit.cancelled == ["7_0", "7_1"]


def test_what_slurm_refuses_is_said_in_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitit: Submitit
) -> None:
    submitit.refused = "sbatch failed:\nsbatch: error: invalid partition specified: nowhere\n"
    with pytest.raises(SettingError, match=r"does not accept the job: sbatch: error: invalid partition specified: nowhere$"):
        SlurmExecutor(partition="nowhere").run(folders(tmp_path, 1))


@pytest.mark.parametrize(("make", "name"), [(SlurmExecutor, "submitit"), (RayExecutor, "ray")])
def test_a_package_that_is_missing_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any], name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingError, match=rf"needs {name}: pip install -e '\.\[(slurm|ray)\]'"):
        make().run(folders(tmp_path, 1))


# ---- Ray


class Ray:
    """In place of ray: jobs run when their result is asked for; those in `dies` lose their process."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=ValueError)
        self.options: dict[str, Any] = {}
        self.resources: dict[str, Any] = {}
        self.dies: list[str] = []
        self.running = False

    def init(self, **options: Any) -> None:
        self.options, self.running = options, True

    def shutdown(self) -> None:
        self.running = False

    def remote(self, **resources: Any) -> Any:
        self.resources = resources
        return lambda function: SimpleNamespace(remote=lambda folder: folder)

    def get(self, folder: str) -> dict[str, str]:
        if folder in self.dies:
            raise ValueError("the worker died")
        return {"ran": folder}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def test_ray_runs_every_job_and_one_that_dies_is_known_by_its_folder(tmp_path: Path, ray: Ray) -> None:
    jobs = folders(tmp_path, 4)
    ray.dies = [str(folder) for folder in jobs[1:]]
    finish(jobs[1], failed={"a": "no"})
    finish(jobs[2], error="it has no data")
    ran, failed, ended, lost = RayExecutor(jobs=4, cpus=2, gpus=0.5).run(jobs)
    assert (ran, failed) == ({"ran": str(jobs[0])}, {"a": "no"})
    assert str(ended) == "it has no data"
    assert "ended without a result" in str(lost)
    assert ray.resources == {"num_cpus": 2, "num_gpus": 0.5, "max_retries": 0, "max_calls": 1}
    assert ray.options["runtime_env"] == {"env_vars": {"PYTHONPATH": executors.search_path()}}
    assert not ray.running, "it is shut down"


@pytest.mark.parametrize(
    ("address", "options", "asked"),
    [
        (None, {"include_dashboard": False}, []),
        ("auto", {"address": "auto"}, []),
        ("ray://head:10001", {"address": "ray://head:10001"}, []),
        ("head:6379", {"address": "head:6379"}, [("head", 6379)]),
    ],
)
def test_an_address_is_tried_before_ray_tries_it_for_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: Ray, address: str | None, options: dict[str, Any], asked: list[Any]
) -> None:
    tried: list[Any] = []

    def connect(to: tuple[str, int], timeout: float) -> Any:
        tried.append(to)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(executors.socket, "create_connection", connect)
    RayExecutor(address).run(folders(tmp_path, 1))
    assert tried == asked
    assert {key: value for key, value in ray.options.items() if key not in ("log_to_driver", "runtime_env")} == options


def test_an_address_where_nothing_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: Ray) -> None:
    def refuse(*given: Any) -> Any:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(executors.socket, "create_connection", refuse)
    with pytest.raises(SettingError, match=r"launcher\.executor\.address=head:6379: no Ray cluster answers there \(refused\)"):
        RayExecutor("head:6379").run(folders(tmp_path, 1))
