r"""The regret of LagVAE: the information that it misses against a perfect search over multipliers.

    python src/train.py -m sweep=oracle folder=default constraints.neg_elbo.learned=true seed=2,3
    python src/train.py -m sweep=oracle folder=oracle constraints.neg_elbo.learned=false seed=2,3
    python src/train.py -m folder=warm_up seed=2,3 alpha.q=-1 multiplier.optimizer._target_=benchmarks.warm_up.WarmUp \
        '~multiplier.optimizer.reach' +multiplier.optimizer.start=0.1,0.2 constraints.neg_elbo.warm_up=0 \
        constraints.mmd.learned=false constraints.neg_elbo.multiplier=0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.7,0.8,0.9,1.0,1.15,1.3
    python benchmarks/regret.py runs/default runs/oracle runs/warm_up [more folders of LagVAE's runs] [--out results/regret.md]

The opponent is the front of the runs that are given the multiplier of −ELBO, as a constant or with a warm-up
(benchmarks/warm_up.py), for the same seed, sign of α and length: the concave
envelope of their information over −ELBO (convex if α > 0), between two neighbours a straight line. It knows the best multiplier
of every bound, at the price of a run for each of its candidates. The regret of a run (nats) is the front's information at the
−ELBO of the run, minus the information of the run if α < 0 (maximise), and with the opposite sign if α > 0 (minimise): positive
means worse than the opponent. Information is measured three times on the training split: as each end of the interval that I_q
lies in, and as the rate. At equal −ELBO, the rate orders the runs as the trained bound on I_q does: both signs train a bound
that is, up to a constant, ± the rate there. The lower end is the least reliable, because it changes its estimator where log K
limits it. The envelope is of noisy candidates, which is to the opponent's advantage.

The standard error of a regret is that of the estimates of information. All runs are evaluated on the same images, so that of
−ELBO is left out. It also leaves out that training again with another seed gives another model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, inf
from pathlib import Path
from statistics import median

import grid
from omegaconf import DictConfig, OmegaConf

from lagvae.errors import LagvaeError
from lagvae.io import write_atomically
from lagvae.runs.layout import runs_below
from lagvae.terminal import print_error

MEASURES = {"i_q_lower": "I_q, lower end", "i_q_upper": "I_q, upper end", "rate": "rate"}
GOALS = {-1: "maximise", 1: "minimise"}
LARGE = 0.3
"""Nats: no regret should be above it."""


@dataclass(frozen=True)
class Cell:
    """A finished run, on the training split. `values` maps each measure, and neg_elbo, to (value, standard error) in nats."""

    group: str
    seed: int
    sign: int
    start: str
    learned: bool
    multiplier: float
    bound: float
    gamma: float
    mmd_met: bool
    active: bool
    values: dict[str, tuple[float, float]]
    warmed_up: bool = False


def read_cells(folders: Sequence[Path]) -> Iterator[Cell]:
    """The finished runs below some folders, each with the name of the folder that it was found in."""
    for folder in folders:
        for run in runs_below(folder, set()):
            if not run.finished:
                print(f"left out, because it has not finished: {run.path}", file=sys.stderr)
                continue
            summary, cfg = run.read_summary(), OmegaConf.load(run.config)
            elbo, train = summary["constraints"]["neg_elbo"], summary["splits"]["train"]
            yield Cell(
                group=folder.name,
                seed=summary["seed"],
                sign=-1 if summary["alpha"]["q"] < 0 else 1,
                start=cfg.training.start,
                learned=elbo["learned"] and not is_given(cfg),
                warmed_up=is_given(cfg),
                multiplier=elbo["multiplier"] / abs(summary["alpha"]["q"]),
                bound=elbo["bound"],
                gamma=cfg.constraints.neg_elbo.gamma,
                mmd_met=summary["constraints"]["mmd"]["violation"] <= summary["constraints"]["mmd"]["tolerance"],
                active=elbo["verdict"] == "active",
                values={name: (train[name], train[f"{name}_stderr"]) for name in (*MEASURES, "neg_elbo")},
            )


def is_given(cfg: DictConfig) -> bool:
    """Whether λ follows a schedule to a given value, and never looks at the violation."""
    target = OmegaConf.select(cfg, "multiplier.optimizer._target_") or ""
    return str(target).endswith("WarmUp")


def front(cells: Sequence[Cell], measure: str, sign: int) -> list[Cell]:
    """The cells on the envelope of the measure over −ELBO, concave if maximising and convex if minimising."""
    points = sorted(cells, key=lambda c: (c.values["neg_elbo"][0], sign * c.values[measure][0]))
    kept: list[Cell] = []
    for cell in points:
        if kept and sign * cell.values[measure][0] >= sign * kept[-1].values[measure][0]:
            continue
        while len(kept) > 1 and sign * slope(kept[-2], kept[-1], measure) >= sign * slope(kept[-1], cell, measure):
            kept.pop()
        kept.append(cell)
    return kept


def slope(a: Cell, b: Cell, measure: str) -> float:
    """The change of the measure per nat of −ELBO, from a to b."""
    run = b.values["neg_elbo"][0] - a.values["neg_elbo"][0]
    return (b.values[measure][0] - a.values[measure][0]) / run if run > 0 else -inf * (1 if b.sign < 0 else -1)


def regret(cell: Cell, opponents: Sequence[Cell], measure: str) -> tuple[float, float]:
    """The regret of a run against a front, and its standard error, in nats; −inf where the whole front has a larger −ELBO."""
    at, (value, stderr) = cell.values["neg_elbo"][0], cell.values[measure]
    below = [c for c in opponents if c.values["neg_elbo"][0] <= at]
    if not below:
        return -inf, 0.0
    first, (y0, s0) = below[-1], below[-1].values[measure]
    if len(below) == len(opponents):
        return cell.sign * (value - y0), hypot(stderr, s0)
    second = opponents[len(below)]
    x0, x1 = (c.values["neg_elbo"][0] for c in (first, second))
    w = (at - x0) / (x1 - x0)
    expected = y0 + slope(first, second, measure) * (at - x0)
    return cell.sign * (value - expected), hypot(stderr, (1 - w) * s0, w * second.values[measure][1])


def regrets(cells: Sequence[Cell], opponents: Sequence[Cell], measure: str) -> list[tuple[Cell, float, float]]:
    """The regret and its standard error of each run that has opponents of its seed and sign."""
    rows = []
    for cell in cells:
        rivals = [c for c in opponents if (c.seed, c.sign) == (cell.seed, cell.sign) and c.mmd_met]
        if rivals:
            rows.append((cell, *regret(cell, front(rivals, measure, cell.sign), measure)))
    return rows


def report(cells: Sequence[Cell]) -> list[str]:
    """The lines of the report in Markdown."""
    opponents = [c for c in cells if not c.learned]
    groups = list(dict.fromkeys(c.group for c in cells if c.learned))
    lines = ["# Regret against a perfect search over multipliers", ""]
    starts = ", ".join(f"{sum(c.start == s for c in opponents)} from {s}" for s in dict.fromkeys(c.start for c in opponents))
    lines += [
        f"Opponent: {len(opponents)} runs with given λ₁ between {min(c.multiplier for c in opponents):g} and "
        f"{max(c.multiplier for c in opponents):g} ({starts}; {sum(c.warmed_up for c in opponents)} with a warm-up to λ₁ over "
        f"the first half), of which {sum(not c.mmd_met for c in opponents)} break the "
        "bound on MMD and are left out. All runs have the same length, data and calibration. Nats, on the training "
        "split; a positive regret is worse than the opponent. The last columns count the runs whose regret exceeds "
        f"{LARGE:g}, and those with a smaller −ELBO than every run of the opponent, whose regret is undefined.",
        "",
    ]
    rows = []
    for group in groups:
        for sign, goal in GOALS.items():
            chosen = [c for c in cells if c.learned and c.group == group and c.sign == sign]
            for measure, title in MEASURES.items():
                values = regrets(chosen, opponents, measure)
                finite = [r for _, r, _ in values if r > -inf]
                if finite:
                    large = sum(r > LARGE for _, r, _ in values)
                    rows.append(
                        [
                            *(
                                group,
                                goal,
                                title,
                                ", ".join(str(s) for s in sorted({c.seed for c, _, _ in values})),
                                str(len(finite)),
                            ),
                            *(f"{value:+.2f}" for value in (median(finite), min(finite), max(finite))),
                            *(str(large), str(len(values) - len(finite))),
                        ]
                    )
    lines += grid.table(
        ["runs", "goal", "measure", "seeds", "n", "median", "least", "largest", f"> {LARGE:g}", "undefined"], rows
    )
    for group in groups:
        chosen = [c for c in cells if c.learned and c.group == group]
        active = [abs(c.values["neg_elbo"][0] - c.bound) for c in chosen if c.active]
        lines += ["", f"## {group}", ""]
        if active:
            lines += [
                f"{len(active)} of {len(chosen)} runs have −ELBO at its bound; the largest distance of these is "
                f"{max(active):.3f} nats, the median {median(active):.3f}.",
                "",
            ]
        by = {m: {id(c): (r, e) for c, r, e in regrets(chosen, opponents, m)} for m in MEASURES}
        rows = []
        for c in sorted(chosen, key=lambda c: (c.sign, c.gamma, c.seed)):
            cells_of = [f"{r:+.2f} ± {e:.2f}" if r > -inf else "–" for r, e in (by[m].get(id(c), (-inf, 0)) for m in MEASURES)]
            interval = f"[{c.values['i_q_lower'][0]:.2f}, {c.values['i_q_upper'][0]:.2f}]"
            rows.append(
                [
                    *(GOALS[c.sign], f"{c.gamma:g}", str(c.seed)),
                    *(f"{c.bound:.2f}", f"{c.values['neg_elbo'][0]:.2f}", interval, f"{c.multiplier:.3f}", *cells_of),
                ]
            )
        head = ["goal", "γ₁", "seed", "bound", "−ELBO", "I_q", "λ₁", *(f"regret, {title}" for title in MEASURES.values())]
        lines += grid.table(head, rows)
    return lines


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw the interval for I_q over −ELBO, a panel for each sign of α: the opponent with its fronts, and LagVAE.

    A mark is the upper end, of which the fronts are made too; a bar is the interval.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for ax, (sign, goal) in zip(figure.subplots(1, 2), GOALS.items(), strict=True):
        end = "i_q_upper"
        rivals = [c for c in cells if c.sign == sign and not c.learned and c.mmd_met]
        learned = [c for c in cells if c.sign == sign and c.learned]
        series = {"given λ₁": ("0.55", "o", rivals)}
        for k, group in enumerate(dict.fromkeys(c.group for c in learned)):
            series[f"LagVAE, {group}"] = (f"C{k}", "D^sv"[k % 4], [c for c in learned if c.group == group])
        for label, (colour, marker, chosen) in series.items():
            x, y = [c.values["neg_elbo"][0] for c in chosen], [c.values[end][0] for c in chosen]
            low, high = ([c.values[m][0] for c in chosen] for m in ("i_q_lower", "i_q_upper"))
            ax.vlines(x, low, high, color=colour, lw=1, alpha=0.5)
            ax.plot(x, y, marker, color=colour, ms=3.5, label=label, zorder=3 if chosen is not rivals else 2)
        for seed in sorted({c.seed for c in rivals}):
            points = front([c for c in rivals if c.seed == seed], end, sign)
            ax.plot(
                [c.values["neg_elbo"][0] for c in points], [c.values[end][0] for c in points], color="0.55", lw=0.8, zorder=1
            )
        x = [c.values["neg_elbo"][0] for c in learned]
        left, right = min(x) - 0.5, max(x) + 0.5
        seen = [c.values[m][0] for c in cells if c.sign == sign and left < c.values["neg_elbo"][0] < right for m in MEASURES]
        ax.set(xlim=(left, right), ylim=(min(seen) - 0.4, max(seen) + 0.4))
        ax.set(title=f"{goal} information", xlabel="−ELBO (nats)", ylabel="I_q (nats); marks: upper end")
        ax.legend(fontsize=8)
    write_atomically(path, lambda part: figure.savefig(part, dpi=130, format="png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished runs, with learned and with fixed λ₁")
    parser.add_argument("--out", type=Path, help="also write the report there, and a figure beside it")
    options = parser.parse_args()
    try:
        cells = list(read_cells(options.folders))
        if not any(c.learned for c in cells) or all(c.learned for c in cells):
            sys.exit("These folders need runs with a learned and runs with a fixed multiplier of −ELBO: see sweep=oracle.")
        known = {c.seed for c in cells if not c.learned}
        cells = [c for c in cells if c.seed in known]  # a run without an opponent of its seed has no regret
        grid.tell(report(cells), options.out)
        if options.out is not None:
            draw(cells, options.out.with_suffix(".png"))
    except LagvaeError as error:
        print_error(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
