"""Run-steps per second of an ensemble, against the same runs one after another and against a plain hand-written loop.

    python benchmarks/ensemble.py [--runs 58] [--rounds 3] [--out results/ensemble.md] [--device cpu|gpu]

All three train the network of a case on the same data with the same objective, optimizer and batch, in turns within one
process. The ensemble and the single run are timed through their own trainers, with logging, from the 20th step on, when an
ensemble is compiled, to the last; the evaluation after it is left out of both. Compiling is given apart. The runs are those of
sweeps/pareto.yaml: every third of the grid at the paper's size on a CPU, where a sweep trains such runs one by one.

The share of the machine is the arithmetic of the matrix products of a step over what a large matrix product reaches.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import step as single
import torch

WARM = 20
"""The step from which an ensemble is timed."""
CASES = {  # name: overrides, steps
    "digits (mlp, 128 units)": (["data=digits", "model=mlp"], 300),
    "paper's network (mlp_paper, MNIST shape)": (
        ["data=array", "data.likelihood=bernoulli", "data.batch=250", "model=mlp_paper"],
        50,
    ),
}
EXPLICIT = ["epsilon=explicit", "constraints.neg_elbo.epsilon=24", "constraints.mmd.epsilon=4e-4", "training.start=scratch"]


def cells_of(words: list[str], count: int, steps: int, root: str) -> list[Any]:
    """Runs of the Pareto grid, half of each method, as a sweep would compose them."""
    from omegaconf import OmegaConf

    from lagvae.sweeps.sweep_run import SweepRun

    found = []
    for k in range(count):
        sign = 1 if k % 2 else -1
        own = [f"constraints.neg_elbo.epsilon={22 + k / 10}"] if k < count // 2 else ["multiplier=fixed"]
        cfg = single.compose(
            [
                *words,
                *EXPLICIT,
                f"alpha.q={sign}",
                *own,
                f"training.steps={steps}",
                f"name=run{k}",
                f"training.log_every={WARM // 2}",
            ]
        )
        cfg.paths.runs = tempfile.mkdtemp(dir=root)
        found.append(SweepRun(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))))
    return found


def through_stack(cells: list[Any], compile: bool) -> tuple[float, float]:
    """Seconds per step of the whole ensemble from step `WARM` on, and seconds before that."""
    from lagvae.sweeps.ensemble_training import train_ensemble

    seen: dict[int, float] = {}
    failed = train_ensemble(
        cells, Path(tempfile.mkdtemp()), lambda at, note: seen.setdefault(at, time.perf_counter()) and None, compile
    )
    assert not failed, failed
    last = max(seen)
    return (seen[last] - seen[WARM]) / (last - WARM), seen[WARM] - seen[0]


def products(cell: Any) -> float:
    """Floating point operations of the matrix products of one step of a run: forward 2, backward 4 per weight and sample."""
    from lagvae.experiment.factory import build_data, build_joint

    joint = build_joint(cell.cfg, build_data(cell.cfg))
    weights = [m.weight.numel() for m in joint.modules() if isinstance(m, torch.nn.Linear)]
    return float(cell.cfg.data.batch * (6 * sum(weights) - 2 * weights[0]))  # nobody asks for the gradient of x


def peak(device: str, dtype: torch.dtype, repeats: int = 20) -> float:
    """Operations per second of a large matrix product."""
    n = 2048 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        single.wait(a.device)
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=58)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the table there (results/ensemble.md)")
    options = parser.parse_args()
    os.environ["LAGVAE_ROOT"] = root = tempfile.mkdtemp(prefix="bench-")
    from rich.progress import track

    from lagvae.cli.entry import register
    from lagvae.data.sources import digits
    from lagvae.experiment.precision import choose_precision
    from lagvae.terminal import quiet_libraries

    quiet_libraries()
    register(single.ROOT)
    device = "cuda" if options.device == "gpu" else "cpu"
    generator = torch.Generator().manual_seed(0)
    torch.save((torch.rand(25_000, 1, 28, 28, generator=generator) < 0.2).float(), f"{root}/x.pt")
    most = {name: peak(device, dtype) for name, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16))}
    lines = [
        f"{single.machine(options.device)}, torch {torch.__version__}, {options.rounds} rounds; medians. "
        f"A large matrix product reaches {most['32-true'] / 1e9:.0f} GFLOP/s in fp32, {most['bf16-mixed'] / 1e9:.0f} in bf16.",
        "",
        "Run-steps per second, and ratios of the compiled ensemble.",
        "",
        "| case | precision | runs | plain loop | train.py, one by one | ensemble | compiled ensemble | over the plain loop: "
        "median (min – max) | over train.py | share of the peak | compiling (s) |",
        "|" + "---|" * 11,
    ]
    for name, (words, steps) in CASES.items():
        paper = "paper" in name
        count = options.runs // 3 if paper and device == "cpu" else options.runs
        words = [*words, f"trainer={options.device}", *([f"data.source.path={root}/x.pt"] if paper else [])]
        steps = steps if device == "cpu" else max(steps, 300)
        cells = cells_of(words, count, steps, root)
        x = torch.load(f"{root}/x.pt", weights_only=True) if paper else digits().x
        cfg = single.compose([*words, *EXPLICIT, f"training.steps={steps}"])
        cfg.trainer.precision = precision = choose_precision(cfg)
        assert isinstance(x, torch.Tensor)
        single.plain_loop(cfg, x.to(device), 20)
        rates: dict[str, list[float]] = {"plain": [], "single": [], "ensemble": [], "compiled": []}
        compiling = []
        for _ in track(range(options.rounds), name, transient=True):
            rates["plain"].append(1 / single.plain_loop(cfg, x.to(device), steps))
            rates["single"].append(1 / single.through_trainer(cfg, steps, WARM))
            rates["ensemble"].append(count / through_stack(fresh(cells, root), False)[0])
            seconds, before = through_stack(fresh(cells, root), True)
            rates["compiled"].append(count / seconds)
            compiling.append(before - WARM * seconds)
        middle = {key: statistics.median(values) for key, values in rates.items()}
        over = [a / b for a, b in zip(rates["compiled"], rates["plain"], strict=True)]
        through = statistics.median(a / b for a, b in zip(rates["compiled"], rates["single"], strict=True))
        lines.append(
            f"| {name} | {precision} | {count} | {middle['plain']:.0f} | {middle['single']:.0f} | {middle['ensemble']:.0f} | "
            f"{middle['compiled']:.0f} | {statistics.median(over):.2f} ({min(over):.2f} – {max(over):.2f}) | {through:.2f} | "
            f"{100 * middle['compiled'] * products(cells[0]) / most[precision]:.0f} % | {max(compiling):.0f} |"
        )
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def fresh(cells: list[Any], root: str) -> list[Any]:
    """The same runs, with new folders."""
    from lagvae.sweeps.sweep_run import SweepRun

    again = []
    for cell in cells:
        cfg = cell.cfg.copy()
        cfg.paths.runs = tempfile.mkdtemp(dir=root)
        again.append(SweepRun(cfg))
    return again


if __name__ == "__main__":
    main()
