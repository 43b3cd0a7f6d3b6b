"""Data: sources, splits, observation of stored samples, and the order of batches."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import write_mnist
from PIL import Image
from torch import Tensor

from lagvae.data import SPLITS, Arrays, DataModule, sources
from lagvae.data.batches import SplitOrder, StepDataset, StepLoader
from lagvae.data.datamodule import content_digest, observe
from lagvae.errors import DataError, SettingError
from lagvae.oracles import LinearGaussian
from lagvae.oracles.source import linear_gaussian_source

CPU = torch.device("cpu")


def data_of(source: Callable[[], Arrays], **kwargs: Any) -> DataModule:
    return DataModule(source, **({"name": "own", "likelihood": "normal", "batch": 16} | kwargs))


def numbered(n: int, **kwargs: Any) -> DataModule:
    """Data whose sample i has the value i, so that a batch shows which samples it contains."""
    return data_of(lambda: Arrays(torch.arange(float(n)).unsqueeze(1)), **kwargs)


# ---- splits


def test_splits_contain_every_sample_once() -> None:
    split = numbered(500, val=0.2, test=0.1).split
    assert {name: len(part) for name, part in split.items()} == {"train": 350, "val": 100, "test": 50}
    assert torch.cat([split[name] for name in SPLITS]).sort().values.equal(torch.arange(500))


def test_splits_depend_on_split_seed_alone() -> None:
    one, same, other = numbered(500, seed=1), numbered(500, seed=2), numbered(500, split_seed=1)
    for name in SPLITS:
        assert one.split[name].equal(same.split[name])
        assert not one.split[name].equal(other.split[name])


def test_splits_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    data = numbered(500)
    _ = data.split
    next(iter(data.train_loader(lambda: 0, CPU)))
    assert torch.get_rng_state().equal(before)


def test_a_separate_test_set_is_the_test_split() -> None:
    data = data_of(lambda: Arrays(torch.zeros(100, 3), torch.ones(30, 3)), val=0.2, test=0.5)
    assert {name: len(part) for name, part in data.split.items()} == {"train": 80, "val": 20, "test": 30}
    for split, value in (("train", 0.0), ("val", 0.0), ("test", 1.0)):
        assert all((batch.x == value).all() for batch in data.eval_loader(split, CPU))


# ---- batches


def test_training_batches_are_a_function_of_seed_and_step() -> None:
    def batches(first: int, last: int, seed: int = 0) -> list[Tensor]:
        data = numbered(200, batch=32, seed=seed)
        data.interval = (1000, last)
        return [batch.x for batch in data.train_loader(lambda: first, CPU)]

    whole, tail = batches(0, 20), batches(13, 20)
    assert len(whole) == 20
    assert all(a.equal(b) for a, b in zip(whole[13:], tail, strict=True))
    assert not whole[0].equal(batches(0, 20, seed=1)[0])


def test_an_epoch_draws_no_sample_twice() -> None:
    data = numbered(200, batch=32)  # 160 training samples: five full batches
    data.interval = (1000, 2 * data.per_epoch)
    batches = [batch.x.flatten() for batch in data.train_loader(lambda: 0, CPU)]
    assert data.per_epoch == 5
    for epoch in (batches[:5], batches[5:]):
        drawn = torch.cat(epoch)
        assert drawn.unique().numel() == drawn.numel() == 160
        assert set(drawn.long().tolist()) <= set(data.split["train"].tolist())
    assert not torch.cat(batches[:5]).equal(torch.cat(batches[5:]))


def test_an_interval_ends_where_the_next_one_begins() -> None:
    data = numbered(200, batch=32)
    data.interval = (8, 21)
    steps = {first: [b.step for b in data.train_loader(lambda first=first: first, CPU)] for first in (0, 5, 8, 16)}
    assert steps == {0: [*range(8)], 5: [5, 6, 7], 8: [*range(8, 16)], 16: [*range(16, 21)]}


def test_evaluation_passes_over_a_split_until_it_has_enough_draws() -> None:
    data = numbered(500, batch=16, draws=120)  # 50 samples in the validation split
    assert data.passes("val") == 3
    assert data.passes("train") == 1
    loader = data.eval_loader("val", CPU, passes=3)
    batches = list(loader)
    assert len(loader) == len(batches) == 3 * 4
    for k in range(3):
        seen = torch.cat([batch.x.flatten() for batch in batches[4 * k : 4 * k + 4]]).long()
        assert seen.equal(data.split["val"])


# ---- observation of stored samples


def test_binarised_pixels_have_the_mean_of_their_brightness(mean_is: Callable[..., float]) -> None:
    """The mean of x over draws of the noise is the pixel's brightness.

    A pixel of brightness p is Bernoulli(p), so the error of its mean over n draws exceeds 4 √(p(1−p)/n) once in 16,000.
    """
    brightness = torch.linspace(0, 1, 11)
    n = 20_000
    data = data_of(lambda: Arrays(brightness.expand(100, 11)), likelihood="bernoulli")
    x = brightness.expand(n, 11)
    drawn = observe(x, "bernoulli", lambda shape: data.noise("test").uniform("observe", 0, shape))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    tolerance = 4 * (brightness * (1 - brightness) / n).sqrt()
    assert ((drawn.mean(0) - brightness).abs() <= tolerance).all()  # the tolerance is zero at brightness 0 and 1
    # Pixels are independent: the mean of the product of two is the product of their means.
    mean_is(drawn[:, 3] * drawn[:, 7], float(brightness[3] * brightness[7]))


def test_observations_differ_between_steps_and_are_reproducible() -> None:
    def observed(step: int, seed: int = 0) -> Tensor:
        data = data_of(lambda: Arrays(torch.full((100, 50), 0.5)), likelihood="bernoulli", seed=seed)
        data.interval = (1000, 10)
        batch = list(data.train_loader(lambda: 0, CPU))[step]
        return data.observed(batch, data.noise("train")).x

    assert observed(2).equal(observed(2))
    assert not observed(2).equal(observed(3))
    assert not observed(2).equal(observed(2, seed=1))


def test_bytes_are_divided_by_255() -> None:
    x = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    seen = observe(x, "normal", lambda shape: torch.empty(0))
    assert seen.dtype == torch.float32
    assert torch.allclose(seen, torch.tensor([[0.0, 0.2, 1.0]]))


def test_values_for_the_normal_likelihood_are_unchanged() -> None:
    x = torch.tensor([[-3.0, 0.5, 7.0]])
    assert observe(x, "normal", lambda shape: torch.empty(0)) is x


# ---- sources: arrays


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    ".npy": lambda file, x: np.save(file, x),
    ".npz": lambda file, x: np.savez(file, x=x),
    ".pt": lambda file, x: torch.save(torch.from_numpy(x), file),
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_arrays_come_back_as_they_were_written(tmp_path: Path, ending: str, dtype: str) -> None:
    x = (np.random.default_rng(0).random((50, 2, 3)) * 200).astype(dtype)
    file = tmp_path / f"own{ending}"
    WRITERS[ending](file, x)
    arrays = sources.array(str(file))
    assert isinstance(arrays.x, Tensor)
    assert arrays.test is None
    assert arrays.x.dtype == getattr(torch, dtype)  # what rounding to 32 bits would lose is looked for later
    assert np.array_equal(arrays.x.numpy(), x.astype(arrays.x.numpy().dtype))


@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_arrays_are_found_by_key_with_their_test_set(tmp_path: Path, ending: str) -> None:
    x, test, other = np.zeros((50, 3), "f4"), np.ones((20, 3), "f4"), np.full((7, 3), 2, "f4")
    file = tmp_path / f"own{ending}"
    content = {"images": x, "test": test, "other": other}
    if ending == ".npz":
        np.savez(file, **content)
    else:
        torch.save({name: torch.from_numpy(a) for name, a in content.items()} | {"made by": "hand"}, file)
    arrays = sources.array(str(file), key="images")
    assert isinstance(arrays.x, Tensor)
    assert arrays.test is not None
    assert (arrays.x.shape, float(arrays.x.sum())) == ((50, 3), 0)
    assert (arrays.test.shape, float(arrays.test.sum())) == ((20, 3), 60)
    alone = sources.array(str(file), key="test")
    assert (len(alone.x), alone.test) == (20, None)


@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_arrays_may_have_labels_and_a_second_domain(tmp_path: Path, ending: str) -> None:
    x, second = np.zeros((50, 3), "f4"), np.full((20, 2), 255, "u1")
    content = {"x": x, "test": x[:9], "y": np.arange(50) % 4, "test_y": np.arange(9.0), "second": second, "z": np.ones(50)}
    file = tmp_path / f"own{ending}"
    if ending == ".npz":
        np.savez(file, **content)
    else:
        torch.save({name: torch.from_numpy(a) for name, a in content.items()}, file)
    data = data_of(partial(sources.array, str(file)), val=0.2)
    for split, labels in (("train", np.arange(50) % 4), ("val", np.arange(50) % 4), ("test", np.arange(9))):
        found = data.labels(split)
        assert found is not None
        assert found.dtype == torch.long
        assert found.tolist() == labels[data.split[split].numpy()].tolist()
    seen = data.second("train")
    assert seen is not None
    assert torch.equal(seen, torch.ones(20, 2))
    assert data.second("test") is None
    other, none = sources.array(str(file), labels="z"), sources.array(str(file), labels=None)
    assert (other.labels is None, other.test_labels, none.labels) == (False, None, None)


@pytest.mark.parametrize(
    "y", [np.arange(49), np.zeros((50, 1), int), np.full(50, 0.5), np.full(50, np.nan), np.full(50, "cat")]
)
def test_invalid_labels_are_refused(tmp_path: Path, y: np.ndarray) -> None:
    np.savez(tmp_path / "own.npz", x=np.zeros((50, 3), "f4"), y=y)
    with pytest.raises(DataError, match=r"own\.npz: y is .* each of the 50 samples.*data\.source\.labels=null"):
        sources.array(str(tmp_path / "own.npz"))
    assert sources.array(str(tmp_path / "own.npz"), labels=None).labels is None


def test_the_digest_depends_on_all_samples_but_not_on_labels() -> None:
    x, labels, second = torch.zeros(50, 3), torch.arange(50), torch.ones(20, 2)
    alone, labelled, paired, other, tested, retested = (
        content_digest(data_of(lambda kw=kw: Arrays(x, **kw)))
        for kw in ({}, {"labels": labels}, {"second": second}, {"second": 2 * second}, {"test": x[:9]}, {"test": 1 + x[:9]})
    )
    assert alone == labelled
    assert len({alone, paired, other, tested, retested}) == 5
    assert content_digest(data_of(lambda: Arrays(x, test=x[:9])), test=False) == alone


def test_arrays_with_another_byte_order_or_layout_are_read(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(4, 3)
    for name, stored in {"big": x.astype(">f8"), "columns": np.asfortranarray(x), "half": x.astype("f2")}.items():
        np.save(tmp_path / f"{name}.npy", stored)
        arrays = sources.array(str(tmp_path / f"{name}.npy"))
        assert isinstance(arrays.x, Tensor)
        assert arrays.x.tolist() == x.tolist(), name


# ---- sources: images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 60 images that are not square, in two folders and two formats."""
    generator = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(generator.integers(0, 256, (20, 26, 3), dtype=np.uint8))
        pixels.save(folder / f"{i:03d}.{'png' if i % 3 else 'jpg'}")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def read(images: Path, workers: int = 0, mib: float = 1024.0, channels: int = 3) -> DataModule:
    source = partial(sources.folder, str(images), size=8, channels=channels, in_memory_mib=mib)
    return data_of(source, batch=8, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_equal_those_in_memory(images: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)  # of fewer cores torch would warn
    in_memory, streamed = read(images), read(images, workers, mib=0)
    assert (in_memory.streams, streamed.streams) == (False, True)
    assert in_memory.shape == streamed.shape == (3, 8, 8)
    for data in (in_memory, streamed):
        data.check()
        data.interval = (100, 9)
    for split in (None, "val", "test"):
        pairs = zip(
            *(d.train_loader(lambda: 0, CPU) if split is None else d.eval_loader(split, CPU) for d in (in_memory, streamed)),
            strict=True,
        )
        count = 0
        for a, b in pairs:
            count += 1
            assert (a.step, a.x.dtype) == (b.step, b.x.dtype)
            assert a.index.equal(b.index)
            assert a.x.equal(b.x)
        assert count == (9 if split is None else 1)


class Processes:
    """Samples that are the number of the process that reads them."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return torch.full((len(index), 1), os.getpid())


def test_processes_that_read_in_advance_stay_for_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)  # of fewer cores torch would warn
    at = {"first": 0}
    dataset = StepDataset(Processes(), torch.arange(12), SplitOrder(12, 3))
    loader = StepLoader(dataset, lambda: range(at["first"], at["first"] + 4), workers=2)
    passes = []
    for first in (0, 4, 6):
        at["first"] = first
        passes.append([(batch.step, int(batch.x[0])) for batch in loader])
    assert [[step for step, _ in each] for each in passes] == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    processes = {process for each in passes for _, process in each}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_streamed_folder_reads_what_has_changed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, notes = tmp_path / "own", tmp_path / "notes"
    own.mkdir()
    for k in range(12):
        Image.fromarray(np.full((9, 8), k, "u1")).save(own / f"{k:02d}.png")
    read: list[str] = []
    original = sources._read_image

    def count(file: Path, size: int, channels: int) -> tuple[torch.Tensor, set[str]]:
        read.append(file.name)
        return original(file, size, channels)

    monkeypatch.setattr(sources, "_read_image", count)

    def start(size: int = 8, path: Path = own) -> tuple[list[str], Arrays]:
        read.clear()
        arrays = sources.folder(str(path), size, 1, 0, str(notes))
        return sorted(read), arrays

    names = [f"{k:02d}.png" for k in range(12)]
    first, arrays = start()
    assert first == names
    again, same = start()
    assert again == []
    assert arrays.conversions == same.conversions == ("12 of 12 images are cropped to squares",)
    assert content_digest(data_of(lambda: arrays)) == content_digest(data_of(lambda: same))
    Image.fromarray(np.full((9, 8), 77, "u1")).save(own / "03.png")
    os.utime(own / "05.png", (1, 1))
    (own / "07.png").rename(own / "99.png")
    changed, other = start()
    assert changed == ["03.png", "05.png", "99.png"]
    assert content_digest(data_of(lambda: other)) != content_digest(data_of(lambda: same))
    assert len(start(size=4)[0]) == 12
    (own / "04.png").write_bytes(b"no image")
    (own / "06.png").write_bytes(b"none either")
    for expected in (["04.png", "06.png"], ["04.png", "06.png"]):
        with pytest.raises(DataError, match=r"04.png is not an image that can be read .* Nor can be read: .*/06.png\.$"):
            start()
        assert sorted(read) == expected, "the others are remembered"
    for file in notes.iterdir():
        file.write_text("{")
    (own / "04.png").unlink()
    (own / "06.png").unlink()
    assert len(start()[0]) == 10, "a damaged index is none"
    notes.rename(tmp_path / "elsewhere")
    notes.touch()  # no folder can be made there
    assert len(start()[0]) == len(start()[0]) == 10


def test_images_may_be_grey(images: Path) -> None:
    data = read(images, channels=1)
    assert data.shape == (1, 8, 8)
    assert data.split["train"].numel() == 48


def test_images_have_a_fixed_order(images: Path) -> None:
    files = [str(file.relative_to(images)) for file in sources.image_files(str(images))]
    assert files == sorted(files)
    assert len(files) == 60


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3)])
def test_images_of_any_shape_become_squares(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    x = sources.read_image(tmp_path / "a.png", 5, 3)
    assert (x.shape, x.dtype) == ((3, 5, 5), torch.uint8)
    assert x[:, 2, 2].tolist() == [10, 20, 30]


# ---- sources: published data


@pytest.mark.parametrize(("source", "name"), [(sources.mnist, "MNIST"), (sources.fashion_mnist, "FashionMNIST")])
def test_mnist_is_read_from_its_files(tmp_path: Path, source: Callable[[str], Arrays], name: str) -> None:
    train, test = write_mnist(tmp_path, name)
    arrays = source(str(tmp_path))
    assert isinstance(arrays.x, Tensor)
    assert arrays.test is not None
    assert arrays.x.equal(train.unsqueeze(1))
    assert arrays.test.equal(test.unsqueeze(1))
    generator = np.random.default_rng(1998)  # the generator that made the files
    for labels, n in ((arrays.labels, 60), (arrays.test_labels, 20)):
        generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        assert labels is not None
        assert labels.tolist() == generator.integers(0, 10, n, dtype=np.uint8).tolist()
    data = data_of(lambda: arrays, likelihood="bernoulli", batch=10)
    data.check()
    assert {k: len(v) for k, v in data.split.items()} == {"train": 54, "val": 6, "test": 20}


def test_damaged_mnist_names_its_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"MNIST/raw are damaged .* Remove that folder"):
        sources.mnist(str(tmp_path))


@pytest.fixture
def silent_server() -> Any:
    """A server that accepts a connection and does not respond for ten seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        patience = threading.Timer(10, lambda: server.shutdown(socket.SHUT_RDWR))
        patience.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        patience.cancel()


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_a_download_without_a_response_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_server: str, kind: str
) -> None:
    from torchvision import datasets

    mirror = silent_server if kind == "silent" else "http://127.0.0.1:9/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror])
    monkeypatch.setattr(sources, "DOWNLOAD_PATIENCE", 0.2)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"could not be downloaded .*data=digits and data=linear_gaussian work without"):
        sources.mnist(str(tmp_path))
    assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


def test_digits_are_grey_levels() -> None:
    x = sources.digits().x
    assert isinstance(x, Tensor)
    assert x.shape == (1797, 1, 8, 8)
    assert x.mul(16).frac().abs().max() == 0
    assert (float(x.min()), float(x.max())) == (0, 1)


def test_linear_gaussian_has_the_covariance_of_its_world() -> None:
    """Cov x = W Wᵀ + s² I. With n samples the standard error of an entry of the estimate is √((C_ii C_jj + C_ij²)/n)."""
    n, dim, latent, noise = 40_000, 3, 2, 0.5
    x = linear_gaussian_source(n, dim, latent, noise, seed=4).x
    assert isinstance(x, Tensor)
    truth = LinearGaussian.random(dim, latent, noise, seed=4).cov_x.float()
    sigma = ((truth.diagonal().outer(truth.diagonal()) + truth.square()) / n).sqrt()
    assert ((x.mT.cov() - truth).abs() <= 4 * sigma).all()
    assert x.equal(linear_gaussian_source(n, dim, latent, noise, seed=4).x)
    with pytest.raises(SettingError, match=r"noise=0"):
        linear_gaussian_source(noise=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val": 0.0}, r"data\.val=0\.0 must be a share between 0 and 1"),
        ({"test": 1.0}, r"data\.test=1\.0 must be a share between 0 and 1"),
        ({"val": 0.5, "test": 0.5}, r"data\.val=0\.5 and data\.test=0\.5 leave nothing to train on"),
        ({"batch": 0}, r"data\.batch=0 must be at least 1"),
        ({"draws": 0}, r"data\.draws=0 must be at least 1"),
        ({"workers": -1}, r"data\.workers=-1 must be at least 0"),
    ],
)
def test_a_size_that_cannot_be_is_refused_by_its_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        numbered(40, **settings)
