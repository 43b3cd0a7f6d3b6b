"""A step that is recorded as a CUDA graph and replayed is the step. Without a GPU, a stand-in computes what a replay would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import QUICK, settings
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lagvae import model as model_module
from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, StandardNormalPrior
from lagvae.divergences import MMD, RBF, NegElbo
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.log_ascent import LogAscent
from lagvae.model import STEPS_BEFORE_RECORDING, LatentVariableModel
from lagvae.networks import MLP
from lagvae.recorded import RecordedStep, gradients
from lagvae.sweeps.ensemble_training import train_ensemble
from lagvae.sweeps.sweep_run import SweepRun

STEPS = 12


@pytest.fixture
def a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: make gpu")


class Computed(RecordedStep):
    """A stand-in that computes where the original replays."""

    replays = 0

    def __init__(self, compute: Callable[..., Any], parameters: Sequence[nn.Parameter], inputs: Sequence[Tensor]) -> None:
        self.compute, self.parameters, self.inputs = compute, list(parameters), list(inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        type(self).replays += 1
        outputs, loss = self.compute(*inputs)
        for p, g in zip(self.parameters, gradients(loss, self.parameters), strict=True):
            p.grad = g
        return [t.detach() for t in outputs]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Lets models on the CPU record their steps with the stand-in; gives the number of replays so far."""
    monkeypatch.setattr(model_module, "RecordedStep", Computed)
    monkeypatch.setattr(Computed, "replays", 0)
    record_on_cpu(monkeypatch)
    return lambda: Computed.replays


def record_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = LatentVariableModel.on_fit_start

    def on_fit_start(self: LatentVariableModel) -> None:
        begin(self)
        self._can_record = self.can_record()

    monkeypatch.setattr(LatentVariableModel, "on_fit_start", on_fit_start)


def small(network: Any = MLP, divergence: type[NegElbo] = NegElbo, kernel: type[RBF] = RBF) -> LatentVariableModel:
    torch.manual_seed(0)
    network = partial(network, hidden=[16])
    shape = (1, 4, 4)
    constraints = [
        Constraint("neg_elbo", divergence(), bound=10.0, learned=True),
        Constraint("mmd", MMD(kernel()), bound=1e-3, scale=1e-2, learned=True),
    ]
    return LatentVariableModel(
        JointModel(StandardNormalPrior(2), GaussianEncoder(network, shape, 2), BernoulliDecoder(network, shape, 2)),
        Lagrangian(Preference(-1.0), constraints),
        partial(torch.optim.Adam, lr=0.01),
        partial(LogAscent, steps=STEPS, maximize=True),
        gradient_clip=1.0,
        log_every=4,
    )


def fit(model: LatentVariableModel, *callbacks: pl.Callback, batch: int = 8, accelerator: str = "cpu") -> LatentVariableModel:
    x = (torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(max_steps=STEPS, accelerator=accelerator, devices=1, callbacks=list(callbacks), **off)
    trainer.fit(model, DataLoader(TensorDataset(x), batch))
    return model


def far(a: LatentVariableModel, b: LatentVariableModel) -> float:
    """The largest relative difference of a tensor of two models."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return float(torch.stack([(x.double() - y.double()).norm() / (y.double().norm() + 1e-12) for x, y in pairs]).max())


def test_a_replayed_step_is_the_step(replays: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in what is recorded of the last batch: terms, divergences, violations, multipliers."""
    recorded = fit(small())
    assert replays() == STEPS - STEPS_BEFORE_RECORDING
    monkeypatch.undo()
    plain = fit(small())
    assert far(recorded, plain) < 1e-6
    assert recorded.last_logged.keys() == plain.last_logged.keys()
    for name, value in plain.last_logged.items():
        assert float(recorded.last_logged[name]) == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize(
    ("batch", "replayed"),
    [(12, 6), (9, 6)],  # 12, 12 and 8 of 32 samples; 9, 9, 9 and 5, of which the smaller one comes first after the warm-up
)
def test_a_smaller_batch_is_computed_as_ever(
    batch: int, replayed: int, replays: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = fit(small(), batch=batch)
    assert replays() == replayed
    monkeypatch.undo()
    assert far(recorded, fit(small(), batch=batch)) < 1e-6


def test_a_frozen_parameter_stays_as_it_is(replays: Callable[[], int]) -> None:
    model = small()
    frozen = model.joint.encoder.network.layers[0].weight.requires_grad_(False)
    before = frozen.clone()
    fit(model)
    assert replays() == STEPS - STEPS_BEFORE_RECORDING
    assert torch.equal(frozen, before)


def test_an_ensemble_replays_its_step(tmp_path: Path, replays: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Members with seeds of their own, whose gradients are not in memory as their parameters are."""
    few = (*QUICK, "training.steps=20", "training.interval=10", "training.start=scratch", "epsilon=explicit")
    bounds = ("constraints.neg_elbo.epsilon=30", "constraints.mmd.epsilon=0.01")

    def members(root: str) -> list[SweepRun]:
        own = (("a", "alpha.q=-1", "seed=0"), ("b", "alpha.q=1", "seed=1"))
        cfgs = [settings(tmp_path / root, *few, *bounds, f"name={name}", *words) for name, *words in own]
        return [SweepRun(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))) for cfg in cfgs]

    def trained(root: str) -> list[dict[str, Tensor]]:
        runs = members(root)
        assert train_ensemble(runs, tmp_path / root / "job", lambda step, note: None) == {}
        return [torch.load(run.folder.last, weights_only=True)["state_dict"] for run in runs]

    recorded = trained("recorded")
    assert replays() == 20 - STEPS_BEFORE_RECORDING
    monkeypatch.undo()
    for own, plain in zip(recorded, trained("plain"), strict=True):
        for name, value in plain.items():
            torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


class OwnDivergence(NegElbo):
    """A divergence that is not of this package."""


class Watches(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the gradients."""


class OwnNetwork(MLP):
    """A network that is not of this package."""


def with_dropout(inputs: int, outputs: int, hidden: Sequence[int]) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), MLP(inputs, outputs, hidden=hidden))


class OwnModel(LatentVariableModel):
    """A model that is not of this package."""


class OwnKernel(RBF):
    """A kernel that is not of this package."""


class OwnLagrangian(Lagrangian):
    """A Lagrangian that is not of this package."""


class Freezes(pl.Callback):
    """A callback that changes the model in training."""


def hooked() -> LatentVariableModel:
    model = small()
    next(model.joint.parameters()).register_hook(lambda gradient: gradient)
    return model


def observed() -> LatentVariableModel:
    model = small()
    model.joint.encoder.network.layers[0].register_forward_hook(lambda *_: None)
    return model


def under(kind: type[Lagrangian]) -> LatentVariableModel:
    model = small()
    model.lagrangian.__class__ = kind
    return model


@pytest.mark.parametrize(
    ("build", "callbacks"),
    [
        (partial(small, OwnNetwork), ()),
        (partial(small, with_dropout), ()),
        (partial(small, divergence=OwnDivergence), ()),
        (partial(small, kernel=OwnKernel), ()),
        (partial(under, OwnLagrangian), ()),
        (small, (Watches(),)),
        (small, (Freezes(),)),
        (hooked, ()),
        (observed, ()),
    ],
    ids=[
        "network",
        "dropout",
        "divergence",
        "kernel",
        "Lagrangian",
        "watching callback",
        "other callback",
        "hook",
        "forward hook",
    ],
)
def test_what_python_has_a_part_in_is_not_recorded(
    build: Callable[[], LatentVariableModel], callbacks: tuple[pl.Callback, ...], replays: Callable[[], int]
) -> None:
    """A replay would leave that part out."""
    fit(build(), *callbacks)
    assert replays() == 0


def test_a_subclass_is_not_recorded(replays: Callable[[], int]) -> None:
    """It may measure in its own way."""
    model = small()
    model.__class__ = OwnModel
    fit(model)
    assert replays() == 0


def test_a_step_that_cannot_be_recorded_is_computed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(model_module, "RecordedStep", refuse)
    record_on_cpu(monkeypatch)
    model = fit(small())
    assert capsys.readouterr().out.count("operation not permitted") == 1
    monkeypatch.undo()
    assert far(model, fit(small())) < 1e-6


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The number of replays of a GPU so far."""
    replays = 0
    call = RecordedStep.__call__

    def counting(self: RecordedStep, inputs: Sequence[Tensor]) -> list[Tensor]:
        nonlocal replays
        replays += 1
        return call(self, inputs)

    monkeypatch.setattr(RecordedStep, "__call__", counting)
    return lambda: replays


@pytest.mark.gpu
@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_gpu_replays_what_an_ensemble_would_compute(
    tmp_path: Path, precision: str, compile: bool, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same kernels on the same numbers."""
    words = (*QUICK, f"trainer.precision={precision}", "trainer=gpu", "training.steps=40", "training.interval=20")
    words += ("training.start=scratch", "epsilon=explicit", "constraints.neg_elbo.epsilon=30", "constraints.mmd.epsilon=0.01")

    def trained(root: str) -> list[dict[str, Tensor]]:
        cfgs = [settings(tmp_path / root, *words, f"name=run{sign}", f"alpha.q={sign}") for sign in (-1, 1)]
        runs = [SweepRun(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))) for cfg in cfgs]
        assert train_ensemble(runs, tmp_path / root / "job", lambda step, note: None, compile) == {}
        return [torch.load(run.folder.last, weights_only=True)["state_dict"] for run in runs]

    recorded = trained("recorded")
    assert counted() == 40 - STEPS_BEFORE_RECORDING
    monkeypatch.setattr(LatentVariableModel, "can_record", lambda self: False)
    for own, plain in zip(recorded, trained("plain"), strict=True):
        for name, value in plain.items():
            torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.gpu
@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_replays_what_a_model_would_compute(counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = fit(small(), accelerator="gpu")
    assert counted() == STEPS - STEPS_BEFORE_RECORDING
    monkeypatch.setattr(LatentVariableModel, "can_record", lambda self: False)
    assert far(recorded.cpu(), fit(small(), accelerator="gpu").cpu()) < 1e-5
