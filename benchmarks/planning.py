"""Seconds until something happens: importing, --help, the plan of a large sweep, and resuming, as ratios to importing torch.

    python benchmarks/planning.py [--rounds 3] [--out results/planning.md]

Everything is timed in processes of its own, in turns within one run; the reference is `import torch` in one of them. A plan is
timed from the start of `run_sweep` to the moment when the first calibration would start. Resuming is `train.py resume=NAME` of
a run whose last checkpoint is that of its last step: it loads the checkpoint, measures and reports.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

GRIDS = {
    "1,000 runs: 10 α × 20 γ × 5 seeds": ["alpha.q=-8,-4,-2,-1,-0.5,0.5,1,2,4,8", "constraints.neg_elbo.gamma=range(1,21)"],
    "1,000 runs: 200 learning rates × 5 seeds": ["model.optimizer.lr=" + ",".join(f"{k / 1e5:g}" for k in range(1, 201))],
}
"""What is planned, with five seeds of each."""

SHORT = [
    *("training.steps=20", "training.interval=20", "training.start=scratch", "epsilon=explicit"),
    *("constraints.neg_elbo.epsilon=24", "constraints.mmd.epsilon=4e-4", "callbacks=light", "callbacks.figures=false"),
]


def seconds(words: list[str], root: str) -> float:
    """The time that a process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ | {"LAGVAE_ROOT": root}, check=True, capture_output=True)
    return time.perf_counter() - start


def plan(words: list[str]) -> None:
    """Print the seconds that train.py takes to plan a sweep, which is not started."""
    from lagvae.cli.programs import run
    from lagvae.sweeps import runner

    started: list[float] = []
    run_sweep = runner.run_sweep

    def planned(*_: object) -> None:
        print(f"planned in {time.perf_counter() - started[0]}", flush=True)
        os._exit(0)

    def begin(*given: object) -> None:
        started.append(time.perf_counter())
        run_sweep(*given)  # type: ignore[arg-type]

    runner.run_all, runner.run_sweep = planned, begin  # type: ignore[assignment]
    sys.argv = ["train.py", "-m", *words]
    run("train", ROOT)


def planning(words: list[str]) -> float:
    """The seconds of a plan, in a process of its own."""
    with tempfile.TemporaryDirectory() as root:
        done = subprocess.run(
            [sys.executable, __file__, "--plan", *words],
            cwd=ROOT,
            env=os.environ | {"LAGVAE_ROOT": root},
            check=True,
            capture_output=True,
            text=True,
        )
    return float(done.stdout.split("planned in")[1])


def resuming(root: str) -> float:
    """The seconds that resuming takes; the run is made where it is missing."""
    run = Path(root, "runs", "short")
    if not run.is_dir():
        seconds(["src/train.py", "name=short", *SHORT], root)
    (run / "summary.json").unlink()
    return seconds(["src/train.py", "resume=short"], root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table there (results/planning.md)")
    parser.add_argument("--plan", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        plan(options.plan)
        return
    from rich.progress import track

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        for _ in track(range(options.rounds), "planning", transient=True):
            taken = {
                "import torch (the reference)": seconds(["-c", "import torch"], root),
                "import lagvae": seconds(["-c", "import lagvae"], root),
                "train.py --help": seconds(["src/train.py", "--help"], root),
                **{name: planning([*words, "seed=0,1,2,3,4"]) for name, words in GRIDS.items()},
                "resume a trained run: load, measure, report": resuming(root),
            }
            for name, value in taken.items():
                found.setdefault(name, []).append(value)
    reference = next(iter(found.values()))
    lines = [f"{options.rounds} rounds in turns; medians, and medians of the ratios within a round.", ""]
    lines += ["| what | seconds | over importing torch |", "|---|---|---|"]
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, reference, strict=True))
        lines.append(f"| {name} | {statistics.median(values):.2f} | {ratio:.2f} |")
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
