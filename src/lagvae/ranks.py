"""The processes that share the training of one run, its ranks: what the first decides for all, and how all end if one ends.

A collective operation of torch waits for every rank, and fails or waits for ever where one is gone. So each rank also keeps a
connection to the first, over which results travel, without a limit of time, and over which a rank says that it ends, and why. A
connection that closes without such a word means that the rank was killed.
"""

from __future__ import annotations

import atexit
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hmac import compare_digest
from queue import SimpleQueue
from secrets import token_bytes
from typing import Any, TypeVar

from lagvae.errors import LagvaeError, RankError, Stopped

T = TypeVar("T")

GRACE = 4.0
"""Seconds in which a rank may end by itself after another one has ended."""

HEARSAY = 1.0
"""Seconds in which a rank whose collective operation has failed hears that another one has ended."""

STARTED_BY = "LAGVAE_STARTED_BY"
"""The variable of the environment with the number of the process that starts this one."""

PATIENCE = 120.0
"""Seconds in which all ranks must have connected to the first, once torch has connected them."""


class Ranks:
    """This process among those that share a run.

    Args:
        rank: its number. world: the number of all.
        say: prints an error.

    Attributes:
        speaks: whether this rank prints; the first does, and where it was killed the second.
    """

    def __init__(self, rank: int, world: int, say: Callable[[str], None]) -> None:
        self.rank, self.world, self.say = rank, world, say
        self.speaks = rank == 0
        self.sockets: dict[int, socket.socket] = {}
        self.results: SimpleQueue[Any] = SimpleQueue()
        self.news: LagvaeError | None = None
        self._threads: list[threading.Thread] = []
        self._told, self._leaving, self._lock = threading.Event(), threading.Event(), threading.Lock()

    def connect(self, broadcast: Callable[[Any], Any]) -> None:
        """Connect every rank with the first. `broadcast` gives an object of the first rank to all."""
        if self.rank:
            port, token = broadcast(None)
            there = socket.create_connection((os.environ["MASTER_ADDR"], port), PATIENCE)
            there.settimeout(None)
            there.sendall(token + self.rank.to_bytes(4, "big"))
            self.sockets[0] = there
        else:
            token = token_bytes(16)
            with socket.create_server(("", 0), backlog=self.world) as server:
                server.settimeout(PATIENCE)
                broadcast((server.getsockname()[1], token))
                while len(self.sockets) < self.world - 1:
                    there, _ = server.accept()
                    said = there.recv(20, socket.MSG_WAITALL)
                    if compare_digest(said[:16], token):
                        self.sockets[int.from_bytes(said[16:], "big")] = there
                    else:
                        there.close()
        for other in self.sockets:
            thread = threading.Thread(target=self._listen, args=(other,), name=f"rank {other}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def tell(self, kind: str, content: Any) -> None:
        """Tell those that this rank is connected with a "result", or that it has "left", and why."""
        message = pickle.dumps((kind, content))
        for there in self.sockets.values():
            with suppress(OSError):  # that rank is gone
                there.sendall(message)

    def on_first(self, do: Callable[[], T]) -> T:
        """See the function."""
        if self.rank:
            result = self.results.get()
            if isinstance(result, BaseException):
                raise result
            return result  # type: ignore[no-any-return]
        try:
            result = do()
        except LagvaeError as error:
            self.tell("result", error)
            raise
        self.tell("result", result)
        return result

    def _listen(self, other: int) -> None:
        killed = RankError(
            f"Process {other + 1} of {self.world} of this run was killed, so the others have stopped too. What the run had "
            "reached by its last checkpoint is kept: resume it."
        )
        reason: LagvaeError | None = killed
        with suppress(EOFError, OSError, pickle.UnpicklingError), self.sockets[other].makefile("rb") as stream:
            kind, content = pickle.load(stream)
            while kind == "result":
                self.results.put(content)
                kind, content = pickle.load(stream)
            reason = content
        if reason is not None and not self._leaving.is_set():
            self._end(reason, reason is killed and other == 0)

    def _end(self, news: LagvaeError, without_first: bool) -> None:
        """End this process, because another one has, unless it ends by itself."""
        with self._lock:
            if self.news is not None:
                return
            self.news = news
        self.speaks |= without_first and self.rank == 1
        self._told.set()
        self.results.put(news)
        if self.rank == 0:
            self.tell("left", news)
        if not self._leaving.wait(GRACE):  # the main thread waits, in a collective operation, for who is gone
            if self.speaks:
                self.say(str(news))
            exit_at_once(status_of(news))

    def leave(self, error: BaseException | None) -> LagvaeError | None:
        """Tell the others that this rank ends. Returns the error of another rank of which `error` is a consequence, or None."""
        known = isinstance(error, LagvaeError | KeyboardInterrupt | SystemExit)
        if error is not None and not known:
            self._told.wait(HEARSAY)  # of another rank's end the collective operations know first
        self._leaving.set()
        reason = error if error is None or isinstance(error, LagvaeError) else self.news
        if error is not None and reason is None:
            reason = Stopped("Stopped.") if known else RankError(f"Process {self.rank + 1} of {self.world} failed: {error!r}.")
        self.tell("left", reason)
        if self.rank == 0 and error is None:
            for thread in self._threads:
                thread.join(GRACE)  # the first ends last: torch connects the ranks through it
        for there in self.sockets.values():
            with suppress(OSError):
                there.shutdown(socket.SHUT_WR)
        if error is not None and self.world > 1:
            atexit.register(exit_at_once, status_of(reason))
        return None if known else self.news


def status_of(error: BaseException | None) -> int:
    """The exit status of a process that ends for an error."""
    return 130 if isinstance(error, Stopped) else 1


def exit_at_once(status: int) -> None:
    """End this process without taking its modules apart, which takes seconds, and may wait for ranks that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def end_with_parent(until: threading.Event | None = None) -> None:
    """Exit this process when the one that started it has ended, even if it was killed, and before this is called.

    Args:
        until: an event after which this process goes on without it.
    """
    parent, until = int(os.environ.pop(STARTED_BY, os.getppid())), until or threading.Event()
    # Where it is not, that one has ended, or there is a process between the two, such as a wrapper of Python.
    direct = os.getppid() == parent

    def watch() -> None:
        while os.getppid() == parent if direct else is_alive(parent):
            if until.wait(1):
                return
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_alive(process: int) -> bool:
    """Whether there is a process of this number, above 0, on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_ranks: Ranks | None = None


@contextmanager
def joined_ranks(rank: int, world: int, broadcast: Callable[[Any], Any], say: Callable[[str], None]) -> Iterator[None]:
    """Let this process be one of those that share a run; inside another such context nothing changes.

    Args:
        rank, world: as for `Ranks`, as is say. broadcast: gives an object of the first rank to all.

    Raises: the error of another rank, where that has ended and this one fails for it.
    """
    global _ranks
    if _ranks is not None and not _ranks._leaving.is_set():
        yield
        return
    ranks = Ranks(rank, world, say)
    if world > 1:
        ranks.connect(broadcast)
    _ranks = ranks
    try:
        yield
    except BaseException as error:
        if (news := ranks.leave(error)) is not None:
            raise news from None
        raise
    else:
        ranks.leave(None)
    finally:
        if world == 1:
            _ranks = None


def is_joined() -> bool:
    """Whether it is settled which processes share the run."""
    return _ranks is not None and not _ranks._leaving.is_set()


def is_quiet() -> bool:
    """Whether another process prints in place of this one."""
    return launched_rank() > 0 if _ranks is None else not _ranks.speaks


def on_first(do: Callable[[], T]) -> T:
    """Do something in the first process alone; all get its result, or raise its error."""
    return do() if _ranks is None or not is_joined() else _ranks.on_first(do)


def launched_rank() -> int:
    """The number that a launcher gave this process. One alone, without what the others have, is no launcher's."""
    try:
        several = int(os.environ["WORLD_SIZE"]) > 1 and "MASTER_ADDR" in os.environ
        return int(os.environ["RANK" if "RANK" in os.environ else "LOCAL_RANK"]) if several else 0
    except (KeyError, ValueError):
        return 0
