"""What every test starts from: one thread, a seeded generator, and the world whose answers are known."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

# The process that shares the tests out to others imports this module alone, and no torch or Lightning, which take seconds.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lagvae.distributions import JointModel
    from lagvae.oracles import LinearGaussian

gc.set_threshold(3000, 10, 50)  # the garbage collector took more than a tenth of the tests' time

LONGEST = [
    "launch",
    "configs",
    "stopping",
    "use",
    "family",
    "ensemble",
    "pareto",
    "experiment",
    "own_examples",
    "bad_data",
    "lightning",
    "lagrangian",
    "rate_distortion",
    "ddp",
    "matching",
    "loggers",
    "algebra",
    "bad_runs",
    "load",
    "resume",
    "bad_settings",
    "own_parts",
    "front",
    "explain",
    "run_wiring",
    "pages",
    "wandb_server",
    "wandb_comparison",
    "benchmarks",
    "docs",
]
"""The files whose tests take longest, which start first, so that no process of several ends long after the others."""


def pytest_configure(config: pytest.Config) -> None:
    """Only the tests of a GPU use one, so that all others compute the same everywhere."""
    if not re.match(r"gpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """What the modules hold lives to the end: no search for garbage looks through it again, which takes a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_fsync() -> Iterator[None]:
    """No test waits until its files are on the disk, which takes longer than to write them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _entry_points_once() -> Iterator[None]:
    """What installed packages offer to others is read from the disk once, and not whenever Lightning makes a trainer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_fabric.utilities.registry.entry_points", cache(entry_points))
        yield


@pytest.fixture(autouse=True)
def _first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning keeps the rank of the last trainer for the whole process, and loggers of other ranks write nothing."""
    monkeypatch.setattr("pytorch_lightning.utilities.rank_zero.rank_zero_only.rank", 0, raising=False)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator that starts from the same state in every test."""
    import torch

    return torch.Generator().manual_seed(20180614)


@pytest.fixture
def linear_joint() -> Callable[[LinearGaussian, Tensor, Tensor], JointModel]:
    """Builds a joint model equal to a linear-Gaussian world with the encoder q(z|x) = N(A x, diag t²).

    A perceptron without hidden layers is a linear map; scales pass through the inverse of softplus.
    """
    import torch

    from lagvae.distributions import GaussianEncoder, JointModel, NormalDecoder, StandardNormalPrior
    from lagvae.networks import MLP

    def build(world: LinearGaussian, a: Tensor, t: Tensor) -> JointModel:
        n, d = world.weight.shape
        linear = partial(MLP, hidden=())
        encoder, decoder = GaussianEncoder(linear, (n,), d), NormalDecoder(linear, (n,), d)
        mean, raw = torch.zeros(2 * d, n), torch.zeros(2 * d)
        mean[:d] = a.float()
        raw[d:] = (t.double() - encoder.tiny).expm1().log().float()
        encoder.network.load_state_dict({"layers.0.weight": mean, "layers.0.bias": raw})
        decoder.network.load_state_dict({"layers.0.weight": world.weight.float(), "layers.0.bias": torch.zeros(n)})
        decoder.set_scale(world.noise)
        return JointModel(StandardNormalPrior(d), encoder, decoder)

    return build


@pytest.fixture
def mean_is() -> Callable[[Tensor, float | Tensor], float]:
    """Asserts that the mean of independent values is the truth, within 4 standard errors of these values.

    A correct estimator fails this once in 16,000 draws; seeds are fixed, so it fails always or never.
    Returns the standard error, for tests that also need it to be small.
    """

    def check(values: Tensor, truth: float | Tensor) -> float:
        values = values.detach().double()
        error = float(values.std()) / len(values) ** 0.5
        mean, truth = float(values.mean()), float(truth)
        assert abs(mean - truth) <= 4 * error, f"{mean:.6g} is {(mean - truth) / error:+.1f} standard errors from {truth:.6g}"
        return error

    return check
