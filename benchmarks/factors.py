"""How well single coordinates of z stand for the factors that images were made from: MIG and DCI of three members.

    python benchmarks/factors.py [--jobs N] [--root FOLDER] [--out results/factors.md] [KEY=VALUE …]

Made shapes, as in dSprites but of 16×16 pixels: square, ellipse and cross, of four sizes, at eight angles, at 8 × 8 places; all
6,144 of them, each pixel the share of it that is covered. A VAE, a β-VAE (β = 4) and a LagVAE of both signs are trained on them
from the same start for the same length, for three seeds. The scores are of the means of q(z|x) on held-out images.

None of these objectives asks for coordinates that stand for single factors. Without further assumptions nothing but inductive
bias can favour them (Locatello et al., ICML 2019), so that differences of seeds may be as large as those of members.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from math import pi
from pathlib import Path

import grid
import numpy as np

SEEDS = (0, 1, 2)

SIDE = 16

SETTINGS = [
    "data=array",
    "data.likelihood=bernoulli",
    "data.draws=10000",
    "callbacks=light",
    "+callbacks.final.factors._target_=lagvae.metrics.FactorScores",
    "+callbacks.final.factors._partial_=true",
    "callbacks.final.budget=null",
    "callbacks.final.information.pairs=30000000",
    "callbacks.final.information.components=0",
    "model.latent=10",
    "training.steps=8000",
    "training.interval=2000",
    "calibration.steps=8000",
]

FAMILIES = {
    "VAE": ["family=vae"],
    "β-VAE, β = 4": ["family=beta_vae"],
    "LagVAE, minimise": ["family=lagvae", "alpha=minimize"],
    "LagVAE, maximise": ["family=lagvae", "alpha=maximize"],
}
"""Method → its settings."""

SCORES = {
    "mig": "MIG",
    "dci_disentanglement": "DCI: disentanglement",
    "dci_completeness": "completeness",
    "dci_informativeness": "informativeness",
}

FACTORS = {"shape": 3, "size": 4, "angle": 8, "x": 8, "y": 8}
"""Factor → the number of its values."""


def shapes() -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 16, 16) in [0, 1], and the factors that they were made from, (N, 5), of every combination."""
    fine = 4  # points beside each other in a pixel
    axis = (np.arange(SIDE * fine) + 0.5) / (SIDE * fine)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    images, factors = [], []
    for values in product(*(range(n) for n in FACTORS.values())):
        shape, size, angle, x, y = values
        radius, turn = 0.11 + 0.04 * size, angle * (pi if shape == 1 else pi / 2) / 8
        dx, dy = u - (0.3 + 0.4 * x / 7), v - (0.3 + 0.4 * y / 7)
        a = np.abs(np.cos(turn) * dx + np.sin(turn) * dy) / radius
        b = np.abs(-np.sin(turn) * dx + np.cos(turn) * dy) / radius
        inside = (np.maximum(a, b) < 0.85, a**2 + (2 * b) ** 2 < 1, (np.maximum(a, b) < 1) & (np.minimum(a, b) < 0.35))[shape]
        images.append(inside.reshape(SIDE, fine, SIDE, fine).mean((1, 3)))
        factors.append(values)
    return np.stack(images)[:, None].astype("f4"), np.array(factors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/factors.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="factors-")
    images, factors = shapes()
    file = Path(root) / "shapes.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, x=images, factors=factors)
    common = [*SETTINGS, f"data.source.path={file}", *options.overrides]
    grid.calibrate(root, [*common, "family=lagvae"])
    jobs = [[*common, *words, f"seed={seed}"] for words in FAMILIES.values() for seed in SEEDS]
    runs = iter(grid.run(jobs, root, options.jobs))
    rows = []
    for name in FAMILIES:
        for seed in SEEDS:
            run = next(runs)
            test, train = run["splits"]["test"], run["splits"]["train"]
            rows.append(
                (
                    name,
                    str(seed),
                    *(f"{test[score]:.3f}" for score in SCORES),
                    f"{train['neg_elbo']:.2f}",
                    f"[{train['i_q_lower']:.2f}, {train['i_q_upper']:.2f}]",
                    run.get("verdict") or "",
                )
            )
    head = ("model", "seed", *SCORES.values(), "−ELBO, training", "I_q, training", "verdict")
    grid.tell(
        [
            "# Coordinates of z and the factors of images",
            "",
            f"{len(images):,} made shapes of {SIDE}×{SIDE} pixels; factors: {', '.join(FACTORS)}. Ten coordinates of z. Scores "
            "in [0, 1] on held-out images, nats on training images.",
            "",
            *grid.table(head, rows),
        ],
        options.out,
    )


if __name__ == "__main__":
    main()
