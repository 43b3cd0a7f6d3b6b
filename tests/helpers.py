"""What several tests start from: configs as a user composes them, the programs as a user runs them, and small files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import runpy
import struct
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from small import FINAL, ROOT, compose

from lagvae.experiment.calibration import Calibration

QUICK = (
    *FINAL,
    "data=linear_gaussian",
    "data.source.n=400",
    "data.batch=50",
    "data.draws=40",
    "trainer=cpu",
    "training.threads=1",
    "training.steps=40",
    "training.interval=20",
    "calibration.steps=20",
    "model.encoder.hidden=[8]",
    "model.decoder.hidden=[8]",
    "callbacks.figures=false",
    "callbacks.training.information.samples=40",
    "callbacks.final.information.samples=40",
    "callbacks.final.information.components=0",
)
"""Settings of a run that takes half a second."""

SHORT = ("training.steps=4", "training.interval=2", "calibration.steps=2")
"""After QUICK: the fewest steps, where it matters that there is a run, and not for how long it trains."""


ABSENT: Any = SimpleNamespace(noise_kind="normal", has_density=False)
"""In place of a part of a joint model that a test does not use."""


def settings(root: Path, *overrides: str) -> DictConfig:
    """The config that train.py would get for a command line; everything is kept under `root`."""
    cfg: DictConfig = compose(list(overrides))
    cfg.paths.root = str(root)
    return cfg


@dataclass
class Outcome:
    """How a program ended, what it said and what it left."""

    status: int
    out: str
    err: str
    new: set[str]
    """Files below its root that were not there before."""


def program(root: Path, *words: str, script: str = "train") -> Outcome:
    """Run src/train.py or a neighbour of it in this process, with the words of a command line."""
    before, there, environment = list(sys.argv), files(root), dict(os.environ)
    out, err, status = io.StringIO(), io.StringIO(), 0
    os.environ["LAGVAE_ROOT"] = str(root)
    sys.argv = [f"src/{script}.py", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            runpy.run_path(str(ROOT / "src" / f"{script}.py"), run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv[:] = before
        os.environ.clear()
        os.environ.update(environment)
        GlobalHydra.instance().clear()
        repo = ConfigStore.instance().repo
        for group in [name for name in repo if name.startswith("own_")]:
            del repo[group]  # what these words added to the groups of this process
    return Outcome(status, out.getvalue(), err.getvalue(), files(root) - there)


def refuses(said: Outcome, *pieces: str, leaves: set[str] | None = None) -> None:
    """Asserts that a program ended with status 1 and one line on stderr that holds the pieces, and that it left no file."""
    assert said.status == 1, said
    assert said.err.startswith("Error: "), said.err
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err + said.out
    for piece in pieces:
        assert piece in said.err, said.err
    assert {path for path in said.new if not path.startswith("data/.images")} == (
        leaves or set()
    )  # what was read is remembered


class Bomb:
    """An object whose unpickling makes the folder that BOMB names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def no_space(*args: Any, **kwargs: Any) -> None:
    """In place of what writes a file, on a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def made_up(cfg: DictConfig, value: float = 1.0) -> Calibration:
    """A calibration that found the same ε̂ for every constraint of a config."""
    names = [str(name) for name in cfg.constraints]
    return Calibration(dict.fromkeys(names, value), dict.fromkeys(names, 0.1), "val", {}, {})


def files(folder: Path) -> set[str]:
    """All files below a folder, as names relative to it; the locks by which processes own folders do not count."""
    found = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {str(path.relative_to(folder)) for path in found if path.name != "lock"}


def write_mnist(root: Path, name: str = "MNIST", train: int = 60, test: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Write images in the format of MNIST where torchvision looks for them; returns the training and the test images."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1998)
    found = []
    for prefix, n in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, n, dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, n, 28, 28) + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + labels.tobytes())
        found.append(torch.from_numpy(images))
    return found[0], found[1]


def write_cifar10(root: Path, n: int = 7) -> dict[str, np.ndarray]:
    """Write records of images in the binary format of CIFAR-10, n to a file; returns them, (n, 3073), by file."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator, written = np.random.default_rng(0), {}
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        labels = generator.integers(0, 10, (n, 1), dtype=np.uint8)
        written[name] = np.concatenate([labels, generator.integers(0, 256, (n, 3072), dtype=np.uint8)], 1)
        (folder / f"{name}.bin").write_bytes(written[name].tobytes())
    return written


def write_dsprites(file: Path, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Write binary images and the classes of their factors in the format of dSprites; returns both."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (n, 64, 64), dtype=np.uint8)
    classes = np.stack([generator.integers(0, k, n) for k in (1, 3, 6, 40, 32, 32)], 1)
    metadata = np.array({"title": "dSprites"}, dtype=object)  # a pickle in the published file, which is never loaded
    np.savez(file, imgs=images, latents_classes=classes, metadata=metadata)
    return images, classes


def follow(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, errors: torch.Tensor) -> torch.Tensor:
    """The values of a parameter after each step of an optimizer, whose gradients are the rows of `errors`."""
    path = []
    for error in errors:
        parameter.grad = error.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def ended_process() -> str:
    """The number of a process that is not there any more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return str(process.pid)


class Heard(Logger):
    """A logger that remembers what it is told."""

    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__()
        self.settings, self.rows = more, list[tuple[int | None, dict[str, float]]]()

    name, version = "heard", ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))
