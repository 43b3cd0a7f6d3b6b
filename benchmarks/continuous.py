"""LagVAE on continuous data, with a Normal decoder whose scale is learned: whether runs end at their bounds.

    python benchmarks/continuous.py [--jobs N] [--root FOLDER] [--out results/continuous.md] [KEY=VALUE …]

Patches: 28×20 grey pixels of scikit-learn's two photographs, in [0, 1]. Tabular: its breast cancer data, 30 columns,
standardised. For each, one calibration and a run for each sign of α, at the default length of data=array. D is the number of
dimensions of x.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from math import e, log, pi
from pathlib import Path
from typing import Any

import grid
import numpy as np

SETTINGS = [
    "data=array",
    "callbacks.figures=false",
    "callbacks.final.information.kde=false",
    *(
        f"~callbacks.final.{name}"
        for name in ("information_of_model", "likelihood", "two_sample_x", "two_sample_z", "classifier", "pairing")
    ),
]
"""Of the final evaluation only what the table has."""
SIGNS = ("maximize", "minimize")
PATCH, STRIDE = (28, 20), (14, 10)


def patches() -> np.ndarray:
    """Overlapping grey patches of the photographs of scikit-learn, (N, 1, 28, 20), in [0, 1]."""
    from sklearn.datasets import load_sample_images

    windows = [
        np.lib.stride_tricks.sliding_window_view(image.mean(-1) / 255, PATCH)[:: STRIDE[0], :: STRIDE[1]].reshape(-1, 1, *PATCH)
        for image in load_sample_images().images
    ]
    return np.concatenate(windows).astype(np.float32)


def tabular() -> np.ndarray:
    """The breast cancer data of scikit-learn (UCI, Wolberg et al. 1995), (569, 30), each column standardised."""
    from sklearn.datasets import load_breast_cancer

    x = load_breast_cancer().data
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


DATA: dict[str, tuple[Callable[[], np.ndarray], list[str]]] = {
    "patches": (patches, []),
    "tabular": (tabular, ["calibration.split=train"]),
}
"""Name → what makes the data, and settings. The network fits the few rows of the table far better than held-out ones, so that a
bound from these would not bind on training data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/continuous.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="continuous-")
    rows: list[list[str]] = []
    for name, (make, own) in DATA.items():
        x, file = make(), Path(root) / f"{name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, x=x)
        settings = [*SETTINGS, f"data.name={name}", f"data.source.path={file}", *own, *options.overrides]
        grid.calibrate(root, settings)
        runs = grid.run([[*settings, f"alpha={sign}"] for sign in SIGNS], root, options.jobs)
        rows += [row(name, sign, run, x[0].size) for sign, run in zip(SIGNS, runs, strict=True)]
    lines = [
        *grid.table(HEAD, rows),
        "",
        f"−ELBO and I_q on training data, in nats. {runs[0]['steps']} steps to calibrate and to train, one seed. ε̂ is measured "
        "on held-out patches, and on the training rows of the table. I_q of N training samples cannot exceed log N; where "
        "it is reached, more slack gains no information. Column scale: the distortion above that of the best scale, the root "
        "mean squared residual.",
    ]
    grid.tell(lines, options.out)


HEAD = (
    "data",
    "D",
    "α",
    "ε̂",
    "bound",
    "−ELBO",
    "−ELBO / D",
    "−ELBO − bound",
    "λ",
    "verdict",
    "I_q",
    "log N",
    "scale",
    "seconds",
)


def row(name: str, sign: str, run: dict[str, Any], size: int) -> list[str]:
    c, train = run["constraints"]["neg_elbo"], run["splits"]["train"]
    least = size / 2 * log(2 * pi * e * train["reconstruction"])
    return [
        *(name, f"{size}", sign, f"{c['calibrated']:.2f}", f"{c['bound']:.2f}"),
        *(f"{c['train']:.2f}", f"{c['train'] / size:.3f}", f"{c['violation']:+.2f}", f"{c['multiplier']:.3g}", c["verdict"]),
        *(f"[{train['i_q_lower']:.2f}, {train['i_q_upper']:.2f}]", f"{train['i_q_lower_limit']:.2f}"),
        *(f"{train['distortion'] - least:.3f}", f"{run['seconds']['all']:.0f}"),
    ]


if __name__ == "__main__":
    main()
