"""What codes tell about an attribute u: the divergences by a classifier, the two bounds, and how u reaches them."""

from __future__ import annotations

from functools import partial
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import QUICK, SHORT, program, refuses
from scipy import integrate, stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lagvae
from lagvae.cli.use import use_model
from lagvae.data import Arrays, Batch, DataModule
from lagvae.data.datamodule import content_digest
from lagvae.data.tables import table
from lagvae.distributions import GaussianEncoder, JointModel, JointSamples, NormalDecoder, StandardNormalPrior
from lagvae.divergences import AttributeEntropy, AttributeInformation, NegElbo
from lagvae.errors import DataError, SettingError
from lagvae.experiment.report import remarks
from lagvae.experiment.summary import explain_attribute
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.metrics import AttributeScores
from lagvae.metrics.attribute import mixture_log_ratio
from lagvae.metrics.base import Sizes
from lagvae.model import LatentVariableModel
from lagvae.networks import MLP
from lagvae.noise import Noise
from lagvae.runs.layout import RunFolder

SIDE, SHARES = 0.8, (0.3, 0.7)
"""q(z|u) = N(±SIDE, 1), with these shares of u."""


def exact_information() -> float:
    """I(z;u) of that world, by quadrature."""

    def density(z: float, u: int) -> float:
        return float(stats.norm.pdf(z, (2 * u - 1) * SIDE))

    def integrand(z: float, u: int) -> float:
        return SHARES[u] * density(z, u) * log(density(z, u) / sum(SHARES[v] * density(z, v) for v in (0, 1)))

    return float(sum(integrate.quad(integrand, -12, 12, args=(u,))[0] for u in (0, 1)))


def world(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Codes, (n, 1), and their u, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    u = (torch.rand(n, generator=generator) < SHARES[1]).long()
    return ((2 * u - 1) * SIDE + torch.randn(n, generator=generator)).unsqueeze(1), u


class Exact(nn.Module):
    """log q(z|u) + log p(u), up to a constant, the best classifier of that world."""

    def __init__(self, shape_in: Any, shape_out: Any) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([log(share) + (2 * u - 1) * SIDE * z for u, share in enumerate(SHARES)], 1)


def estimator(kind: Any, network: Any, latent: int = 1) -> Any:
    divergence = kind(network)
    divergence.attribute_shares = SHARES
    joint: Any = SimpleNamespace(latent=latent)
    divergence.prepare("d", joint, (3,))
    return divergence


# ---- the divergences


def test_the_best_classifier_gives_the_exact_information() -> None:
    z, u = world(40_000)
    samples = SimpleNamespace(z_q=z, u=u)
    # log r is below log 1 and its standard deviation below 1, so the mean is known to 4 / √n.
    tolerance = 4 / 40_000**0.5
    assert float(estimator(AttributeInformation, Exact)(samples)) == pytest.approx(exact_information(), abs=tolerance)
    entropy = float(stats.entropy(SHARES)) - exact_information()
    assert float(estimator(AttributeEntropy, Exact)(samples)) == pytest.approx(entropy, abs=tolerance)


@pytest.mark.parametrize("kind", [AttributeInformation, AttributeEntropy])
def test_the_classifier_is_trained_towards_the_bound_from_its_side(kind: Any) -> None:
    """Whatever the encoder wants, its steps minimise the cross-entropy, and move no code."""
    torch.manual_seed(0)
    divergence = estimator(kind, partial(MLP, hidden=[16]))
    optimizer = torch.optim.Adam(divergence.critic.parameters(), lr=0.02)
    z, u = world(4000)
    z.requires_grad_()
    for _ in range(200):
        loss = divergence.critic_loss(SimpleNamespace(z_q=z, u=u))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert z.grad is None
    fresh = SimpleNamespace(z_q=(pair := world(40_000, seed=1))[0], u=pair[1])
    best = float(estimator(AttributeEntropy, Exact)(fresh))  # of the same samples, so that only the classifier differs
    with torch.no_grad():
        found = float(divergence.cross_entropy(fresh.z_q, fresh.u))
    # The difference has a standard deviation of about √(2 · 0.005), so the mean is known to 4 · 0.1 / √40,000.
    assert best - 2e-3 < found < best + 0.02


def test_the_encoder_hides_u_for_one_and_shows_it_for_the_other() -> None:
    """A step down of the one makes r less sure of the true u, and of the other more."""
    for kind, sign in ((AttributeInformation, -1), (AttributeEntropy, 1)):
        z, u = world(200)
        z.requires_grad_()
        estimator(kind, Exact)(SimpleNamespace(z_q=z, u=u)).backward()
        towards = (2 * u - 1).unsqueeze(1)  # the direction in which the true u becomes more probable
        assert bool((sign * -z.grad * towards > 0).all()), kind


def test_a_divergence_without_u_says_what_to_do() -> None:
    divergence = AttributeInformation(MLP)
    joint: Any = SimpleNamespace(latent=1)
    with pytest.raises(SettingError, match=r"constraints.fair needs an attribute u.*data.source.attribute=COLUMN"):
        divergence.prepare("fair", joint, (3,))
    with pytest.raises(SettingError, match="the batch has none"):
        estimator(AttributeInformation, Exact)(SimpleNamespace(z_q=torch.zeros(2, 1), u=None))


# ---- the two bounds


class Identity(nn.Module):
    """q(z|x) = N(x, 1) in one dimension."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(x, self.scale.expand_as(x)), 1)


def sides(n: int, dimensions: int = 1, informative: bool = True, seed: int = 0) -> DataModule:
    """x = ±SIDE by u, or zeros with a u that says nothing; the first coordinate only."""
    generator = torch.Generator().manual_seed(seed)
    u = (torch.rand(n, generator=generator) < SHARES[1]).long()
    x = torch.zeros(n, dimensions)
    x[:, 0] = (2 * u - 1) * SIDE * informative
    data = DataModule(lambda: Arrays(x, attribute=u), "sides", "normal", batch=50, val=0.3, test=0.3)
    data.use_attribute()
    return data


def scores(data: DataModule, split: str, scale: float = 1.0, **settings: Any) -> dict[str, float]:
    """AttributeScores of the encoder N(x, scale²) on a split, by batches."""
    joint = JointModel(StandardNormalPrior(data.shape[0]), GaussianEncoder(MLP, data.shape, data.shape[0]), Identity())
    joint.encoder.forward = Identity(scale).forward  # type: ignore[method-assign] # a Gaussian encoder that is known
    metric = AttributeScores(**settings)
    assert metric.is_applicable(joint, data, split)
    u = data.attribute(split)
    assert u is not None
    x = data.first_samples(split, data.size(split))
    noise = Noise(3, split).normal("z", 0, tuple(x.shape))
    with torch.no_grad():
        for index in torch.arange(len(x)).split(70):
            metric.update(JointSamples(joint, x[index], {"z_q": noise[index]}, u=u[index]), index)
        return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_bounds_hold_the_exact_information_between_them(split: str) -> None:
    found, exact = scores(sides(6000), split), exact_information()
    assert found["i_zu_lower"] < exact + 4 * found["i_zu_lower_stderr"]
    assert found["i_zu_upper"] > exact - 4 * found["i_zu_upper_stderr"]
    # With 1,200 training codes of one dimension and two narrow groups both are near.
    assert found["i_zu_upper"] - found["i_zu_lower"] < 0.03 + 4 * found["i_zu_lower_stderr"]
    assert found["attribute_chance"] == pytest.approx(SHARES[1], abs=4 * (0.21 / 1200) ** 0.5)
    assert found["attribute_accuracy"] > found["attribute_chance"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_classifier_learns_nothing_of_a_u_that_the_codes_do_not_tell(split: str) -> None:
    """Sixteen dimensions of noise: a classifier that is judged on codes that it was trained on would find much."""
    found = scores(sides(1500, dimensions=16, informative=False), split, scale=0.5)
    assert found["i_zu_lower"] < 4 * found["i_zu_lower_stderr"]
    assert found["attribute_accuracy"] < SHARES[1] + 4 * found["attribute_accuracy_stderr"]


def test_a_narrow_encoder_may_tell_everything_and_the_upper_bound_says_so() -> None:
    """Codes that tell their image tell its u too: the upper bound is the entropy of u, whether or not anyone can learn it."""
    data = sides(600, dimensions=16, informative=False)
    data.arrays.x = torch.randn(600, 16, generator=torch.Generator().manual_seed(1))
    found = scores(data, "test", scale=1e-3)
    u = data.attribute("test")
    assert u is not None
    shares = u.bincount() / len(u)
    assert found["i_zu_upper"] == pytest.approx(float(stats.entropy(shares)), abs=1e-6)
    assert found["i_zu_lower"] < 0.1


def test_the_error_of_a_classifier_that_knows_nothing_or_everything() -> None:
    """log r(u|z) / p(u) varies little for shares alone, and as −log p(u) for certainty; log r itself does the reverse."""
    certain = sides(1500)
    certain.arrays.x[:, 0] *= 50
    found = scores(certain, "test", scale=0.1)
    of_test = certain.attribute("test")
    assert of_test is not None
    shares = of_test.bincount().double() / len(of_test)
    exact = (-shares.log()[of_test]).std() / len(of_test) ** 0.5
    assert found["i_zu_lower_stderr"] == pytest.approx(float(exact), rel=0.1)
    blind = scores(sides(1500, informative=False), "test", samples=4)  # too few codes to train a classifier
    assert abs(blind["i_zu_lower"]) < 1


def test_whatever_the_loader_yields_there_are_rows_to_measure() -> None:
    metric = AttributeScores()
    joint: Any = SimpleNamespace(has_gaussian_posterior=False)
    assert metric.is_applicable(joint, sides(400), "train")
    sizes = Sizes(encode=10.0, decode=10.0, x=1, z=4, images=160, draws=160)
    cost = metric.cost(sizes)
    assert metric.limit(0.25) == {"samples": (5000, 1250)}
    assert metric.cost(sizes) == cost, "160 images are fewer than both"
    assert metric.limit(1e-3) == {"samples": (1250, 500)}
    samples: Any = SimpleNamespace(z_q=torch.zeros(20, 1), u=torch.zeros(20, dtype=torch.long))
    metric.update(samples, torch.arange(20))
    assert len(torch.cat(metric.z)) == 10


def test_the_mixture_against_all_densities_one_by_one() -> None:
    generator = torch.Generator().manual_seed(5)
    loc, scale = torch.randn(40, 3, generator=generator).double(), torch.rand(40, 3, generator=generator).double() + 0.2
    u = torch.arange(40) % 3
    z = loc + scale * torch.randn(40, 3, generator=generator).double()
    each = torch.distributions.Normal(loc, scale).log_prob(z.unsqueeze(1)).sum(-1).exp()  # [i, j] = q(z_i|x_j)
    expected = [float((each[i, u == u[i]].mean() / each[i].mean()).log()) for i in range(40)]
    assert mixture_log_ratio(z, u, loc, scale).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_each_image_counts_once_and_those_that_train_the_classifier_never() -> None:
    data = sides(400)
    metric = AttributeScores(samples=30)
    joint: Any = SimpleNamespace(has_gaussian_posterior=False)
    assert metric.is_applicable(joint, data, "train")
    assert metric.trained == 30
    index = torch.arange(100) % 80
    code = index.unsqueeze(1).float()
    samples: Any = SimpleNamespace(z_q=code, u=torch.zeros(100, dtype=torch.long))
    metric.update(samples, index)
    # Odd positions below 2 · 30 train; of the others the first 30 are measured.
    assert torch.cat(metric.z).flatten().tolist() == list(range(0, 60, 2))
    assert not list(metric.children()), "the model is no part of its metric"
    with pytest.raises(SettingError, match="samples=1 must be at least 2"):
        AttributeScores(samples=1)


def test_rare_values_and_few_codes_are_measured_all_the_same() -> None:
    u = torch.zeros(200, dtype=torch.long)
    u[0], u[1:100] = 2, 1
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    data = DataModule(lambda: Arrays(x, attribute=u), "rare", "normal", batch=5, val=0.2, test=0.2, split_seed=1)
    data.use_attribute()
    for settings in ({}, {"samples": 4}):
        found = scores(data, "train", **settings)  # type: ignore[arg-type]
        assert all(np.isfinite(value) for value in found.values()), found


# ---- u in the data


def numbered(attribute: Tensor | None = None, labels: Tensor | None = None, **of_test: Any) -> DataModule:
    x = torch.arange(100.0).unsqueeze(1)
    return DataModule(lambda: Arrays(x, attribute=attribute, labels=labels, **of_test), "own", "normal", batch=8)


def test_u_follows_its_sample_into_every_batch() -> None:
    u = torch.arange(100) % 3 * 5 + 2  # any whole numbers: 2, 7, 12
    data = numbered(attribute=u, labels=torch.zeros(100, dtype=torch.long))
    assert data.attribute("train") is None, "no batch has it unless an objective needs it"
    assert data.train_loader(lambda: 0, torch.device("cpu")).dataset[3].u is None
    data.use_attribute()
    batches = [data.train_loader(lambda: 0, torch.device("cpu")).dataset[k] for k in (0, 5, 20)]
    batches += [batch for split in ("train", "val", "test") for batch in data.eval_loader(split, torch.device("cpu"))]
    batches += [data.first_batch(8), data.observed(batches[0], data.noise("train"))]
    batches += [data.transfer_batch_to_device(batches[0], torch.device("cpu"), 0)]
    for batch in batches:
        assert batch.u is not None
        assert batch.u.equal(batch.x.flatten().long() % 3)
    assert data.attribute_shares == pytest.approx([float((data.attribute("train") == k).double().mean()) for k in range(3)])


def test_without_an_attribute_the_labels_are_u() -> None:
    data = numbered(labels=torch.arange(100) % 4)
    data.use_attribute()
    assert data.first_batch(8).u.equal(data.first_batch(8).x.flatten().long() % 4)  # type: ignore[union-attr]


def test_u_is_part_of_what_a_calibration_depends_on() -> None:
    """Of the same samples, the digest differs with u where u is used, and only there."""
    u = torch.arange(100) % 2
    one, other, unused = numbered(u), numbered(1 - u), numbered(u)
    for data in (one, other):
        data.use_attribute()
    assert len({content_digest(data) for data in (one, other, unused)}) == 3
    assert content_digest(unused) == content_digest(numbered(1 - u))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "data=own has no attribute u, which a divergence needs"),
        ({"attribute": torch.zeros(100).long()}, "its attribute has 1 value in the training split"),
        ({"labels": torch.zeros(100).long()}, "its labels have 1 value in"),
        ({"attribute": torch.arange(100)}, "the val split has a value of the attribute that no training sample has"),
        ({"attribute": torch.rand(100)}, "the attribute must be whole numbers of shape"),
        ({"attribute": torch.zeros(100, 1).long()}, "the attribute must be whole numbers of shape"),
        ({"attribute": torch.arange(50) % 2}, "has 50 values of the attribute for 100 samples"),
        (
            {"attribute": torch.arange(100) % 2, "test": torch.zeros(10, 1), "test_attribute": torch.arange(10) % 3},
            "the test split has a value of the attribute that no training sample has",
        ),
        ({"attribute": torch.arange(100) % 2, "test": torch.zeros(10, 1)}, "none for its test set; give it as test_attribute"),
    ],
)
def test_an_attribute_that_says_nothing_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, SettingError), match=message):
        numbered(**given).use_attribute()


def test_an_amount_is_no_attribute() -> None:
    x = torch.arange(200.0).unsqueeze(1)
    data = DataModule(lambda: Arrays(x, attribute=torch.arange(200)), "own", "normal", batch=8)
    with pytest.raises(DataError, match=r"160 values in the training split; I.z;u. needs between 2 and 100"):
        data.use_attribute()


def write_people(file: Path, n: int = 400) -> None:
    """A table with the columns a, b, group (A or B) and outcome."""
    generator = np.random.default_rng(0)
    lines = ["a,b,group,outcome"]
    for k in range(n):
        a, b = generator.normal(size=2)
        lines.append(f"{a + 2 * (k % 2):.3f},{b:.3f},{'AB'[k % 2]},{int(b > 0)}")
    file.write_text("\n".join(lines) + "\n")


def test_the_column_of_a_table_is_u_and_is_not_in_x(tmp_path: Path) -> None:
    write_people(tmp_path / "people.csv")
    arrays = table(str(tmp_path / "people.csv"), label="outcome", attribute="group", test=str(tmp_path / "people.csv"))
    assert arrays.table.names == ["a", "b"]
    for u in (arrays.attribute, arrays.test_attribute):
        assert u.equal(torch.arange(400) % 2)
    assert not arrays.labels.equal(arrays.attribute)
    labelled = DataModule(partial(table, str(tmp_path / "people.csv"), label="outcome"), "table", "table", batch=8)
    with pytest.raises(SettingError, match=r"name a column with data.source.attribute=COLUMN"):
        labelled.use_attribute()  # hiding the outcome is not what a user means who names no attribute
    with pytest.raises(DataError, match=r"correct data.source.attribute"):
        table(str(tmp_path / "people.csv"), attribute="sex")
    text = (tmp_path / "people.csv").read_text().replace(",A,", ",,", 1)
    (tmp_path / "gap.csv").write_text(text)
    with pytest.raises(DataError, match="line 2, column 'group' has no attribute"):
        table(str(tmp_path / "gap.csv"), attribute="group")


# ---- runs

FAIR = ("family=controllable_fair", "data=table", "data.source.attribute=group", "data.source.label=outcome", "name=fair")


def test_a_run_bounds_what_codes_tell_of_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is measured and reported, and its checkpoint is loaded with its classifier."""
    monkeypatch.setenv("LAGVAE_ROOT", str(tmp_path))
    write_people(tmp_path / "people.csv")
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source"))]
    words = [*quick, *FAIR, f"data.source.path={tmp_path}/people.csv", "critic.network.hidden=[8]"]
    said = program(tmp_path, *words, "+callbacks.final.attribute={_target_: lagvae.metrics.AttributeScores, _partial_: true}")
    assert said.status == 0, said.err
    assert "I(z;u) upper (nats)" in said.out
    run = RunFolder(tmp_path / "runs" / "fair")
    summary = run.read_summary()
    assert summary["constraints"]["attribute_information"]["bound"] == 0.1
    assert summary["constraints"]["attribute_information"]["slack"] is None
    assert {"i_zu_lower", "i_zu_upper", "attribute_accuracy"} <= summary["splits"]["test"].keys()
    use_model("encode", tmp_path, ["fair", "--input", f"{tmp_path}/people.csv", "--output", f"{tmp_path}/z.npy"])
    assert "means of q(z|x), which may tell much more about u" in " ".join(capsys.readouterr().out.split())
    model = lagvae.load(run.path)
    state = torch.load(run.last, weights_only=True)["state_dict"]
    names = [name for name in state if name.startswith("critics.")]
    assert names
    assert all(model.state_dict()[name].equal(state[name]) for name in names)


def test_a_stronger_classifier_than_the_adversary_is_told() -> None:
    c = Constraint("fair", estimator(AttributeInformation, Exact), bound=0.1, learned=True, scale=0.1)
    values = {"constraint/fair": 0.09, "i_zu_lower": 0.3, "i_zu_lower_stderr": 0.01}
    said = explain_attribute(c, values)
    assert said is not None
    assert "0.3 ± 0.01 nats of I(z;u), more than the bound of 0.1" in said
    assert explain_attribute(c, values | {"i_zu_lower": 0.12}) is None, "within the error and the tolerance of 0.01"
    assert explain_attribute(c, values | {"constraint/fair": 0.2}) is None, "the verdict says so already"
    other = Constraint("neg_elbo", NegElbo(), bound=0.1, learned=True)
    assert explain_attribute(other, values | {"constraint/neg_elbo": 0.0}) is None


@pytest.mark.parametrize(("upper", "told"), [(0.3, True), (0.105, False)])
def test_a_report_says_what_the_bounds_are_about_and_whether_they_are_certain(upper: float, told: bool) -> None:
    estimate = {"i_zu_lower": 0.05, "i_zu_upper": upper}
    c = {"estimator": repr(AttributeInformation(MLP)), "bound": 0.1, "tolerance": 0.01, "verdict": "active"}
    summary = {"splits": {"train": estimate}, "constraints": {"fair": c}, "stationarity": None}
    said = " ".join(remarks(summary))
    assert "one drawn for each x" in said
    assert ("at most 0.1 nats is an estimate, by the adversary. The upper bound on it is 0.3." in said) == told


def test_data_without_u_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    said = program(tmp_path, *QUICK, *SHORT, "family=controllable_fair", "name=fair")
    refuses(said, "data=linear_gaussian has no attribute u", "data.source.attribute=COLUMN", leaves=set())


def own_model(shares: tuple[float, ...] = SHARES) -> LatentVariableModel:
    torch.manual_seed(0)
    network = partial(MLP, hidden=[8])
    joint = JointModel(StandardNormalPrior(1), GaussianEncoder(network, (2,), 1), NormalDecoder(network, (2,), 1))
    divergence = AttributeInformation(network)
    divergence.attribute_shares = shares
    divergence.prepare("fair", joint, (2,))
    constraints = [Constraint("neg_elbo", NegElbo()), Constraint("fair", divergence, multiplier=5.0)]
    adam = partial(torch.optim.Adam, lr=0.01)
    return LatentVariableModel(joint, Lagrangian(Preference(0.0), constraints), primal=adam, critic=adam)


def fit_to(batches: Any, model: LatentVariableModel) -> None:
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(model, batches)


def test_a_dataloader_of_ones_own_yields_x_and_u() -> None:
    z, u = world(256)
    x = torch.cat([z, -z], 1)
    model = own_model()
    before = [p.clone() for p in model.critics.parameters()]
    fit_to(DataLoader(TensorDataset(x, u), batch_size=32), model)
    assert any(not p.equal(q) for p, q in zip(before, model.critics.parameters(), strict=True))
    by_name = [{"x": a, "u": b} for a, b in zip(x.split(32), u.split(32), strict=True)]
    fit_to(DataLoader(by_name, batch_size=None), own_model())
    for wrong, message in (
        (DataLoader(x, batch_size=32), "A batch has no attribute u"),
        (DataLoader(TensorDataset(x, u + 1), batch_size=32), "must be 32 whole numbers from 0 to 1"),
        (DataLoader(TensorDataset(x, u.float()), batch_size=32), "must be 32 whole numbers"),
    ):
        with pytest.raises(DataError, match=message):
            fit_to(wrong, own_model())


def test_u_of_a_batch_is_that_of_its_samples() -> None:
    z, u = world(8)
    model = own_model()
    samples = model.samples(Batch(torch.cat([z, z], 1), torch.arange(8), 0, u), "train")
    assert samples.u is not None
    assert samples.u.equal(u)
