"""What callbacks.lightning, trainer and logger add to a run: Lightning's own parts and those of a user."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import QUICK, Heard, files, settings
from omegaconf import OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger

from lagvae.errors import SettingError
from lagvae.experiment import logger_settings
from lagvae.experiment.calibration import calibration_config, calibration_settings
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import Fit, refused_callbacks
from lagvae.experiment.logger_settings import build_loggers
from lagvae.experiment.run import evaluate, train
from lagvae.experiment.validate import validate
from lagvae.runs.layout import RunFolder
from lagvae.runs.metrics_table import read_rows
from lagvae.runs.tensorboard_logger import RunTensorBoardLogger
from lagvae.sweeps.plan import trains_alone
from lagvae.sweeps.sweep_run import SweepRun

# ---- callbacks of a run


CALLBACK = "+callbacks.lightning.{}={{_target_: pytorch_lightning.callbacks.{}}}"
STOP = CALLBACK.format("stop", "EarlyStopping, monitor: val/neg_elbo, min_delta: 1e6, patience: 1")
KEEP = CALLBACK.format("keep", "ModelCheckpoint, monitor: val/rate")


def test_a_run_takes_callbacks(tmp_path: Path) -> None:
    """It stops after two of four intervals; rows are as they are without callbacks, one for each step and name."""
    words = (*QUICK, "family=vae", "training.interval=10", "training.log_every=5")
    assert not any("callbacks" in message for message in train(settings(tmp_path, *words, "name=plain"))["messages"])
    summary = train(settings(tmp_path, *words, STOP, KEEP, "name=own"))
    assert (summary["steps"], summary["stopped_by"]) == (20, None)
    assert "A callback of callbacks.lightning stopped it after 20 of 40 steps." in summary["messages"]
    runs = [RunFolder(tmp_path / "runs" / name) for name in ("plain", "own")]
    whole, short = ([tuple(row.items()) for row in read_rows(run.metrics)] for run in runs)
    assert short == [row for row in whole if int(dict(row)["step"]) <= 20]
    assert set(Counter((dict(row)["step"], dict(row)["split"], dict(row)["name"]) for row in short).values()) == {1}
    assert len(files(runs[1].checkpoints / "keep")) == 1


def test_the_rows_of_a_callback_that_knows_no_splits_have_their_name(tmp_path: Path) -> None:
    word = CALLBACK.format("rate", "LearningRateMonitor, logging_interval: step")
    train(settings(tmp_path, *QUICK, "family=vae", "training.log_every=10", "name=run", word))
    run = RunFolder(tmp_path / "runs" / "run")
    rows = [row for row in read_rows(run.metrics) if row["split"] == "callback"]
    assert [(row["name"], float(row["value"]) < 0.01) for row in rows] == [("lr-Adam", True)] * 4


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_value_that_a_callback_cannot_monitor_is_named(tmp_path: Path, kind: str) -> None:
    words = (*QUICK, "family=vae", CALLBACK.format("mine", f"{kind}, monitor: val/elbo"))
    with pytest.raises(
        SettingError, match=r"callbacks\.lightning\.mine\.monitor=val/elbo is no value of this run; did you mean val/neg_elbo\?"
    ):
        train(settings(tmp_path, *words, "name=run"))


def test_what_a_callback_says_of_the_trainer_is_one_message(tmp_path: Path) -> None:
    """Lightning's average of weights is for one optimizer and a known number of epochs."""
    average = CALLBACK.format("average", "StochasticWeightAveraging, swa_lrs: 0.1")
    with pytest.raises(SettingError, match=r"Lightning refuses what callbacks\.lightning adds \(average\): SWA "):
        train(settings(tmp_path, *QUICK, "family=vae", "name=run", average))


def test_an_error_of_other_code_is_not_taken_for_one_of_a_callback() -> None:
    cfg = OmegaConf.create({"callbacks": {"lightning": {"stop": {"monitor": "val/rate"}}}})
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        refused_callbacks(cfg, pl.Trainer(accelerator="cpu", logger=False)),
    ):
        raise RuntimeError("out of memory")


def test_a_calibration_has_no_callbacks_of_the_run_that_it_is_for(tmp_path: Path) -> None:
    plain, own = (settings(tmp_path, *QUICK, *words) for words in ((), (STOP,)))
    data = build_data(plain)
    assert calibration_settings(own, data) == calibration_settings(plain, data)
    assert calibration_config(own).callbacks.lightning == {}


def test_a_run_with_callbacks_is_no_member_of_an_ensemble(tmp_path: Path) -> None:
    for words, alone in (((), False), ((STOP,), True)):
        assert trains_alone(SweepRun(settings(tmp_path, *QUICK, *words))) is alone


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+callbacks.lightning.a._target_=torch.nn.Identity", "callbacks.lightning.a is Identity, which is not a callback"),
        (CALLBACK.format("a", "EarlyStopping, monitr: a"), "callbacks.lightning.a.monitr is unknown"),
        (CALLBACK.format("a", "EarlyStopping"), "cannot be built.*monitor"),
        ("+trainer.accumulate_grad_batches=2", "accumulate_grad_batches=2 cannot be set.*data.batch"),
        ("trainer.precision=bf16-true", "precision=bf16-true does not work here"),
    ],
)
def test_a_callback_or_a_trainer_that_cannot_work_is_refused_before_anything_runs(
    tmp_path: Path, word: str, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        validate(settings(tmp_path, *QUICK, word))


# ---- loggers


def test_several_loggers_hear_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_settings, "build_wandb_logger", Heard)
    cfg = settings(tmp_path, *QUICK, "family=vae", "logger=[csv,wandb,tensorboard]", "training.log_every=10", "name=run")
    data = build_data(cfg)
    fit = Fit(cfg, data, build_model(cfg, data), RunFolder(tmp_path / "run"), "run")
    table, heard, board = fit.loggers
    assert isinstance(heard, Heard)
    assert isinstance(board, TensorBoardLogger)
    assert heard.settings["project"] == "lagvae"
    fit.train()
    table.save()
    told = Counter((step, key) for step, row in heard.rows for key in row)
    assert set(told.values()) == {1}
    kept = {(int(row["step"]), f"{row['split']}/{row['name']}") for row in read_rows(fit.folder.metrics)}
    assert told.keys() == kept
    assert {step for step, key in kept if key == "train/rate"} == {10, 20, 30, 40}


class OwnWandbLogger(Heard):
    """A logger of a user's own, which is one of W&B's by its name."""


def test_a_logger_of_ones_own_is_built_as_it_is_named(tmp_path: Path) -> None:
    cfg = settings(tmp_path, *QUICK, f"+logger.mine._target_={__name__}.OwnWandbLogger", "+logger.mine.depth=3")
    logger_settings.check_loggers(cfg)
    _, logger = build_loggers(cfg, RunFolder(tmp_path), stub())
    assert isinstance(logger, OwnWandbLogger)
    assert logger.settings == {"depth": 3}


@pytest.mark.parametrize(
    ("word", "classes"),
    [("csv", []), ("tensorboard", [RunTensorBoardLogger]), ("[tensorboard]", [RunTensorBoardLogger]), ("[]", [])],
)
def test_one_logger_or_none_beside_the_table(tmp_path: Path, word: str, classes: list[type]) -> None:
    loggers = build_loggers(settings(tmp_path, *QUICK, f"logger={word}"), RunFolder(tmp_path), stub())
    assert [type(logger) for logger in loggers[1:]] == classes


def test_a_run_of_an_earlier_version_has_its_logger(tmp_path: Path) -> None:
    """It named the class where there are now names of loggers."""
    cfg = settings(tmp_path, *QUICK)
    cfg.logger = {"_target_": None}
    assert len(build_loggers(cfg, RunFolder(tmp_path), stub())) == 1
    cfg.logger = {"_target_": "pytorch_lightning.loggers.TensorBoardLogger"}
    (_, board) = build_loggers(cfg, RunFolder(tmp_path), stub())
    assert isinstance(board, TensorBoardLogger)


def test_a_run_of_a_version_that_had_its_logger_elsewhere_is_evaluated(tmp_path: Path) -> None:
    words = (*QUICK, "family=vae", "name=a", "logger=tensorboard")
    train(settings(tmp_path, *words))
    run = RunFolder(tmp_path / "runs" / "a")
    text = run.config.read_text()
    former = text.replace("pytorch_lightning.loggers.TensorBoardLogger", "lagvae.runs.loggers.RunTensorBoardLogger")
    assert former != text
    run.config.write_text(former)
    assert evaluate(run)["family"] == "vae"


def stub() -> Any:
    return SimpleNamespace(per_epoch=4)
