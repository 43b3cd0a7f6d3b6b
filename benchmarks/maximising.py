"""The maximising problem on tiny tables: its counterexample, its duality gaps by search, and where they vanish.

    python benchmarks/maximising.py [--tables 100] [--out results/maximising.md]

With the model given the best tables of a grid are polished by a local search at 40 values of ε; with the decoder free the
best ones are known but for q(z), which is searched on a grid of 20,000. |α| = 1; the gaps of other α are |α| times as large.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import grid
import matplotlib
import numpy as np
from rich.progress import track

from lagvae.experiment.style import STYLE
from lagvae.oracles.maximising import TradeOffCurve, mixing_lowers_the_bound, random_tables, search, search_free

matplotlib.use("Agg")
EPSILONS = 40


@dataclass(frozen=True)
class Case:
    """Random tables of one size, and the grid on which they are searched."""

    n: int
    k: int
    free: bool
    cells: int
    share: float

    @property
    def name(self) -> str:
        return f"{self.n} × {self.k}, {'decoder free' if self.free else 'model given'}"

    def curve(self, seed: int) -> TradeOffCurve:
        q_x, p_z, decoder = random_tables(self.n, self.k, seed)
        return search_free(q_x, float(p_z[0])) if self.free else search(q_x, p_z, decoder, self.cells, polished=EPSILONS)


CASES = (
    Case(2, 2, False, 400, 1.0),
    Case(2, 3, False, 40, 0.4),
    Case(3, 2, False, 100, 0.2),
    Case(2, 2, True, 0, 1.0),
    Case(3, 2, True, 0, 1.0),
)
LEAST = 1e-4
"""Gaps below it are not counted, in nats."""


def largest(curve: TradeOffCurve, above: bool) -> float:
    """The largest gap where λ* ≥ |α|, or where λ* is smaller."""
    chosen = (curve.multiplier >= 1) == above
    return float(curve.gap[chosen].max(initial=0.0))


def row(case: Case, count: int) -> list[str]:
    found = [case.curve(seed) for seed in track(range(count), description=case.name)]
    low, high = ([largest(one, above) for one in found] for above in (False, True))
    any_gap = sum(max(pair) > LEAST for pair in zip(low, high, strict=True))
    return [
        *(case.name, str(count), str(any_gap)),
        *(str(sum(gap > LEAST for gap in low)), f"{max(low):.3f}"),
        *(str(sum(gap > LEAST for gap in high)), f"{max(high):.1e}" if max(high) < 1e-3 else f"{max(high):.3f}"),
    ]


def draw(path: Path) -> None:
    """Three panels: the counterexample, and V over ε with its hull for both problems."""
    from matplotlib import pyplot as plt

    with matplotlib.rc_context(STYLE):
        figure, (first, second, third) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
        t = np.linspace(0, 1, 401)
        first.plot(t, [mixing_lowers_the_bound(float(v)) for v in t], color="C0")
        ends = mixing_lowers_the_bound(0.1)
        first.plot([0.1, 0.9], [ends, ends], "o--", color="C3", lw=1, ms=4, label="mixture of the two ends")
        first.plot([0.5], [mixing_lowers_the_bound(0.5)], "o", color="C0", ms=4)
        first.set(xlabel="t", ylabel="bound on I − H(x), nats", title="the bound is not concave;\nKL(q‖p) = 0 all along")
        first.legend(loc="upper center", fontsize=8)
        q_x, p_z, decoder = random_tables(2, 2, 26)
        for axis, curve, title in (
            (second, search(q_x, p_z, decoder, 1000), "model given: a gap,\nbut only where λ < |α|"),
            (third, search_free(np.array([0.5, 0.5]), 0.7), "decoder free: a gap\nwhere λ ≥ |α|"),
        ):
            axis.plot(curve.kl, curve.information, color="C0", label="best information")
            axis.plot(curve.hull_kl, curve.hull_information, color="C3", ls="--", label="what the dual promises")
            steep = curve.multiplier >= 1
            axis.axvspan(curve.kl[0], curve.kl[steep][-1], color="C2", alpha=0.12, lw=0, label="λ ≥ |α|")
            axis.set(xlabel="ε, nats", ylabel="I, nats", title=title)
            axis.legend(loc="lower right", fontsize=8)
        figure.savefig(path)
        plt.close(figure)


def largest_free(p_one: float) -> str:
    """The largest gap with the decoder free and x fair, and λ there."""
    curve = search_free(np.array([0.5, 0.5]), p_one)
    at = int(curve.gap.argmax())
    return f"{curve.gap[at]:.4f} at λ = {curve.multiplier[at]:.1f} |α| for p(z) = ({p_one:g}, {1 - p_one:g})"


HEAD = ("x × z", "tables", "with a gap", r"where λ < \|α\|", "largest", r"where λ ≥ \|α\|", "largest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=100, help="how many of 2 × 2; of larger ones a share")
    parser.add_argument("--out", type=Path, help="also write the table there (results/maximising.md), and a figure beside it")
    options = parser.parse_args()
    points = (0.1, 0.5, 0.9)
    told = ", ".join(f"{mixing_lowers_the_bound(t):.4f} at t = {t:g}" for t in points)
    rows = [row(case, max(1, round(case.share * options.tables))) for case in CASES]
    lines = ["# The maximising problem on tiny tables", "", "Made by `python benchmarks/maximising.py`.", ""]
    lines += [
        f"- The bound on I, less H_q(x), on a line of tables with q = p: {told}; the middle is lower than the mean of the ends."
    ]
    lines += [f"- Decoder free, x fair: the largest gap in nats is {', '.join(largest_free(p) for p in (0.52, 0.6, 0.7))}."]
    if options.out:
        draw(options.out.with_suffix(".png"))
    lines += [
        "",
        f"Gaps above {LEAST:g} nat are counted; the largest are in nats.",
        "",
        *grid.table(HEAD, rows),
    ]
    grid.tell(lines, options.out)


if __name__ == "__main__":
    main()
