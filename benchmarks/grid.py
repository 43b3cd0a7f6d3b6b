"""Many runs of the package's own train(), one process each, for benchmarks that need a grid."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def compose(overrides: list[str]) -> Any:
    """A config as train.py would compose it."""
    from hydra import compose, initialize_config_dir

    from lagvae.cli import register

    register(ROOT)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=overrides)


def calibrate(root: str, overrides: list[str]) -> None:
    """Make the calibration that all runs of a grid share."""
    os.environ["LAGVAE_ROOT"] = root
    from lagvae.experiment import calibrate_and_tell
    from lagvae.session import quiet

    quiet()
    calibrate_and_tell(compose(["training.threads=1", *overrides]))


def train(overrides: list[str], root: str) -> dict[str, Any]:
    """One run; returns its summary with the run's folder and overrides."""
    os.environ["LAGVAE_ROOT"] = root
    os.environ.pop("LAGVAE_RUN", None)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    from lagvae.experiment import train
    from lagvae.session import quiet

    quiet()
    cfg = compose(["training.threads=1", *overrides])
    summary = train(cfg)
    return summary | {"folder": os.environ["LAGVAE_RUN"], "overrides": overrides}


def run(jobs: Iterable[list[str]], root: str, processes: int, each: Callable[..., Any] = train) -> list[Any]:
    """Summaries of all jobs, in their order, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    jobs = list(jobs)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), max_tasks_per_child=8) as pool:
        results = pool.map(partial(each, root=root), jobs)
        return list(track(results, "Runs", total=len(jobs), console=Console(stderr=True)))
