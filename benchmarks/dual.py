"""Which dual optimizer? Controllers × starts over both signs and four slacks, on digits.

    python benchmarks/dual.py [--jobs N] [--steps N] [--controllers ascent rmsprop pi ...] [--json FILE]

For each run, from the −ELBO constraint on training data, in nats:
  violation   D − bound at the end (full evaluation); |violation| small means that the bound is met and used up
  overshoot   the largest running mean of D − bound after the bound was first met
  feasible    steps until the running mean of D first was at most 0.1 nat above the bound
  settled     steps after which the running mean stayed within 0.3 nat of the bound (– where it never did)
Rates say what the slack bought: high for α = −1, low for α = +1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GAMMAS = (0.15, 0.6, 1.5, 3.0)
WINDOW = 25  # logged rows, of every 10th step


def run(job: tuple[str, str, float, float, int, str]) -> dict[str, object]:
    controller, start, alpha, gamma, steps, root = job
    os.environ["LAGVAE_ROOT"] = root
    os.environ["HYDRA_FULL_ERROR"] = "1"
    from hydra import compose, initialize_config_dir

    from lagvae.cli import register
    from lagvae.experiment import prepare, quiet, train
    from lagvae.runs import Run, read_series

    quiet()
    register(ROOT)
    name, _, rest = controller.partition(":")
    extra = [f"multiplier.optimizer.{item}" for item in rest.split(",") if item]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[
                f"multiplier={name}",
                *extra,
                f"training.start={start}",
                f"alpha.q={alpha}",
                f"constraints.neg_elbo.gamma={gamma}",
                f"training.steps={steps}",
                "training.log_every=10",
                "training.threads=1",
                "callbacks.figures=false",
                f"name={controller.replace(':', '-').replace('=', '').replace(',', '-')}-{start}-{alpha}-{gamma}",
            ],
        )
    if gamma < 0:  # only calibrate
        cfg.constraints.neg_elbo.gamma = 0.0
        prepare(cfg)
        return {}
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    summary = train(cfg)
    c = summary["constraints"]
    series = read_series(Run(Path(root) / "runs" / cfg.name).metrics, "train", ["violation/neg_elbo"])
    steps_at, values = series["violation/neg_elbo"]
    means = [statistics.fmean(values[max(0, k - WINDOW + 1) : k + 1]) for k in range(len(values))]
    met = next((k for k, v in enumerate(means) if v <= 0.1), None)
    inside = [abs(v) <= 0.3 for v in means]
    last_outside = max((k for k, ok in enumerate(inside) if not ok), default=-1)
    return {
        "controller": controller,
        "start": start,
        "alpha": alpha,
        "gamma": gamma,
        "violation": c["neg_elbo"]["violation"],
        "mmd_verdict": c["mmd"]["verdict"],
        "verdict": c["neg_elbo"]["verdict"],
        "overshoot": max([0.0, *means[met:]]) if met is not None else None,
        "feasible": steps_at[met] if met is not None else None,
        "settled": steps_at[last_outside + 1] if last_outside + 1 < len(means) else None,
        "rate": summary["splits"]["train"]["rate"],
        "multiplier": c["neg_elbo"]["multiplier"],
        "stationarity": summary["stationarity"],
    }


def cell(values: list[float | None], how=statistics.median, digits: int = 2) -> str:  # type: ignore[no-untyped-def]
    known = [v for v in values if v is not None]
    missing = f" ({len(values) - len(known)} never)" if len(known) < len(values) else ""
    return (f"{how(known):.{digits}f}" if known else "–") + missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--controllers", nargs="+", default=["ascent", "rmsprop", "pi"])
    parser.add_argument("--starts", nargs="+", default=["scratch", "calibrated"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    root = tempfile.mkdtemp(prefix="dual-")
    run(("pi", "calibrated", -1.0, -1.0, options.steps, root))
    jobs = [
        (controller, start, alpha, gamma, options.steps, root)
        for controller in options.controllers
        for start in options.starts
        for alpha in (-1.0, 1.0)
        for gamma in GAMMAS
    ]
    from rich.progress import track

    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        results = list(track(pool.map(run, jobs), "Runs", total=len(jobs)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    print(
        "\n| controller | start | median \\|violation\\| | max \\|violation\\| | overshoot (max) | feasible (median) | settled (median) | rate α=−1 (mean) | rate α=+1 (mean) | MMD unmet |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for controller in options.controllers:
        for start in options.starts:
            rows = [r for r in results if r["controller"] == controller and r["start"] == start]

            def of(key: str, rows: list = rows) -> list:  # type: ignore[type-arg]
                return [r[key] for r in rows]

            size = [abs(v) for v in of("violation")]
            up = statistics.fmean(r["rate"] for r in rows if r["alpha"] < 0)
            down = statistics.fmean(r["rate"] for r in rows if r["alpha"] > 0)
            unmet = sum(v not in ("active", "inactive") for v in of("mmd_verdict"))
            print(
                f"| {controller} | {start} | {statistics.median(size):.3f} | {max(size):.3f} | {cell(of('overshoot'), max)} | "
                f"{cell(of('feasible'), digits=0)} | {cell(of('settled'), digits=0)} | {up:.2f} | {down:.2f} | {unmet}/8 |"
            )
    print(f"\n{options.steps} steps, γ₁ ∈ {GAMMAS}, α = ±1, one seed; violations in nats on training data.")


if __name__ == "__main__":
    main()
