"""Many runs of the package's own train(), one process each, for benchmarks that need a grid; and tables of what came out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def calibrate(root: str, overrides: list[str]) -> None:
    """Make the calibration that all runs of a grid share."""
    os.environ["LAGVAE_ROOT"] = root
    from lagvae.cli.commands import calibrate_command
    from lagvae.cli.entry import compose_config
    from lagvae.terminal import quiet_libraries

    quiet_libraries()
    calibrate_command(compose_config(["training.threads=1", *overrides]))


def train(overrides: list[str], root: str) -> dict[str, Any]:
    """One run, or what it left where it was made before; returns its summary with the run's folder and overrides."""
    os.environ["LAGVAE_ROOT"] = root
    from lagvae.cli.entry import compose_config
    from lagvae.experiment.run import train
    from lagvae.runs.layout import RunFolder
    from lagvae.terminal import quiet_libraries

    quiet_libraries()
    name = hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:12]
    run = RunFolder(Path(root) / "runs" / name)
    if run.finished:
        summary = run.read_summary()
    else:
        shutil.rmtree(run.path, ignore_errors=True)
        with open(os.devnull, "w") as hole, contextlib.redirect_stdout(hole), contextlib.redirect_stderr(hole):
            summary = train(compose_config(["training.threads=1", f"name={name}", *overrides]))
    return summary | {"folder": str(run.path), "overrides": overrides}


def run(jobs: Iterable[list[str]], root: str, processes: int) -> list[dict[str, Any]]:
    """Summaries of all jobs, in their order, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    jobs = list(jobs)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(train, job, root): k for k, job in enumerate(jobs)}
        done = track(as_completed(futures), f"Runs in {root}", total=len(jobs), console=Console(stderr=True))
        results = {futures[future]: future.result() for future in done}
    return [results[k] for k in range(len(jobs))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def tell(lines: Iterable[str], out: Path | None) -> None:
    """Print lines, and write them where a file is given."""
    text = "\n".join(lines)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")


def join(pictures: list[Path], out: Path) -> None:
    """Pictures beside each other, few enough colours to be small; nothing where there are none."""
    from PIL import Image

    if not pictures:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.open(p).convert("RGB") for p in pictures]
    canvas = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    x = 0
    for image in images:
        canvas.paste(image, (x, 0))
        x += image.width
    canvas.quantize(64).save(out, optimize=True)
