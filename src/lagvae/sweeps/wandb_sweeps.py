"""Every sweep as one of Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lagvae.sweeps.grid import NAME, Grid, expand


def for_wandb(name: str, grids: Sequence[Grid]) -> dict[str, Any]:
    """The sweep as one of W&B: one parameter, `overrides`, whose values are the runs, so that the union survives."""
    words = [" ".join(w for w in run if w != NAME) for run in expand(grids, [])]
    return {
        "program": "src/train.py",
        "method": "grid",
        "parameters": {"overrides": {"values": words}},
        "command": ["${env}", "${interpreter}", "${program}", f"sweep={name}", "logger=wandb", "${args_no_hyphens}"],
    }


def write_wandb_sweeps(folder: Path) -> list[Path]:
    """Write every sweep of a folder as one of W&B, into wandb/ beside them."""
    written = []
    for file in sorted(folder.glob("*.yaml")):
        sweep = OmegaConf.to_container(OmegaConf.load(file))
        path = folder / "wandb" / file.name
        path.parent.mkdir(exist_ok=True)
        head = f"# Made by python src/wandb_sweeps.py. Use: wandb sweep sweeps/wandb/{file.name}, then wandb agent ID.\n"
        text = OmegaConf.to_yaml(OmegaConf.create(for_wandb(file.stem, sweep["hydra"]["sweeper"]["grids"])))  # type: ignore
        path.write_text(head + text, encoding="utf-8")
        written.append(path)
    return written
