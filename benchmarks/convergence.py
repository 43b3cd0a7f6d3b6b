"""What longer training gains, against what each run's own learning curve said about it.

    for n in 1833 5500 16500; do python src/train.py -m seed=0,1,2 alpha.q=-1,1 training.steps=$n folder=steps$n; done
    python benchmarks/convergence.py runs/steps1833 runs/steps5500 runs/steps16500 [--out results/convergence.md]

A run says how much its bound on I_q would improve per doubling of its length (see `lagvae.experiment.convergence`). The runs of
the next folder, with the same seed and α, are longer; at the same bound on −ELBO they show how much it did improve. Information
is the interval for I_q on the training split, in nats; a positive change is in the direction of α.
"""

from __future__ import annotations

import argparse
from math import log2
from pathlib import Path
from typing import Any

import grid

from lagvae.runs.layout import runs_below


def read(folder: Path) -> dict[tuple[float, int], dict[str, Any]]:
    """(α, seed) → summary, of the finished runs below a folder."""
    found = {}
    for run in runs_below(folder, set()):
        if run.finished:
            summary = run.read_summary()
            found[summary["alpha"]["q"], summary["seed"]] = summary
    return found


def row(key: tuple[float, int], summary: dict[str, Any], longer: dict[str, Any] | None) -> list[str]:
    alpha, seed = key
    train, convergence = summary["splits"]["train"], summary["convergence"]
    named = "–" if convergence is None else f"{convergence['gain'] / abs(alpha):+.2f}"
    if convergence is not None:
        named += f" ± {convergence['gain_error'] / abs(alpha):.2f}"
    cells = [
        "maximise" if alpha < 0 else "minimise",
        str(seed),
        str(summary["steps"]),
        f"{train['neg_elbo']:.2f}",
        f"[{train['i_q_lower']:.2f}, {train['i_q_upper']:.2f}]",
        f"{summary['constraints']['neg_elbo']['multiplier']:.3f}",
        summary["verdict"],
        named,
    ]
    if longer is None or convergence is None:
        return [*cells, "–", "–"]
    doublings, after = log2(longer["steps"] / summary["steps"]), longer["splits"]["train"]
    sign = 1 if alpha < 0 else -1
    gained = sign * (after["i_q_upper"] - train["i_q_upper"])
    return [*cells, f"{doublings * convergence['gain'] / abs(alpha):+.2f}", f"{gained:+.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of runs, from the shortest to the longest")
    parser.add_argument("--out", type=Path, help="also write the table there (results/convergence.md)")
    options = parser.parse_args()
    groups = [read(folder) for folder in options.folders]
    head = ["goal", "seed", "steps", "−ELBO", "I_q", "λ₁", "verdict", "named per doubling"]
    head += ["named until the next length", "gained"]
    rows = []
    for key in sorted(groups[0]):
        for group, longer in zip(groups, [*groups[1:], {}], strict=True):
            if key in group:
                rows.append(row(key, group[key], longer.get(key)))
    lines = [
        "# What longer training gains, and what runs say about it",
        "",
        *grid.table(head, rows),
        "",
        "Nats on the training split. The bound on −ELBO is the same in all runs: it comes from the same calibration. Gained: "
        "the change of the upper end of the interval; the lower one changes its estimator where log K limits it.",
    ]
    grid.tell(lines, options.out)


if __name__ == "__main__":
    main()
