"""The same sweep on a real SLURM cluster of one node, and on a real Ray cluster of two node processes (make verify)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import QUICK, program
from test_launch import SMALL, summaries, sweep
from test_stopping import until

CLUSTERS = Path(__file__).parent / "clusters"
RUNS = ("alpha=maximize,minimize", "seed=0,1")


def cluster(script: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a cluster, with what it exports in the environment; stop it in the end."""
    monkeypatch.setenv("PYTHON", sys.executable)
    start = subprocess.run([CLUSTERS / script, "start"], capture_output=True, text=True, check=False)
    assert start.returncode == 0, start.stderr
    for line in start.stdout.splitlines():
        for word in shlex.split(line):
            key, equals, value = word.partition("=")
            if equals:
                monkeypatch.setenv(key, value.rstrip(";"))
    try:
        yield
    finally:
        subprocess.run([CLUSTERS / script, "stop"], capture_output=True, check=False)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if shutil.which("slurmctld") is None:
        pytest.skip("SLURM is not installed: tests/clusters/slurm.sh install")
    pytest.importorskip("submitit")
    yield from cluster("slurm.sh", monkeypatch)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("ray")
    yield from cluster("ray.sh", monkeypatch)


def same_as_here(tmp_path: Path, *words: str) -> str:
    """The sweep there ends with the summaries of the sweep here; what was said there."""
    assert sweep(tmp_path / "here", *RUNS, "launcher.runs_per_job=2").status == 0
    there = sweep(tmp_path / "there", *RUNS, *words)
    assert there.status == 0, there.err
    assert summaries(tmp_path / "there" / "runs") == summaries(tmp_path / "here" / "runs")
    again = sweep(tmp_path / "there", *RUNS, *words)
    assert "4 of 4 runs finished (4 before)" in again.out
    return there.out


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_sweep_on_slurm_is_the_sweep_here(tmp_path: Path) -> None:
    said = same_as_here(tmp_path, "launcher=slurm", "launcher.executor.jobs=2", "launcher.compile=false")
    assert "2 jobs of 2 runs" in said


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_job_that_slurm_cancels_is_named_and_done_by_the_next_sweep(tmp_path: Path) -> None:
    words = (*RUNS, "launcher=slurm", "launcher.compile=false", "launcher.executor.patience=3", "training.steps=4000")
    process = subprocess.Popen(
        [sys.executable, str(CLUSTERS.parents[1] / "src" / "train.py"), "-m", *QUICK, *SMALL, *words],
        env=os.environ | {"LAGVAE_ROOT": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=(said := (tmp_path / "said").open("w")),
    )
    until(lambda: any(tmp_path.rglob("ensemble.ckpt")), process)
    subprocess.run(["scancel", "--name=lagvae"], check=True)
    assert process.wait(120) == 1
    said.close()
    assert (tmp_path / "said").read_text().count("ended without a result") == 4
    again = program(tmp_path, "-m", *QUICK, *SMALL, *words)
    assert again.status == 0, again.err


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_partition_that_is_none_is_refused(tmp_path: Path) -> None:
    outcome = sweep(tmp_path, *RUNS, "launcher=slurm", "launcher.executor.partition=nowhere")
    assert outcome.status == 1
    assert "SLURM does not accept the job" in outcome.err
    assert "partition" in outcome.err


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_sweep_on_ray_is_the_sweep_here(tmp_path: Path) -> None:
    words = ("launcher=ray", f"launcher.executor.address='{os.environ['RAY_ADDRESS']}'", "launcher.executor.jobs=2")
    said = same_as_here(tmp_path, *words, "launcher.compile=false")
    assert "2 jobs of 2 runs" in said


@pytest.mark.slow
def test_an_address_where_no_ray_is_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    outcome = sweep(tmp_path, *RUNS, "launcher=ray", "launcher.executor.address='127.0.0.1:1'")
    assert outcome.status == 1
    assert "no Ray cluster answers there" in outcome.err
