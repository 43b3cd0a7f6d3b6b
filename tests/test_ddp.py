"""Two processes that share every batch do what one process does."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

ONE_STEP, MANY = "1:1.0", "50:0.0003"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every rank of one process, and of two, holds after one step at rate 1 and after 50 small ones."""
    folder = tmp_path_factory.mktemp("ddp")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "LAGVAE_RUN")}
    for devices in (1, 2):
        command = [sys.executable, Path(__file__).with_name("ddp_program.py"), folder, str(devices), ONE_STEP, MANY]
        with (folder / "said").open("w") as said:
            done = forked.run(command, environment, stdout=said, stderr=said)
        assert done.returncode == 0, (folder / "said").read_text()[-3000:]
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
