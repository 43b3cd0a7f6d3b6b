"""Programs in processes of their own that cost no import: forked from a process that has torch and Lightning loaded.

`Program` and `run` stand in for `subprocess.Popen` and `subprocess.run` where a test starts src/*.py, `-m MODULE` or `-c CODE`:
the process has its own arguments, environment, folder, output and signals, and ends with its own status. The process that is
forked from has imported and nothing else, so that there is no thread that a fork would lose.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

LOADED = (
    "torch.utils.data",
    "pytorch_lightning",
    "torchmetrics",
    "hydra",
    "sklearn.mixture",
    "lagvae.experiment.run",
    "lagvae.experiment.feasibility",
    "lagvae.sweeps.runner",
)
"""What a process of a test would spend its time importing."""

NUMBER = struct.Struct("i")
_calling = threading.Lock()


class Program:
    """A process that runs `command`, which is that of a Python: [sys.executable, FILE | -m MODULE | -c CODE, *words].

    Args:
        env: the whole environment; None for that of this process. cwd: its working directory.
        stdout, stderr: open files, or None for nowhere.
    """

    def __init__(
        self,
        command: Sequence[Any],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
    ) -> None:
        words = [os.fspath(word) for word in command]
        assert words[0] == sys.executable, words
        request = {"words": words[1:], "env": dict(os.environ if env is None else env), "cwd": os.fspath(cwd or Path.cwd())}
        self.returncode: int | None = None
        self._answers, theirs = socket.socketpair()
        with theirs, open(os.devnull, "w") as nowhere, _calling:  # one call after another, so that none runs into the next
            given = [theirs.fileno(), (stdout or nowhere).fileno(), (stderr or nowhere).fileno()]
            calls, _ = server()
            socket.send_fds(calls, [b"."], given)
            calls.sendall(json.dumps(request).encode() + b"\n")
            self.pid = self._answer()

    def _answer(self) -> int:
        answer = self._answers.recv(NUMBER.size, socket.MSG_WAITALL)
        assert answer, "the process that programs are forked from has ended"
        number: int = NUMBER.unpack(answer)[0]
        return number

    def poll(self) -> int | None:
        """The status, or None while it runs."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The status, minus the signal's number where one ended it. subprocess.TimeoutExpired where it does not end in time."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = self._answer()
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[Any],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | None = None,
    timeout: float = 240.0,
    check: bool = False,
) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end, and kill it where it takes longer than `timeout` seconds."""
    program = Program(command, env, cwd, stdout, stderr)
    try:
        done = subprocess.CompletedProcess(command, program.wait(timeout))
    finally:
        program.kill()
        program.wait()
    if check:
        done.check_returncode()
    return done


@cache
def server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Where programs are asked for, and the process behind it, which ends with this one."""
    ours, theirs = socket.socketpair()
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    atexit.register(end, ours, process)
    return ours, process


def end(calls: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the process that programs are forked from."""
    calls.close()
    process.kill()
    process.wait()


# ---- in the process that is forked from, and in what is forked


def serve(calls: socket.socket) -> None:
    """Fork a program for every call; returns only in these, as the program."""
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no program's garbage collector looks at what was imported
    tasks = Path("/proc/self/task")
    assert not tasks.is_dir() or len(list(tasks.iterdir())) == 1, "a fork would lose a thread"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        begun, given, *_ = socket.recv_fds(calls, 1, 3)
        if not begun:
            sys.exit()
        with calls.makefile("rb", buffering=0) as lines:
            request = lines.readline()
        if os.fork() == 0:
            break
        for each in given:
            os.close(each)
    calls.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=given[0]) as answers:
        pid = os.fork()
        if pid:
            answers.sendall(NUMBER.pack(pid))
            _, status = os.waitpid(pid, 0)
            answers.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os._exit(0)
    os.dup2(given[1], 1)
    os.dup2(given[2], 2)
    for each in given[1:]:
        os.close(each)
    become(**json.loads(request))


def become(words: list[str], env: dict[str, str], cwd: str) -> None:
    """Run a program as `python *words` would, in this process."""
    # what runs tests in the background ignores Ctrl-C, and hands that on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv[:] = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv[:] = words
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
