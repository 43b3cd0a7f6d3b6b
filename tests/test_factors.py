"""Known factors of data: what MIG and DCI say of codes whose answer is known, and data sets that have factors."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK, SHORT, program, write_cifar10, write_dsprites
from scipy import stats
from torch import Tensor

from lagvae.data import DataModule
from lagvae.data.published import cifar10, dsprites
from lagvae.data.sources import Arrays, array
from lagvae.errors import DataError, SettingError
from lagvae.metrics import FactorScores, dci_scores, mutual_information_gap
from lagvae.runs.layout import RunFolder


def drawn(n: int = 2000, sizes: tuple[int, ...] = (4, 5, 3), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (n,), generator=generator) for size in sizes], 1)


# ---- scores


def test_the_gap_against_the_exact_information_of_a_noisy_channel() -> None:
    """A coordinate shows the factor with probability 1 − e and another value otherwise: I = log k − H(e) − e log(k − 1)."""
    k, e, n = 4, 0.2, 40_000
    factor = drawn(n, (k,), seed=1)[:, 0]
    generator = torch.Generator().manual_seed(2)
    moved = torch.rand(n, generator=generator) < e
    other = (factor + torch.randint(1, k, (n,), generator=generator)) % k
    channel = torch.where(moved, other, factor)
    exact = log(k) - stats.entropy([e, 1 - e]) - e * log(k - 1)
    found = mutual_information_gap(torch.stack([channel, torch.zeros_like(channel)], 1).double(), factor.unsqueeze(1), bins=k)
    # Counts overestimate I by (k − 1)² / 2n = 1e-4, and its standard deviation is below 1 / √n = 5e-3.
    assert float(found) == pytest.approx(exact / log(k), abs=4 * 5e-3 / log(k))
    both = torch.stack([channel, 1 - 2 * channel], 1).double()
    assert float(mutual_information_gap(both, factor.unsqueeze(1), bins=k)) == pytest.approx(0, abs=1e-12)


def test_scores_of_aligned_and_rotated_codes() -> None:
    factors = drawn()
    aligned = factors.double()[:, [2, 0, 1]] * torch.tensor([-3.0, 1.0, 0.1])
    for name, value in dci_scores(aligned, factors).items():
        assert float(value) == pytest.approx(1, abs=0.02), name
    # Of independent factors one coordinate says all and the others nothing, up to the bias of counts, (19 · 4) / 2N.
    assert float(mutual_information_gap(aligned, factors)) == pytest.approx(1, abs=0.04)
    rotated = aligned @ torch.linalg.qr(torch.ones(3, 3, dtype=torch.float64) + torch.eye(3, dtype=torch.float64)).Q
    assert float(dci_scores(rotated, factors)["dci_disentanglement"]) < 0.7
    assert float(mutual_information_gap(rotated, factors)) < 0.7
    noise = torch.randn(2000, 3, generator=torch.Generator().manual_seed(3)).double()
    scores = dci_scores(noise, factors)
    # Every coordinate is as unimportant as the others; a guess is right as often as the factors have values, here 2 in 5.
    assert float(scores["dci_disentanglement"]) < 0.05
    assert float(scores["dci_informativeness"]) == pytest.approx((1 / 4 + 1 / 5 + 1 / 3) / 3, abs=0.05)


def test_one_coordinate_is_complete_and_one_factor_disentangled() -> None:
    factors = drawn(400, (3, 3))
    assert float(dci_scores(factors[:, :1].double(), factors)["dci_completeness"]) == 1
    assert float(dci_scores(factors.double(), factors[:, :1])["dci_disentanglement"]) == 1


@pytest.mark.parametrize("setting", [{"samples": 1}, {"bins": 1}, {"trees": 0}])
def test_numbers_of_the_scores_that_cannot_be(setting: dict[str, int]) -> None:
    (name,) = setting
    with pytest.raises(SettingError, match=f"factors.{name}={setting[name]} must be at least"):
        FactorScores(**setting)


def test_the_least_numbers_of_the_scores_give_scores() -> None:
    metric, factors = FactorScores(samples=2, bins=2, trees=1), drawn(40, (2, 2))
    assert (metric.samples, metric.bins, metric.trees) == (2, 2, 1)
    assert 0 <= float(dci_scores(factors.double(), factors, trees=1)["dci_informativeness"]) <= 1


# ---- data


def test_a_run_scores_the_factors_of_an_array(tmp_path: Path) -> None:
    factors = drawn(200, (4, 4, 1))  # the last has one value, as the colour of dSprites, and is left out
    x = torch.cat([factors[:, :2], torch.zeros(200, 2)], 1).float()
    np.savez(tmp_path / "own.npz", x=x.numpy(), factors=factors.numpy())
    quick = [word for word in QUICK if not word.startswith(("data=", "data.source", "data.batch"))]
    words = ["data=array", f"data.source.path={tmp_path}/own.npz", "data.batch=16", "name=a"]
    said = program(
        tmp_path, *quick, *SHORT, *words, "+callbacks.final.factors={_target_: lagvae.metrics.FactorScores, _partial_: true}"
    )
    assert said.status == 0, said.err
    assert "MIG" in said.out
    scores = RunFolder(tmp_path / "runs" / "a").read_summary()["splits"]["test"]
    assert 0 <= scores["mig"] <= 1
    assert 0 <= scores["dci_informativeness"] <= 1


def test_factors_follow_the_split_and_are_checked(tmp_path: Path) -> None:
    x, factors = torch.arange(100.0).unsqueeze(1).repeat(1, 2), torch.arange(100).unsqueeze(1)
    data = DataModule(lambda: Arrays(x, factors=factors), "own", "normal", batch=8)
    for split in ("train", "val", "test"):
        found = data.factors(split)
        assert found is not None
        assert found[:, 0].tolist() == data.split[split].tolist()
    few = DataModule(lambda: Arrays(x, factors=factors[:9]), "own", "normal", batch=8)
    with pytest.raises(DataError, match="9 factors for 100 samples"):
        few.check()
    np.savez(tmp_path / "own.npz", x=x.numpy(), factors=np.arange(100))
    with pytest.raises(DataError, match=r"factors must be whole numbers of shape \(100, F\).*data.source.factors=null"):
        array(str(tmp_path / "own.npz"))
    assert array(str(tmp_path / "own.npz"), factors=None).factors is None


def test_dsprites_is_read_with_its_factors(tmp_path: Path) -> None:
    images, classes = write_dsprites(tmp_path / "sprites.npz")
    arrays = dsprites(str(tmp_path / "sprites.npz"))
    assert isinstance(arrays.x, Tensor)
    np.testing.assert_array_equal(arrays.x[:, 0], images)
    np.testing.assert_array_equal(arrays.factors, classes)
    np.testing.assert_array_equal(arrays.labels, classes[:, 1])
    data = DataModule(lambda: arrays, "dsprites", "bernoulli", batch=8)
    data.check()
    assert data.first_samples("train", 5).unique().tolist() == [0, 1]
    some = dsprites(str(tmp_path / "sprites.npz"), n=40)
    assert isinstance(some.x, Tensor)
    assert some.factors is not None
    assert len(some.x.unique(dim=0)) == 40, "no image is taken twice"
    assert not torch.equal(some.x, arrays.x[:40]), "the first ones are all of one shape"
    for image, factors in zip(some.x, some.factors, strict=True):  # each image keeps its factors
        (place,) = np.flatnonzero((images == image.numpy()).all((1, 2)))
        assert factors.tolist() == classes[place].tolist()


def test_what_is_no_file_of_dsprites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such file\. Download the \.npz file"):
        dsprites(str(tmp_path / "none.npz"))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="is no file of dSprites"):
        dsprites(str(tmp_path / "other.npz"))
    np.savez(tmp_path / "flat.npz", imgs=np.zeros((3, 4)), latents_classes=np.zeros((3, 6)))
    with pytest.raises(DataError, match=r"images of shape \(3, 4\)"):
        dsprites(str(tmp_path / "flat.npz"))
    write_dsprites(tmp_path / "sprites.npz")
    for n in (0, 61):
        with pytest.raises(DataError, match=f"data.source.n={n} must be between 1 and 60"):
            dsprites(str(tmp_path / "sprites.npz"), n=n)


def test_cifar_is_read_from_its_binary_files(tmp_path: Path) -> None:
    written = write_cifar10(tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    arrays = cifar10(str(tmp_path))
    assert isinstance(arrays.x, Tensor)
    assert arrays.test is not None
    assert arrays.labels is not None
    assert (arrays.x.shape, arrays.test.shape) == ((35, 3, 32, 32), (7, 3, 32, 32))
    third = written["data_batch_3"][2]
    assert int(arrays.labels[16]) == third[0]
    assert int(arrays.x[16, 1, 0, 5]) == third[1 + 1024 + 5], "green, in the first row"
    (folder / "data_batch_2.bin").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"data_batch_2.bin is damaged.*Remove .*cifar-10-batches-bin and run again"):
        cifar10(str(tmp_path))
