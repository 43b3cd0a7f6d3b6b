"""Several processes that share every batch do what one process does, and end together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from helpers import QUICK, ended_process, program
from small import ROOT

from lagvae.ranks import STARTED_BY
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import read_rows

ONE_STEP, MANY = "1:1.0", "50:0.0003"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every rank of one process, and of two, holds after one step at rate 1 and after 50 small ones."""
    folder = tmp_path_factory.mktemp("ddp")
    for devices in (1, 2):
        command = [sys.executable, Path(__file__).with_name("ddp_program.py"), folder, str(devices), ONE_STEP, MANY]
        assert statuses(launch(folder, command, devices), 240) == [0] * devices, output(folder)
    return folder


def held(folder: Path, devices: int, word: str) -> list[dict[str, Any]]:
    """What each rank holds after a training."""
    steps = word.partition(":")[0]
    return [torch.load(folder / f"{devices}-{steps}-{rank}.pt", weights_only=True) for rank in range(devices)]


def test_gradients_of_two_processes_are_those_of_one(trained: Path) -> None:
    """One step of descent at rate 1: parameters move by the gradient of the global batch, MMD across ranks included.

    Sums in another order differ by rounding: 1e-5 of the largest gradient is a hundred times float32's resolution.
    """
    (one,) = held(trained, 1, ONE_STEP)
    for rank in held(trained, 2, ONE_STEP):
        for name, gradient in one["moved"].items():
            error = (rank["moved"][name] - gradient).abs().max()
            assert error <= 1e-5 * gradient.abs().max() + 1e-7, name


def test_multipliers_stay_equal_across_ranks(trained: Path) -> None:
    """After 50 steps λ is the same to the last bit on both ranks, and near that of one process."""
    first, second = held(trained, 2, MANY)
    assert torch.equal(first["multiplier"], second["multiplier"])
    for name, moved in first["moved"].items():
        assert torch.equal(moved, second["moved"][name]), name
    (one,) = held(trained, 1, MANY)
    torch.testing.assert_close(first["multiplier"], one["multiplier"], rtol=1e-3, atol=1e-4)


# ---- whole runs, under launchers

UNEVEN = (
    *QUICK,
    "data.source.n=411",  # 329 training samples in batches of 48: neither these nor the splits divide
    "data.batch=48",
    "training.log_every=10",
    "callbacks.final.information.components=2",
    "epsilon=explicit",
    "training.start=scratch",
    "constraints.neg_elbo.epsilon=19",
    "constraints.mmd.epsilon=0.05",
    "name=run",
)
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


def free_port() -> str:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return str(given.getsockname()[1])


def torchrun(rank: int, world: int, port: str) -> dict[str, str]:
    """The variables that torchrun gives a process."""
    values = ("none", str(rank), str(rank), str(world), str(world), "127.0.0.1", port)
    return dict(zip(("TORCHELASTIC_RUN_ID", *LAUNCHERS[:4], *LAUNCHERS[4:6]), values, strict=True))


def srun(rank: int, world: int, port: str) -> dict[str, str]:
    """The variables that srun gives a task."""
    slurm = {"JOB_ID": 7, "JOB_NAME": "run", "NTASKS": world, "NTASKS_PER_NODE": world, "NNODES": 1, "NODELIST": "127.0.0.1"}
    slurm |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0}
    return {f"SLURM_{name}": str(value) for name, value in slurm.items()} | {"MASTER_PORT": port}


Launcher = Callable[[int, int, str], Mapping[str, str]]


def start(root: Path, world: int, *words: str, launcher: Launcher = torchrun) -> list[forked.Program]:
    """The ranks of a run, as a launcher starts them."""
    command = [sys.executable, ROOT / "src" / "train.py", "trainer.accelerator=cpu", *words]
    if words[0].startswith("resume="):
        del command[2]
    return launch(root, command, world, launcher)


def launch(root: Path, command: Sequence[Any], world: int, launcher: Launcher = torchrun) -> list[forked.Program]:
    """The ranks of a program, as a launcher starts them; each says what it says to a file."""
    root.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHERS} | {"LAGVAE_ROOT": str(root)}
    port, started = free_port(), []
    for rank in range(world):
        with (root / f"said-{rank}").open("w") as said:
            started.append(forked.Program(command, environment | launcher(rank, world, port), stdout=said, stderr=said))
    return started


def statuses(ranks: list[forked.Program], seconds: float) -> list[int]:
    """How the ranks end, which they must do within some seconds."""
    end = time.monotonic() + seconds
    try:
        return [rank.wait(max(0.01, end - time.monotonic())) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def output(root: Path) -> str:
    """The last of what the ranks said."""
    return "\n".join(file.read_text()[-3000:] for file in sorted(root.glob("said-*")))


def errors(root: Path) -> list[str]:
    """What the ranks said beside the report of the first."""
    found = [line for file in sorted(root.glob("said-*")) for line in file.read_text().splitlines()]
    return [line for line in found if "Error" in line or "Traceback" in line or line.startswith("Note: Stopped")]


def until_trained(root: Path, ranks: list[forked.Program]) -> None:
    """Wait for the first checkpoint."""
    end = time.monotonic() + 200
    while not RunFolder(root / "runs" / "run").last.exists():
        assert all(rank.poll() is None for rank in ranks), errors(root)
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_same_numbers(one: RunFolder, other: RunFolder) -> None:
    """Every number of the summary and of metrics.csv within 1e-5, relative where it is above 1.

    Over 40 steps only the order of float32 sums differs, which is 1e-7 a step.
    """
    numbers = [
        {(split, name): value for split, values in run.read_summary()["splits"].items() for name, value in values.items()}
        | {(row["step"], row["split"], row["name"]): float(row["value"]) for row in read_rows(run.metrics)}
        | {(name, "λ"): c["multiplier"] for name, c in run.read_summary()["constraints"].items()}
        for run in (one, other)
    ]
    assert numbers[0].keys() == numbers[1].keys()
    for key, value in numbers[0].items():
        near = value if value is None or isinstance(value, str) else pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True)
        assert numbers[1][key] == near, key


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of a single process."""
    root = tmp_path_factory.mktemp("alone")
    outcome = program(root, *UNEVEN)
    assert outcome.status == 0, outcome.err
    return RunFolder(root / "runs" / "run")


def test_the_others_end_with_one_rank_and_one_process_finishes_what_they_began(
    alone: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun, of which this run need not know: kill −9 of one rank, and a resumed run on one process."""
    ranks = start(tmp_path, 2, *UNEVEN)
    until_trained(tmp_path, ranks)
    ranks[1].kill()
    assert statuses(ranks, 30) == [1, -signal.SIGKILL]
    (said,) = errors(tmp_path)
    assert said.startswith("Error: Process 2 of 2 of this run was killed")
    assert not RunFolder(tmp_path / "runs" / "run").finished
    for name, value in torchrun(0, 1, free_port()).items():
        monkeypatch.setenv(name, value)
    outcome = program(tmp_path, "resume=run")
    assert outcome.status == 0, outcome.err
    assert_same_numbers(alone, RunFolder(tmp_path / "runs" / "run"))


def test_a_rank_ends_whose_first_was_killed_before_they_connected(tmp_path: Path) -> None:
    """It would wait for half an hour. The one that has started it is not there any more."""

    def orphan(*given: Any) -> dict[str, str]:
        return torchrun(1, 2, free_port()) | {STARTED_BY: ended_process()}

    (rank,) = start(tmp_path, 1, *UNEVEN, launcher=orphan)
    assert statuses([rank], 30) == [1]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "world"), [(torchrun, 2), (torchrun, 3), (srun, 3)])
def test_a_run_of_several_processes_is_that_of_one(alone: RunFolder, tmp_path: Path, launcher: Launcher, world: int) -> None:
    words = ("trainer=ddp", f"trainer.devices={world}", "trainer.accelerator=cpu")
    assert statuses(start(tmp_path, world, *UNEVEN, *words, launcher=launcher), 300) == [0] * world, errors(tmp_path)
    assert errors(tmp_path) == []
    assert_same_numbers(alone, RunFolder(tmp_path / "runs" / "run"))


@pytest.mark.slow
def test_real_torchrun_and_calibration(tmp_path: Path) -> None:
    """torchrun starts three processes, which calibrate and train; the same as one that calibrates and trains."""
    words = [word for word in UNEVEN if not word.startswith(("epsilon", "training.start", "constraints"))]
    outcome = program(tmp_path / "one", *words)
    assert outcome.status == 0, outcome.err
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", ROOT / "src" / "train.py", *words]
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHERS} | {"LAGVAE_ROOT": str(tmp_path / "three")}
    with (tmp_path / "said-0").open("w") as said:
        done = forked.run([sys.executable, *command, "trainer.accelerator=cpu"], environment, stdout=said, stderr=said)
    assert done.returncode == 0, (tmp_path / "said-0").read_text()[-3000:]
    assert_same_numbers(*(RunFolder(tmp_path / name / "runs" / "run") for name in ("one", "three")))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_a_stopped_run_goes_on_with_another_number_of_processes(alone: RunFolder, tmp_path: Path, world: int) -> None:
    """SIGTERM to every rank of a run of 5 − `world` processes, as a cluster sends it."""
    ranks = start(tmp_path, 5 - world, *UNEVEN)
    until_trained(tmp_path, ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    assert statuses(ranks, 30) == [130] * len(ranks)
    (said,) = errors(tmp_path)
    assert "Resume with" in said
    assert statuses(start(tmp_path, world, "resume=run"), 300) == [0] * world, errors(tmp_path)
    assert_same_numbers(alone, RunFolder(tmp_path / "runs" / "run"))


@pytest.mark.slow
def test_the_multipliers_of_three_processes_are_equal_to_the_bit(tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("ddp_program.py"), tmp_path, "3", MANY]
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHERS}
    with (tmp_path / "said").open("w") as said:
        done = forked.run(command, environment, stdout=said, stderr=said)
    assert done.returncode == 0, (tmp_path / "said").read_text()[-3000:]
    first, *others = held(tmp_path, 3, MANY)
    for other in others:
        assert torch.equal(first["multiplier"], other["multiplier"])
