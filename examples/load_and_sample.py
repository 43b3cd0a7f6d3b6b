"""Load a trained model of images: print the shape of its codes, and save a grid of samples.

Usage: python examples/load_and_sample.py [RUN] [PICTURE]

RUN is a run folder, the name of one under runs/, or latest, which `make train` leaves.
"""

import sys

from torchvision.utils import save_image

import lagvae


def main(run: str = "latest", picture: str = "samples.png") -> None:
    model = lagvae.load(run)
    x = model.sample(64, seed=0)
    z = model.encode(x)
    print(f"codes: {tuple(z.shape)}")
    print(f"squared error of reconstructions: {(x - model.reconstruct(x)).square().mean():.3f}")
    save_image(model.sample(64, seed=0, means=True), picture, nrow=8)
    print(f"samples: {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
