"""How what is measured is connected: the split of a verdict, the weights that are evaluated, labels, bounds and critics.

The parts themselves are tested elsewhere. Models and data are tiny, or have a closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import ABSENT, QUICK, settings
from torch import Tensor, nn

from lagvae.callbacks import Evaluation
from lagvae.data import SPLITS, Arrays, Batch, DataModule
from lagvae.data.datamodule import eval_splits
from lagvae.distributions import (
    CodesEncoder,
    CodesPrior,
    EmpiricalPrior,
    GaussianEncoder,
    JointModel,
    JointSamples,
    NormalDecoder,
    StandardNormalPrior,
    draw_noise,
)
from lagvae.divergences import MMD, RBF, AdversarialRate, NegElbo, SlicedWasserstein, SymbolicObjective
from lagvae.divergences.density_ratio import whitened_kl
from lagvae.experiment.calibration import Calibration, calibration_config
from lagvae.experiment.factory import build_data, build_model
from lagvae.experiment.fit import Fit
from lagvae.experiment.run import calibrate
from lagvae.experiment.summary import summarise
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.metrics import ClassifierScore, CodeAgreement, Information, LatentMetric, PairingAccuracy
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.noise import Noise
from lagvae.oracles import LinearGaussian
from lagvae.runs.layout import RunFolder

LinearJoint = Callable[[LinearGaussian, Tensor, Tensor], JointModel]
MeanIs = Callable[[Tensor, float | Tensor], float]


# ---- the verdict: on the training split, relative to both preferences


def summary_of(constraint: Constraint, q: float, p: float, stderr: float = 0.0, **divergences: float) -> dict[str, Any]:
    """The summary of a model with one constraint and its divergence on each split; `stderr` is that of the training split.

    The multiplier of the constraint is λ itself, and not in units of max(|q|, |p|).
    """
    constraint = replace(constraint, multiplier=constraint.multiplier / max(abs(q), abs(p)))
    cfg: Any = SimpleNamespace(
        family="lagvae",
        alpha=SimpleNamespace(q=q, p=p),
        data=SimpleNamespace(name="own", batch=4),
        model=SimpleNamespace(name="mlp"),
        callbacks=SimpleNamespace(final={}),
    )
    key = f"constraint/{constraint.name}"
    splits = {s: {key: v, f"{key}_stderr": stderr if s == "train" else 0.0} for s, v in divergences.items()}
    model: Any = SimpleNamespace(lagrangian=Lagrangian(Preference(q, p), [constraint]))
    return summarise(cfg, model, None, splits, {})


BOUND = 10.0


def bounded(multiplier: float, learned: bool = True) -> Constraint:
    return Constraint("neg_elbo", NegElbo(), bound=BOUND, multiplier=multiplier, learned=learned, max_multiplier=1000.0)


@pytest.mark.parametrize("split", SPLITS)
def test_the_verdict_is_on_the_training_split(split: str) -> None:
    """The bound holds on one split only: the constraint is met exactly if that is the training split."""
    found = summary_of(bounded(1.0), -1.0, 0.0, **{s: BOUND + (0.0 if s == split else 3.0) for s in SPLITS})
    (one,) = found["constraints"].values()
    assert one["verdict"] == ("active" if split == "train" else "not converged")
    assert found["verdict"] == ("met" if split == "train" else "not converged")
    assert one["divergence"] == one["train"]
    assert {s: one[s] - BOUND for s in SPLITS} == {s: 0.0 if s == split else 3.0 for s in SPLITS}
    assert bool(found["messages"]) == (split != "train")


def test_the_tolerance_of_the_verdict_is_of_the_training_split_too() -> None:
    """A violation of 3 is within the tolerance where two standard errors are 4."""
    noisy = Constraint("mmd", MMD(RBF()), bound=0.0, learned=True, scale=1.0, max_multiplier=1000.0)
    for stderr, verdict in ((2.0, "active"), (0.0, "not converged")):
        found = summary_of(noisy, -1.0, 0.0, stderr, train=3.0, val=3.0, test=3.0)
        assert found["constraints"]["mmd"]["verdict"] == verdict


@pytest.mark.parametrize(("q", "p"), [(0.0, 3.0), (0.0, -3.0), (3.0, 0.0), (-3.0, 0.0), (-3.0, 1.0), (1.0, -3.0)])
def test_a_multiplier_dominates_the_larger_of_both_preferences(q: float, p: float) -> None:
    """λ = 10 is above five times |α| = 1, and below five times |α| = 3."""
    values = dict.fromkeys(SPLITS, BOUND + 3.0)
    assert summary_of(bounded(10.0), q, p, **values)["verdict"] == "not converged"
    assert summary_of(bounded(20.0), q, p, **values)["verdict"] == "infeasible"
    assert summary_of(bounded(10.0), q / 3, p / 3, **values)["verdict"] == "infeasible"


@pytest.mark.parametrize(("q", "p", "price"), [(-2.0, 0.0, 1.5), (2.0, 0.0, -1.5), (0.0, 4.0, -0.75), (1.0, 1.0, None)])
def test_the_sensitivity_divides_by_the_one_preference_that_is_not_zero(q: float, p: float, price: float | None) -> None:
    found = summary_of(bounded(3.0), q, p, **dict.fromkeys(SPLITS, BOUND))
    assert found["constraints"]["neg_elbo"]["sensitivity"] == price


# ---- which weights are evaluated, saved and started from


class FinalEvaluation:
    """The state of a trainer that evaluates all splits."""

    testing, training = True, False


def tiny_model(average: float | None) -> LatentVariableModel:
    torch.manual_seed(0)
    linear = partial(MLP, hidden=())
    joint = JointModel(StandardNormalPrior(2), GaussianEncoder(linear, (3,), 2), NormalDecoder(linear, (3,), 2))
    return LatentVariableModel(joint, Lagrangian(Preference(-1.0), []), torch.optim.SGD, average=average)


def test_evaluation_uses_the_averaged_weights_and_training_the_current_ones() -> None:
    model = tiny_model(average=0.5)
    assert model.averaged is not None
    with torch.no_grad():
        for p in model.averaged.module.parameters():
            p += 1
    x = torch.ones(4, 3)
    own, mean = model.joint.encoder(x).mean, model.averaged.module.encoder(x).mean
    model.logs_evaluation = False
    model.trainer = testing = FinalEvaluation()  # type: ignore[assignment] # which the model does not keep alive
    for k, split in enumerate(eval_splits(testing)):
        assert model.validation_step(Batch(x, torch.arange(4), 0), 0, k).q_z_given_x.mean.equal(mean), split
    assert model.samples(Batch(x, torch.arange(4), 0), "stationarity").q_z_given_x.mean.equal(own)
    other = tiny_model(average=None)
    other.warm_start(model.warm_start_state())
    assert other.joint.encoder(x).mean.equal(mean)
    assert not own.equal(mean)


def test_without_an_average_the_current_weights_are_evaluated() -> None:
    model, x = tiny_model(average=None), torch.ones(4, 3)
    own = model.joint.encoder(x).mean
    assert model.samples(Batch(x, torch.arange(4), 0), "val", model.eval_model).q_z_given_x.mean.equal(own)


def test_an_evaluation_draws_any_noise_that_a_metric_needs() -> None:
    """The model is trained without such noise; the estimate is the same as with all of it drawn before."""
    model, x = tiny_model(average=None), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    samples = model.samples(Batch(x, torch.arange(64), 5), "val", model.eval_model)
    names = frozenset({"z_q", "z_p", "slices_z"})
    drawn = draw_noise(names, model.joint, Noise(model.seed, "val"), 5, x)
    distance = SlicedWasserstein()
    assert "slices_z" not in samples.noise
    assert distance(samples).equal(distance(JointSamples(model.joint, x, drawn)))
    with pytest.raises(KeyError):
        samples.noise["no_such_noise"]


class Counted(LatentMetric):
    """Keeps which samples it is given."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.count_images_once, self.seen = once, []  # type: ignore[misc]

    def update(self, samples: JointSamples, index: Tensor) -> None:
        self.seen += index.tolist()

    def compute(self) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("split", SPLITS)
def test_what_counts_images_once_sees_each_of_held_out_data_in_one_pass(split: str) -> None:
    """Further passes are further draws. On the training split, where q(x) is uniform over the samples, all of them count."""
    x = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    data, model = DataModule(lambda: Arrays(x), "own", "normal", batch=4, draws=100), tiny_model(average=None)
    evaluation, size = Evaluation({}, {}), data.size(split)
    metrics = {once: Counted(once) for once in (False, True)}
    evaluation._metrics = {split: metrics}  # type: ignore[assignment]
    trainer: Any = SimpleNamespace(testing=True, datamodule=data, is_global_zero=False)
    for batch in data.eval_loader(split, torch.device("cpu"), passes=3):
        samples = model.samples(batch, split, model.eval_model)
        evaluation.on_test_batch_end(trainer, model, samples, batch, 0, SPLITS.index(split))
    seen = {once: sorted(metric.seen) for once, metric in metrics.items()}
    assert seen[False] == sorted(3 * [*range(size)])
    assert seen[True] == (seen[False] if split == "train" else [*range(size)])


def test_the_saved_parameters_are_those_that_were_evaluated(tmp_path: Path) -> None:
    """θ* of a calibration with averaged weights has ε̂ on the split of the calibration, in a model without an average."""
    cfg = settings(tmp_path, *QUICK, "training.average=0.9", "calibration.split=test")
    data = build_data(cfg)
    calibration, folder = calibrate(cfg, data)
    plain = calibration_config(cfg)
    plain.training.average = None
    data = data.reseeded(plain.seed)
    model = build_model(plain, data)
    model.warm_start(Calibration.theta(folder))
    fit = Fit(plain, data, model, RunFolder(tmp_path / "again"), "again")
    fit.evaluate()
    for name, value in calibration.calibrated.items():  # the same sums on the same samples
        assert fit.results["test"][f"constraint/{name}"] == pytest.approx(value, rel=1e-6), name
        for split in ("train", "val"):
            assert fit.results[split][f"constraint/{name}"] != pytest.approx(value, rel=1e-3), "the splits can be told apart"
        stderr = fit.results["test"][f"constraint/{name}_stderr"]
        assert calibration.stderr[name] == pytest.approx(stderr, rel=1e-6, nan_ok=True)


# ---- when a bound on I is exact


def identity_joint(linear_joint: LinearJoint, t: float) -> JointModel:
    """q(z|x) = N(x, t² I) in three dimensions."""
    eye = torch.eye(3).double()
    return linear_joint(LinearGaussian(eye, 0.1), eye, torch.full((3,), t).double()).requires_grad_(False)


def grey(n: int, likelihood: str, **settings: Any) -> DataModule:
    """Samples of three grey levels each, all different."""
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(4)) * 0.5 + 0.25
    return DataModule(lambda: Arrays(x), name="grey", likelihood=likelihood, batch=8, **settings)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_a_bound_is_exact_only_where_x_is_one_of_all_samples_and_never_changes(
    likelihood: str, split: str, linear_joint: LinearJoint
) -> None:
    """On the training split x is one of N stored samples; binarised anew or held out, it is one of a larger population."""
    joint, data = identity_joint(linear_joint, 0.2), grey(90, likelihood)
    measure = Information()
    assert measure.is_applicable(joint, data, split)
    index = torch.arange(data.size(split))
    batch = data.observed(Batch(data.arrays.x[data.split[split]], index, 0), data.noise(split))
    noise = draw_noise(frozenset({"z_q"}), joint, Noise(0), 0, batch.x)
    measure.update(JointSamples(joint, batch.x, noise), index)
    found = measure.compute()
    exact = likelihood == "normal" and split == "train"
    assert ("i_q_upper_whole" in found) == exact
    assert (found["i_q_upper"] == found["i_q_lower"]) == exact
    assert data.is_stochastic == (likelihood == "bernoulli")


# ---- labels, partners and the classifier of a split


def labelled(own_test: bool = False) -> DataModule:
    """Samples whose value is their position i, with the label (i // 3) % 4 and the partner 2 i + 1."""
    x, test = torch.arange(90.0).unsqueeze(1), 1000 + torch.arange(20.0).unsqueeze(1)
    more = {"test": test, "test_labels": torch.arange(20) % 3} if own_test else {}
    arrays = Arrays(x, labels=torch.arange(90) // 3 % 4, partner=lambda x: x * 2 + 1, **more)
    return DataModule(lambda: arrays, name="own", likelihood="normal", batch=8, val=0.3, test=0.2)


def stored(data: DataModule, split: str) -> Tensor:
    arrays = data.arrays
    whole: Any = arrays.test if split == "test" and arrays.test is not None else arrays.x
    return whole[data.split[split]]  # type: ignore[no-any-return]


@pytest.mark.parametrize("own_test", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_codes_are_compared_with_the_labels_of_their_own_split(split: str, own_test: bool) -> None:
    """An encoder that predicts every label has accuracy 1 on every split, in any order of the samples."""
    data = labelled(own_test)
    prior = CodesPrior(5, categorical=(4,))
    joint = JointModel(prior, CodesEncoder(partial(MLP, hidden=()), (1,), prior), ABSENT)
    measure = CodeAgreement()
    assert measure.is_applicable(joint, data, split)
    x = stored(data, split)
    label = (x[:, 0] - 1000) % 3 if split == "test" and own_test else x[:, 0] // 3 % 4
    for index in torch.arange(len(x)).flip(0).split(7):
        logits = nn.functional.one_hot(label[index].long(), 4).float()
        samples: Any = SimpleNamespace(q_z_given_x=SimpleNamespace(code_logits=logits), x_q=x[index])
        measure.update(samples, index)
    found = measure.compute()
    assert float(found["code_accuracy"]) == 1.0
    assert float(found["code_nmi"]) == pytest.approx(1.0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_translations_are_compared_with_the_partners_of_their_own_split(split: str) -> None:
    data = labelled()
    second = data.second("train")
    assert second is not None
    measure = PairingAccuracy()
    joint: Any = SimpleNamespace(prior=EmpiricalPrior(second), decoder=lambda z: SimpleNamespace(mean=(z - 1) / 2))
    assert not measure.is_applicable(joint, data, "train"), "no pair is seen in training"
    assert measure.is_applicable(joint, data, split)
    x = stored(data, split)
    for index in torch.arange(len(x)).flip(0).split(7):
        mean = x[index] * 2 + 1
        samples: Any = SimpleNamespace(x_q=x[index], q_z_given_x=SimpleNamespace(mean=mean), joint=joint)
        measure.update(samples, index)
    found = measure.compute()
    assert (float(found["pairing_z"]), float(found["pairing_x"])) == (1.0, 1.0)
    assert float(found["pairing_chance"]) == pytest.approx(1 / len(x))


def test_no_training_sample_of_the_second_domain_is_the_partner_of_a_sample_of_the_first() -> None:
    data = labelled()
    second = data.second("train")
    assert second is not None
    sources = {float(z - 1) / 2 for z in second}
    assert len(sources) == len(second)
    for split in SPLITS:
        assert sources.isdisjoint(stored(data, split)[:, 0].tolist()), split


@pytest.mark.parametrize(("split", "accuracy"), [("train", 1.0), ("val", 0.0), ("test", 0.0)])
def test_the_classifier_is_trained_on_the_training_split_only(split: str, accuracy: float) -> None:
    """Outside the training split the two classes are swapped."""
    sides = torch.arange(90) % 2
    x = (2.0 * sides - 1).unsqueeze(1) + 0.01 * torch.randn(90, 1, generator=torch.Generator().manual_seed(0))
    arrays = Arrays(x, labels=sides)
    data = DataModule(lambda: arrays, name="sides", likelihood="normal", batch=8, val=0.3, test=0.2)
    data.arrays.x = x * torch.ones(90, 1).index_fill(0, torch.cat([data.split["val"], data.split["test"]]), -1.0)
    measure = ClassifierScore()
    joint: Any = None
    assert measure.is_applicable(joint, data, split)
    index = torch.arange(data.size(split)).flip(0)
    real = stored(data, split)[index]
    samples: Any = SimpleNamespace(x_p=real[:1].expand(len(real), -1), x_q=real)
    measure.update(samples, index)
    found = measure.compute()
    assert torch.cat(measure.real).equal(real), "the images are as they were, after their pixels were shuffled"
    assert float(found["class_accuracy"]) == accuracy
    assert float(found["class_coverage"]) == 0.5, "the same image, repeated"


# ---- divergences with an exact critic


class LogDensityRatio(nn.Module):
    """log N(z; m, 1) − log N(z; 0, 1), the optimal critic of q = N(m, 1) and p = N(0, 1)."""

    mean = 1.5

    def __init__(self, shape_in: Any, shape_out: Any) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return self.mean * z - self.mean**2 / 2


@pytest.mark.parametrize(
    ("objective", "sign"),
    [("KL(q(z)||p(z))", 1), ("KL(p(z)||q(z))", 1), ("-KL(p(z)||q(z))", -1), ("-KL(q(z)||p(z))", -1)],
)
def test_terms_of_a_symbolic_objective_have_their_sign_on_both_sides(objective: str, sign: int, mean_is: MeanIs) -> None:
    """Both directions of KL between N(m, 1) and N(0, 1) are m²/2 = 1.125; descending either moves q towards p."""
    estimator = SymbolicObjective(objective, LogDensityRatio)
    linear = partial(MLP, hidden=())
    joint = JointModel(StandardNormalPrior(1), GaussianEncoder(linear, (1,), 1), NormalDecoder(linear, (1,), 1))
    estimator.prepare("symbolic", joint, (1,))
    noise = Noise(0)
    parts = []
    for step in range(20):
        z_q = (LogDensityRatio.mean + noise.normal("q", step, (1000, 1))).requires_grad_()
        samples: Any = SimpleNamespace(z_q=z_q, z_p=noise.normal("p", step, (1000, 1)))
        value = estimator(samples)
        (slope,) = torch.autograd.grad(value, z_q)
        assert float(slope.sum()) * sign > 0, "q lies above p"
        parts.append(value.detach())
    assert mean_is(torch.stack(parts), sign * LogDensityRatio.mean**2 / 2) < 0.05


def test_the_rate_by_adaptive_contrast_includes_the_error_of_the_contrast(
    linear_joint: LinearJoint, mean_is: MeanIs, generator: torch.Generator
) -> None:
    """For a Gaussian q(z|x) and a critic that has found nothing, the expected error of r is added, 0.7 nats for six draws in
    two dimensions, but for what a critic could still find in the whitened samples: far above the error of this test."""
    world = LinearGaussian.random(3, 2, 0.6, seed=3)
    a, cov = world.posterior()
    joint = linear_joint(world, a, cov.diagonal().sqrt())
    rate = AdversarialRate(partial(MLP, hidden=()), draws=6)
    rate.prepare("rate", joint, (3,))
    for p in rate.critic.parameters():
        nn.init.zeros_(p)
    x = torch.randn(8000, 3, generator=generator)
    samples = JointSamples(joint, x, draw_noise(rate.required_noise, joint, Noise(1), 0, x))
    with torch.no_grad():
        assert mean_is(rate.rate(samples) - samples.rate, -whitened_kl(6, 2)) < 0.1
