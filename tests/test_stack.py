"""A cell of a stack is the cell alone: parameters, multipliers, optimizer states, metrics, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, settings
from omegaconf import OmegaConf

from lagvae.cells import Cell
from lagvae.experiment import calibrate, resume, train
from lagvae.runs import read_rows
from lagvae.stacking import train_stack

FIXED = ("family=infovae", "training.start=calibrated")
CELLS: dict[str, tuple[str, ...]] = {
    "maximize": ("alpha.q=-1",),
    "minimize": ("alpha.q=1", "constraints.neg_elbo.gamma=0.5"),
    "fixed-maximize": (*FIXED, "alpha.q=-1", "constraints.neg_elbo.multiplier=5"),
    "fixed-minimize": (*FIXED, "alpha.q=1", "constraints.mmd.multiplier=2000"),
    "seed": ("alpha.q=-1", "seed=1"),
    "rate": ("alpha.q=-1", "model.optimizer.lr=3e-4"),
}
STEPS = 50


def cell(root: Path, name: str, *overrides: str) -> Cell:
    cfg = settings(root, *QUICK, f"training.steps={STEPS}", "training.interval=25", f"name={name}", *overrides)
    return Cell(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same cells, alone and in one stack; θ* is shared."""
    roots = {way: tmp_path_factory.mktemp(way) for way in ("alone", "stack")}
    for root in roots.values():
        for name, overrides in CELLS.items():
            calibrate(cell(root, name, *overrides).cfg)
    for name, overrides in CELLS.items():
        train(cell(roots["alone"], name, *overrides).cfg)
    cells = [cell(roots["stack"], name, *overrides) for name, overrides in CELLS.items()]
    assert train_stack(cells, roots["stack"] / "job", lambda step: None) == {}
    return roots


def checkpoint(root: Path, name: str, which: str = "last") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(root / "runs" / name / "checkpoints" / f"{which}.ckpt", weights_only=True)
    return content


@pytest.mark.parametrize("name", CELLS)
def test_parameters_and_multipliers_are_those_of_the_cell_alone(both: dict[str, Path], name: str) -> None:
    alone, stack = (checkpoint(root, name)["state_dict"] for root in both.values())
    assert alone.keys() == stack.keys()
    for key, value in alone.items():
        # relative to the tensor: single entries near zero are differences of larger numbers
        error = float((stack[key] - value).norm() / value.norm().clamp(min=1e-12))
        assert error < 1e-5, f"{key}: {error:.1e}"
