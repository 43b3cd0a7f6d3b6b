"""Trains with as many processes as argv says, and has every rank save what it holds at the end of each training.

argv: folder, devices, and STEPS:RATE for each training.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from small import TINY, compose

from lagvae.experiment.fit import Fit
from lagvae.experiment.run import setup
from lagvae.runs.layout import RunFolder
from lagvae.terminal import quiet_libraries


def train(folder: Path, devices: int, steps: int, lr: float) -> None:
    bounds = ["epsilon=explicit", "constraints.neg_elbo.epsilon=30", "constraints.mmd.epsilon=1e-3", "training.start=scratch"]
    bounds.append("data.batch=126")  # a multiple of one, two and three processes
    # With plain descent at rate 1, one step moves θ by minus the gradient.
    descent = ["model.optimizer._target_=torch.optim.SGD", f"model.optimizer.lr={lr}", "model.schedule=null"]
    descent.append("multiplier.optimizer.reach=2")  # at a fixed rate, a λ that grows a lot would let θ diverge
    spread = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}"] if devices > 1 else []
    cfg = compose([*TINY, *bounds, *descent, *spread, f"training.steps={steps}"])
    data, model, _ = setup(cfg)
    before = {k: v.clone() for k, v in model.joint.state_dict().items()}
    run = RunFolder(folder / f"run-{devices}-{steps}")
    run.path.mkdir(exist_ok=True)
    fit = Fit(cfg, data, model, run, "ddp")
    fit.train()
    rank = fit.trainer.global_rank
    moved = {k: before[k] - v.cpu() for k, v in model.joint.state_dict().items()}
    torch.save({"moved": moved, "multiplier": model.lagrangian.scaled.data}, folder / f"{devices}-{steps}-{rank}.pt")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    os.environ["LAGVAE_ROOT"] = str(root)
    quiet_libraries()
    for word in sys.argv[3:]:
        number, rate = word.split(":")
        train(root, int(sys.argv[2]), int(number), float(rate))
