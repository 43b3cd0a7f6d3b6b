"""A model in a plain trainer of Lightning: batches of any loader, values for callbacks, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Heard
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from small import ROOT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lagvae.data import Arrays, Batch, DataModule
from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, NormalDecoder, StandardNormalPrior
from lagvae.divergences import MMD, RBF, NegElbo
from lagvae.errors import DataError, DivergedError, SettingError
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.log_ascent import LogAscent
from lagvae.model import LatentVariableModel, nonfinite_error
from lagvae.networks import MLP

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


@pytest.mark.parametrize(("first", "step"), [([0, -1], 0), ([-1, 7], 7), ([9, 3], 3), ([-1, -1], None)])
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
