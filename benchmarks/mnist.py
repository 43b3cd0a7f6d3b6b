"""Both signs of α on MNIST with a small network, from one calibration.

    python benchmarks/mnist.py [--jobs N] [--out results/mnist] [KEY=VALUE …]

A small network, 20 epochs to calibrate and 20 to train. Writes a table (OUT.md), which names the network and the slack, and
pictures (OUT-samples.png, OUT-constraints.png).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import grid

SETTINGS = [
    "data=mnist",
    "model=mlp",
    "model.latent=32",
    "training.steps=4320",
    "calibration.steps=4320",
    "training.interval=432",
    f"paths.data={grid.ROOT / 'data'}",
]
SIGNS = ("maximize", "minimize")
ROWS = (
    ("−ELBO", "neg_elbo"),
    ("rate", "rate"),
    ("distortion", "distortion"),
    ("I_q lower", "i_q_lower"),
    ("I_q upper", "i_q_upper"),
    ("I_q by KDE", "i_q_kde"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, default=grid.ROOT / "results" / "mnist")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    settings = [*SETTINGS, *options.overrides]
    root = options.root or tempfile.mkdtemp(prefix="mnist-")
    start = time.perf_counter()
    grid.calibrate(root, settings)
    calibrated = time.perf_counter() - start
    runs = dict(zip(SIGNS, grid.run([[*settings, f"alpha={s}"] for s in SIGNS], root, options.jobs), strict=True))
    lines = [*table(runs), "", f"MNIST, α = ±1: {described(settings)}."]
    lines += [
        f"Calibration {calibrated:.0f} s, both runs together {time.perf_counter() - start - calibrated:.0f} s of wall time.",
    ]
    print("\n".join(lines))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("samples", "constraints"):
        grid.join([Path(runs[s]["folder"]) / "figures" / f"{name}.png" for s in SIGNS], Path(f"{options.out}-{name}.png"))


def described(settings: list[str]) -> str:
    """The network, the length and the slack of runs with some settings, in words."""
    from lagvae.cli.entry import compose_config

    cfg = compose_config(settings)
    layers = " and ".join(map(str, cfg.model.encoder.hidden))
    epochs = [
        round(steps * cfg.data.batch / (60_000 * (1 - cfg.data.val))) for steps in (cfg.calibration.steps, cfg.training.steps)
    ]
    network = f"hidden layers of {layers} units, {cfg.model.latent} latent coordinates"
    length = f"{epochs[0]} epochs to calibrate and {epochs[1]} to train"
    return f"{network}, {length}, γ₁ = {cfg.constraints.neg_elbo.gamma:g} nats"


def table(runs: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| | maximise (α = −1) train | test | minimise (α = +1) train | test |", "|---|---|---|---|---|"]
    for label, key in ROWS:
        cells = [
            f"{runs[s]['splits'][split][key]:.2f} ± {runs[s]['splits'][split][f'{key}_stderr']:.2f}"
            for s in SIGNS
            for split in ("train", "test")
        ]
        lines.append(f"| {label} (nats) | {' | '.join(cells)} |")
    lines.append("")
    for s in SIGNS:
        c = runs[s]["constraints"]
        parts = [
            f"{n}: bound {v['bound']:.4g}, reached {v['train']:.4g}, λ = {v['multiplier']:.3g}, {v['verdict']}"
            for n, v in c.items()
        ]
        lines.append(f"- {s}: {'; '.join(parts)}.")
    return lines


if __name__ == "__main__":
    main()
