"""Programs of the package in processes that something happens to: a signal, a full disk, a limit.

They are forked from one process that has imported, and run, everything once, so that a program costs about half a second.
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import ctypes
import gc
import hashlib
import json
import mmap
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lagvae.io import LEFTOVER

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("information", "likelihood", "information_of_model", "two_sample_x", "two_sample_z", "classifier")
QUICK = (
    *("data=linear_gaussian", "data.source.n=200", "data.batch=40", "data.draws=40", "trainer=cpu", "training.threads=1"),
    *("training.steps=6", "training.interval=2", "training.log_every=1", "calibration.steps=6", "model.latent=2"),
    *("model.encoder.hidden=[4]", "model.decoder.hidden=[4]", "callbacks.figures=false", "launcher.compile=false"),
    *("~callbacks.training.information", *(f"~callbacks.final.{name}" for name in LEFT_OUT)),
)
"""Settings of a run that takes half a second of one core, and writes three checkpoints."""

BOUNDS = ("epsilon=explicit", "training.start=scratch", "constraints.neg_elbo.epsilon=16", "constraints.mmd.epsilon=0.05")
"""Bounds in place of a calibration."""

INTERVAL = 2
"""Steps between two checkpoints of `QUICK`."""

# ---- what happens to a process

Deed = Callable[[str, str], None]
"""Called before a file operation with its name, such as open, and the path."""

Before = Callable[[], Any] | None
"""What is called in a new process before its program."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RENAMES = {"os.rename", "os.link", "os.symlink"}
EVENTS = {"os.remove", "os.mkdir", "os.rmdir", "os.truncate"} | RENAMES


def watch(root: Path, deed: Deed) -> None:
    """Call `deed` before every operation of this process that changes a file below a folder. It cannot be undone."""
    inside, busy = str(root), []

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[2], int) and given[2] & WRITES:
            path = given[0]
        elif event in EVENTS:
            path = given[1] if event in RENAMES else given[0]
        else:
            return
        if not busy and isinstance(path, str | os.PathLike) and str(path).startswith(inside):
            busy.append(1)
            try:
                deed(event.removeprefix("os."), str(path))
            finally:
                busy.pop()

    sys.addaudithook(hook)
    save, sync = torch.save, os.fsync

    def saving(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        deed("save", str(file))
        save(content, file, *args, **kwargs)

    def syncing(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}") if sys.platform == "linux" else inside
        if path.startswith(inside):
            deed("fsync", path)
        sync(handle)

    torch.save, os.fsync = saving, syncing


def at_operation(
    root: Path, n: int, do: Callable[[], object], lasting: bool = False, only: Sequence[str] = ()
) -> Callable[[], None]:
    """What to do in a new process so that something happens before its n-th file operation, or that of a process it forks.

    Args:
        lasting: whether it happens at all later operations too. only: the operations that it can happen to; all by default.
    """
    shared = mmap.mmap(-1, 8)  # with the processes that are forked from this one

    def deed(operation: str, path: str) -> None:
        k = int.from_bytes(shared[:8], "little")
        shared[:8] = (k + 1).to_bytes(8, "little")
        if (k == n or (lasting and k > n)) and (not only or operation in only):
            do()

    return lambda: watch(root, deed)


def signals(number: int) -> Callable[[], None]:
    """Send a signal to the process in which this is called."""
    return lambda: os.kill(os.getpid(), number)


def fails(code: int) -> Callable[[], None]:
    """Raise the error of the operating system with a code."""

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


def appends(file: Path, line: str) -> None:
    with file.open("a") as log:
        log.write(f"{line}\n")


def records(root: Path, file: Path) -> Callable[[], None]:
    """Append each file operation of a process, and of those that it forks, to a file outside `root`."""
    return lambda: watch(root, lambda operation, path: appends(file, f"{operation} {os.path.relpath(path, root)}"))


# ---- programs

TOLD = re.compile("Error: |Note: Stopped")
"""How a program begins to say why it has not done what it was asked for."""


@dataclass
class Said:
    """How a program ended, and what it said."""

    status: int
    text: str

    @property
    def broken(self) -> bool:
        """Whether it showed a traceback, or did not end."""
        return self.status == 124 or any(s in self.text for s in ("Traceback (most recent call last)", "Fatal Python error"))

    @property
    def refused(self) -> bool:
        """Whether it ended with a message that is no traceback."""
        return self.status in (1, 130) and not self.broken and TOLD.search(self.text) is not None

    @property
    def message(self) -> str:
        """What it said last, or its error, in a line."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        errors = [k for k, line in enumerate(lines) if TOLD.search(line)]
        told = " ".join(lines[errors[0] :]) if errors and not self.broken else (lines or [""])[-1]
        return f"status {self.status}: {told[:300]}"


def ends(run: Callable[[], object]) -> None:
    """Run something and end this process with the exit status that it has as a program."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()  # type: ignore[attr-defined]
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Program:
    """A program of src/ in a process that is forked from this one.

    Args:
        script: train, evaluate, … words: of its command line. root: LAGVAE_ROOT. said: the file of what it says.
        before: called in the new process first. group: of processes, that of another one; by default its own.
    """

    def __init__(
        self,
        script: str,
        words: Sequence[str],
        root: Path,
        said: Path,
        before: Before = None,
        env: dict[str, str | None] | None = None,
        group: int = 0,
    ) -> None:
        self.said, self.status = said, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            ends(lambda: self._become(script, list(words), root, before, env or {}, group))
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, group)

    def _become(
        self, script: str, words: list[str], root: Path, before: Before, env: dict[str, str | None], group: int
    ) -> None:
        with contextlib.suppress(OSError):
            os.setpgid(0, group)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # the kernel kills it when the process that started it ends
        gc.disable()
        atexit._clear()  # type: ignore[attr-defined]
        out, nothing = os.open(self.said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
        for given, to in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(given, to)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for key, value in {**env, "LAGVAE_ROOT": str(root)}.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
        signs = os.environ.get("PYTHONIOENCODING", "utf-8")  # streams as a Python makes them that starts anew
        sys.stdout = open(1, "w", encoding=signs, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=signs, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(root.parent)
        sys.argv[:] = [f"src/{script}.py", *words]
        fork_jobs()
        if before is not None:
            before()
        runpy.run_path(str(ROOT / "src" / f"{script}.py"), run_name="__main__")

    def wait(self, seconds: float = 240.0) -> Said:
        """How it ends; it is killed, and status 124, where that takes too long. What it started, and left, is killed too."""
        end = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.status = 124
            else:
                time.sleep(0.005)
        return Said(self.status, self.said.read_text(errors="replace") if self.said.exists() else "")

    def end_group(self) -> None:
        """Kill what it has started and left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def fork_jobs() -> None:
    """Let launcher=processes fork its jobs from this process, where it would start Python anew and import for seconds."""
    from lagvae.sweeps import executors

    def run(command: Sequence[str], env: dict[str, str], stdout: Any, **_: Any) -> Any:
        def job() -> None:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            os.environ.update(env)
            sys.argv[:] = ["lagvae.sweeps.job", command[-1]]
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            runpy.run_module("lagvae.sweeps.job", run_name="__main__")

        if (pid := os.fork()) == 0:
            ends(job)
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    executors.subprocess = type("Forked", (), {"run": staticmethod(run)})


@dataclass(eq=False)
class Place:
    """Where faults happen, one after another: the same folder `root` for all, which is put into a prepared state each time."""

    base: Path
    makers: dict[str, Callable[[], None]] = field(default_factory=dict)
    """State → what makes it at the first use, and keeps it."""

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def run_a(self) -> Path:
        """The folder of the run that most faults happen to."""
        return self.root / "runs" / "a"

    @property
    def cuts(self) -> Path:
        """A file with the folder and the step of each training that began."""
        return self.base / "cuts"

    def start(self, script: str, *words: str, before: Before = None, label: str = "said", **kw: Any) -> Program:
        """Start a program on the root."""

        def first() -> None:
            note_beginnings(self.cuts)
            if before is not None:
                before()

        return Program(script, words, self.root, self.base / label, first, **kw)

    def run(self, script: str, *words: str, seconds: float = 240.0, **kw: Any) -> Said:
        """Run a program on the root to its end."""
        program = self.start(script, *words, **kw)
        said = program.wait(seconds)
        program.end_group()
        return said

    def keep(self, state: str) -> None:
        """Remember the root as it is under the name of a state."""
        shutil.rmtree(self.base / "states" / state, ignore_errors=True)
        shutil.copytree(self.root, self.base / "states" / state, symlinks=True)

    def put(self, state: str) -> None:
        """Make the root as it was in a state; "empty" for no root at all."""
        for path in (self.root, self.base / "moved"):
            shutil.rmtree(path, ignore_errors=True)
        if state == "empty":
            self.root.mkdir()
        else:
            if not (self.base / "states" / state).exists():
                self.makers[state]()
                shutil.rmtree(self.root)
            shutil.copytree(self.base / "states" / state, self.root, symlinks=True)
        self.cuts.unlink(missing_ok=True)

    def began(self) -> dict[str, list[int]]:
        """Folder → the steps from which trainings in it began, since the root was put into a state."""
        found: dict[str, list[int]] = {}
        for line in self.cuts.read_text().splitlines() if self.cuts.exists() else ():
            folder, _, step = line.rpartition(" ")
            found.setdefault(folder, []).append(int(step))
        return found

    def file(self, name: str) -> Path:
        """The first file of a name below the root."""
        return min(path for path in self.root.rglob(name) if "latest" not in path.parts)


def note_beginnings(file: Path) -> None:
    """Append the folder and the step of each training that begins or goes on in this process to a file."""
    from lagvae.runs.metrics_table import MetricsTable

    cut = MetricsTable.cut

    def noting(self: MetricsTable, step: int) -> None:
        appends(file, f"{self.path.parent.name} {step}")
        cut(self, step)

    MetricsTable.cut = noting  # type: ignore[method-assign]


# ---- what is there afterwards


def tensors_digest(content: Any) -> str:
    """A hash of all numbers of a checkpoint: tensors to the bit, and what lies around them."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(str((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            add([[str(key), value[key]] for key in sorted(value, key=str)])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        else:
            found.update(repr(value).encode())

    add(content)
    return found.hexdigest()[:12]


TIMED = ("seconds", "ensemble", "made")
"""What a clock says of a run."""


def seen(look: Callable[[Path], Any], path: Path) -> Any:
    """What a look at a file shows; the kind of its error where it cannot be read."""
    try:
        return look(path)
    except Exception as error:
        return type(error).__name__


def plain_json(path: Path) -> Any:
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMED}


def numbers(path: Path) -> str:
    content = torch.load(path, weights_only=True)
    kept = ("state_dict", "optimizer_states", "global_step") if "state_dict" in content else tuple(content)
    return tensors_digest({key: content.get(key) for key in kept})


def of_calibration(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    return {key: content.get(key) for key in ("calibrated", "stderr")}


LOOKS: dict[str, Callable[[Path], Any]] = {
    "summary.json": plain_json,
    "evaluation/summary.json": plain_json,
    "metrics.csv": lambda path: path.read_text(errors="replace"),
    "checkpoints/last.ckpt": numbers,
    "checkpoints/best.ckpt": numbers,
    "calibration.json": of_calibration,
    "theta.pt": numbers,
}
"""A file of a run or a calibration → what is promised to be the same to the bit after a disturbance."""


def picture(folder: Path) -> dict[str, Any]:
    """What `LOOKS` shows of one folder."""
    return {name: seen(look, folder / name) for name, look in LOOKS.items() if (folder / name).exists()}


def pictures(root: Path) -> dict[str, dict[str, Any]]:
    """The folder of each run, relative to runs/, and calibrations/NAME of each calibration → its picture."""
    runs = root / "runs"
    configs = [file for file in sorted(runs.rglob("config.yaml")) if not {"latest", ".jobs"} & set(file.parts)]
    found = {str(file.parent.relative_to(runs)): picture(file.parent) for file in configs}
    return found | {f"calibrations/{folder.name}": picture(folder) for folder in sorted((root / "calibrations").glob("*"))}


def unlike(expected: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """The parts of a picture that are not as expected. What was not expected does not count."""
    return [key for key, value in expected.items() if there.get(key) != value]


def doubled_rows(root: Path) -> int:
    """How many rows of the tables of metrics below a folder are there twice."""
    twice = 0
    for file in root.rglob("metrics.csv"):
        rows = [row for row in csv.reader(file.read_text(errors="replace").splitlines()) if len(row) == 5]
        twice += sum(count - 1 for count in Counter((row[0], row[2], row[3]) for row in rows).values())
    return twice


def leftovers(root: Path) -> list[str]:
    """Temporary files that nobody has removed."""
    return [str(path.relative_to(root)) for path in root.rglob(".*") if path.is_file() and LEFTOVER.fullmatch(path.name)]


@contextlib.contextmanager
def loaded(base: Path) -> Iterator[Place]:
    """A place for faults in a process that has run each program once, so that all it needs is there when it forks."""
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    torch.set_num_threads(1)
    root = base / "warm"
    for script, given in (("train", (*QUICK, "family=vae", "name=warm")), ("evaluate", ("run=warm",))):
        run_here(script, given, root)
    shutil.rmtree(root)
    gc.collect()
    gc.freeze()
    yield Place(base)


def run_here(script: str, words: Sequence[str], root: Path) -> None:
    """Run a program in this process, which is afterwards as before."""
    from hydra.core.global_hydra import GlobalHydra

    argv, environment = list(sys.argv), dict(os.environ)
    os.environ["LAGVAE_ROOT"] = str(root)
    sys.argv = [f"src/{script}.py", *words]
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            runpy.run_path(str(ROOT / "src" / f"{script}.py"), run_name="__main__")
    finally:
        sys.argv[:] = argv
        os.environ.clear()
        os.environ.update(environment)
        GlobalHydra.instance().clear()
