"""Pictures of what models make of four kinds of data: digits, photographs in colour, series and a table.

    python benchmarks/pictures.py [--root FOLDER] [--out docs] [KEY=VALUE …]

The photographs are pieces of 32×32 pixels of the two that scikit-learn has; the series are damped waves of two values with
noise; the table is scikit-learn's data on wines. Each is trained by the command that is printed, and figures of each run are
copied as data-NAME.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grid
import numpy as np

SIDE = 32


def photographs() -> dict[str, np.ndarray]:
    """Pieces of two photographs, (N, 32, 32, 3) bytes, that do not overlap."""
    from sklearn.datasets import load_sample_images

    x = []
    for image in load_sample_images().images:
        high, wide = (size // SIDE for size in image.shape[:2])
        pieces = image[: high * SIDE, : wide * SIDE].reshape(high, SIDE, wide, SIDE, 3)
        x.append(pieces.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3))
    return {"x": np.concatenate(x)}


def waves() -> dict[str, np.ndarray]:
    """Damped waves of random frequency and phase with noise, (N, 60, 2), and which of three frequencies each has."""
    generator = np.random.default_rng(0)
    n, t = 3000, np.arange(60)[None, :] / 60
    kind = generator.integers(0, 3, n)
    frequency = np.array([2.0, 3.5, 5.0])[kind] + generator.normal(0, 0.15, n)
    phase, decay = generator.uniform(0, 1, (2, n))
    angle = 2 * np.pi * (frequency[:, None] * t + phase[:, None])
    damped = np.exp(-2 * decay[:, None] * t)
    x = np.stack([damped * np.cos(angle), damped * np.sin(angle)], -1) + generator.normal(0, 0.05, (n, 60, 2))
    return {"x": x.astype(np.float32), "y": kind}


def wines(path: Path) -> None:
    """The data on wines as a CSV file: 13 numbers and the cultivar, as a text."""
    from sklearn.datasets import load_wine

    found = load_wine()
    lines = [",".join([*found.feature_names, "cultivar"])]
    for row, kind in zip(found.data, found.target, strict=True):
        lines.append(",".join([*(f"{value:g}" for value in row), str(found.target_names[kind])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


KINDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "digits": ([], {"samples": "digits", "latent": "codes"}),
    "photographs": (
        [
            *("data=array", "data.source.path={root}/photographs.npz", "model=conv", "training.steps=400"),
            *("calibration.steps=400", "data.likelihood=normal", "likelihood=discretized_logistic"),
        ],
        {"reconstructions": "photographs"},
    ),
    "waves": (["data=array", "data.source.path={root}/waves.npz"], {"samples": "series"}),
    "wines": (["data=table", "data.source.path={root}/wines.csv"], {"marginals": "table", "correlations": "correlations"}),
}
"""Name → settings of its run, and which figures become which pictures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, default=grid.ROOT / "docs", help="where the pictures go (docs)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = Path(options.root or tempfile.mkdtemp(prefix="pictures-")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "photographs.npz", **photographs())
    np.savez(root / "waves.npz", **waves())
    wines(root / "wines.csv")
    for name, (words, pictures) in KINDS.items():
        run = root / "runs" / name
        if not (run / "summary.json").is_file():
            settings = [f"name={name}", *(word.format(root=root) for word in words), *options.overrides]
            print(" ".join(["python src/train.py", *settings]), flush=True)
            program = [sys.executable, str(grid.ROOT / "src" / "train.py"), *settings]
            subprocess.run(program, env=os.environ | {"LAGVAE_ROOT": str(root)}, check=True)
        for figure, picture in pictures.items():
            shutil.copy(run / "figures" / f"{figure}.png", options.out / f"data-{picture}.png")
            print(options.out / f"data-{picture}.png")


if __name__ == "__main__":
    main()
