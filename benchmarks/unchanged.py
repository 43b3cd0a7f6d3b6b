"""Whether the code trains and measures as that of a commit did: short runs of every kind must end with the same bits.

    python benchmarks/unchanged.py COMMIT

Both trees train the runs of `PROBES` with one thread on this machine, and evaluate and compare them. What is compared is what a
result is made from: every number of metrics.csv, summary.json and pareto.csv, and every tensor of the last checkpoint. A
clean-up, a message or a new module changes none of them; a change that does is printed with the first numbers that differ, and
the status is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SHORT = "training.threads=1 training.steps=100 training.interval=50 calibration.steps=100"
PAIR = "alpha.q=-1,1 constraints.neg_elbo.gamma=0.45 launcher.compile=false"
PROBES = (
    f"train.py name=alone {SHORT} seed=1",
    f"train.py -m folder=digits {SHORT} {PAIR} sweep=pareto family=lagvae",
    f"train.py -m folder=infovae {SHORT} sweep=pareto family=infovae alpha.q=-1,1 constraints.neg_elbo.multiplier=5 "
    "constraints.mmd.multiplier=3 launcher.compile=false",
    f"train.py -m folder=family family=vae_gan,avb,vmi,infogan,alice,asvae,cyclegan {SHORT} training.steps=20 "
    "training.interval=20 data.draws=1500 callbacks.figures=false launcher=processes",
    f"train.py -m folder=array {SHORT} {PAIR} data=array data.source.path={{root}}/x.npy likelihood=normal callbacks=light",
    f"train.py -m folder=linear {SHORT} {PAIR} data=linear_gaussian callbacks=light",
    f"train.py name=table {SHORT} data=table data.source.path={{root}}/x.csv callbacks=light",
    f"train.py name=conv {SHORT} model=conv training.steps=20 training.interval=20 callbacks=light data.draws=1500",
    "pareto.py {root}/runs/digits {root}/runs/infovae --out {root}/compared",
)
"""Programs of src/ with their words."""

MACHINE = {"versions", "seconds", "ensemble", "lagvae", "stopped_by", "digest"}
"""Keys of summaries and checkpoints that say how long something took, with what version, or from which folder, and the digest
that a summary has of itself, which every new key changes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="of git, such as HEAD~3")
    found = differences(parser.parse_args().commit)
    print("\n".join(found) if found else f"{len(PROBES)} probes end with the same bits.")
    sys.exit(bool(found))


def differences(commit: str) -> list[str]:
    """What differs between the runs of a commit and those of the tree as it is, the first few of each file."""
    with tempfile.TemporaryDirectory(prefix="unchanged-") as folder:
        before = extract(commit, Path(folder) / "tree")
        # One after another below the same path, so that no path in a file differs.
        numbers = []
        for tree in (before, ROOT):
            root = Path(folder) / "root"
            shutil.rmtree(root, ignore_errors=True)
            numbers.append(run_probes(tree, root))
        return list(compare(*numbers))


def extract(commit: str, folder: Path) -> Path:
    """The files of a commit, in a folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def run_probes(tree: Path, root: Path) -> dict[str, dict[str, Any]]:
    """File → place → value, of all that the probes of a tree leave in an empty folder. SystemExit where a probe fails."""
    from rich.console import Console
    from rich.progress import track

    write_data(root)
    env = os.environ | {"LAGVAE_ROOT": str(root), "PYTHONPATH": str(tree / "src")}
    for probe in track(PROBES, f"Probes of {tree.name}", console=Console(stderr=True)):
        program, *words = probe.format(root=root).split()
        done = subprocess.run(
            [sys.executable, f"src/{program}", *words],
            cwd=tree,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(
                f"In {tree}: {program} {' '.join(words)} ends with status {done.returncode}:\n{done.stderr[-2000:]}"
            )
    return read_numbers(root)


def write_data(root: Path) -> None:
    """Continuous vectors, and a table with a column of categories and a gap."""
    import numpy as np

    root.mkdir(parents=True)
    x = np.random.default_rng(0).normal(size=(600, 6)).astype("float32")
    x[:, 3:] += x[:, :3]
    np.save(root / "x.npy", x)
    rows = [
        f"{a:.4f},{b:.4f},{'' if k % 50 == 7 else f'{c:.4f}'},{'xyz'[k % 3]}" for k, (a, b, c) in enumerate(x[:, [0, 3, 5]])
    ]
    (root / "x.csv").write_text("\n".join(["a,b,c,kind", *rows]) + "\n", encoding="utf-8")


def read_numbers(root: Path) -> dict[str, dict[str, Any]]:
    """File → place → value, of the runs and comparisons below a folder."""
    import torch

    numbers: dict[str, dict[str, Any]] = {}
    for file in sorted(root.rglob("*")):
        name = str(file.relative_to(root))
        if file.name == "summary.json":
            numbers[name] = dict(leaves(json.loads(file.read_text(encoding="utf-8"))))
        elif file.name in ("metrics.csv", "pareto.csv"):
            numbers[name] = dict(enumerate(file.read_text(encoding="utf-8").splitlines()))  # type: ignore[arg-type]
        elif file.name == "last.ckpt":
            content = torch.load(file, map_location="cpu", weights_only=True)
            numbers[name] = dict(leaves({key: content[key] for key in ("state_dict", "optimizer_states", "global_step")}))
    return numbers


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Place → value of nested dicts and lists; a tensor is its bytes, so that it equals only one of the same bits."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in MACHINE:
                yield from leaves(item, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from leaves(item, f"{place}/{k}")
    elif hasattr(value, "numpy"):
        yield place, value.contiguous().numpy().tobytes()
    else:
        yield place, "nan" if isinstance(value, float) and math.isnan(value) else value


def compare(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], most: int = 3) -> Iterator[str]:
    """The files that only one side has, and the first `most` values of each other file that differ.

    A value that only the later side has is no difference: a new key changes no number that a result is made from.
    """
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name}: only {'before' if name in before else 'after'}"
            continue
        old, new = before[name], after[name]
        differing = [place for place in old if place not in new or old[place] != new[place]]
        for place in differing[:most]:
            yield f"{name}: {place}: {shown(old[place])} before, {shown(new.get(place))} after"
        if len(differing) > most:
            yield f"{name}: {len(differing) - most} more"


def shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main()
