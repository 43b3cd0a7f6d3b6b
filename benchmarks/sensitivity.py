"""What a nat of slack buys: predicted from λ, and measured by training again with more slack, on digits.

    python benchmarks/sensitivity.py [--gamma 1] [--deltas 0.25 1] [--seeds 3] [--root FOLDER] [--out results/sensitivity.md]

For both signs of α, LagVAE trains at slack γ and at γ + δ from the same calibrated θ*. λ is the shadow price: with V(ε) the
least α · (bound on I), −dV/dε = λ, so the bound that α prefers (the lower one, −distortion, for α = −1; the upper one, the
rate, for α = +1) should move by ∓ ∫ λ dε. Predicted: from λ at γ alone, from λ at γ + δ alone, from the mean of both. Where
−ELBO stays at its bound the other bound moves by δ more. Values on training data; means over seeds ± standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grid

SIGNS = {-1.0: "maximise", 1.0: "minimise"}
FOLDER = "sensitivity"


def train(root: str, gammas: list[float], seeds: int, words: list[str]) -> dict[tuple[float, float, int], dict[str, Any]]:
    """(α, γ, seed) → summary, of all cells, trained as one sweep."""
    command = [sys.executable, str(grid.ROOT / "src" / "train.py"), "-m", f"folder={FOLDER}"]
    command += [f"alpha.q={','.join(map(str, SIGNS))}", f"constraints.neg_elbo.gamma={','.join(map(str, gammas))}"]
    command += [f"seed={','.join(map(str, range(seeds)))}", "callbacks.figures=false", *words]
    subprocess.run(command, check=True, env=os.environ | {"LAGVAE_ROOT": root})
    found = {}
    for file in sorted(Path(root).glob(f"runs/{FOLDER}/*/summary.json")):
        summary = json.loads(file.read_text(encoding="utf-8"))
        elbo = summary["constraints"]["neg_elbo"]
        for gamma in gammas:
            if abs(elbo["bound"] - elbo["calibrated"] - gamma) < 1e-6:
                found[summary["alpha"]["q"], gamma, summary["seed"]] = summary
    return found


def mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.3f} ± {error:.3f}"


def row(alpha: float, delta: float, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[list[str], bool, bool]:
    """Predicted and measured changes between runs that differ in slack alone; whether λ fell; whether both λ enclose them."""
    price = [[run["constraints"]["neg_elbo"]["multiplier"] / abs(alpha) for run in pair] for pair in pairs]
    at = [[run["splits"]["train"] for run in pair] for pair in pairs]
    sign, preferred, other = (1, "distortion", "rate") if alpha < 0 else (-1, "rate", "distortion")

    def moved(name: str) -> list[float]:
        # Information gained where it is maximised, lost where it is minimised; a bound is the rate, or minus the distortion.
        way = sign if name == "rate" else -sign
        return [way * (after[name] - before[name]) for before, after in at]

    met = [[run["constraints"]["neg_elbo"]["violation"] for run in pair] for pair in pairs]
    runs = [
        SIGNS[alpha],
        f"{delta:g}",
        mean([before * delta for before, _ in price]),
        mean([after * delta for _, after in price]),
        mean([statistics.fmean(both) * delta for both in price]),
        mean(moved(preferred)),
        mean([m - statistics.fmean(both) * delta for m, both in zip(moved(preferred), price, strict=True)]),
        mean([statistics.fmean(both) * delta + delta for both in price]),
        mean(moved(other)),
        mean([delta + after - before for before, after in met]),
    ]
    first, second = (statistics.fmean(each) * delta for each in zip(*price, strict=True))
    return runs, second < first, min(first, second) <= statistics.fmean(moved(preferred)) <= max(first, second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--deltas", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/sensitivity.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="sensitivity-")
    gammas = [options.gamma, *(options.gamma + delta for delta in options.deltas)]
    runs = train(root, gammas, options.seeds, options.overrides)
    head = ("", "δ (nats)", "from λ at γ", "from λ at γ + δ", "from their mean", "**measured**", "measured − their mean")
    head += ("other bound: predicted", "measured", "change of −ELBO")
    rows = []
    for alpha in SIGNS:
        for delta, gamma in zip(options.deltas, gammas[1:], strict=True):
            pairs = [(runs[alpha, options.gamma, s], runs[alpha, gamma, s]) for s in range(options.seeds)]
            rows.append(row(alpha, delta, pairs))
    met = sum(run["verdict"].startswith("met") for run in runs.values())  # converged or not
    fell, between = (sum(told) for told in list(zip(*rows, strict=True))[1:])
    lines = [
        *grid.table(head, [runs for runs, _, _ in rows]),
        "",
        f"Nats of information gained (maximise) or lost (minimise) for δ nats more of slack than γ = {options.gamma:g}, by the "
        "bound that α prefers; then by the other bound, which should move by δ more. Digits, α = ±1, "
        f"{options.seeds} seeds, training data; {met} of {len(runs)} runs met their bounds. With more "
        f"slack λ was smaller in {fell} of {len(rows)} rows; what was measured lies between what the λ at γ and the λ at γ + δ "
        f"promise in {between}.",
    ]
    grid.tell(lines, options.out)


if __name__ == "__main__":
    main()
