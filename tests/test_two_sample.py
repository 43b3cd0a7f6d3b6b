"""The two-sample test, and metrics that use labels, pairs and classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ABSENT, settings
from scipy import stats
from small import ROOT
from torch import Tensor, nn

from lagvae.data import Arrays, DataModule
from lagvae.data.sources import inverted_and_turned
from lagvae.distributions import CodesEncoder, CodesPrior, EmpiricalPrior, JointModel
from lagvae.divergences import RBF, MedianRBF, mmd
from lagvae.errors import SettingError
from lagvae.experiment.factory import build_data
from lagvae.metrics import ClassifierScore, CodeAgreement, PairingAccuracy, TwoSampleTest, permutation_p_value
from lagvae.noise import Noise


def draw(seed: int, n: int = 40, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    noise = Noise(seed)
    return noise.normal("a", 0, (n, 3)) + shift, noise.normal("b", 0, (n, 3))


def test_the_statistic_is_mmd_and_the_p_value_agrees_with_explicit_permutations() -> None:
    a, b = draw(0, shift=0.4)
    kernel = RBF()
    value, p = permutation_p_value(a, b, kernel, permutations=60)
    assert float(value) == pytest.approx(float(mmd(a.double(), b.double(), kernel, "v")), abs=1e-9)
    both, noise = torch.cat([a, b]).double(), Noise(0, "two-sample")
    orders = [noise.permutation("order", t, 80) for t in range(60)]
    explicit = [float(mmd(both[o.argsort()[:40]], both[o.argsort()[40:]], kernel, "v")) for o in orders]
    assert float(p) == pytest.approx((1 + sum(v >= float(value) for v in explicit)) / 61, abs=1e-9)


def test_p_values_are_uniform_where_the_distributions_are_equal() -> None:
    """Kolmogorov–Smirnov against the uniform distribution on {1/50, …, 1}: 200 draws, level 0.1 %."""
    found = [float(permutation_p_value(*draw(s), MedianRBF(), 49, seed=s)[1]) for s in range(200)]
    jitter = np.random.default_rng(0).uniform(0, 1 / 50, 200)
    assert stats.kstest(np.array(found) - jitter, "uniform").pvalue > 0.001


def test_a_shift_is_detected() -> None:
    assert float(permutation_p_value(*draw(1, 200, 0.5), MedianRBF(), 199)[1]) == pytest.approx(1 / 200)


def test_a_p_value_is_one_where_most_samples_coincide() -> None:
    """The median distance is 0 then. Two points against the same two, a point against itself, and different points."""
    points = torch.tensor([[0.3, 0.7], [0.7, 0.3]])
    two, one = points[torch.arange(60) % 2], points[torch.zeros(60, dtype=torch.long)]
    for a, b, expected in ((two, two, 1.0), (one, one, 1.0), (one, two, 1 / 100), (one, 1 - one, 1 / 100)):
        value, p = permutation_p_value(a, b, MedianRBF(), 99)
        assert value.isfinite()
        assert float(p) == pytest.approx(expected)


def rows_of_two_halves(seed: int) -> tuple[Tensor, EmpiricalPrior, Noise]:
    """One hundred points of the same distribution: 40 stand for q(z), and 60 are the rows of a prior."""
    noise = Noise(seed)
    points = noise.normal("points", 0, (100, 3))
    return points[:40], EmpiricalPrior(points[40:]), noise


def batches_of(made: Tensor, prior: EmpiricalPrior, noise: Noise, passes: int = 1) -> list[tuple[Any, Tensor]]:
    found = []
    for step in range(2 * passes):
        index, drawn = torch.arange(20) + 20 * (step % 2), noise.uniform("z_p", step, (20,))
        samples = SimpleNamespace(
            joint=SimpleNamespace(prior=prior), noise={"z_p": drawn}, z_q=made[index], z_p=prior.sample(drawn)
        )
        found.append((samples, index))
    return found


def test_rows_that_a_prior_draws_repeatedly_count_once() -> None:
    """q(z) and p(z) have the same distribution, so p-values are uniform; with repeated rows one in seven would be below 0.05.

    Kolmogorov–Smirnov on 150 draws, level 0.1 %.
    """
    found = []
    for seed in range(150):
        measure = TwoSampleTest("z", permutations=49)
        for samples, index in batches_of(*rows_of_two_halves(seed)):
            measure.update(samples, index)
        found.append(float(measure.compute()["two_sample_z_p"]))
    jitter = np.random.default_rng(0).uniform(0, 1 / 50, 150)
    assert stats.kstest(np.array(found) - jitter, "uniform").pvalue > 0.001


def test_each_image_and_each_row_is_tested_once() -> None:
    made, prior, noise = rows_of_two_halves(0)
    measure = TwoSampleTest("z", samples=30)
    for samples, index in batches_of(made, prior, noise, passes=3):
        measure.update(samples, index)
    a, b = torch.cat(measure.a), torch.cat(measure.b)  # type: ignore[arg-type]
    assert torch.equal(a, made[:30])
    assert len(b) == len(b.unique(dim=0)) == 30
    value, p = permutation_p_value(a, b, MedianRBF(), 500)
    assert measure.compute() == {"two_sample_z": value, "two_sample_z_p": p}
    measure.reset()
    measure.update(*batches_of(made, prior, noise)[0])
    assert torch.equal(torch.cat(measure.a), made[:20])  # type: ignore[arg-type]
    alone = TwoSampleTest("z")
    alone.update(SimpleNamespace(**vars(samples) | {"noise": {"z_p": torch.zeros(1)}}), torch.zeros(1))  # type: ignore[arg-type]
    assert alone.compute() == {}


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(SettingError, match="as many samples of one as of the other"):
        permutation_p_value(torch.zeros(3, 1), torch.zeros(4, 1), RBF(), 20)
    with pytest.raises(SettingError, match="variable='y'"):
        TwoSampleTest("y")
    with pytest.raises(SettingError, match="at least 20"):
        TwoSampleTest("x", permutations=3)


class Known:
    """Data with labels, a second domain and images that a test chooses."""

    def __init__(self, labels: Tensor | None = None, second: Tensor | None = None, images: Tensor | None = None) -> None:
        self._labels, self._second, self._images = labels, second, images
        self.is_stochastic = False

    def labels(self, split: str) -> Tensor | None:
        return self._labels

    def second(self, split: str) -> Tensor | None:
        return self._second

    def first_samples(self, split: str, n: int) -> Tensor:
        assert self._images is not None
        return self._images[:n]


def codes_joint(k: int) -> JointModel:
    prior = CodesPrior(k, [k])
    return JointModel(prior, CodesEncoder(lambda a, b: nn.Linear(1, k), (1,), prior), ABSENT)


def test_codes_agree_with_labels_up_to_a_permutation() -> None:
    labels = torch.arange(9) % 3
    codes = torch.tensor([2, 0, 1])[labels]  # every label has a code of its own
    codes[0] = (codes[0] + 1) % 3  # one image in nine has a wrong code
    measure = CodeAgreement()
    assert measure.is_applicable(codes_joint(3), Known(labels), "test")
    for part in (torch.arange(5), torch.arange(5, 9)):
        posterior = SimpleNamespace(code_logits=torch.nn.functional.one_hot(codes[part], 3).float())
        measure.update(SimpleNamespace(q_z_given_x=posterior, x_q=torch.zeros(1)), part)  # type: ignore[arg-type]
    found = measure.compute()
    assert float(found["code_accuracy"]) == pytest.approx(8 / 9)
    assert float(found["code_accuracy_stderr"]) == pytest.approx(stats.sem([0] + [1] * 8))
    assert 0.5 < float(found["code_nmi"]) < 1
    assert not CodeAgreement().is_applicable(codes_joint(3), Known(), "test")


@pytest.mark.parametrize("used", [1, 2, 5])
def test_codes_may_be_fewer_or_more_than_labels(used: int) -> None:
    """The best assignment by exhaustive search; an image counts once, however often it occurs."""
    from itertools import permutations

    noise = Noise(3)
    labels, code = (noise.permutation(name, 0, 24) % k for name, k in (("labels", 3), ("code", used)))
    measure = CodeAgreement()
    assert measure.is_applicable(codes_joint(5), Known(labels), "test")
    posterior = SimpleNamespace(code_logits=torch.nn.functional.one_hot(code, 5).float())
    for _ in range(3):
        measure.update(SimpleNamespace(q_z_given_x=posterior, x_q=torch.zeros(1)), torch.arange(24))  # type: ignore[arg-type]
    hits = [torch.tensor(assigned)[code] == labels for assigned in permutations((0, 1, 2, -1, -2), 5)]
    best = max(hits, key=lambda h: int(h.sum()))
    found = measure.compute()
    assert float(found["code_accuracy"]) == pytest.approx(float(best.double().mean()))
    assert float(found["code_accuracy_stderr"]) == pytest.approx(stats.sem(best.double().numpy()))


@pytest.mark.parametrize("wrong", [0, 2])
def test_partners_are_found_by_a_true_translation(wrong: int) -> None:
    x = Noise(0).normal("x", 0, (10, 4))
    partners = 2 * x + 1
    translated = partners.clone()
    translated[:wrong] = partners[5 : 5 + wrong]
    joint = JointModel(EmpiricalPrior(partners), ABSENT, ABSENT)
    measure = PairingAccuracy()
    assert measure.is_applicable(joint, Known(second=partners), "test")
    decoder: Any = lambda z: SimpleNamespace(mean=(z - 1) / 2)  # noqa: E731
    samples = SimpleNamespace(x_q=x, q_z_given_x=SimpleNamespace(mean=translated), joint=SimpleNamespace(decoder=decoder))
    measure.update(samples, torch.arange(10))  # type: ignore[arg-type]
    found = {name: float(value) for name, value in measure.compute().items()}
    right = {"pairing_z": 1 - wrong / 10, "pairing_x": 1.0, "pairing_chance": 0.1}
    errors = {"pairing_z_stderr": stats.sem([0] * wrong + [1] * (10 - wrong)), "pairing_x_stderr": 0.0}
    assert found == pytest.approx(right | errors)
    assert not PairingAccuracy().is_applicable(joint, Known(second=partners), "train")


def test_the_classifier_scores_of_data_of_one_class_and_of_samples_between_classes() -> None:
    """Two distant classes. Data have confident predictions of both, samples of one class cover half, samples between are not
    confident.

    Pixels from other images mix the two classes: half of those images lie between the classes, where confidence is low.
    """
    noise = Noise(0)
    labels = torch.arange(200) % 2
    images = noise.normal("x", 0, (200, 2)) * 0.1 + 4 * labels.unsqueeze(-1).float()
    found = {}
    for name, fake in {"data": images, "one class": images[labels == 0], "between": torch.full((50, 2), 2.0)}.items():
        measure = ClassifierScore()
        assert measure.is_applicable(codes_joint(2), Known(labels, images=images), "test")
        measure.update(SimpleNamespace(x_p=fake, x_q=images), torch.arange(200))  # type: ignore[arg-type]
        found[name] = {key: float(value) for key, value in measure.compute().items()}
    assert found["data"]["class_accuracy"] == found["data"]["class_coverage"] == 1
    assert found["data"]["class_entropy"] == pytest.approx(1)
    assert found["data"]["class_confidence"] == pytest.approx(found["data"]["class_confidence_real"])
    assert found["one class"]["class_coverage"] == 0.5
    assert found["one class"]["class_entropy"] == pytest.approx(0, abs=1e-6)
    assert found["between"]["class_confidence"] < 0.7 < found["data"]["class_confidence"]
    assert found["data"]["class_confidence_pixels"] < found["data"]["class_confidence_real"] - 0.1
    assert not ClassifierScore().is_applicable(codes_joint(2), Known(torch.ones(200), images=images), "test")


def test_pairs_are_never_seen_and_are_true() -> None:
    data = build_data(settings(ROOT / "nowhere", "data=digits_pairs"))
    seen = {x.numpy().tobytes() for x in data.arrays.x[data.split["train"]]}
    unpaired, partners = data.second("train"), data.second("test")
    assert unpaired is not None
    assert partners is not None
    back = 1 - torch.rot90(unpaired, -1, (-2, -1))
    assert not seen & {x.numpy().tobytes() for x in back}, "the partner of a training image is in the second domain"
    assert abs(len(unpaired) - len(seen)) <= 1
    x = data.arrays.x[data.split["test"]]
    assert torch.equal(partners, inverted_and_turned(x))
    assert torch.equal(partners[0, 0, 0], 1 - x[0, 0, :, -1])


def test_the_test_set_has_a_second_domain() -> None:
    """Sample i has the value i, and the partner of x is −x. A separate test set has partners of its own."""
    x, test = torch.arange(100, dtype=torch.uint8).unsqueeze(1), torch.arange(200, 230, dtype=torch.uint8).unsqueeze(1)
    data = DataModule(lambda: Arrays(x, test, partner=lambda x: -x), name="own", likelihood="normal", batch=8, val=0.2)
    assert {name: len(part) for name, part in data.split.items()} == {"train": 40, "val": 20, "test": 30}
    numbers = {"test": test[data.split["test"]], "val": x[data.split["val"]]}
    for split, true in numbers.items():
        second = data.second(split)
        assert second is not None
        assert torch.equal(second, -true.float() / 255)
    unpaired = data.second("train")
    assert unpaired is not None
    used = torch.cat([data.split["train"], data.split["val"], (-255 * unpaired.flatten()).round().long()])
    assert used.sort().values.equal(torch.arange(100))


def test_the_first_samples_of_a_sorted_test_set_are_of_all_classes() -> None:
    x, labels = torch.arange(100.0).unsqueeze(1), torch.arange(100) // 50
    data = DataModule(lambda: Arrays(x, x, labels=labels, test_labels=labels), name="own", likelihood="normal", batch=8)
    assert sorted(data.split["test"].tolist()) == list(range(100))
    found = data.labels("test")
    assert found is not None
    assert found[:30].unique().tolist() == [0, 1]


def test_labels_are_those_of_the_split() -> None:
    data = build_data(settings(ROOT / "nowhere", "data=digits"))
    for split in ("train", "val", "test"):
        labels = data.labels(split)
        assert labels is not None
        assert len(labels) == len(data.split[split])
    from sklearn.datasets import load_digits

    assert labels.tolist() == load_digits().target[data.split["test"].numpy()].tolist()
    assert build_data(settings(ROOT / "nowhere", "data=linear_gaussian")).labels("test") is None
