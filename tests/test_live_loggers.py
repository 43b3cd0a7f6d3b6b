"""The runs of an ensemble are logged while they train, each to loggers of its own, and have every row once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
from helpers import QUICK, settings
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import read_offline

from lagvae.errors import Stopped
from lagvae.experiment.run import resume
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import STEP
from lagvae.runs.metrics_table import read_rows
from lagvae.runs.tensorboard_logger import RunTensorBoardLogger
from lagvae.runs.wandb_logger import RunWandbLogger, wandb_id
from lagvae.sweeps.ensemble_training import train_ensemble
from lagvae.sweeps.sweep_run import SweepRun

BOUNDS = ("epsilon=explicit", "constraints.neg_elbo.epsilon=9", "constraints.mmd.epsilon=0.1", "training.start=scratch")

LOGGED = ("logger=[wandb,tensorboard]", "logger.wandb.mode=offline", "training.log_every=10")


def run(root: Path, name: str, *words: str) -> SweepRun:
    cfg = settings(root, *QUICK, *BOUNDS, *LOGGED, f"name=grid/{name}", *words)
    return SweepRun(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[int]]:
    """(Logger, run) → the steps of the rows that were written, as they are."""
    steps: dict[tuple[str, str], list[int]] = defaultdict(list)

    def spied(kind: type[RunWandbLogger | RunTensorBoardLogger]) -> None:
        write: Callable[..., None] = kind.write

        def spy(self: RunWandbLogger, row: dict[str, float], step: int) -> None:
            steps[kind.__name__, self.run.path.name].append(step)
            write(self, row, step)

        monkeypatch.setattr(kind, "write", spy)

    spied(RunWandbLogger)
    spied(RunTensorBoardLogger)
    return steps


def drawn(folder: RunFolder, key: str) -> tuple[list[int], list[float]]:
    """The steps and values of a curve in TensorBoard."""
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars(key)
    return [event.step for event in scalars], [event.value for event in scalars]


def name_by_age(folder: RunFolder) -> None:
    """Name TensorBoard's files by their age, as they are where more than a second is between two."""
    files = sorted((folder.path / "tensorboard").glob("events.*"), key=lambda file: file.stat().st_mtime_ns)
    for age, file in enumerate(files):
        parts = file.name.split(".")
        parts[3] = str(age)  # the second in which it was begun
        file.rename(file.with_name(".".join(parts)))


def table(folder: RunFolder, key: str) -> tuple[list[int], list[float]]:
    """The same in metrics.csv."""
    rows = [row for row in read_rows(folder.metrics) if f"{row['split']}/{row['name']}" == key]
    return [int(row["step"]) for row in rows], [float(row["value"]) for row in rows]


def test_the_runs_of_an_ensemble_are_logged_while_they_train_and_have_every_row_once(
    tmp_path: Path, written: dict[tuple[str, str], list[int]]
) -> None:
    """It is interrupted after its checkpoint of step 20, and resumed."""
    runs = [run(tmp_path, f"seed{seed}", f"seed={seed}") for seed in (0, 1)]
    each = [(kind, f"seed{seed}") for kind in ("RunWandbLogger", "RunTensorBoardLogger") for seed in (0, 1)]
    seen: dict[int, list[list[int]]] = {}

    def look(step: int, note: str) -> None:
        seen[step] = [list(written[one]) for one in each]

    def stop(step: int, note: str) -> None:
        look(step, note)
        if step == 40:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        train_ensemble(runs, tmp_path / "job", stop)
    assert seen[40] == [[10, 20, 30]] * 4, "the values of a step are one row, which the next one ends"
    assert [read_offline(one.folder.path).exit for one in runs] == [1, 1]
    for one in runs:
        (former,) = (one.folder.path / "wandb").glob("offline-run-*")
        former.rename(former.with_name(former.name.replace("run-2", "run-1")))  # W&B names them by the second
    assert train_ensemble(runs, tmp_path / "job", look) == {}
    assert wandb.run is None
    for one in runs:
        name_by_age(one.folder)
        resume(one.folder)
        folder = one.folder
        kept = read_offline(folder.path)
        assert (kept.run.run_id, kept.run.run_group, kept.exit) == (wandb_id(folder), "grid", 0)
        assert kept.history[STEP] == [10, 20, 30, 40]
        assert "final/train/rate" in kept.summary
        for key in ("train/rate", "train_probe/neg_elbo"):
            steps, values = table(folder, key)
            assert kept.history[key] == pytest.approx(values)
            assert drawn(folder, key) == (steps, pytest.approx(values)), key
        assert len(drawn(folder, "final/train/rate")[0]) == 1


def test_a_run_of_an_ensemble_that_fails_ends_for_its_loggers_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run(tmp_path, name) for name in ("sick", "well")]
    runs[1].cfg.seed = 1
    losses = iter([float("nan"), 0.0, 0.0])
    monkeypatch.setattr(
        "lagvae.sweeps.ensemble_training.evaluated_loss",
        lambda results: next(losses),
    )
    failed = train_ensemble(runs, tmp_path / "job", lambda step, note: None)
    assert list(failed) == ["grid/sick"]
    sick, well = (read_offline(one.folder.path) for one in runs)
    assert (sick.exit, sick.history[STEP]) == (1, [10])
    assert (well.exit, well.history[STEP]) == (0, [10, 20, 30, 40])


def test_an_ensemble_that_breaks_leaves_no_run_open(tmp_path: Path) -> None:
    runs = [run(tmp_path, f"seed{seed}", f"seed={seed}") for seed in (0, 1)]

    def broken(step: int, note: str) -> None:
        if step == 20:
            raise RuntimeError("nobody foresaw this")

    with pytest.raises(RuntimeError, match="nobody foresaw this"):
        train_ensemble(runs, tmp_path / "job", broken)
    assert [read_offline(one.folder.path).exit for one in runs] == [1, 1]
