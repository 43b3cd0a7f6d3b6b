"""Two processes that share every batch do what one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def train(folder: Path, devices: int, steps: int, lr: float) -> list[dict[str, Any]]:
    """What each rank holds after training."""
    program = Path(__file__).with_name("ddp_program.py")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "LAGVAE_RUN")}
    command = [sys.executable, str(program), str(folder), str(devices), str(steps), str(lr)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{devices}-{steps}-{rank}.pt", weights_only=True) for rank in range(devices)]


def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """One step of descent at rate 1: parameters move by the gradient of the global batch, MMD across ranks included.

    Sums in another order differ by rounding: 1e-5 of the largest gradient is a hundred times float32's resolution.
    """
    (one,) = train(tmp_path, 1, 1, 1.0)
    for rank in train(tmp_path, 2, 1, 1.0):
        for name, gradient in one["moved"].items():
            error = (rank["moved"][name] - gradient).abs().max()
            assert error <= 1e-5 * gradient.abs().max() + 1e-7, name


def test_multipliers_stay_equal_across_ranks(tmp_path: Path) -> None:
    """After 50 steps λ is the same to the last bit on both ranks, and near that of one process."""
    first, second = train(tmp_path, 2, 50, 0.0003)
    assert torch.equal(first["multiplier"], second["multiplier"])
    for name, moved in first["moved"].items():
        assert torch.equal(moved, second["moved"][name]), name
    (one,) = train(tmp_path, 1, 50, 0.0003)
    torch.testing.assert_close(first["multiplier"], one["multiplier"], rtol=1e-3, atol=1e-4)
