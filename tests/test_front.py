"""One model for all slacks: its networks, λ(γ), its life as a run, and the exact front of the linear-Gaussian world."""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK, program, refuses, settings
from torch import nn

import lagvae
from lagvae.distributions import GaussianEncoder, JointModel, NormalDecoder, StandardNormalPrior
from lagvae.divergences import NegElbo
from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.experiment.factory import load_data
from lagvae.experiment.run import resume, train
from lagvae.front import (
    Front,
    FrontLagrangian,
    Modulated,
    ScaleShift,
    Slacks,
    condition,
    decreasing,
    unconditioned,
)
from lagvae.lagrangian import Constraint, Lagrangian, Preference, Values
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP, ConvDecoder, ConvEncoder
from lagvae.oracles import WaterFilling
from lagvae.runs.layout import RunFolder

FRONT = (*QUICK, "family=front", "training.slacks=[0.2,3.0]")


def joint_of(kind: str) -> tuple[JointModel, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "conv":
        shape: tuple[int, ...] = (1, 8, 8)
        networks: Any = partial(ConvEncoder, channels=[4, 4]), partial(ConvDecoder, channels=[4, 4])
    else:
        shape, networks = (5,), (partial(MLP, hidden=[6]), partial(MLP, hidden=[6]))
    encoder, decoder = (
        GaussianEncoder(networks[0], shape, 3),
        NormalDecoder(networks[1], shape, 3, shared_scale=kind != "scales"),
    )
    return JointModel(StandardNormalPrior(3), encoder, decoder), torch.rand(7, *shape)


def outputs(joint: JointModel, x: torch.Tensor) -> list[torch.Tensor]:
    q = joint.encoder(x).base_dist
    p = joint.decoder(q.loc).base_dist
    return [q.loc, q.scale, p.loc, p.scale]


def changed(joint: JointModel) -> None:
    """Make the networks depend on γ."""
    for module in joint.modules():
        if isinstance(module, Modulated | ScaleShift):
            nn.init.normal_(module.change, std=0.1)


@pytest.mark.parametrize("kind", ["mlp", "scales", "conv"])
def test_conditioned_networks_start_as_they_were_and_are_plain_ones_at_every_slack(kind: str) -> None:
    joint, x = joint_of(kind)
    before = outputs(joint, x)
    slacks = Slacks(0.1, 4.0, own=1.5)
    condition(joint, slacks)
    torch.testing.assert_close(outputs(joint, x), before)
    changed(joint)
    gammas = torch.linspace(0.1, 4.0, len(x))
    with slacks.at(gammas):
        rows = outputs(joint, x)
    for i, gamma in enumerate(gammas.tolist()):
        with slacks.at(gamma):
            plain = unconditioned(joint)
        assert not any(isinstance(module, Modulated | ScaleShift) for module in plain.modules())
        torch.testing.assert_close(outputs(plain, x[i : i + 1]), [value[i : i + 1] for value in rows])
    # The rows differ by their γ, and outside of a context the model acts at its own.
    assert not torch.allclose(rows[0], before[0])
    with slacks.at(1.5):
        own = outputs(unconditioned(joint), x)
    torch.testing.assert_close(outputs(joint, x), own)


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(3, 2, 3), nn.ConvTranspose2d(3, 2, 3)], ids=str)
def test_layers_of_unequal_widths_are_scaled_by_their_own_channels(layer: Any) -> None:
    slacks = Slacks(0.1, 4.0, own=1.5)
    modulated, x = Modulated(layer, slacks), torch.randn(4, 3, *[5] * (layer.weight.dim() - 2))
    torch.testing.assert_close(modulated(x), layer(x))
    nn.init.normal_(modulated.change, std=0.1)
    assert modulated(x).shape == layer(x).shape
    assert not torch.allclose(modulated(x), layer(x))


def test_slacks_cover_the_range_and_interpolate_linearly_in_log_gamma() -> None:
    slacks = Slacks(0.1, 4.0, own=1.5)
    assert slacks.knots[0] == 0.1
    assert slacks.knots[-1] == 4.0
    assert 1.5 in slacks.knots
    gamma = slacks.sample(torch.rand(4000, 2))
    assert 0.1 <= float(gamma.min()) <= float(gamma.max()) <= 4.0 + 1e-5
    w = slacks.weights(gamma)
    torch.testing.assert_close(w.sum(1), torch.ones(4000))
    torch.testing.assert_close(w @ slacks.log_knots, gamma.log(), atol=1e-5, rtol=0)
    torch.testing.assert_close(w.mean(0), slacks.share, atol=1e-3, rtol=0)


def front_lagrangian(alpha: float = -1.0) -> FrontLagrangian:
    constraint = Constraint("neg_elbo", NegElbo(), bound=21.5, multiplier=0.5, learned=True)
    return FrontLagrangian(Preference(alpha), [constraint], Slacks(0.1, 4.0, own=1.5))


def test_lagrangian_is_the_mean_over_slacks_and_its_multiplier_decreases() -> None:
    lagrangian = front_lagrangian()
    knots = torch.tensor(lagrangian.slacks.knots)
    torch.testing.assert_close(lagrangian.bound, 20.0 + knots)
    lagrangian.scaled.data.copy_(torch.linspace(2.0, 0.5, len(knots)))
    excess = torch.full_like(knots, 0.3)  # the same at every slack, so that L = f + 0.3 E_γ λ(γ)
    gamma = lagrangian.slacks.sample(torch.rand(20_000, 2))
    mean = (lagrangian.slacks.weights(gamma) @ lagrangian.scaled).mean()
    values = Values({"rate": torch.tensor(9.0), "distortion": torch.tensor(12.0)}, lagrangian.bound + excess)
    torch.testing.assert_close(lagrangian(values), 12.0 + 0.3 * mean, atol=1e-3, rtol=0)

    dual = torch.optim.SGD([lagrangian.scaled], lr=1.0, maximize=True)
    lagrangian.ascend(torch.linspace(-1.0, 1.0, len(knots)), dual)  # up where γ is large
    for found in (lagrangian.multiplier, lagrangian.mean_multiplier):
        assert bool((found.diff() <= 1e-6).all())
        assert float(found.min()) >= 0
    assert decreasing(torch.tensor([3.0, 2.0, 1.0])).tolist() == [3.0, 2.0, 1.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("front")
    said = program(root, *FRONT, "name=whole")
    assert said.status == 0, said.err
    assert "The front, on training data" in said.out
    return RunFolder(root / "runs" / "whole")


def load(run: RunFolder) -> Front:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lagvae.load(run.path)
    assert isinstance(model, Front)
    return model


def test_run_of_a_front_has_its_curve_and_the_ordinary_summary(run: RunFolder) -> None:
    summary = run.read_summary()
    assert set(summary["constraints"]) == {"neg_elbo", "mmd"}
    curve, front = summary["curve"], load(run)
    assert [point["gamma"] for point in curve] == front.slacks.knots
    calibrated = summary["constraints"]["neg_elbo"]["calibrated"]
    for point in curve:
        assert point["bound"] == pytest.approx(calibrated + point["gamma"], abs=1e-4)
        assert {"neg_elbo_stderr", "i_q_lower", "i_q_upper", "i_q_stderr", "multiplier", "verdict"} <= set(point)
    own = next(point for point in curve if point["gamma"] == 1.5)
    assert own["neg_elbo"] == summary["constraints"]["neg_elbo"]["train"]
    assert front.curve() == curve
    assert "curve" not in (lagvae.load(run.checkpoints / "best.ckpt").origin or {}), "it was measured with the last weights"
    assert "train,neg_elbo@0.2," in run.metrics.read_text(encoding="utf-8").replace(" ", "")


def test_front_gives_ordinary_models(run: RunFolder, tmp_path: Path) -> None:
    front = load(run)
    changed(front.joint)
    assert front.origin is not None
    assert "curve" in front.origin
    x = front.sample(6, seed=1)
    for gamma in (0.2, 1.1, 3.0):
        model = front.at(gamma)
        assert type(model) is LatentVariableModel
        assert type(model.lagrangian) is Lagrangian
        assert model.origin is not None
        assert "curve" not in model.origin, "it is a single point of it"
        assert model.origin["config"]["constraints"]["neg_elbo"]["gamma"] == gamma
        with front.slacks.at(gamma):
            torch.testing.assert_close(model.encode(x), front.encode(x))
            torch.testing.assert_close(model.decode(model.encode(x)), front.decode(front.encode(x)))
        assert float(model.lagrangian.mean_multiplier[0]) == pytest.approx(front.multiplier(gamma), rel=1e-5)
        assert float(model.lagrangian.bound[0]) == pytest.approx(front.bound(gamma), rel=1e-6)
        lagvae.export(model, tmp_path / f"{gamma}")
        again = lagvae.load(tmp_path / f"{gamma}")
        assert type(again) is LatentVariableModel
        torch.testing.assert_close(again.encode(x), model.encode(x))
    torch.testing.assert_close(front.at(1.5).encode(x), front.encode(x))
    lagvae.export(front, tmp_path / "front")
    exported = lagvae.load(tmp_path / "front")
    assert isinstance(exported, Front)
    assert exported.curve() == front.curve()
    torch.testing.assert_close(exported.at(0.7).encode(x), front.at(0.7).encode(x))


def test_pick_inverts_the_curve(run: RunFolder) -> None:
    front = load(run)
    points = [{"gamma": g, "neg_elbo": 20 + g, "i_q": 5 - g} for g in (0.2, 1.0, 3.0)]
    assert front.origin is not None
    front.origin["curve"] = points
    assert front.pick(neg_elbo=21.0) == pytest.approx(1.0)
    assert front.pick(information=2.0) == pytest.approx(3.0)
    assert 1.0 < front.pick(information=3.0) < 3.0
    with pytest.raises(SettingError, match=r"information=9 .* from 2.00 to 4.80 nats"):
        front.pick(information=9)
    for given in ({}, {"neg_elbo": 21.0, "information": 3.0}):
        with pytest.raises(SettingError, match="one of neg_elbo=NATS and information=NATS"):
            front.pick(**given)
    del front.origin["curve"]
    with pytest.raises(LagvaeError, match="no curve"):
        front.curve()


@pytest.mark.parametrize("gamma", [0.1, 3.1])
def test_slack_outside_the_range_is_refused_with_the_range(run: RunFolder, gamma: float) -> None:
    for use in (Front.at, Front.multiplier):
        with pytest.raises(SettingError, match=rf"gamma={gamma} is outside .* 0.2 to 3 nats"):
            use(load(run), gamma)


def test_resumed_front_is_bit_identical(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(tmp_path, *FRONT, "name=stopped")
    step = Front.training_step

    def interrupted(self: Front, batch: Any, batch_idx: int) -> None:
        if self.global_step == 30:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Front, "training_step", interrupted)
        with pytest.raises(Stopped, match="resume=stopped"):
            train(cfg)
    stopped = RunFolder(tmp_path / "runs" / "stopped")
    resume(stopped)
    ours, theirs = (torch.load(folder.last, weights_only=True)["state_dict"] for folder in (stopped, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert stopped.read_summary()["curve"] == run.read_summary()["curve"]


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["training.slacks=[3,1]"], ["training.slacks=[3,1]", "0 < LOW < HIGH"]),
        (["training.slacks=[0,1]"], ["training.slacks=[0,1]", "0 < LOW < HIGH"]),
        (["training.slacks=[1]"], ["training.slacks=[1.0]", "[LOW,HIGH]"]),
        (["constraints.neg_elbo.gamma=9"], ["constraints.neg_elbo.gamma=9", "0.2 to 3 nats"]),
        (["divergence=[rate,mmd]"], ["training.slacks", "neg_elbo"]),
        (["constraints.neg_elbo.learned=false"], ["training.slacks needs", "learned λ"]),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, words: list[str], pieces: list[str]) -> None:
    refuses(program(tmp_path, *FRONT, *words), *pieces)


def test_network_without_a_layer_to_condition_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> None:
            super().__init__()
            self.out = nn.Parameter(torch.zeros(shape_out))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out.expand(len(x), *self.out.shape)

    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), NormalDecoder(Fixed, (3,), 2))
    with pytest.raises(SettingError, match=r"model\.likelihood .* has none"):
        condition(joint, Slacks(0.1, 4.0, own=1.5))


@pytest.mark.parametrize(
    ("alpha", "steps"), [(-1.0, 1800), pytest.param(1.0, 20000, marks=pytest.mark.slow)], ids=["maximise", "minimise"]
)
def test_front_of_the_linear_gaussian_world_is_near_the_exact_one(tmp_path: Path, alpha: float, steps: int) -> None:
    """A short run, which has not converged, already tells slacks apart: rate and log λ are off by less than a quarter of what
    they differ by over the range. A front that took no notice of γ would be off by half of it at one of its ends. How near a
    long run comes is measured by `make front`.
    """
    words = [
        *(*QUICK, "family=front", "data.source.n=4000", "data.batch=128", "model.encoder.hidden=[]", "model.decoder.hidden=[]"),
        *(
            "model.latent=2",
            "model.optimizer.lr=0.01",
            f"training.steps={steps}",
            f"training.interval={steps}",
            f"alpha.q={alpha:g}",
        ),
        *("divergence=[neg_elbo]", "epsilon=explicit", "training.start=scratch", "training.slacks=[0.2,2.0]"),
        "constraints.neg_elbo.gamma=0.5",
    ]
    data = load_data(settings(tmp_path, *words, "constraints.neg_elbo.epsilon=0"))
    x = data.arrays.x[data.split["train"]]
    exact = WaterFilling(torch.cov(x.double().mT, correction=0), 2)
    least = exact.least.neg_elbo
    cfg = settings(tmp_path, *words, f"constraints.neg_elbo.epsilon={least + 0.5}", "name=linear")
    train(cfg)
    front = load(RunFolder(tmp_path / "runs" / "linear"))
    best = {gamma: exact.optimum(alpha, least + gamma) for gamma in (0.2, 0.6, 2.0)}
    rates = abs(best[2.0].rate - best[0.2].rate)
    multipliers = abs(math.log(best[2.0].multiplier / best[0.2].multiplier))
    for gamma, optimum in best.items():
        with torch.no_grad():
            q, prior = front.at(gamma).joint.encoder(x.float()), front.joint.prior()
            rate = float(torch.distributions.kl_divergence(q, prior).mean())
        assert rate == pytest.approx(optimum.rate, abs=rates / 4)
        assert math.log(front.multiplier(gamma) / optimum.multiplier) == pytest.approx(0, abs=multipliers / 4)
