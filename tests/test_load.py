"""A trained model is one call away: what is loaded, what it computes, and what is refused."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import made_up, settings
from small import ROOT, TINY
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lagvae
from lagvae.distributions import (
    BernoulliDecoder,
    CodesEncoder,
    CodesPrior,
    GaussianEncoder,
    Generator,
    ImplicitEncoder,
    JointModel,
    LaplaceEncoder,
    NormalDecoder,
    StandardNormalPrior,
)
from lagvae.divergences import NegElbo
from lagvae.errors import CheckpointError, DataError, LagvaeError, SettingError
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import Fit
from lagvae.experiment.run import create_folder, setup
from lagvae.experiment.validate import needs_calibration
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.oracles import LinearGaussian
from lagvae.runs.layout import RunFolder
from lagvae.sweeps.ensemble_training import train_ensemble
from lagvae.sweeps.sweep_run import SweepRun

SHAPE = (1, 4, 5)
RUN = [
    *TINY,
    "data=array",
    "data.likelihood=bernoulli",
    "data.batch=20",
    "training.steps=20",
    "calibration.steps=10",
    "training.interval=10",
]
FAMILIES = ("asvae", "avb", "cyclegan", "infogan", "vae_gan", "wae_mmd")
"""Of each kind of prior, encoder, decoder, critic and symbolic objective one member."""

Trained = tuple[LatentVariableModel, RunFolder]


def config(root: Path, *words: str) -> Any:
    """The config of a short run on the array in data.npz."""
    return settings(root, *RUN, f"data.source.path={root}/data.npz", *words)


def write_data(root: Path) -> Tensor:
    """Random images of grey levels in data.npz; returns some of them in [0, 1]."""
    images = np.random.default_rng(0).integers(0, 256, (300, *SHAPE), dtype=np.uint8)
    np.savez(root / "data.npz", x=images)
    return torch.from_numpy(images[:7]).float() / 255


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run with a moving average, as it is in memory after training, and its folder. Its data and calibration are gone."""
    root = tmp_path_factory.mktemp("trained")
    write_data(root)
    cfg = config(root, "name=run", "training.average=0.9")
    data, model, _ = setup(cfg)
    folder = create_folder(cfg)
    Fit(cfg, data, model, folder, "Training").train()
    folder.write_summary({"verdict": "met"})
    assert len(list((root / "calibrations").iterdir())) == 1
    (root / "data.npz").unlink()
    shutil.rmtree(root / "calibrations")
    return model.eval(), folder


@pytest.fixture
def x() -> Tensor:
    return torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(0))


def tampered(run: RunFolder, file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the checkpoint of a run whose content was changed."""
    content = torch.load(run.last, weights_only=True)
    change(content)
    torch.save(content, file)
    return file


# ---- what is loaded


@pytest.mark.parametrize("way", ["folder", "name", "latest", "file", "best", "Lightning"])
def test_a_run_is_loaded_without_its_data_and_its_calibration(
    trained: Trained, x: Tensor, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    model, run = trained
    monkeypatch.setenv("LAGVAE_ROOT", str(run.path.parents[1]))
    named = {"folder": run.path, "name": "run", "latest": "latest", "best": run.checkpoints / "best.ckpt"}
    random_state = torch.manual_seed(20261126).get_state()
    load = LatentVariableModel.load_from_checkpoint if way == "Lightning" else lagvae.load
    loaded = load(named.get(way, run.last))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not loaded.training
    assert loaded.lagrangian.bound.tolist() == model.lagrangian.bound.tolist()
    assert loaded.lagrangian.bound.min() > 0
    if way != "best":
        torch.testing.assert_close(loaded.lagrangian.multiplier, model.lagrangian.multiplier)
        torch.testing.assert_close(loaded.encode(x), model.encode(x))
        torch.testing.assert_close(loaded.log_prob(x), model.log_prob(x))
        # The moving average is used, which is not θ.
        assert (loaded.encode(x) - loaded.joint.encoder(x).mean).abs().max() > 1e-4


def test_members_of_an_ensemble_are_loaded(tmp_path: Path) -> None:
    x = write_data(tmp_path)
    words = {"a": "alpha.q=-1", "b": "alpha.q=1 constraints.neg_elbo.epsilon=40"}
    explicit = ["epsilon=explicit", "constraints.neg_elbo.epsilon=30", "constraints.mmd.epsilon=0.1", "training.start=scratch"]
    runs = [SweepRun(config(tmp_path, *explicit, f"name={name}", *word.split())) for name, word in words.items()]
    assert train_ensemble(runs, tmp_path / "job", lambda step, note: None) == {}
    for run in runs:
        run.folder.write_summary({"verdict": "met"})
    data = build_data(runs[0].cfg)
    (tmp_path / "data.npz").unlink()
    for run, bound in zip(runs, (30, 40), strict=True):
        model = build_model(run.cfg, data)
        model.load_state_dict(torch.load(run.folder.last, weights_only=True)["state_dict"])
        loaded = lagvae.load(run.folder.path)
        assert loaded.lagrangian.bound.tolist() == pytest.approx([bound, 0.1])
        torch.testing.assert_close(loaded.encode(x), model.encode(x))
        torch.testing.assert_close(loaded.log_prob(x), model.log_prob(x))
    assert (lagvae.load(runs[0].folder.path).encode(x) - loaded.encode(x)).abs().max() > 1e-6
    shutil.copy(runs[1].folder.last, runs[0].folder.last)
    for which in (runs[0].folder.path, runs[0].folder.last):
        with pytest.raises(CheckpointError, match=r"of another model: .*alpha\.q: 1 → -1"):
            lagvae.load(which)
    runs[0].folder.config.write_text("")  # a checkpoint says all that is needed
    assert lagvae.load(runs[0].folder.path).lagrangian.bound.tolist() == pytest.approx([40, 0.1])


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_every_kind_are_loaded(tmp_path: Path, family: str) -> None:
    cfg = settings(tmp_path, f"family={family}", "trainer=cpu")
    model = build_model(cfg, build_data(cfg), made_up(cfg) if needs_calibration(cfg) else None)
    content: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, tmp_path / "a.ckpt")
    loaded, x = lagvae.load(tmp_path / "a.ckpt"), torch.rand(3, 1, 8, 8)
    assert str(loaded.lagrangian.constraints) == str(model.lagrangian.constraints)
    torch.testing.assert_close(loaded.reconstruct(x), model.reconstruct(x))
    if family in ("cyclegan", "discogan"):
        with pytest.raises(LagvaeError, match=r"second domain .* which a checkpoint does not hold"):
            loaded.sample(2)
    else:
        torch.testing.assert_close(loaded.sample(2), model.sample(2))


def test_importing_lagvae_imports_no_torch() -> None:
    heavy = "{'torch', 'hydra', 'numpy', 'sklearn', 'lagvae.sklearn'}"
    code = f"import sys, lagvae; assert 'load' in dir(lagvae); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = lagvae.lode


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = settings(tmp_path, "family=vae", "trainer=cpu")
    model = build_model(cfg, build_data(cfg))
    content: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, tmp_path / "a.ckpt")
    main = runpy.run_path(str(ROOT / "examples" / "load_and_sample.py"))["main"]
    main(str(tmp_path / "a.ckpt"), str(tmp_path / "samples.png"))
    assert "\ncodes: (64, 16)\n" in capsys.readouterr().out
    assert (tmp_path / "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_a_name_is_looked_for_where_the_programs_of_a_clone_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also from another folder: the message names the runs/ of the clone."""
    monkeypatch.delenv("LAGVAE_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(str(ROOT / "runs"))):
        lagvae.load("a-run-that-nobody-makes")


def test_a_model_of_a_run_that_is_not_done_is_loaded_with_a_warning(trained: Trained, tmp_path: Path) -> None:
    """It names step and steps and how to go on; of a bound that is not met, what the run found."""
    run = RunFolder(shutil.copytree(trained[1].path, tmp_path / "run"))
    run.summary.unlink()
    best = int(torch.load(run.checkpoints / "best.ckpt", weights_only=True)["global_step"])
    for file, step in (run.last, 20), (run.checkpoints / "best.ckpt", best):
        told = rf"{run.path} has not finished, .* after step {step} of 20: .*train\.py resume={run.path}$"
        with pytest.warns(UserWarning, match=told) as caught:
            lagvae.load(file)
        assert caught[0].filename == __file__
    run.write_summary({"verdict": "infeasible", "messages": ["neg_elbo ≤ 1 nats is out of reach.", "Raise it."]})
    with pytest.warns(UserWarning, match=rf'{run.path} .* "infeasible"\. neg_elbo ≤ 1 nats is out of reach\. Raise it\.'):
        lagvae.load(run.path)
    for verdict in ("met", "met, not converged", "unconstrained"):
        run.write_summary({"verdict": verdict})
        lagvae.load(run.path)  # a warning would fail this test
    run.summary.unlink()
    lagvae.load(shutil.copy(run.last, tmp_path))  # away from its run nothing is known of it


# ---- what is refused


def test_what_is_no_checkpoint_is_said(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = trained
    monkeypatch.setenv("LAGVAE_ROOT", str(run.path.parents[1]))
    with pytest.raises(CheckpointError, match=r"'nothing' is not a run.*run\."):
        lagvae.load("nothing")
    with pytest.raises(CheckpointError, match=r"There is no checkpoint nothing\.ckpt"):
        lagvae.load("nothing.ckpt")
    (tmp_path / "config.yaml").write_text("family: vae")
    with pytest.raises(CheckpointError, match=r"last\.ckpt\. The run has no checkpoint yet: resume it with"):
        lagvae.load(tmp_path)
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(run.last.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        lagvae.load(damaged)


def test_a_checkpoint_of_another_version_or_member_is_refused(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, run = trained

    def older(content: dict[str, Any]) -> None:
        content["lagvae"]["version"] = "0.0.1"
        del content["lagvae"]["config"]["model"]["posterior"]

    versions = rf"lagvae 0\.0\.1, and this is {lagvae.__version__}: install that version, or train the run again\."
    with pytest.raises(CheckpointError, match=rf"posterior.*{versions}"):
        lagvae.load(tampered(run, tmp_path / "older.ckpt", older))
    renamed = tampered(run, tmp_path / "a.ckpt", lambda c: c["lagvae"]["config"]["constraints"]["mmd"].update(unit=1.0))
    told = r"a\.ckpt: it was written by an earlier version.*constraints\.mmd\.unit is now constraints\.mmd\.scale.*again with"
    with pytest.raises(CheckpointError, match=told):
        lagvae.load(renamed)
    for target in ("lagvae.distributions.FormerEncoder", "torch.nn.Former"):
        gone = tampered(
            run, tmp_path / "c.ckpt", lambda c, t=target: c["lagvae"]["config"]["model"]["posterior"].update(_target_=t)
        )
        package = target.split(".")[0]
        told = rf"c\.ckpt: model\.posterior\._target_={target} is not loaded: the version of {package} .* or train it again\.$"
        with pytest.raises(SettingError, match=told):
            lagvae.load(gone)
        assert not caplog.records
    other = tampered(run, tmp_path / "b.ckpt", lambda c: c["lagvae"]["config"]["model"].update(latent=5))
    with pytest.raises(CheckpointError, match="is of another model"):
        lagvae.load(other)


def test_a_checkpoint_of_an_earlier_version_takes_its_run_and_data(tmp_path: Path) -> None:
    x = write_data(tmp_path)
    cfg = config(tmp_path, "name=run", "family=vae")
    folder, model = create_folder(cfg), build_model(cfg, build_data(cfg))
    folder.checkpoints.mkdir()
    torch.save({"state_dict": model.state_dict()}, folder.last)
    folder.write_summary({"verdict": "met"})
    torch.testing.assert_close(lagvae.load(folder.path).encode(x), model.encode(x))
    alone = shutil.copy(folder.last, tmp_path / "alone.ckpt")
    with pytest.raises(CheckpointError, match=r"If an earlier version wrote it.*folder of its run"):
        lagvae.load(alone)
    (tmp_path / "data.npz").unlink()
    with pytest.raises(CheckpointError, match=r"An earlier version.*the data are needed.*no such file.*train the run again"):
        lagvae.load(folder.path)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("os.system", {"command": "touch FILE"}),
        ("lagvae.io.os.system", {"command": "touch FILE"}),
        ("torch.os.system", {"command": "touch FILE"}),
        ("torch.hub.load", {"repo_or_dir": "a/b", "model": "c"}),
        ("subprocess.Popen", {"args": ["touch", "FILE"]}),
        ("torch.utils.cpp_extension.subprocess.Popen", {"args": ["touch", "FILE"]}),
        ("torch.nowhere.Net", {}),
        ("lagvae.data.sources.mnist", {"root": "FILE"}),
        ("${oc.env:HOME}", {}),
    ],
)
def test_a_checkpoint_runs_no_code_of_others(trained: Trained, tmp_path: Path, target: str, arguments: dict[str, Any]) -> None:
    _, run = trained
    filled = {k: v.replace("FILE", str(tmp_path / "run")) if isinstance(v, str) else v for k, v in arguments.items()}
    filled = {
        k: [str(tmp_path / "run") if e == "FILE" else e for e in v] if isinstance(v, list) else v for k, v in filled.items()
    }

    def attack(content: dict[str, Any]) -> None:
        content["lagvae"]["config"]["constraints"]["mmd"]["divergence"]["kernel"] = {"_target_": target, **filled}

    with pytest.raises(SettingError, match=r"constraints\.mmd\.divergence\.kernel\._target_=.* is not loaded") as refused:
        lagvae.load(tampered(run, tmp_path / "a.ckpt", attack))
    assert target in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_settings_that_refer_to_others_are_refused(trained: Trained, tmp_path: Path) -> None:
    _, run = trained
    hidden = "${oc.decode:'{_target_: os.getcwd}'}"
    file = tampered(run, tmp_path / "a.ckpt", lambda c: c["lagvae"]["config"]["model"].update(encoder=hidden))
    with pytest.raises(SettingError, match=r"model\.encoder=.* is not loaded"):
        lagvae.load(file)


def test_a_class_of_ones_own_is_loaded_where_it_is_trusted(
    trained: Trained, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = trained
    (tmp_path / "own_networks.py").write_text("from lagvae.networks import MLP\n\n\nclass Net(MLP):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def own(content: dict[str, Any]) -> None:
        content["lagvae"]["config"]["model"]["encoder"]["_target_"] = "own_networks.Net"

    file = tampered(run, tmp_path / "a.ckpt", own)
    with pytest.raises(SettingError, match=r"model\.encoder\._target_=own_networks\.Net .*trust=\('own_networks\.',\)"):
        lagvae.load(file)
    assert "own_networks" not in sys.modules
    torch.testing.assert_close(lagvae.load(file, trust=("own_networks.",)).encode(x), model.encode(x))
    torch.testing.assert_close(lagvae.load(file, trust="own_networks.").encode(x), model.encode(x))
    with pytest.raises(SettingError, match=r"own_networks\.Net"):
        lagvae.load(file, trust="o_ther.")


# ---- what it computes


def of_joint(joint: JointModel) -> LatentVariableModel:
    """A model without constraints, which no config describes."""
    return LatentVariableModel(joint, Lagrangian(Preference(0.0), []), partial(torch.optim.Adam, lr=1e-3)).eval()


LinearJoint = Callable[[LinearGaussian, Tensor, Tensor], JointModel]
MeanIs = Callable[[Tensor, float | Tensor], float]


def linear(linear_joint: LinearJoint, exact: bool) -> tuple[LatentVariableModel, Tensor, Tensor, float]:
    """A linear-Gaussian model, 2000 samples x of it, log p(x) of each, and E KL(q(z|x)‖p(z|x)), which is 0 if `exact`."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.linalg.qr(torch.randn(5, 2, generator=generator, dtype=torch.float64)).Q
    world = LinearGaussian(columns * torch.tensor([1.5, 0.7], dtype=torch.float64), 0.6)
    a, cov = world.posterior()
    t = cov.diagonal().sqrt()
    a, t = (a, t) if exact else (0.8 * a, 1.5 * t)
    x = world.sample(torch.randn(2000, 2, generator=generator), torch.randn(2000, 5, generator=generator))
    sigma, x64 = world.cov_p_x, x.double()
    log_p = -0.5 * ((x64 @ torch.linalg.inv(sigma) * x64).sum(1) + torch.logdet(sigma) + 5 * torch.tensor(2 * pi).log())
    return of_joint(linear_joint(world, a, t)), x, log_p, float(world.neg_elbo(a, t) - world.entropy_x)


def test_log_prob_and_elbo_with_the_exact_posterior_are_log_p(linear_joint: LinearJoint, mean_is: MeanIs) -> None:
    """All importance weights are p(x), so one draw suffices, up to fp32: sums of some 10 terms of a few nats, 1e-6 each."""
    model, x, log_p, gap = linear(linear_joint, exact=True)
    assert abs(gap) < 1e-9
    torch.testing.assert_close(model.log_prob(x, draws=1).double(), log_p, rtol=0, atol=1e-4)
    assert mean_is(model.elbo(x, draws=4).double() - log_p, 0.0) < 0.02


def test_log_prob_is_unbiased_and_above_the_elbo(linear_joint: LinearJoint, mean_is: MeanIs) -> None:
    """E exp(log_prob − log p(x)) = 1 for every x and number of draws, and E (log p(x) − ELBO) = E KL(q(z|x)‖p(z|x))."""
    model, x, log_p, gap = linear(linear_joint, exact=False)
    log_prob = model.log_prob(x, draws=8, batch_size=300)
    assert mean_is((log_prob.double() - log_p).exp(), 1.0) < 0.01
    elbo = model.elbo(x, draws=4)
    assert torch.equal(model.elbo(x), model.elbo(x, draws=1))
    assert gap > 10 * mean_is(log_p - elbo, gap)
    above = log_prob - elbo
    assert above.mean() > 4 * above.std() / len(above) ** 0.5


def test_an_x_of_which_floats_do_not_hold_the_density_is_infinitely_unlikely(linear_joint: LinearJoint) -> None:
    """The networks' values are infinite there, with both signs."""
    model, x, *_ = linear(linear_joint, exact=False)
    far = x[:3].clone()
    far[1] = 1e38
    for values in (model.log_prob(far, draws=4), model.elbo(far)):
        assert values.isfinite().tolist() == [True, False, True]
        assert values[1] == -torch.inf


def test_results_do_not_depend_on_batches_but_for_their_noise(trained: Trained, x: Tensor) -> None:
    model, _ = trained
    for method in (model.encode, model.reconstruct):
        torch.testing.assert_close(method(x, batch_size=2), method(x))
    codes = model.encode(x)
    torch.testing.assert_close(model.decode(codes, batch_size=3), model.reconstruct(x))
    torch.testing.assert_close(model.posterior(x).mean, codes)
    torch.testing.assert_close(model(x), codes)
    assert model.log_prob(x, batch_size=2).shape == model.elbo(x, batch_size=2).shape == (7,)
    assert not model.encode(x.requires_grad_()).requires_grad


def test_no_rows_have_results_without_rows(trained: Trained, x: Tensor) -> None:
    model, none = trained[0], x[:0]
    shapes = [result.shape for result in (model.encode(none), model.reconstruct(none), model.interpolate(none, none, 3))]
    assert shapes == [(0, 4), (0, *SHAPE), (0, 3, *SHAPE)]
    assert model.log_prob(none).shape == model.elbo(none).shape == model.log_prob(none.numpy()).shape == (0,)


@pytest.mark.parametrize("layer", [lambda: nn.Dropout(0.5), lambda: nn.BatchNorm1d(8)], ids=["dropout", "batch norm"])
def test_a_model_is_used_in_eval_mode_also_while_it_trains(x: Tensor, layer: Callable[[], nn.Module]) -> None:
    """Lightning leaves a model in train mode after a fit."""

    def network(shape_in: Any, shape_out: Any) -> nn.Module:
        return nn.Sequential(MLP(shape_in, (8,), hidden=()), layer(), MLP((8,), shape_out, hidden=()))

    def results() -> list[Tensor]:
        rows = (x > 0.5).float()
        found = [model.encode(rows), model.reconstruct(rows), model.posterior(rows).stddev, model.sample(3, means=True)]
        return [*found, model.interpolate(rows, rows, 2), model.log_prob(rows), model.elbo(rows)]

    model = of_joint(
        JointModel(StandardNormalPrior(3), GaussianEncoder(network, SHAPE, 3), BernoulliDecoder(network, SHAPE, 3))
    )
    expected = results()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for found, value in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, value)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_of_another_precision_is_used(trained: Trained, x: Tensor) -> None:
    """A fit with precision=64-true leaves its model in double precision."""
    model, double = trained[0], lagvae.load(trained[1].last).double()
    for method in ("encode", "reconstruct", "log_prob", "elbo"):
        found = getattr(double, method)(x).float()
        torch.testing.assert_close(found, getattr(model, method)(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(double.sample(3, means=True).float(), model.sample(3, means=True), rtol=1e-4, atol=1e-4)
    trainer = pl.Trainer(
        accelerator="cpu", precision="64-true", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    codes = trainer.predict(double, DataLoader(x, batch_size=4))  # type: ignore[arg-type]
    torch.testing.assert_close(torch.cat(codes).float(), model.encode(x), rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def test_samples_are_a_function_of_the_seed(trained: Trained) -> None:
    model, _ = trained
    samples = model.sample(5, seed=3)
    assert samples.shape == (5, *SHAPE)
    assert set(samples.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(samples, model.sample(5, seed=3))
    assert not torch.equal(samples, model.sample(5, seed=4))
    batches = model.sample(6, batch_size=3)
    assert not torch.equal(batches[:3], batches[3:])
    means = model.sample(2000, means=True)
    assert 0 < means.min() < means.max() < 1
    # Pixels of the samples have the means' mean; the standard error of a mean of 40,000 pixels is below 0.5 / 200.
    assert abs(model.sample(2000).mean() - means.mean()) < 4 * 0.5 / (2000 * 20) ** 0.5


def test_interpolation_leads_from_one_reconstruction_to_the_other(trained: Trained, x: Tensor) -> None:
    model, _ = trained
    path = model.interpolate(x[:3], x[3:6], steps=5)
    assert path.shape == (3, 5, *SHAPE)
    torch.testing.assert_close(path[:, 0], model.reconstruct(x[:3]))
    torch.testing.assert_close(path[:, -1], model.reconstruct(x[3:6]))
    torch.testing.assert_close(path[:, 2], model.decode((model.encode(x[:3]) + model.encode(x[3:6])) / 2))


def test_numpy_in_numpy_out(trained: Trained, x: Tensor) -> None:
    model, _ = trained
    rows = x.numpy()
    pairs = {
        "encode": (model.encode(rows), model.encode(x)),
        "decode": (model.decode(model.encode(rows)), model.reconstruct(x)),
        "reconstruct": (model.reconstruct(rows.astype(np.float64)), model.reconstruct(x)),
        "interpolate": (model.interpolate(rows, rows[::-1], 3), model.interpolate(x, x.flip(0), 3)),
        "log_prob": (model.log_prob(rows), model.log_prob(x)),
        "elbo": (model.elbo(rows), model.elbo(x)),
    }
    for name, (array, tensor) in pairs.items():
        assert isinstance(array, np.ndarray), name
        torch.testing.assert_close(torch.from_numpy(array), tensor)
    grey = (x * 255).to(torch.uint8)
    torch.testing.assert_close(model.encode(grey), model.encode(grey.float() / 255))
    assert isinstance(model.encode(grey.numpy()), np.ndarray)


def test_lightning_predicts_codes(trained: Trained, x: Tensor) -> None:
    model, run = trained
    loaded = lagvae.load(run.path)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    for data in (x, TensorDataset(x, torch.arange(7))):
        codes = trainer.predict(loaded, DataLoader(data, batch_size=3))  # type: ignore[arg-type]
        torch.testing.assert_close(torch.cat(codes), model.encode(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"x has shape \(1, 4, 5\); this model takes \(N, 1, 4, 5\), .*such as x\[None\]"),
        (lambda x: x.flatten(1), r"x has shape \(7, 20\); this model takes \(N, 1, 4, 5\)"),
        (lambda x: 2 * x, r"from .* to .*Bernoulli .*\[0, 1\]"),
        (lambda x: x - 0.5, r"from -.*\[0, 1\]"),
        (lambda x: x.log().log(), "x has NaN or infinite values"),
        (lambda x: x.to(torch.complex64), "x is torch.complex64; it must be"),
        (lambda x: [None], "x is list; it must be"),
        (lambda x: np.array(["a"]), "x is <U1; it must be"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "posterior", "log_prob", "elbo", "reconstruct"])
def test_an_x_that_the_model_cannot_take_is_refused(
    trained: Trained, x: Tensor, method: str, change: Callable[[Tensor], Any], message: str
) -> None:
    model, _ = trained
    with pytest.raises(DataError, match=message):
        getattr(model, method)(change(x))


def test_other_arguments_are_checked(trained: Trained, x: Tensor) -> None:
    model, run = trained
    with pytest.raises(DataError, match=r"z has shape \(2, 3\); this model takes \(N, 4\)"):
        model.decode(torch.zeros(2, 3))
    with pytest.raises(DataError, match="z has NaN"):
        model.decode(torch.full((2, 4), float("nan")))
    with pytest.raises(DataError, match="not 3 and 4"):
        model.interpolate(x[:3], x[3:], 4)
    for call, message in {
        lambda: model.interpolate(x, x, 1): "steps=1 must be a whole number of at least 2",
        lambda: model.log_prob(x, draws=0): "draws=0 must be a whole number of at least 1",
        lambda: model.elbo(x, draws=0): "draws=0 must be",
        lambda: model.elbo(x, draws=1.5): r"draws=1\.5 must be",  # type: ignore[arg-type]
        lambda: model.encode(x, batch_size=0): "batch_size=0 must be",
        lambda: model.sample(0): "n=0 must be",
        lambda: model.sample("3"): "n='3' must be",  # type: ignore[arg-type]
        lambda: model.sample(True): "n=True must be",
        lambda: LatentVariableModel.load_from_checkpoint(run.last, seed=3): "takes no seed for a model that the checkpoint",
    }.items():
        with pytest.raises(SettingError, match=message):
            call()
    assert model.sample(np.int64(2)).shape == (2, *SHAPE)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["gpu", {"cuda:0": "cpu"}, lambda storage, place: storage], ids=["name", "dict", "function"])
@pytest.mark.parametrize("load", [lagvae.load, LatentVariableModel.load_from_checkpoint], ids=["lagvae", "Lightning"])
def test_a_device_that_is_not_there_is_named(trained: Trained, load: Any, where: Any) -> None:
    with pytest.raises(SettingError, match=r"map_location=.* cannot be used .*Name one device of this machine"):
        load(trained[1].last, map_location=where)
    assert load(trained[1].last, map_location=torch.device("meta"))._parameter.is_meta


NET = partial(MLP, hidden=[4])
NORMAL, CODES = StandardNormalPrior(3), CodesPrior(6, [3])
UNDEFINED: dict[str, tuple[Callable[[], JointModel], str]] = {
    "generator": (
        lambda: JointModel(NORMAL, GaussianEncoder(NET, (2,), 3), Generator(NET, (2,), 3)),
        r"p\(x\|z\) has no density: Generator",
    ),
    "implicit": (
        lambda: JointModel(NORMAL, ImplicitEncoder(NET, (2,), 3, noise=2), NormalDecoder(NET, (2,), 3)),
        r"q\(z\|x\) has no density: ImplicitEncoder",
    ),
    "codes": (
        lambda: JointModel(CODES, CodesEncoder(NET, (2,), CODES), BernoulliDecoder(NET, (2,), 6)),
        r"p\(z\) has no density: CodesPrior",
    ),
    "laplace": (
        lambda: JointModel(NORMAL, LaplaceEncoder(NET, (2,), 3), NormalDecoder(NET, (2,), 3)),
        r"LaplaceEncoder does not draw z from its q\(z\|x\)",
    ),
}


@pytest.mark.parametrize("kind", UNDEFINED)
def test_what_a_member_does_not_define_is_refused_by_name(kind: str) -> None:
    build, why = UNDEFINED[kind]
    model, x = of_joint(build()), torch.rand(4, 2)
    assert model.reconstruct(x).shape == model.sample(4).shape == (4, 2)
    assert not model.reconstruct(x).requires_grad
    for method in ("log_prob", "elbo"):
        with pytest.raises(LagvaeError, match=f"{method} is not defined for this model: {why}"):
            getattr(model, method)(x)


def test_a_model_that_no_config_describes_is_loaded_as_lightning_does(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        joint = JointModel(StandardNormalPrior(3), GaussianEncoder(NET, (2,), 3), NormalDecoder(NET, (2,), 3))
        return {"joint": joint, "lagrangian": Lagrangian(Preference(0.0), [Constraint("neg_elbo", NegElbo())])}

    primal = partial(torch.optim.Adam, lr=1e-3)
    model, x = LatentVariableModel(**build(), primal=primal), torch.rand(4, 2)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(CheckpointError, match=r"does not hold the settings of its model.*in Python.*joint=joint"):
        lagvae.load(tmp_path / "own.ckpt")
    loaded = LatentVariableModel.load_from_checkpoint(tmp_path / "own.ckpt", **build(), primal=primal)
    torch.testing.assert_close(loaded.encode(x), model.encode(x))


def test_levels_that_are_much_darker_than_those_of_training_are_warned_of(trained: Trained) -> None:
    """They may have fewer bits, where a model was trained on floats; where it was trained on levels they are only dark."""
    loaded = lagvae.load(trained[1].path)
    assert loaded.origin is not None
    levels = np.random.default_rng(0).integers(0, 17, (5, *SHAPE), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.encode(levels)
        loaded.origin |= {"levels": 1}
        loaded.encode(levels * 15)
        loaded.encode(levels / 255)
    with pytest.warns(UserWarning, match="x is uint8 with values up to 16, and levels are divided by 255"):
        loaded.encode(levels)
