"""LagVAE on the linear-Gaussian world, against the exact constrained optimum, for both signs of α.

    python benchmarks/linear_gaussian.py [--slacks 0.25 0.5 1] [--steps N] [--jobs N] [--out results/linear_gaussian.md]

The data are the 3,200 training samples of data=linear_gaussian, of which linear networks see only mean and covariance: the
optimum for this covariance (`lagvae.oracles.WaterFilling`) is the optimum of the very problem that is trained, without
sampling error. ε is the least −ELBO plus the slack. The rate of a Gaussian encoder is closed form, so I has no Monte Carlo
error; at the optimum I_q is the rate. λ is the mean over the last 500 steps.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import grid

SIGNS = {-1.0: "maximise", 1.0: "minimise"}
STEP = 1e-4
"""Nats of ε on either side, for the shadow price by finite differences."""


def settings(steps: int) -> list[str]:
    return [
        "data=linear_gaussian",
        "family=lagvae",
        "epsilon=explicit",
        "constraints.mmd.epsilon=5e-3",  # slack: q(z) = p(z) at the optimum
        "training.start=scratch",
        "model.encoder.hidden=[]",
        "model.decoder.hidden=[]",
        "model.latent=2",
        "model.optimizer.lr=0.02",
        f"training.steps={steps}",
        "training.interval=1000",
        "trainer=cpu",
        "callbacks.figures=false",
        "callbacks.final.information.samples=100",
        "~callbacks.final.two_sample_x",
        "~callbacks.final.two_sample_z",
    ]


def problem(words: list[str]) -> Any:
    """The exact problem of the training split: its covariance, and the latent dimension."""
    import torch

    from lagvae.experiment.factory import build_data
    from lagvae.oracles import WaterFilling

    cfg = grid.compose([*words, "constraints.neg_elbo.epsilon=0"])
    data = build_data(cfg)
    x = data.arrays.x[data.split["train"]].double()
    return WaterFilling(torch.cov(x.mT, correction=0), cfg.model.latent)


def value(exact: Any, alpha: float, epsilon: float) -> float:
    """The least f under −ELBO ≤ ε."""
    best = exact.optimum(alpha, epsilon)
    return float(alpha * best.rate if alpha > 0 else -alpha * best.distortion)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slacks", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, help="also write the table there (results/linear_gaussian.md)")
    parser.add_argument("overrides", nargs="*", help="settings of every run, KEY=VALUE")
    options = parser.parse_args()
    os.environ["LAGVAE_ROOT"] = root = options.root or tempfile.mkdtemp(prefix="linear-")
    words = [*settings(options.steps), *options.overrides]
    exact = problem(words)
    least = exact.least
    cells = [(alpha, slack) for alpha in SIGNS for slack in options.slacks]
    jobs = [[*words, f"alpha.q={alpha}", f"constraints.neg_elbo.epsilon={least.neg_elbo + slack!r}"] for alpha, slack in cells]
    summaries = grid.run(jobs, root, options.jobs)
    head = (
        "",
        "slack (nats)",
        "−ELBO − ε",
        "I",
        "I at the optimum",
        "error of I",
        "λ",
        "λ*",
        "−dV/dε",
        "error of λ",
        "verdict",
    )
    rows: list[list[str]] = []
    errors: dict[str, list[float]] = {"I": [], "λ": []}
    for (alpha, slack), summary in zip(cells, summaries, strict=True):
        epsilon = least.neg_elbo + slack
        best = exact.optimum(alpha, epsilon)
        slope = (value(exact, alpha, epsilon - STEP) - value(exact, alpha, epsilon + STEP)) / (2 * STEP)
        found, elbo = summary["splits"]["train"]["rate"], summary["constraints"]["neg_elbo"]
        off = {"I": found / best.rate - 1, "λ": elbo["multiplier"] / best.multiplier - 1}
        for name, error in off.items():
            errors[name].append(abs(error))
        violation = f"{elbo['violation']:+.3f} ± {elbo['train_stderr']:.3f}"
        shown = [SIGNS[alpha], f"{slack:g}", violation, f"{found:.3f}", f"{best.rate:.3f}", f"{100 * off['I']:+.2f} %"]
        shown += [f"{elbo['multiplier']:.4f}", f"{best.multiplier:.4f}", f"{slope:.4f}", f"{100 * off['λ']:+.1f} %"]
        rows.append([*shown, summary["verdict"]])
    lines = [
        *grid.table(head, rows),
        "",
        f"Largest error: {100 * max(errors['I']):.2f} % in I, {100 * max(errors['λ']):.1f} % in λ. {options.steps} steps, "
        f"α = ±1, one seed, nats; the least −ELBO is {least.neg_elbo:.4f} nats, with I = {least.rate:.4f}.",
    ]
    grid.tell(lines, options.out)


if __name__ == "__main__":
    main()
