"""Only the sign of α matters: where runs with several sizes of α end.

    python src/train.py -m sweep=alpha folder=alpha
    python benchmarks/alpha.py runs/alpha [--out results/alpha.md]

−|α| I_q under a bound is the problem of −I_q with |α| times the multipliers. So runs with the same sign and slack should end
with the same information and the same λ/|α|. Nats, on the training split.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grid
from omegaconf import OmegaConf

from lagvae.runs.layout import runs_below

ENDS = ("i_q_lower", "i_q_upper")


def read(folder: Path) -> dict[tuple[int, float, int], dict[float, dict[str, Any]]]:
    """(sign of α, γ₁, seed) → |α| → summary, of the finished runs in a folder."""
    found: dict[tuple[int, float, int], dict[float, dict[str, Any]]] = {}
    for run in runs_below(folder, set()):
        if run.finished:
            summary, cfg = run.read_summary(), OmegaConf.load(run.config)
            alpha = summary["alpha"]["q"]
            key = (1 if alpha > 0 else -1, float(cfg.constraints.neg_elbo.gamma), summary["seed"])
            found.setdefault(key, {})[abs(alpha)] = summary
    return found


def spread(values: Sequence[float]) -> float:
    """The difference between the largest and the smallest value."""
    return max(values) - min(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of finished runs")
    parser.add_argument("--out", type=Path, help="also write the table there (results/alpha.md)")
    options = parser.parse_args()
    lines = ["# Only the sign of α matters", ""]
    head = ["goal", "γ₁", "seed", "|α|", "−ELBO", "bound", "I_q", "λ₁ / |α|", "spread of I_q over |α|", "spread of λ₁ / |α|"]
    rows = []
    for (sign, gamma, seed), by_size in sorted(read(options.folder).items()):
        ratios = {size: s["constraints"]["neg_elbo"]["multiplier"] / size for size, s in by_size.items()}
        of_information = max(spread([s["splits"]["train"][end] for s in by_size.values()]) for end in ENDS)
        of_ratio = spread(list(ratios.values())) / min(ratios.values())
        for size, summary in sorted(by_size.items()):
            train, first = summary["splits"]["train"], size == min(by_size)
            rows.append(
                [
                    *("maximise" if sign < 0 else "minimise", f"{gamma:g}", str(seed), f"{size:g}"),
                    *(f"{train['neg_elbo']:.2f}", f"{summary['constraints']['neg_elbo']['bound']:.2f}"),
                    f"[{train['i_q_lower']:.2f}, {train['i_q_upper']:.2f}]",
                    f"{ratios[size]:.3f}",
                    *((f"{of_information:.3f}", f"{of_ratio:.1%}") if first else ("", "")),
                ]
            )
    lines += [line.replace("|α|", "\\|α\\|") for line in grid.table(head, rows)]
    lines += ["", "Nats on the training split. The spread of I_q is the larger one of its two ends."]
    grid.tell(lines, options.out)


if __name__ == "__main__":
    main()
