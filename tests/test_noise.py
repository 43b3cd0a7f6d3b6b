"""Noise is a pure function of (seed, purpose, stream, step), independent of earlier draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from lagvae.data.batches import SplitOrder, StepDataset, StepLoader, TrainOrder
from lagvae.noise import Noise, _mix, generators_seeded

STREAMS = ("z_q", "z_p", "x_p", "order", "observe")
"""Streams of a run."""


def test_a_draw_does_not_depend_on_what_was_drawn_before() -> None:
    fresh, used = Noise(3), Noise(3)
    for step in (5, 0, 9):
        used.normal("z_q", step, (4, 2))
        used.uniform("observe", step, (7,))
        used.permutation("order", step, 10)
    assert torch.equal(used.normal("z_q", 7, (4, 2)), fresh.normal("z_q", 7, (4, 2)))
    assert torch.equal(used.uniform("observe", 2, (7,)), fresh.uniform("observe", 2, (7,)))
    assert torch.equal(used.permutation("order", 1, 10), fresh.permutation("order", 1, 10))


def test_the_global_state_is_neither_read_nor_touched() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = Noise(0).normal("z_q", 0, (3,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(Noise(0).normal("z_q", 0, (3,)), first)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_user_code_draws_from_generators_of_its_device_that_depend_on_the_text_alone(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, kept = [], []
    fork = torch.random.fork_rng

    def forked(devices: list[torch.device]) -> Any:
        kept.extend(devices)
        return fork([])  # there need not be a GPU

    monkeypatch.setattr(torch.random, "fork_rng", forked)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)

    def drawn(text: str) -> torch.Tensor:
        with generators_seeded(text, torch.device(device)):
            return torch.randn(5)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = drawn("a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(drawn("a"), first)
    assert not torch.equal(drawn("b"), first)
    cuda = device != "cpu"
    assert kept == [torch.device(device)] * (3 * cuda)
    assert len(seeds) == 3 * cuda
    assert len(set(seeds)) == 2 * cuda, "one for each text"


@pytest.mark.parametrize(
    ("other", "stream", "step"),
    [
        pytest.param(Noise(1, "train"), "z_q", 0, id="seed"),
        pytest.param(Noise(0, "val"), "z_q", 0, id="purpose"),
        pytest.param(Noise(0, "train"), "z_p", 0, id="stream"),
        pytest.param(Noise(0, "train"), "z_q", 1, id="step"),
    ],
)
def test_each_part_of_the_key_matters(other: Noise, stream: str, step: int) -> None:
    a, b = Noise(0, "train").normal("z_q", 0, (1000,)), other.normal(stream, step, (1000,))
    # The correlation of two independent samples is N(0, 1/n) for large n.
    assert not torch.equal(a, b)
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / 1000**0.5


def test_noise_is_that_of_training_unless_said_otherwise() -> None:
    assert torch.equal(Noise(0).normal("z_q", 0, (5,)), Noise(0, "train").normal("z_q", 0, (5,)))


def test_steps_of_a_stream_never_share_a_state_and_streams_hardly_ever() -> None:
    noise = Noise(0)
    states = [{noise.generator(stream, step).initial_seed() for step in range(5000)} for stream in STREAMS]
    assert all(len(of_stream) == 5000 for of_stream in states)
    # Streams behave like random subsets of 2**32 states: a pair with n = 5,000 each shares n² / 2**32 = 0.006 on average.
    shared = len(STREAMS) * 5000 - len(set().union(*states))
    assert shared <= 2


@pytest.mark.parametrize(
    ("seed", "purpose", "stream", "step", "state"),
    [(0, "train", "z_q", 0, 4205878300), (0, "train", "z_q", 1, 1901307525), (7, "val", "order", 123456, 767808440)],
)
def test_the_states_are_those_that_saved_runs_go_on_from(seed: int, purpose: str, stream: str, step: int, state: int) -> None:
    """A run from an older version draws the numbers of its next steps from these states: they must never change."""
    assert Noise(seed, purpose).generator(stream, step).initial_seed() == state


@pytest.mark.parametrize(("value", "mixed"), [(0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39), (2**32 + 1, 0x514E28B7)])
def test_steps_are_mixed_by_the_finaliser_of_murmurhash3(value: int, mixed: int) -> None:
    """Published hashes of the empty text, with the seed as the value."""
    assert _mix(value) == mixed


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_have_the_distribution_of_their_name(seed: int) -> None:
    # The Kolmogorov–Smirnov test of a correct generator falls below 1e-4 for one seed in 10,000, and the seeds are fixed.
    noise = Noise(seed)
    assert stats.kstest(noise.normal("z_q", 3, (100, 200)).flatten().numpy(), "norm").pvalue > 1e-4
    uniform = noise.uniform("x_p", 3, (100, 200)).flatten()
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-4
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_successive_steps_are_independent_draws() -> None:
    # The first numbers of 5,000 consecutive states would be correlated if generators with related seeds were.
    noise = Noise(0)
    first = torch.cat([noise.normal("z_q", step, (1,)) for step in range(5000)])
    assert stats.kstest(first.numpy(), "norm").pvalue > 1e-4
    for lag in (1, 2, 16):
        # A correlation of n independent pairs is N(0, 1/n).
        assert abs(torch.corrcoef(torch.stack([first[:-lag], first[lag:]]))[0, 1]) < 4 / (5000 - lag) ** 0.5


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_the_parts_of_all_ranks_are_the_draw_of_one_process(world: int, draw: str) -> None:
    whole = getattr(Noise(5), draw)("z_q", 11, (12, 3))
    parts = [getattr(Noise(5, rank=rank, world=world), draw)("z_q", 11, (12 // world, 3)) for rank in range(world)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_permutation_is_the_same_on_every_rank() -> None:
    orders = [Noise(5, rank=rank, world=2).permutation("order", 4, 31) for rank in range(2)]
    assert torch.equal(orders[0], orders[1])
    assert sorted(orders[0].tolist()) == list(range(31))


# ---- the order of training batches, which uses the same noise


def test_every_epoch_is_another_permutation() -> None:
    n, batch = 20, 4
    order = TrainOrder(n, batch, Noise(0))
    epochs = [torch.cat([order(epoch * 5 + k) for k in range(5)]) for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(n))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_an_incomplete_batch_is_dropped_and_differs_between_epochs() -> None:
    order = TrainOrder(11, 4, Noise(0))
    seen = set()
    for epoch in range(30):
        drawn = torch.cat([order(2 * epoch), order(2 * epoch + 1)]).tolist()
        assert len(set(drawn)) == 8
        seen |= set(drawn)
    # A given sample is left out of 30 epochs with probability (3/11)^30 < 1e-16.
    assert seen == set(range(11))


def test_the_batch_of_a_step_does_not_depend_on_the_steps_before() -> None:
    run = TrainOrder(50, 8, Noise(2))
    in_order = [run(step) for step in range(20)]
    for step in (19, 3, 7, 0, 12):
        assert torch.equal(TrainOrder(50, 8, Noise(2))(step), in_order[step])
        assert torch.equal(run(step), in_order[step])
    assert any(not torch.equal(TrainOrder(50, 8, Noise(3))(step), in_order[step]) for step in range(3))


@pytest.mark.parametrize("world", [2, 4])
def test_the_batches_of_all_ranks_are_the_global_batch(world: int) -> None:
    whole = TrainOrder(50, 8, Noise(2))
    ranks = [TrainOrder(50, 8, Noise(2, rank=rank, world=world)) for rank in range(world)]
    for step in (0, 5, 6, 17):
        assert torch.equal(torch.cat([rank(step) for rank in ranks]), whole(step))


def test_a_loader_resumed_within_an_epoch_continues_with_the_same_batches() -> None:
    store, subset = torch.arange(100.0).unsqueeze(1), torch.arange(30, 90)

    def batches(first: int) -> list[tuple[list[float], list[int], int]]:
        dataset = StepDataset(store, subset, TrainOrder(len(subset), 7, Noise(1)))
        return [(b.x.flatten().tolist(), b.index.tolist(), b.step) for b in StepLoader(dataset, lambda: range(first, 25))]

    whole = batches(0)
    assert batches(13) == whole[13:]
    # x are the rows of the store at the positions of the subset, while index counts within the split.
    for x, index, _ in whole:
        assert x == [30.0 + i for i in index]


def test_an_evaluation_passes_over_a_split_in_its_own_order() -> None:
    order = SplitOrder(10, 4)
    once = torch.cat([order(step) for step in range(order.per_pass)])
    assert torch.equal(once, torch.arange(10))
    assert [len(order(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]
