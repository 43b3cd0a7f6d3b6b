"""The interval for I_q(x;z) of trained models, by the bounds of before and by all that there are now.

    python benchmarks/interval.py [--mnist] [--jobs N] [--root FOLDER] [--out results/interval.md]

LagVAE on digits, α = −1 with γ₁ = 1 nat and α = +1 with γ₁ = 0.15 nat; with --mnist also both signs of benchmarks/mnist.py.
Each model is measured twice on each split:
  before   K = 10,000 draws of the training images, elsewhere each image once; lower: aggregate posterior with the own sample;
           upper: the least of the rate, the aggregate posterior without the own sample, and a Gaussian mixture
  now      the settings of conf/callbacks, which choose among all bounds of `lagvae.metrics.Information`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import grid
import mnist

RUNS = {
    "digits, α = −1": ["alpha=maximize", "constraints.neg_elbo.gamma=1"],
    "digits, α = +1": ["alpha=minimize", "constraints.neg_elbo.gamma=0.15"],
}
MNIST = {
    "MNIST, α = −1": [*mnist.SETTINGS, "alpha=maximize"],
    "MNIST, α = +1": [*mnist.SETTINGS, "alpha=minimize"],
}
SPLITS = ("train", "val", "test")
OLD = ("rate", "leave_one_out", "density")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", action="store_true", help="MNIST too (about ten minutes more)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--root", help="folder of the runs; finished ones that are there are not trained again")
    parser.add_argument("--out", type=Path, default=grid.ROOT / "results" / "interval.md")
    options = parser.parse_args()
    root = options.root or tempfile.mkdtemp(prefix="interval-")
    runs = RUNS | (MNIST if options.mnist else {})
    plain = [[*settings, "callbacks.figures=false"] for settings in runs.values()]
    for settings in plain:
        grid.calibrate(root, settings)
    rows: list[str] = []
    for name, summary in zip(runs, grid.run(plain, root, options.jobs), strict=True):
        rows += rows_of(name, Path(summary["folder"]))
    lines = [
        "# The interval for I_q(x;z), before and now",
        "",
        "Nats, ± standard error of each end. `python benchmarks/interval.py" + (" --mnist`" if options.mnist else "`") + ".",
        "",
        "| | split | before | width | now | width | by | seconds before | now |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *(line for line in (__doc__ or "").splitlines()[4:] if line),
        *([f"MNIST: {mnist.described(mnist.SETTINGS)}."] if options.mnist else []),
    ]
    print("\n".join(lines))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows_of(name: str, folder: Path) -> list[str]:
    """A row for each split of a run."""
    from lagvae.cli.entry import compose_config
    from lagvae.experiment.factory import build_data, instantiate
    from lagvae.experiment.fit import read_checkpoint
    from lagvae.experiment.run import build_start, read_config
    from lagvae.metrics import Information, tightest
    from lagvae.runs.layout import RunFolder

    run = RunFolder(folder)
    cfg = read_config(run)
    data = build_data(cfg)
    model = build_start(cfg, data)[0]
    model.load_state_dict(read_checkpoint(run.last, model)["state_dict"])
    model.eval()
    now = instantiate(compose_config([]).callbacks.final.information)
    before = partial(Information, samples=10_000, components=10, pairs=10**9)
    rows = []
    for split in SPLITS:
        old, old_seconds = measured(before(), model, data, split, once=split != "train")
        new, seconds = measured(now(), model, data, split)
        named = tightest(new)
        upper = min(OLD, key=lambda bound: old[f"i_q_upper_{bound}"])
        was, error = (old["i_q_lower"], old[f"i_q_upper_{upper}"]), (old["i_q_lower_stderr"], old["i_q_upper_stderr"])
        ends, errors = (new["i_q_lower"], new["i_q_upper"]), (new["i_q_lower_stderr"], new["i_q_upper_stderr"])
        rows.append(
            f"| {name} | {split} | {interval(was, error)} | {was[1] - was[0]:.2f} | {interval(ends, errors)} | "
            f"**{ends[1] - ends[0]:.2f}** | {named['i_q_lower_by']}, {named['i_q_upper_by'].replace('_', ' ')} | "
            f"{old_seconds:.1f} | {seconds:.1f} |"
        )
    return rows


def interval(ends: tuple[float, float], errors: tuple[float, float]) -> str:
    low, high = (f"{value:.2f} ± {error:.2f}" for value, error in zip(ends, errors, strict=True))
    return f"[{low}, {high}]"


def measured(measure: Any, model: Any, data: Any, split: str, once: bool = False) -> tuple[dict[str, float], float]:
    """What a metric says of a split, and the seconds that it took; `once`: of a single pass over its images."""
    import torch

    noise = data.noise(split)
    assert measure.is_applicable(model.eval_model, data, split)
    with torch.no_grad():
        for batch in data.eval_loader(split, torch.device("cpu"), 1 if once else data.passes(split)):
            observed = data.observed(batch, noise)
            measure.update(model.samples(observed, split, model.eval_model), observed.index)
        start = time.perf_counter()
        found = {key: float(value) for key, value in measure.compute().items()}
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
