"""Convert the sweeps of this project to sweeps of Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lagvae.sweeps.grid import NAME, Grid, expand


def for_wandb(name: str, grids: Sequence[Grid]) -> dict[str, Any]:
    """The W&B sweep with the same runs.

    A grid of W&B is a single product of parameters, not a union of products. The W&B sweep therefore has one parameter,
    `overrides`, with one value for each run.
    """
    words = [" ".join(w for w in run if w != NAME) for run in expand(grids, [])]
    return {
        "project": "lagvae",
        "name": name,
        "description": f"The runs of python src/train.py -m sweep={name}",
        "program": "src/train.py",
        "method": "grid",
        "parameters": {"overrides": {"values": words}},
        "command": ["${env}", "${interpreter}", "${program}", f"sweep={name}", "logger=wandb", "${args_no_hyphens}"],
    }


def write_wandb_sweeps(folder: Path) -> list[Path]:
    """Write the W&B sweep of every sweep in a folder to its subfolder wandb/, and return the files.

    A matched sweep has none, because its runs are not known before those that it matches are finished.
    """
    written = []
    for file in sorted(folder.glob("*.yaml")):
        sweep: Any = OmegaConf.to_container(OmegaConf.load(file))
        if "match" in sweep:
            continue
        path = folder / "wandb" / file.name
        path.parent.mkdir(exist_ok=True)
        header = f"# Made by python src/wandb_sweeps.py. Use: wandb sweep sweeps/wandb/{file.name}, then wandb agent ID.\n"
        text = OmegaConf.to_yaml(OmegaConf.create(for_wandb(file.stem, sweep["hydra"]["sweeper"]["grids"])))
        path.write_text(header + text, encoding="utf-8")
        written.append(path)
    return written
