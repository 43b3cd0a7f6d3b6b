"""What images of 64×64 pixels cost: time of training and of all after it, and the peak memory of train.py and evaluate.py.

    python benchmarks/images.py [--root FOLDER] [--out results/images.md] [KEY=VALUE …]

Made scenes, 2,000 of each kind: a disc on a gradient, grey or in colour, kept as bytes. Each is trained by the command that a
newcomer types, with every metric and figure of the default, but for fewer steps than the default: the cost of measuring is
bounded by a share of that of the whole training, so that a short run shows the least favourable case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grid
import numpy as np

SIDE, IMAGES, STEPS = 64, 2000, 100

KINDS = {
    "grey, Bernoulli": (1, ["data.likelihood=bernoulli"]),
    "colour, discretised logistic": (3, ["data.likelihood=normal", "likelihood=discretized_logistic"]),
    "colour, Normal": (3, ["data.likelihood=normal"]),
}
"""Name → channels and settings."""


def scenes(channels: int) -> np.ndarray:
    """Images of a disc of any place, size and colour on a gradient, (N, H, W) or (N, H, W, 3), bytes."""
    generator = np.random.default_rng(0)
    v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    x = np.empty((IMAGES, SIDE, SIDE, channels), dtype=np.uint8)
    for image in x:
        (a, b), radius = generator.uniform(0.25, 0.75, 2), generator.uniform(0.08, 0.25)
        slope, ink, paper = generator.uniform(-1, 1, 2), generator.uniform(0, 1, channels), generator.uniform(0, 1, channels)
        shade = 0.5 + 0.5 * (slope[0] * (u - 0.5) + slope[1] * (v - 0.5))
        cover = np.clip((radius - np.hypot(u - a, v - b)) * SIDE + 0.5, 0, 1)[..., None]
        image[:] = np.round(255 * (cover * ink + (1 - cover) * shade[..., None] * paper))
    return x[..., 0] if channels == 1 else x


def run(root: Path, name: str, words: list[str]) -> dict[str, Any]:
    """The summary of a run that is trained, and evaluated again, each in a process of its own whose peak of memory is in GB.

    The peaks are "train" and "evaluate". SystemExit where a program fails.
    """
    folder = root / "runs" / name
    found: dict[str, Any] = {}
    for script, given in (("train", [f"name={name}", *words]), ("evaluate", [f"run={name}"])):
        file = folder / f"memory-{script}.txt"
        if not file.is_file():
            print(" ".join([f"python src/{script}.py", *given]), flush=True)
            program = [sys.executable, str(grid.ROOT / "src" / f"{script}.py"), *given]
            process = subprocess.Popen(program, env=os.environ | {"LAGVAE_ROOT": str(root)}, stdin=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} has failed, see above.")
            file.write_text(f"{usage.ru_maxrss * 1024 / 1e9:.2f}\n", encoding="utf-8")
            if script == "train":
                (folder / "trained.json").write_bytes((folder / "summary.json").read_bytes())
        found[script] = float(file.read_text(encoding="utf-8"))
    return found | json.loads((folder / "trained.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/images.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = Path(options.root or tempfile.mkdtemp(prefix="images-")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for k, (kind, (channels, words)) in enumerate(KINDS.items()):
        file = root / f"scenes-{channels}.npy"
        if not file.is_file():
            np.save(file, scenes(channels))
        length = [f"{node}.steps={STEPS}" for node in ("training", "calibration")]
        settings = ["data=array", f"data.source.path={file}", "model=conv", *length, *words, *options.overrides]
        told = run(root, f"scenes-{k}", settings)
        seconds = told["seconds"]
        after = seconds["all"] - seconds["training"]
        rows.append(
            [
                *(kind, f"{seconds['training']:.0f}", f"{1000 * seconds['training'] / told['steps']:.0f}", f"{after:.0f}"),
                *(f"{after / seconds['training']:.2f}", f"{told['train']:.2f}", f"{told['evaluate']:.2f}"),
            ]
        )
    head = (
        "images",
        "training (s)",
        "a step (ms)",
        "measuring, figures (s)",
        "share of training",
        "train.py (GB)",
        "evaluate.py (GB)",
    )
    grid.tell(
        [
            f"# Images of {SIDE}×{SIDE} pixels",
            "",
            f"{IMAGES:,} made scenes of each kind, model=conv, {STEPS:,} steps, {os.cpu_count()} cores; all other settings are "
            "the defaults. GB: the peak of the memory of a program, of which train.py calibrates as well.",
            "",
            *grid.table(head, rows),
        ],
        options.out,
    )


if __name__ == "__main__":
    main()
