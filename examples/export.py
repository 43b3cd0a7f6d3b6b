"""Export a trained model: its weights as safetensors, and the means of q(z|x) and p(x|z) as programs that need torch alone.

Usage: python examples/export.py [RUN] [FOLDER]

RUN is a run folder, the name of one under runs/, or latest, which `make train` leaves.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import lagvae
from lagvae.distributions import mean_of


class Mean(nn.Module):
    """The mean of the distribution that an encoder or a decoder returns."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return mean_of(self.part(x))


def main(run: str = "latest", folder: str = "exported") -> None:
    model = lagvae.load(run)
    lagvae.export(model, folder)  # model.safetensors and model.json; lagvae.load(folder) reads them

    x = model.sample(3)
    z = model.encode(x)
    for name, rows, expected in (("encoder", x, z), ("decoder", z, model.decode(z))):
        batch = torch.export.Dim("batch")  # any number of rows
        program = torch.export.export(Mean(getattr(model.eval_model, name)), (rows,), dynamic_shapes=({0: batch},))
        file = Path(folder, f"{name}.pt2")
        torch.export.save(program, file)
        means = torch.export.load(file).module()(torch.cat([rows, rows]))  # a program that loads it needs no lagvae
        print(f"{file}: differs from the model by at most {(means - torch.cat([expected, expected])).abs().max():.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
