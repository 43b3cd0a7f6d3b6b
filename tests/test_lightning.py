"""A model in a plain trainer of Lightning: batches of any loader, values for callbacks, several loggers, and smoke runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from math import cos, pi
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import QUICK, files, program, settings
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from small import ROOT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lagvae.data import Arrays, Batch, DataModule
from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, NormalDecoder, StandardNormalPrior
from lagvae.divergences import MMD, RBF, NegElbo
from lagvae.errors import ComparisonError, DataError, DivergedError, SettingError
from lagvae.experiment import factory
from lagvae.experiment.calibration import calibration_config, calibration_folder, calibration_settings
from lagvae.experiment.factory import build_data, build_loggers, build_model
from lagvae.experiment.fit import Fit, refused_callbacks
from lagvae.experiment.run import train
from lagvae.experiment.validate import validate
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.log_ascent import LogAscent
from lagvae.model import LatentVariableModel, nonfinite_error
from lagvae.networks import MLP
from lagvae.pareto.points import collect
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import RunTensorBoardLogger
from lagvae.runs.metrics_table import read_rows
from lagvae.sweeps.matching import matched_overrides
from lagvae.sweeps.plan import trains_alone
from lagvae.sweeps.sweep_run import SweepRun

ROWS, SHAPE = 40, (1, 2, 2)
X = (torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(5)) > 0.5).float()
LABELS = torch.arange(ROWS)


def tiny(bernoulli: bool = True, network: Any = None, log_every: int = 4, **own: Any) -> LatentVariableModel:
    """A model with two learned multipliers and a schedule, the same at every call."""
    torch.manual_seed(0)
    network = network or partial(MLP, hidden=())
    decoder = (BernoulliDecoder if bernoulli else NormalDecoder)(network, SHAPE, 2)
    constraints = [
        Constraint("neg_elbo", NegElbo(), bound=2.0, learned=True),
        Constraint("mmd", MMD(RBF()), bound=1e-3, scale=1e-2, learned=True),
    ]
    return LatentVariableModel(
        JointModel(StandardNormalPrior(2), GaussianEncoder(network, SHAPE, 2), decoder),
        Lagrangian(Preference(-1.0), constraints),
        partial(torch.optim.Adam, lr=0.05),
        partial(LogAscent, steps=100, maximize=True),
        schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100),
        log_every=log_every,
        **own,
    )


def trainer(*callbacks: pl.Callback, **own: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return pl.Trainer(**{**quiet, "enable_checkpointing": checkpoints, **own}, callbacks=list(callbacks))


def loader(x: Any = X, batch: int = 10) -> DataLoader:
    return DataLoader(TensorDataset(x), batch)


class Rows(Dataset):
    """Rows of X in the form of a batch."""

    def __init__(self, form: Any) -> None:
        self.form = form

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> Any:
        return self.form(X[i], LABELS[i])


def state(model: LatentVariableModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """The same bits: the same operations on the same numbers in the same order."""
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# ---- training


FORMS = {
    "x": lambda x, y: x,
    "(x, y)": lambda x, y: (x, y),
    "{x, y}": lambda x, y: {"y": y, "x": x},
    "uint8": lambda x, y: (255 * x).to(torch.uint8),
    "double": lambda x, y: x.double(),
    "numpy": lambda x, y: (x.numpy(), y),
}


@pytest.fixture(scope="module")
def by_step() -> dict[str, Tensor]:
    """The model after six steps on batches that name their step."""
    batches = [Batch(X[10 * (t % 4) : 10 * (t % 4) + 10], LABELS[:10], t) for t in range(6)]
    model = tiny()
    trainer(max_steps=6).fit(model, DataLoader(batches, batch_size=None))
    return state(model)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_any_form_is_one_of_its_step(by_step: dict[str, Tensor], form: str) -> None:
    """The step is global_step, over the end of an epoch too, so noise and parameters are those of batches that name it."""
    model = tiny()
    trainer(max_steps=6).fit(model, DataLoader(Rows(FORMS[form]), 10))
    assert_same(state(model), by_step)


def test_training_ends_with_the_epochs_where_no_number_of_steps_is_given(tmp_path: Path) -> None:
    """Rows are logged every `log_every` steps and at the end of each epoch, in which the last batch is smaller."""
    model, logger = tiny(), CSVLogger(tmp_path, name="", version="")
    lightning = trainer(max_epochs=2, logger=logger, log_every_n_steps=1)
    lightning.fit(model, loader(X[:35], 6))
    assert lightning.global_step == 12
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    step, rate = rows[0].index("step"), rows[0].index("train/rate")
    assert [int(row[step]) for row in rows[1:] if row[rate]] == [4, 6, 8, 12]


def test_the_last_of_a_number_of_steps_is_logged(tmp_path: Path) -> None:
    """Also where it ends neither an epoch nor an interval of `log_every` steps; here both have four."""
    heard = Heard()
    trainer(max_steps=6, logger=heard, log_every_n_steps=1).fit(tiny(), loader())
    assert [step for step, row in heard.rows if "train/rate" in row] == [4, 6]


def test_our_data_train_in_a_plain_trainer_and_an_epoch_is_a_pass() -> None:
    data = DataModule(lambda: Arrays(X), "own", "bernoulli", 8, val=0.2, test=0.2)
    model, lightning = tiny(), trainer(max_steps=7)
    lightning.fit(model, data)
    assert (lightning.global_step, lightning.current_epoch) == (7, 3)
    assert {"train/rate", "train_probe/neg_elbo", "val/neg_elbo"} <= lightning.callback_metrics.keys()
    epochs = trainer(max_epochs=2)
    epochs.fit(tiny(), data)
    assert epochs.global_step == 2 * data.per_epoch == 6


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, first, second = tiny(), tiny(), tiny()
    trainer(max_epochs=4).fit(whole, loader())
    keep = ModelCheckpoint(tmp_path, filename="end", monitor="train/neg_elbo")
    trainer(keep, max_epochs=2).fit(first, loader())
    trainer(max_epochs=4).fit(second, loader(), ckpt_path=tmp_path / "end.ckpt")
    assert_same(state(second), state(whole))
    assert not torch.equal(second.lagrangian.scaled, first.lagrangian.scaled)


def test_layers_that_behave_differently_in_training_are_not_touched_by_the_check_of_a_shape() -> None:
    def network(shape_in: Any, shape_out: Any) -> nn.Module:
        return nn.Sequential(MLP(shape_in, (8,), hidden=()), nn.BatchNorm1d(8), MLP((8,), shape_out, hidden=()))

    model, passes = tiny(network=network), list[Any]()
    model.joint.decoder.register_forward_hook(lambda *given: passes.append(given))
    trainer(max_steps=3).fit(model, loader())
    assert len(passes) == 3 + 1, "the shape is asked for once"
    counts = [m.num_batches_tracked for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [int(n) for n in counts if n is not None] == [3, 3]
    assert all(m.training for m in model.modules())


class Break(pl.Callback):
    """Makes a parameter NaN before the third step."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            pl_module.joint.encoder.network.layers[0].weight.data.fill_(torch.nan)


def test_a_model_that_diverges_between_two_logged_steps_stops_at_the_end_of_the_epoch() -> None:
    lightning = trainer(Break(), max_epochs=3)
    with pytest.raises(DivergedError, match="NaN or infinite at step 3"):
        lightning.fit(tiny(bernoulli=False, log_every=100), loader())
    assert lightning.global_step == 4


# ---- evaluation and callbacks


def test_validation_logs_the_mean_over_all_rows() -> None:
    """The last of the batches is smaller. The rate depends on no noise, the distortion on that of the batch."""
    model = tiny(bernoulli=False)
    (found,) = trainer().validate(model, loader(batch=15), verbose=False)
    sums = Counter[str]()
    with torch.no_grad():
        for k, rows in enumerate(X.split(15)):
            samples = model.samples(Batch(rows, LABELS, k), "val", model.eval_model)
            sums["rate"] += float(samples.rate.sum())
            sums["distortion"] += float(samples.distortion.sum())
            sums["mmd"] += len(rows) * float(MMD(RBF())(samples))
    for name, total in sums.items():
        assert found[f"val/{name}"] == pytest.approx(total / ROWS, rel=1e-5)
    assert found["val/neg_elbo"] == pytest.approx((sums["rate"] + sums["distortion"]) / ROWS, rel=1e-5)
    assert found["val/violation/neg_elbo"] == pytest.approx(found["val/neg_elbo"] - 2.0, rel=1e-5)
    assert found["val/violation/mmd"] == pytest.approx(found["val/mmd"] - 1e-3, rel=1e-4), "in the unit of D, not of its scale"
    assert found["val/objective"] == pytest.approx(found["val/distortion"], rel=1e-5)
    (tested,) = trainer().test(model, loader(batch=15), verbose=False)
    assert {name.partition("/")[0] for name in tested} == {"test"}
    assert tested["test/rate"] == pytest.approx(found["val/rate"], rel=1e-5)
    assert tested["test/distortion"] != found["val/distortion"], "a test has noise of its own"


def test_minus_elbo_is_logged_without_a_constraint_on_it_and_the_average_is_what_is_evaluated() -> None:
    model = tiny(average=0.5)
    model.lagrangian = Lagrangian(Preference(-1.0), [])
    assert model.averaged is not None
    for p in model.averaged.module.parameters():
        p.data.zero_()
    (found,) = trainer().validate(model, loader(), verbose=False)
    bits = 4 * torch.tensor(2.0).log()  # the decoder says 1/2 to each of four pixels
    assert found["val/distortion"] == pytest.approx(float(bits), rel=1e-6)
    assert found["val/neg_elbo"] == pytest.approx(found["val/rate"] + found["val/distortion"], rel=1e-6)


def test_several_validation_loaders_keep_their_own_values() -> None:
    found = trainer().validate(tiny(), [loader(), loader(1 - X)], verbose=False)
    rates = [values[f"val/rate/dataloader_idx_{k}"] for k, values in enumerate(found)]
    assert rates[0] != rates[1]


def test_early_stopping_and_checkpoints_follow_validation(tmp_path: Path) -> None:
    """The first training stops because nothing is ever better by a million; each epoch is a candidate for the best one."""
    stop = EarlyStopping("val/neg_elbo", min_delta=1e6, patience=3)
    best = ModelCheckpoint(tmp_path, monitor="val/neg_elbo", filename="{epoch}", save_top_k=1)
    rates = LearningRateMonitor("step")
    lightning = trainer(stop, best, rates, max_epochs=50, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    model = tiny()
    lightning.fit(model, loader(), loader())
    assert lightning.current_epoch == 4
    assert best.best_model_path
    assert float(best.best_model_score) <= float(lightning.callback_metrics["val/neg_elbo"])
    assert float(lightning.callback_metrics["train/multiplier/mmd"]) == pytest.approx(float(model.lagrangian.multiplier[1]))
    assert {"train/violation/mmd", "train/objective"} <= lightning.callback_metrics.keys()
    assert float(lightning.callback_metrics["lr-LogAscent"]) == pytest.approx(pi / 2 * cos(pi / 2 * 14 / 100) * 12 / 100)


def test_predictions_are_codes_of_every_form_of_batch() -> None:
    model = tiny().eval()
    for form in ("x", "(x, y)", "{x, y}"):
        found = trainer().predict(model, DataLoader(Rows(FORMS[form]), 16))
        assert torch.equal(torch.cat(found), model.encode(X))


class Counts(TorchDispatchMode):
    """Counts the numbers that are read from tensors, for which a program waits for its device."""

    read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class ReadPerStep(pl.Callback):
    """How many numbers were read from tensors in each step, from the second on."""

    def __init__(self, counts: Counts) -> None:
        self.counts, self.per_step = counts, dict[int, int]()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step:
            self.per_step[trainer.global_step] = self.counts.read
        self.counts.read = 0


@pytest.mark.parametrize("own", [True, False])
def test_only_steps_that_are_logged_wait_for_the_device(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """Batches that lie on a device are looked at once; here the device of every tensor passes for another one."""
    batches = [Batch(X[:10], LABELS[:10], t) if own else X[:10] for t in range(12)]
    monkeypatch.setattr("lagvae.model.on_accelerator", lambda x: True)
    with Counts() as counts:
        read = ReadPerStep(counts)
        # Without the schedule and without Adam on the CPU, which read the numbers of steps that they keep in tensors.
        model = tiny()
        model.primal, model.dual = partial(torch.optim.SGD, lr=0.01), partial(torch.optim.SGD, lr=0.1, maximize=True)
        trainer(read, max_steps=12).fit(model, DataLoader(batches, batch_size=None))
    assert [step for step, count in read.per_step.items() if count] == ([4, 8] if own else [1, 4, 8])


# ---- bad input, before the first step


BAD = {
    "shape": (lambda x: x.flatten(1), r"shape \(10, 4\); this model takes \(N, 1, 2, 2\)"),
    "one row": (lambda x: x[0], r"shape \(1, 2, 2\); this model takes \(N, 1, 2, 2\).*x\[None\]"),
    "range": (lambda x: 3 * x - 1, r"values from -1 to 2, but the Bernoulli p\(x\|z\).*needs them in \[0, 1\]"),
    "nan": (lambda x: x.where(x > 0, torch.nan), r"NaN or infinite values"),
    "complex": (lambda x: x + 0j, r"x is torch.complex64; it must be"),
    "text": (lambda x: ["a"] * 10, r"x is .*; it must be a torch tensor or a numpy array of real numbers"),
    "name": (lambda x: {"image": x, "label": 1}, r'a dict with image, label; it needs x under "x"'),
    "nothing": (lambda x: (), "A batch is empty"),
}


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_batch_is_refused_before_the_first_step(bad: str, evaluation: bool) -> None:
    change, message = BAD[bad]
    model, good = tiny(), loader()
    before = state(model)
    wrong = DataLoader([change(rows) for rows in X.split(10)], batch_size=None)
    with pytest.raises(DataError, match=message):
        trainer(max_steps=4).fit(model, *((good, wrong) if evaluation else (wrong,)))
    assert_same(state(model), before)


def test_a_later_batch_is_checked_too() -> None:
    x = X.clone()
    x[25] = 7.0
    with pytest.raises(DataError, match=r"values from 0 to 7"):
        trainer(max_steps=4).fit(tiny(), loader(x))
    with pytest.raises(SettingError, match=r"at least two samples.*drop_last=True"):
        trainer(max_epochs=1).fit(tiny(), loader(X[:31]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2 does not work here.*larger batches"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val=1.0 does not work here.*gradient_clip"),
        ({"precision": "bf16-true"}, "precision=bf16-true does not work here.*bf16-mixed"),
        ({"precision": "16-true"}, "precision=16-true does not work here.*16-mixed"),
    ],
)
def test_what_a_trainer_cannot_do_here_is_refused(flags: dict[str, Any], message: str) -> None:
    model = tiny()
    before = state(model)
    with pytest.raises(SettingError, match=message):
        trainer(max_steps=2, **flags).fit(model, loader())
    assert_same(state(model), before)
    if "precision" not in flags:
        trainer(**flags).predict(model, loader())


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision: Any) -> None:
    model = tiny()
    before = state(model)
    trainer(max_steps=4, precision=precision).fit(model, loader(), loader())
    after = state(model)
    assert model.lagrangian.scaled.dtype == torch.float32
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(before["joint.encoder.network.layers.0.weight"], after["joint.encoder.network.layers.0.weight"])


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
    with pytest.raises(RuntimeError, match="out of memory"), refused_callbacks(cfg, trainer()):
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


class Heard(Logger):
    """A logger that remembers what it is told."""

    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__()
        self.settings, self.rows = more, list[tuple[int | None, dict[str, float]]]()

    name, version = "heard", ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


def test_several_loggers_hear_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "wandb_logger", Heard)
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
    factory.check_loggers(cfg)
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


def stub() -> Any:
    return SimpleNamespace(per_epoch=4)


# ---- smoke runs


TINY_DEBUG = [word for word in QUICK if not word.startswith(("training.steps", "training.interval", "calibration.steps"))]


@pytest.fixture(scope="module")
def debugged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a debug run, with its calibration."""
    root = tmp_path_factory.mktemp("debug")
    said = program(root, *TINY_DEBUG, "debug=fast", "name=smoke")
    assert said.status == 0, said.err
    assert "A debug run: its numbers mean nothing" in said.out
    return root


def test_a_debug_run_is_short_marked_and_in_a_folder_of_its_own(debugged: Path) -> None:
    assert {path.name for path in debugged.iterdir()} == {"debug"}
    run = RunFolder(debugged / "debug" / "runs" / "smoke")
    summary = run.read_summary()
    assert (summary["debug"], summary["steps"]) == ("fast", 10)
    assert "debug: fast" in run.config.read_text()
    (found,) = (debugged / "debug" / "calibrations").glob("*/calibration.json")
    assert json.loads(found.read_text())["settings"]["debug"] == "fast"


def test_no_other_run_uses_what_a_debug_run_left(debugged: Path) -> None:
    """Even with the same folders and all other settings the same."""
    debug = debugged / "debug"
    cfg = settings(debugged, *TINY_DEBUG, "debug=fast", "name=smoke")
    data = build_data(cfg)
    assert (calibration_folder(cfg, calibration_settings(cfg, data)) / "calibration.json").is_file()
    cfg.debug = None
    assert not calibration_folder(cfg, calibration_settings(cfg, data)).exists()
    with pytest.raises(SettingError, match="debug: fast → none"):
        SweepRun(cfg).check_folder()
    with pytest.raises(ComparisonError, match="it is a debug run, debug=fast"):
        collect([debug / "runs"])


def test_an_ordinary_run_has_the_settings_that_it_had_before_there_were_debug_runs(tmp_path: Path) -> None:
    run = SweepRun(settings(tmp_path, *QUICK))
    assert "debug" not in run.settings
    assert not [key for key in run.settings if key.startswith("callbacks.lightning")]


def test_a_debug_run_is_matched_with_none(tmp_path: Path) -> None:
    for name, debug in (("a", "null"), ("b", "fast")):
        folder = tmp_path / "runs" / "info" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"family: infovae\ndebug: {debug}\nalpha: {{q: -1}}\nseed: 0\n")
        (folder / "summary.json").write_text('{"name": "a"}')
    (words,) = matched_overrides("info", tmp_path / "runs", [], [])
    assert [word for word in words if word.startswith("match=")] == [f"match='{tmp_path / 'runs' / 'info' / 'a'}'"]


@pytest.mark.parametrize(
    "flag",
    [
        "fast_dev_run=true",
        "max_time=00:00:00:01",
        "limit_train_batches=2",
        "limit_val_batches=1",
        "limit_test_batches=1",
        "overfit_batches=1",
        "min_steps=9",
        "val_check_interval=3",
        "check_val_every_n_epoch=2",
    ],
)
def test_a_trainer_that_would_cut_a_run_short_is_refused(tmp_path: Path, flag: str) -> None:
    """The calibration of a run that was cut short would be taken for one that was not."""
    with pytest.raises(SettingError, match=rf"trainer.{flag.split('=')[0]}=.*debug=fast"):
        validate(settings(tmp_path, *QUICK, f"+trainer.{flag}"))


def test_a_debug_run_may_limit_its_batches(tmp_path: Path) -> None:
    validate(settings(tmp_path, *QUICK, "debug=fast", "trainer.limit_test_batches=1"))
    with pytest.raises(SettingError, match="fast_dev_run"):
        validate(settings(tmp_path, *QUICK, "debug=fast", "+trainer.fast_dev_run=true"))


# ---- the guide


def test_the_python_of_the_guide_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "guide.md").read_text("utf-8")
    section = text.partition("\n## With plain Lightning\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"model": tiny(), "x": X}
    exec(block, names)
    assert names["trainer"].current_epoch >= 4
    assert torch.cat(names["codes"]).shape == (20, 2)
    assert Path(names["best"].best_model_path).name == "best.ckpt"


@pytest.mark.parametrize(("first", "step"), [([0, -1], 0), ([-1, 7], 7), ([-1, -1], None)])
def test_the_first_term_that_is_not_finite_is_named_at_the_first_step_too(first: list[int], step: int | None) -> None:
    found = nonfinite_error(first, ["mmd", "−ELBO"], 9)
    if step is None:
        assert found is None
    else:
        name = "mmd" if step == 0 else "−ELBO"
        assert name in str(found)
        assert f"at step {step}" in str(found)


def test_a_step_on_a_processor_does_not_look_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam does, for which a library is loaded in every step."""
    asked: list[bool] = []
    ask = torch.accelerator.current_accelerator

    def counted(check_available: bool = False) -> torch.device | None:
        asked.append(check_available)
        return ask(check_available)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", counted)
    steps = {}
    for steps_to_take in (4, 8):
        asked.clear()
        trainer(max_steps=steps_to_take).fit(tiny(), loader())
        steps[steps_to_take] = asked.count(True)
    assert steps[4] == steps[8]
