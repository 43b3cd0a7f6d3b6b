"""What the ranks of a run tell each other: results, and that one of them has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import pytest
from small import TINY, compose

from lagvae import ranks
from lagvae.errors import RankError, SettingError, Stopped
from lagvae.experiment.processes import adopt_launcher, in_one_process, validated_processes
from lagvae.ranks import Ranks, is_alive, is_joined, is_quiet, launched_rank

World = list[Ranks]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Queue[int]:
    """The exit statuses of ranks that would have ended their process."""
    statuses: Queue[int] = Queue()
    monkeypatch.setattr(ranks, "exit_at_once", statuses.put)
    monkeypatch.setattr(ranks.atexit, "register", lambda *_: None)
    monkeypatch.setattr(ranks, "GRACE", 0.3)
    return statuses


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, ended: Queue[int]) -> Iterator[World]:
    """Three ranks in one process, connected with one another."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    said: Queue[Any] = Queue()
    made = [Ranks(rank, 3, lambda text: None) for rank in range(3)]

    def broadcast(content: Any) -> Any:
        if content is None:
            return said.get(timeout=10)
        said.put(content)
        said.put(content)
        return content

    threads = [threading.Thread(target=each.connect, args=(broadcast,)) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    yield made
    for each in made:
        each._leaving.set()
        for there in each.sockets.values():
            there.close()


def soon(happened: Callable[[], Any]) -> Any:
    end = time.monotonic() + 10
    while not (found := happened()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def kill(rank: Ranks) -> None:
    """Close the connections of a rank as the kernel does for a process that was killed."""
    rank._leaving.set()  # this rank is beyond hearing
    for there in rank.sockets.values():
        there.shutdown(2)


@pytest.mark.parametrize(("error", "alive"), [(None, True), (PermissionError, True), (ProcessLookupError, False)])
def test_a_process_that_may_not_be_signalled_is_alive(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError] | None, alive: bool
) -> None:
    def kill(process: int, signal: int) -> None:
        assert signal == 0, "which asks, and ends nothing"
        if error is not None:
            raise error

    monkeypatch.setattr(ranks.os, "kill", kill)
    assert is_alive(123) == alive


def test_all_get_what_the_first_one_finds(world: World) -> None:
    assert [each.on_first(lambda: {"found": 1}) for each in world] == [{"found": 1}] * 3


def test_all_raise_the_error_of_the_first(world: World) -> None:
    def fail() -> None:
        raise SettingError("the disk is full")

    for each in world:
        with pytest.raises(SettingError, match="the disk is full"):
            each.on_first(fail)


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_the_others_end_where_one_is_killed_and_one_of_them_says_so(world: World, ended: Queue[int], killed: int) -> None:
    said: list[tuple[int, str]] = []
    others = [each for each in world if each.rank != killed]
    for each in others:
        each.say = lambda text, rank=each.rank: said.append((rank, text))  # type: ignore[misc]
    kill(world[killed])
    assert [ended.get(timeout=10) for _ in others] == [1, 1]
    assert [(rank, text.partition(" of")[0]) for rank, text in said] == [(1 if killed == 0 else 0, f"Process {killed + 1}")]


def test_a_rank_whose_collective_operation_fails_raises_what_the_other_ended_for(world: World, ended: Queue[int]) -> None:
    assert world[2].leave(Stopped("Stopped at step 3.")) is None
    for rank in (0, 1):
        news = world[rank].leave(RuntimeError("Connection closed by peer"))
        assert isinstance(news, Stopped)
        assert str(news) == "Stopped at step 3."
    assert ended.empty()


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SettingError("wrong"), 1), (None, None)])
def test_a_process_ends_with_the_status_of_what_it_ended_for(
    world: World, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: int | None
) -> None:
    """130, as of a program that Ctrl-C stopped."""
    registered: list[Any] = []
    monkeypatch.setattr(ranks.atexit, "register", lambda *given: registered.append(given))
    world[1].leave(error)
    assert registered == ([] if status is None else [(ranks.exit_at_once, status)])


def test_an_error_of_our_own_reaches_the_first_rank(world: World) -> None:
    assert world[1].leave(ValueError("no")) is None
    assert isinstance(soon(lambda: world[0].news), RankError)
    assert "Process 2 of 3 failed: ValueError('no')" in str(world[0].news)


def test_a_rank_that_has_finished_stops_no_other(world: World, ended: Queue[int]) -> None:
    for rank in (1, 2, 0):
        world[rank].leave(None)
    time.sleep(0.05)
    assert all(each.news is None for each in world)
    assert ended.empty()


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 0),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "1", "MASTER_ADDR": "a"}, 0),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, 1),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a"}, 3),
        ({"LOCAL_RANK": "x", "WORLD_SIZE": "4", "MASTER_ADDR": "a"}, 0),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 0),
    ],
)
def test_the_rank_that_a_launcher_gave(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: int) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == rank
    assert is_quiet() == (rank > 0)


def test_a_stray_local_rank_is_named_where_it_would_wait_and_ignored_where_it_would_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with validated_processes(compose([*TINY])):
        assert not is_quiet()
    words = ("trainer=ddp", "trainer.accelerator=cpu", "epsilon=explicit", "training.start=scratch")
    cfg = compose([*TINY, *words, "constraints.neg_elbo.epsilon=9", "constraints.mmd.epsilon=9"])
    expected = r"LOCAL_RANK=1 is set, but MASTER_ADDR and MASTER_PORT not.*unset LOCAL_RANK"
    with pytest.raises(SettingError, match=expected), validated_processes(cfg):
        pass


def test_the_processes_of_torchrun_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the settings do not say how many there are; those of a stored run say so of another time."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)

    def adopted(*words: str, stored: bool = False) -> tuple[Any, ...]:
        cfg = compose([*TINY, *words])
        adopt_launcher(cfg, stored)
        return cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.strategy

    assert adopted() == (2, 2, "ddp")
    assert adopted("trainer=ddp", "trainer.devices=3") == (3, 1, "ddp")
    assert adopted("trainer=ddp", "trainer.devices=3", stored=True) == (2, 2, "ddp")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert adopted("trainer=ddp", "trainer.devices=3", stored=True) == (1, 1, "auto")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert adopted("trainer=ddp", "trainer.devices=3", stored=True) == (3, 1, "ddp")


def test_one_process_measures_what_several_have_trained() -> None:
    cfg = compose([*TINY, "trainer=ddp", "trainer.devices=3"])
    in_one_process(cfg)
    assert (cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.strategy) == (1, 1, "auto")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch, ended: Queue[int]) -> list[int]:
    """The ranks that this process has connected, none of which has another to talk to."""
    found: list[int] = []
    monkeypatch.setattr(ranks, "_ranks", None)
    monkeypatch.setattr(ranks, "HEARSAY", 0.0)
    monkeypatch.setattr(Ranks, "connect", lambda self, broadcast: found.append(self.rank))
    return found


@pytest.mark.parametrize(("world", "connections"), [(1, []), (2, [0, 0])])
def test_a_process_is_joined_until_it_leaves_and_can_be_joined_again(
    connected: list[int], world: int, connections: list[int]
) -> None:
    for _ in range(2):
        assert not is_joined()
        with ranks.joined_ranks(0, world, lambda content: content, print):
            assert is_joined()
            with ranks.joined_ranks(0, world, lambda content: content, print):
                assert is_joined(), "inside another one nothing changes"
            assert is_joined()
    assert not is_joined()
    assert connected == connections, "one alone opens no connection"


def test_a_process_for_which_another_speaks_is_quiet_to_its_end(connected: list[int]) -> None:
    with ranks.joined_ranks(1, 2, lambda content: content, print):
        assert is_quiet()
    assert is_quiet()
    assert connected == [1]


@pytest.mark.parametrize("news", [None, RankError("Process 2 of 2 was killed.")])
def test_a_process_that_fails_for_another_raises_the_error_of_that_one(
    connected: list[int], news: RankError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ConnectionError("closed by peer")

    def fail() -> None:
        with ranks.joined_ranks(0, 2, lambda content: content, print):
            assert ranks._ranks is not None
            ranks._ranks.news = news
            raise own

    with pytest.raises(type(news or own)) as raised:
        fail()
    assert raised.value is (news or own)
    assert not is_joined()
