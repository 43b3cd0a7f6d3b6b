"""The paper's Figure 1 on digits: only the sign of α matters, and information is monotone in the slack γ₁.

    python benchmarks/figure1.py [--jobs N] [--seeds N] [--out results/figure1]

Trains α ∈ {−4, −1, +1, +4} × γ₁ ∈ {0.15, 0.6, 1.5, 3} for each seed from one calibration, and writes a table (OUT.md)
and a figure (OUT.png). I is the middle of the interval on training data, in nats.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import grid

ALPHAS = (-4.0, -1.0, 1.0, 4.0)
GAMMAS = (0.15, 0.6, 1.5, 3.0)
CLAIM = 1.5  # the slack at which signs and sizes are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=grid.ROOT / "results" / "figure1")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="figure1-")
    grid.calibrate(root, options.overrides)
    cells = [(a, g, s) for a in ALPHAS for g in GAMMAS for s in range(options.seeds)]
    jobs = [
        [f"alpha.q={a}", f"constraints.neg_elbo.gamma={g}", f"seed={s}", "callbacks.figures=false", *options.overrides]
        for a, g, s in cells
    ]
    results = dict(zip(cells, grid.run(jobs, root, options.jobs), strict=True))
    text = "\n".join(table(results, options.seeds))
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    draw(results, options.seeds, options.out.with_suffix(".png"))


def information(results: dict[Any, dict[str, Any]], alpha: float, gamma: float, seeds: int) -> list[float]:
    return [results[alpha, gamma, s]["splits"]["train"]["i_q"] for s in range(seeds)]


def spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"


def table(results: dict[Any, dict[str, Any]], seeds: int) -> list[str]:
    lines = [f"Mean ± standard deviation over {seeds} seeds; nats; training data.", ""]
    head = "| α | γ₁ | −ELBO − bound | λ of −ELBO | I_q interval | I_q | verdicts −ELBO | verdicts MMD |"
    lines += [head, "|" + "---|" * 8]
    for a in ALPHAS:
        for g in GAMMAS:
            runs = [results[a, g, s] for s in range(seeds)]
            c = [r["constraints"] for r in runs]
            t = [r["splits"]["train"] for r in runs]
            lower, upper = (statistics.fmean(x[f"i_q_{side}"] for x in t) for side in ("lower", "upper"))
            lines.append(
                f"| {a:+g} | {g:g} | {spread([x['neg_elbo']['violation'] for x in c])} | "
                f"{spread([x['neg_elbo']['multiplier'] for x in c])} | [{lower:.2f}, {upper:.2f}] | "
                f"{spread([x['i_q'] for x in t])} | {count(x['neg_elbo']['verdict'] for x in c)} | "
                f"{count(x['mmd']['verdict'] for x in c)} |"
            )
    at = {a: statistics.fmean(information(results, a, CLAIM, seeds)) for a in ALPHAS}
    gap = at[-1.0] - at[1.0]
    size = max(abs(at[-1.0] - at[-4.0]), abs(at[1.0] - at[4.0]))
    worst = max(
        abs(results[a, CLAIM, s]["constraints"]["neg_elbo"]["violation"])
        for a in ALPHAS
        for s in range(seeds)
        if results[a, CLAIM, s]["constraints"]["neg_elbo"]["verdict"] != "inactive"
    )
    lines += [
        "",
        f"At γ₁ = {CLAIM}: I(α=−1) − I(α=+1) = {gap:.2f} nats; |α| = 1 and 4 differ by at most {size:.2f} nats "
        f"({100 * size / gap:.1f} % of that gap); the largest |−ELBO − bound| of any run not inactive: {worst:.3f} nat.",
        "",
    ]
    for a in ALPHAS:
        means = [statistics.fmean(information(results, a, g, seeds)) for g in GAMMAS]
        steps = [b - c for b, c in zip(means[1:], means, strict=False)]
        monotone = all(s > 0 for s in steps) if a < 0 else all(s < 0 for s in steps)
        lines.append(
            f"α = {a:+g}: I over γ₁ is {', '.join(f'{m:.2f}' for m in means)}; monotone: {'yes' if monotone else 'NO'}."
        )
    return lines


def count(verdicts: Any) -> str:
    verdicts = list(verdicts)
    return ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))


def draw(results: dict[Any, dict[str, Any]], seeds: int, path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    from lagvae.figures import STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        axis = figure.subplots()
        for a, colour, marker in zip(ALPHAS, ("#9c4221", "#ed8936", "#4299e1", "#2a4365"), "sovD", strict=True):
            values = [information(results, a, g, seeds) for g in GAMMAS]
            means = [statistics.fmean(v) for v in values]
            errors = [statistics.stdev(v) if seeds > 1 else 0 for v in values]
            axis.errorbar(GAMMAS, means, yerr=errors, color=colour, marker=marker, markersize=5, capsize=2, label=f"α = {a:+g}")
        axis.set_xlabel("slack γ₁ of −ELBO (nats)")
        axis.set_ylabel("I_q(x;z), middle of the interval (nats)")
        axis.set_title("Digits: information against slack", loc="left")
        axis.legend(fontsize=8)
        figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
