"""Every member of the family: its objective is its authors', and it trains, checkpoints and goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import program, settings
from small import FINAL, ROOT
from torch import Tensor

from lagvae.data import Batch
from lagvae.distributions import JointSamples
from lagvae.errors import Stopped
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import Fit
from lagvae.experiment.run import read_config, resume, train
from lagvae.model import LatentVariableModel
from lagvae.oracles import LinearGaussian
from lagvae.runs.layout import RunFolder

SMALL = (
    *FINAL,
    "trainer=cpu",
    "training.threads=1",
    "training.log_every=1",
    "data.batch=32",
    "data.draws=60",
    "critic.network.hidden=[16]",
    "callbacks.figures=false",
    "callbacks.training.information.samples=40",
    "callbacks.final.information.samples=40",
    "callbacks.final.information.components=0",
)
FAMILIES = sorted(file.stem for file in (ROOT / "conf" / "family").glob("*.yaml"))


@cache
def member(family: str, *words: str) -> tuple[Any, Any, JointSamples]:
    """The config of a preset, its model and a batch of samples of both joints."""
    cfg = settings(
        ROOT / "nowhere", *SMALL, f"family={family}", "epsilon=none", "multiplier=fixed", "training.start=scratch", *words
    )
    data = build_data(cfg)
    model = build_model(cfg, data)
    return cfg, model, model.samples(data.first_batch(32), "train")


def laplace(error: Tensor, scale: float) -> Tensor:
    return (error.abs() / scale + log(2 * scale)).sum(-1)


def gaussian(error: Tensor, scale: Tensor | float) -> Tensor:
    scale = torch.as_tensor(scale)
    return 0.5 * (error.square() / scale**2 + 2 * scale.log() + log(2 * pi)).sum(-1)


class By:
    """What authors write, from samples, distributions and the critics' scores."""

    def __init__(self, model: Any, s: JointSamples) -> None:
        self.model, self.s = model, s
        q = s.q_z_given_x
        self.bce = lambda: (
            torch.nn.functional.binary_cross_entropy(s.p_x_given_z_q.mean, s.x_q, reduction="none").flatten(1).sum(1).mean()
        )
        self.rate = lambda: 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(-1).mean()

    def number(self, name: str) -> tuple[Tensor, Tensor]:
        divergence = next(c.divergence for c in self.model.lagrangian.constraints if c.name == name)
        return divergence.scores(self.s)

    def js(self, name: str) -> Tensor:
        """½ E_q log D + ½ E_p log (1 − D) + log 2, D = σ(v) the probability of "from q"."""
        d_q, d_p = (v.double().sigmoid() for v in self.number(name))
        return 0.5 * d_q.log().mean() + 0.5 * (1 - d_p).log().mean() + log(2)

    def mmd(self) -> Tensor:
        return next(c.divergence for c in self.model.lagrangian.constraints if c.name == "mmd")(self.s)

    def total_correlation(self) -> Tensor:
        """E log q(z) − Σ_k E log q(z_k), minibatch weighted, without the constant (d − 1) log N."""
        q, n = self.s.q_z_given_x.base_dist, len(self.s.z_q)
        each = torch.distributions.Normal(q.loc, q.scale).log_prob(self.s.z_q.unsqueeze(1))  # [i, j, k] = log q(z_ik|x_j)
        joint, marginals = each.sum(-1).logsumexp(1) - log(n), each.logsumexp(1) - log(n)
        return (joint - marginals.sum(-1)).mean()

    def covariance(self) -> Tensor:
        """Σ_{i≠j} C_ij² + Σ_i (C_ii − 1)² with C = E μμᵀ − E μ E μᵀ + E Σ."""
        q = self.s.q_z_given_x.base_dist
        c = torch.cov(q.loc.mT, correction=0) + q.variance.mean(0).diag()
        off = c - c.diagonal().diag()
        return off.square().sum() + (c.diagonal() - 1).square().sum()

    def density_ratio(self, name: str) -> Tensor:
        """E_q log D / (1 − D), D = σ(v) the probability of "not permuted"."""
        d = self.number(name)[0].double().sigmoid()
        return (d / (1 - d)).log().mean()

    def information_about_labels(self) -> Tensor:
        """E log r(u|z) − E log p(u): what an adversary's predictions gain over the shares of u, with q(u|z) by r."""
        divergence = next(c.divergence for c in self.model.lagrangian.constraints if c.name == "attribute_information")
        shares, u = torch.tensor(divergence.attribute_shares).double(), self.s.u
        log_r = divergence.critic(self.s.z_q).double().log_softmax(-1)[torch.arange(len(u)), u]
        return log_r.mean() - (shares * shares.log()).sum()

    def l1(self, scale: float = 1.0) -> Tensor:
        return laplace((self.s.x_q - self.s.p_x_given_z_q.mean).flatten(1), scale).mean()

    def code_entropy(self) -> Tensor:
        """−E_p log q(c|x), cross entropy of the ten-way code that x was made from."""
        logits = self.s.q_z_given_x_p.code_logits
        return torch.nn.functional.cross_entropy(logits, self.s.z_p[:, :10].argmax(-1))


AUTHORS: dict[str, Callable[[By], Tensor]] = {
    "vae": lambda a: a.bce() + a.rate(),
    "beta_vae": lambda a: a.bce() + 4 * a.rate(),
    "beta_tcvae": lambda a: a.bce() + a.rate() + (6 - 1) * a.total_correlation(),
    "sigma_vae": lambda a: (
        gaussian(
            (a.s.x_q - a.s.p_x_given_z_q.mean).flatten(1), a.model.joint.decoder(a.s.z_q).base_dist.scale.flatten()[0]
        ).mean()
        + a.rate()
    ),
    "dip_vae": lambda a: a.bce() + a.rate() + 10 * a.covariance(),
    "factor_vae": lambda a: a.bce() + a.rate() + 10 * a.density_ratio("adversarial_total_correlation"),
    # (1 − α) KL(q(z|x)‖p(z)) + (α + λ − 1) MMD with α = 1 − the weight of the rate; maximising: distortion twice
    "infovae": lambda a: 2 * a.bce() + a.rate() + 1000 * a.mmd(),
    "lagvae": lambda a: 2 * a.bce() + a.rate() + a.mmd(),
    "controllable_fair": lambda a: a.bce() + a.rate() + a.information_about_labels() - 0.1,
    "geco": lambda a: a.rate() + a.bce() - 20,
    "target_rate": lambda a: a.bce() + a.rate() - 6,
    "aae": lambda a: a.bce() + 10 * a.js("js_z"),
    "wae_gan": lambda a: a.bce() + 10 * a.js("js_z"),
    "wae_mmd": lambda a: a.bce() + 100 * a.mmd(),
    "vmi": lambda a: a.code_entropy(),
    "infogan": lambda a: 2 * a.js("js_x") + a.code_entropy(),
    "ali": lambda a: a.js("js_xz"),
    "bigan": lambda a: a.js("js_xz"),
    "alice": lambda a: 20 * a.js("js_xz") + a.l1(),
    "cyclegan": lambda a: a.js("js_x") + a.js("js_z") + a.l1() + laplace(a.s.z_p - a.s.q_z_given_x_p.mean, 1.0).mean(),
    "discogan": lambda a: (
        3 * a.js("js_x")
        + 3 * a.js("js_z")
        + gaussian((a.s.x_q - a.s.p_x_given_z_q.mean).flatten(1), 1.0).mean()
        + gaussian(a.s.z_p - a.s.q_z_given_x_p.mean, 1.0).mean()
    ),
    "asvae": lambda a: a.number("kl_xz")[0].mean() - a.number("kl_xz")[1].mean(),
    "vae_gan": lambda a: (
        gaussian(
            (a.s.x_q - a.s.p_x_given_z_q.mean).flatten(1), a.model.joint.decoder(a.s.z_q).base_dist.scale.flatten()[0]
        ).mean()
        + a.rate()
        + 10 * a.js("js_x")
    ),
}


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("avb", "front")])
def test_the_objective_is_that_of_the_authors(family: str) -> None:
    """That of a front is the mean of lagvae's over its slacks: tests/test_front.py."""
    _, model, samples = member(family)
    with torch.no_grad():
        values = model.lagrangian.measure(samples)
        own = float(model.lagrangian(values))
        theirs = float(AUTHORS[family](By(model, samples)))
    # The two are the same sums of some thousand fp32 numbers in another order. The weights of the presets may differ from 1.
    scale = {c.name: c.multiplier for c in model.lagrangian.constraints}
    assert own == pytest.approx(theirs, rel=2e-5, abs=2e-5), scale


def test_avb_is_the_elbo_with_the_rate_of_its_critic() -> None:
    _, model, samples = member("avb")
    divergence = model.lagrangian.constraints[0].divergence
    with torch.no_grad():
        values = model.lagrangian.measure(samples)
        theirs = divergence.rate(samples).mean() + By(model, samples).bce()
    assert float(model.lagrangian(values)) == pytest.approx(float(theirs), rel=2e-5)


LEARNED = ("multiplier=learned", "epsilon=calibrated", "training.start=calibrated", "calibration.steps=3")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_member_calibrates_trains_and_goes_on_to_the_same_bits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learned multiplier, wherever there is a constraint; stopped after the checkpoint of its first interval."""
    length = ["training.steps=6", "training.interval=3", "data.batch=256"]  # six steps are more than a pass over the data
    words = [*SMALL, *length, f"family={family}", *(LEARNED if family != "vmi" else ())]
    words += ["constraints.neg_elbo.learned=true"] if family == "controllable_fair" else []  # it has a fixed one by default
    step = LatentVariableModel.training_step

    def interrupted(self: LatentVariableModel, batch: Any, batch_idx: int) -> None:
        if batch.step == 4:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    said = program(tmp_path, *words, "name=whole")
    assert said.status == 0, said.err
    whole, parts = (RunFolder(tmp_path / "runs" / name) for name in ("whole", "parts"))
    cfg = read_config(whole)
    cfg.name, cfg.callbacks.final = "parts", {}  # what is measured at the end is measured of the whole run
    with monkeypatch.context() as patch:
        patch.setattr(LatentVariableModel, "training_step", interrupted)
        with pytest.raises(Stopped, match="resume=parts"):
            train(cfg)
    assert torch.load(parts.last, weights_only=True)["global_step"] == 3
    resume(parts)
    summary = whole.read_summary()
    assert all(c["learned"] and c["bound"] is not None for c in summary["constraints"].values())
    a, b = (torch.load(run.last, weights_only=True) for run in (whole, parts))
    assert a["global_step"] == b["global_step"] == 6
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (
            ("family=vae", "posterior=implicit"),
            ["constraints.neg_elbo needs the rate KL(q(z|x)‖p(z))", "ImplicitEncoder", "adversarial_neg_elbo"],
        ),
        (("family=aae", "likelihood=generator", "data.likelihood=normal"), ["alpha.q=-1", "Generator", "likelihood=normal"]),
        (
            ("family=infogan", "posterior=gaussian", "prior=codes", "alpha.q=1"),
            ["alpha.q=1", "GaussianEncoder (posterior=gaussian) with CodesPrior (prior=codes)"],
        ),
        (("family=infogan", "prior=normal"), ["posterior=codes", "prior=codes"]),
        (("family=infogan", "model.latent=5"), ["model.latent=5 is too small for the codes, which take 10"]),
        (("family=infogan", "model.prior.categorical=[1]"), ["model.prior.categorical=[1]"]),
        (("family=cyclegan", "data=digits"), ["prior=data", "data=digits", "digits_pairs"]),
        (("family=aae", "constraints.js_z.multiplier=-1"), ["constraints.js_z.multiplier=-1"]),
        (("family=aae", "multiplier=learned"), ["constraints.js_z", "needs a bound"]),
        (("family=vae", "divergence=[js_x]"), ["constraints.js_x needs samples of p(x|z) with a gradient", "BernoulliDecoder"]),
        (("family=aae", "critic.steps=0"), ["critic.steps=0"]),
        (("family=aae", "critic.network=null"), ["constraints.js_z.divergence.network=null: null is not allowed here"]),
        (("family=aae", "training.average=1.5"), ["training.average=1.5"]),
        (("family=aae", "training.average=0"), ["training.average=0"]),
        (("family=aae", "trainer.devices=2"), ["trainer.devices=2", "one device"]),
        (
            ("family=vae", "divergence=[symbolic]", "constraints.symbolic.divergence.objective='KL(q||r)'"),
            ["divergence.objective"],
        ),
        (("family=vae", "divergence=[symbolic]", "constraints.symbolic.divergence.within=likelihood"), ["it needs", "Closest"]),
    ],
)
def test_what_does_not_fit_is_named_before_training(words: tuple[str, ...], pieces: list[str], tmp_path: Path) -> None:
    said = program(tmp_path, *SMALL, *words, "training.steps=3", "training.interval=3")
    assert said.status == 1
    for piece in pieces:
        assert piece in said.err, said.err
    assert not [name for name in said.new if "ckpt" in name or "config.yaml" in name]


def test_a_running_mean_of_the_model_is_what_is_measured(tmp_path: Path) -> None:
    """In a model without a mean, the weights of the mean give the run's numbers, and the last weights do not."""
    words = (*SMALL, "family=vae", "training.average=0.5", "name=run", "training.steps=6", "training.interval=3")
    assert program(tmp_path, *words).status == 0
    run = RunFolder(tmp_path / "runs" / "run")
    state = torch.load(run.last, weights_only=True)["state_dict"]
    cfg = settings(tmp_path, *words, "training.average=null")
    data = build_data(cfg)
    model = build_model(cfg, data)
    for prefix, same in (("averaged.module.", True), ("joint.", False)):
        model.warm_start({n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)})
        fit = Fit(cfg, data, model, RunFolder(tmp_path / prefix), prefix)
        fit.evaluate()
        for split, values in run.read_summary()["splits"].items():
            assert (fit.results[split]["neg_elbo"] == pytest.approx(values["neg_elbo"], rel=1e-6)) == same, (prefix, split)


def test_what_is_written_is_summed_where_the_sum_needs_less() -> None:
    """−I_q + KL(q(x|z)‖p(x|z)) is the distortion up to a constant: no critic; with a learned λ each is computed alone."""
    words = ("divergence=[symbolic]", "constraints.symbolic.divergence.objective='KL(q(x|z)||p(x|z))'", "alpha.q=-1")
    _, model, samples = member("vae", *words)
    assert not model.critics
    with torch.no_grad():
        values = model.lagrangian.measure(samples)
        assert float(model.lagrangian(values)) == pytest.approx(float(values.terms["distortion"]), rel=1e-6)
    _, alone, samples = member("vae", *words[:2])
    assert set(alone.critics["symbolic"]) == {"z"}
    with torch.no_grad():
        divergence, s = alone.lagrangian.constraints[0].divergence, samples
        v_q, _ = divergence.parts["z"].scores(s)
        log_q, log_p = s.q_z_given_x.log_prob(s.z_q), s.p_z.log_prob(s.z_q)
        by_hand = s.distortion.mean() - log_p.mean() + log_q.mean() - v_q.mean()
        assert float(divergence(s)) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.slow
def test_avb_finds_the_information_of_the_linear_gaussian_world(tmp_path: Path) -> None:
    """At the optimum of −ELBO the rate is I(x; z) = ½ log det(I + WᵀW/s²); its estimate by a critic within 10 %."""
    words = ("family=avb", "data=linear_gaussian", "model.latent=2", "trainer=cpu", "name=run", "callbacks.figures=false")
    said = program(tmp_path, *words)
    assert said.status == 0, said.err
    cfg = settings(tmp_path, *words)
    data = build_data(cfg)
    model = build_model(cfg, data)
    state = torch.load(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict(state)
    x = data.first_samples("train", 2000)
    with torch.no_grad():
        samples = model.eval().samples(Batch(x, torch.arange(len(x)), 0), "train")
        rate = float(model.lagrangian.constraints[0].divergence.rate(samples).mean())
    world = LinearGaussian.random(8, 2, 0.5, 0)
    truth = 0.5 * float(torch.logdet(torch.eye(2, dtype=torch.float64) + world.weight.mT @ world.weight / 0.25))
    assert rate == pytest.approx(truth, rel=0.1)
