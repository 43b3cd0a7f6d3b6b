"""Whether family=geco and family=target_rate end where they are told to: the distortion at τ, the rate at C.

    python benchmarks/targets.py [--jobs N] [--root FOLDER] [--out results/targets.md] [KEY=VALUE …]

Digits, at their default length, and the breast cancer data of scikit-learn, standardised, at four times that of data=array:
shorter runs of seed 10 ended with the advice to train longer. Every run has the bound of its preset, and three seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import continuous
import grid
import numpy as np

FAMILIES = {"geco": "distortion", "target_rate": "rate"}
"""Member → what it has a target for."""

DATA = {"digits": ["data=digits"], "tabular": ["data=array", "data.name=tabular", "training.steps=20000"]}
"""Name → settings; the table's file is added."""

SEEDS = (0, 1, 2)

ASKED = 0.02
"""The largest relative distance between what is reached and the target."""

HEAD = ("member", "data", "seed", "quantity", "target", "reached", "±", "relative distance", "λ", "verdict", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/targets.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="targets-")
    file = Path(root) / "tabular.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, x=continuous.tabular())
    own = {"digits": [], "tabular": [f"data.source.path={file}"]}
    jobs = [
        [*words, *own[data], f"family={family}", f"seed={seed}", "callbacks=light", *options.overrides]
        for family in FAMILIES
        for data, words in DATA.items()
        for seed in SEEDS
    ]
    grid.tell(lines(grid.run(jobs, root, options.jobs)), options.out)


def lines(runs: list[dict[str, Any]]) -> list[str]:
    """The page, from the summaries of the runs."""
    off = [distance(run) for run in runs]
    within = sum(abs(d) <= ASKED for d in off)
    return [
        "# Runs that are told where to end",
        "",
        *grid.table(HEAD, [row(run) for run in runs]),
        "",
        f"{within} of {len(runs)} runs end within {ASKED:.0%} of their target; the median distance is "
        f"{median(map(abs, off)):.2%}, the largest {max(map(abs, off)):.2%}. Distortion and rate on training data, in nats, "
        "± their standard error; the distance is (reached − target) / |target|.",
    ]


def distance(run: dict[str, Any]) -> float:
    """(reached − target) / |target| of the only constraint of a run."""
    (c,) = run["constraints"].values()
    return float((c["train"] - c["bound"]) / abs(c["bound"]))


def row(run: dict[str, Any]) -> list[str]:
    ((name, c),) = run["constraints"].items()
    return [
        *(run["family"], run["data"], f"{run['seed']}", name, f"{c['bound']:g}", f"{c['train']:.3f}"),
        *(f"{run['splits']['train'][f'{name}_stderr']:.3f}", f"{distance(run):+.2%}", f"{c['multiplier']:.3g}", c["verdict"]),
        f"{run['seconds']['all']:.0f}",
    ]


if __name__ == "__main__":
    main()
