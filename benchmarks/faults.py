"""Faults that are done to runs, calibrations, evaluations and sweeps, and what becomes of these.

    python benchmarks/faults.py --out results/faults.md             # the campaign, in about 15 minutes of one core
    python benchmarks/faults.py --kind damage --only metrics.csv    # some of it
    python benchmarks/faults.py --every                             # signals and errors at every file operation there is

Each fault is done to a program in a process of its own, which then goes on as a user would go on: resumed, or started again.
What is there in the end is compared with what there is without the fault. It

    survived   to the bit, or the program had refused to go on with a message that names what is wrong
    wrong      where it can be seen: a traceback, a message that names nothing, a program that hangs, files that stay
    silent     and unlike, with exit status 0: other numbers, rows twice or missing
    lost       what had been saved before, and is trained again or cannot be used
    executed   code that a file had brought along

Outcomes are kept line by line beside the table (--out with the ending .jsonl): the same command goes on where it stopped, and a
fault is tried anew where the package or the campaign has changed, with --keep only where it did not survive.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import math
import os
import pickle
import re
import resource
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from errno import EACCES, EIO, ENOSPC, EROFS
from pathlib import Path
from signal import SIGABRT, SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGXCPU, Signals
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from disturbed import (
    BOUNDS,
    INTERVAL,
    QUICK,
    ROOT,
    TOLD,
    Before,
    Place,
    Program,
    Said,
    appends,
    at_operation,
    doubled_rows,
    fails,
    leftovers,
    loaded,
    pictures,
    records,
    signals,
    unlike,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

STATES = ("survived", "wrong", "silent", "lost", "executed")


class Outcome(NamedTuple):
    """What became of a fault, and what the program said or what is unlike."""

    state: str
    message: str


survived, wrong, silent, lost = (functools.partial(Outcome, state) for state in STATES[:4])
EQUAL = survived("equal")

Found = Iterator[tuple[Any, ...]]
"""The faults of a kind: the name of each, the function that tries it, and what that is called with after a place."""


class Fault(NamedTuple):
    kind: str
    name: str
    try_out: Callable[..., Outcome]
    given: tuple[Any, ...] = ()


# ---- programs that something is done to


@dataclass(frozen=True)
class Task:
    """A program on a state of the root.

    Attributes:
        folders: those of its results, below runs/, or "calibrations". resume: the words with which it goes on where it has a
            config; None for its own.
    """

    state: str
    script: str
    words: tuple[str, ...]
    folders: tuple[str, ...]
    resume: tuple[str, ...] | None = None


RUN = (*QUICK, *BOUNDS, "name=a")
SWEEP = ("-m", *QUICK, *BOUNDS, "seed=0,1")
CELLS = ("sweep/lagvae-seed0", "sweep/lagvae-seed1")
ON_PROCESSES = (*SWEEP, "launcher=processes", "launcher.executor.jobs=1")
TASKS = {
    "train": Task("empty", "train", RUN, ("a",), ("resume=a",)),
    "calibrate": Task("empty", "calibrate", QUICK, ("calibrations",)),
    "calibrate and train": Task("empty", "train", (*QUICK, "name=b"), ("b", "calibrations"), ("resume=b",)),
    "evaluate": Task("done", "evaluate", ("run=a",), ("a",)),
    "sweep": Task("empty", "train", SWEEP, CELLS),
    "sweep on processes": Task("empty", "train", ON_PROCESSES, CELLS),
    "sweep on devices": Task("empty", "train", (*SWEEP, "launcher=gpus", "launcher.executor.devices=[0]"), CELLS),
}


class Rehearsal(NamedTuple):
    """A task without a fault: its file operations, and what it leaves."""

    operations: tuple[str, ...]
    expected: dict[str, dict[str, Any]]


@functools.cache
def rehearsed(place: Place, name: str) -> Rehearsal:
    """A task as it is without a fault."""
    task, log = TASKS[name], place.base / "operations"
    place.put(task.state)
    log.unlink(missing_ok=True)
    said = place.run(task.script, *task.words, before=records(place.root, log))
    if said.status != 0:
        raise SystemExit(f"{name} does not work without a fault: {said.text[-2000:]}")
    return Rehearsal(tuple(log.read_text().splitlines()), found(place, task))


def found(place: Place, task: Task) -> dict[str, dict[str, Any]]:
    """Folder → picture of it, for the folders of a task. A calibration counts whatever its name is."""
    there = pictures(place.root)
    kept = {name: value for name, value in there.items() if name in task.folders}
    if task.resume and (first := task.folders[0]) not in kept and f"{first}-2" in there:
        kept[first] = there[f"{first}-2"]  # a folder without a config is not gone on with: a second one is made
    calibrations = [value for name, value in there.items() if name.startswith("calibrations/")]
    return kept | ({"calibrations": calibrations[0]} if "calibrations" in task.folders and calibrations else {})


def saved_steps(operations: Sequence[str]) -> dict[str, int]:
    """Name of a folder → the step of its last checkpoint after these operations; "" for the ensemble that all are in."""
    moved = [line.partition(" ")[2] for line in operations if line.startswith("rename ")]
    saved = [path for path in moved if path.endswith(("last.ckpt", "ensemble.ckpt"))]
    counts = Counter("" if path.endswith("ensemble.ckpt") else Path(path).parts[-3] for path in saved)
    return {name: count * INTERVAL for name, count in counts.items()}


def go_on(place: Place, task: Task) -> Said:
    """Go on with a task as its user would."""
    place.cuts.unlink(missing_ok=True)
    has_config = (place.root / "runs" / task.folders[0] / "config.yaml").exists()
    return place.run(task.script, *(task.resume if task.resume and has_config else task.words))


def judged(
    place: Place,
    task: Task,
    expected: dict[str, Any],
    said: Said,
    saved: dict[str, int] | None = None,
    alone: dict[str, Any] | None = None,
) -> Outcome:
    """Judge a task that has gone on.

    Args:
        expected: what it leaves without a fault. said: what it said when it went on. saved: see `saved_steps`.
        alone: what a run leaves that trains alone, where it may as well have done that.
    """
    if said.broken or said.status != 0:
        return (wrong if said.broken else lost)(f"going on: {said.message}")
    there, began = found(place, task), place.began()
    for folder, picture in expected.items():
        differs = unlike(picture, there.get(folder, {}))
        if differs and (alone is None or unlike(alone[folder], there.get(folder, {}))):
            return silent(f"{folder}: {', '.join(differs)} unlike")
    if twice := doubled_rows(place.root):
        return silent(f"{twice} rows of metrics.csv are there twice")
    for name, step in (saved or {}).items():
        for folder, steps in began.items():
            if (name in ("", folder)) and max(steps) < step:
                return lost(f"{folder} went on from step {max(steps)}, and had saved step {step}")
    if (left := leftovers(place.root)) and not (place.root / "runs" / f"{task.folders[0]}-2").exists():
        return wrong(f"left behind: {left[0]}")
    return EQUAL


def odd_end(said: Said, names: Iterable[str] = ()) -> Outcome | None:
    """None where a program ended well or with a message, which has one of some pieces; else what is wrong with its end."""
    names = [name for name in names if name]
    if said.broken or (said.status != 0 and not said.refused):
        return wrong(said.message)
    if said.status != 0 and names and not any(name in said.text for name in names):
        return wrong(f"names none of {', '.join(names)}: {said.message}")
    return None


def not_done(said: Said, names: Iterable[str] = ()) -> Outcome | None:
    """What became of a program that did not end well; None where it did."""
    return odd_end(said, names) or (survived(f"refused: {said.message}") if said.status else None)


CHANCE = r"\b[0-9a-f]{8}\b|(?<=-)[0-9a-f]{8,}|\b\d{3,}\b"
"""A hash, a random name or the number of a process."""


def chosen(operations: Sequence[str], step: int, offset: int = 0) -> Iterator[tuple[int, str]]:
    """Every `step`-th operation with its number, and a name for it that does not depend on chance."""
    seen: Counter[str] = Counter()
    for n, line in enumerate(operations):
        operation, _, path = line.partition(" ")
        name = f"{operation} of {re.sub(CHANCE, '*', path.replace('runs/', '').replace('checkpoints/', ''))}"
        seen[name] += 1
        if step and (n - offset) % step == 0:
            yield n, f"{name} {seen[name]}"


# ---- signals and storage

STOPPED = {SIGKILL: (-9,), SIGTERM: (-15, 130), SIGINT: (130,)}
"""The exit statuses with which a signal ends a program."""


def disturbed(
    place: Place, name: str, n: int, do: Callable[[], None], ended: Callable[[Said], Outcome | None], **how: Any
) -> Outcome:
    """Let something happen to a task at its n-th file operation, and go on.

    How often progress is written depends on the clock: where there are fewer operations this time, it happens earlier.

    Args:
        ended: what is wrong with its end, if anything. how: see `at_operation`.
    """
    task, normal = TASKS[name], rehearsed(place, name)
    happened = place.cuts.with_name("happened")
    happened.unlink(missing_ok=True)

    def noted() -> None:
        appends(happened, name)
        do()

    place.put(task.state)
    said = place.run(task.script, *task.words, before=at_operation(place.root, n, noted, **how))
    if not happened.is_file() and n > 0:
        return disturbed(place, name, n - 1, do, ended, **how)
    if (odd := ended(said)) is not None or said.status == 0:
        return odd or judged(place, task, normal.expected, said)
    return judged(place, task, normal.expected, go_on(place, task), saved_steps(normal.operations[:n]))


def signalled(place: Place, name: str, n: int, number: Signals) -> Outcome:
    """Send a signal to a task before its n-th file operation, and go on."""

    def ended(said: Said) -> Outcome | None:
        of_job = name in ("sweep on processes", "sweep on devices") and said.refused  # and not of the process that waits for it
        stopped = said.status in STOPPED[number] or of_job or said.status == 0  # by a process of its own, say, that it replaced
        return wrong(f"at the signal: {said.message}") if said.broken or not stopped else None

    return disturbed(place, name, n, signals(number), ended)


EVERY = {  # task → every how many file operations: SIGKILL; SIGTERM and SIGINT; errors of the disk
    "train": (1, 4, 4),
    "calibrate": (2, 8, 9),
    "evaluate": (1, 4, 4),
    "calibrate and train": (9, 0, 0),
    "sweep": (5, 18, 16),
    "sweep on processes": (9, 36, 40),
    "sweep on devices": (30, 0, 0),
}


def signal_faults(place: Place, every: bool) -> Found:
    for name, (kill, stop, _) in EVERY.items():
        for number, step, offset in ((SIGKILL, kill, 0), (SIGTERM, stop, 1), (SIGINT, stop, stop // 2)):
            for n, at in chosen(rehearsed(place, name).operations, int(every) or step, offset):
                yield f"{number.name} to {name} at {at}", signalled, name, n, number


UNWRITABLE = ("full", "cannot be written", "could not be written", "cannot be read")


def denied(place: Place, name: str, n: int, do: Callable[[], None], only: Sequence[str], lasting: bool = True) -> Outcome:
    """Let file operations of a task fail from the n-th on, and go on when they no longer do."""
    return disturbed(place, name, n, do, lambda said: odd_end(said, UNWRITABLE), lasting=lasting, only=only)


def writer_fails() -> None:
    """As torch's writer of files fails on a full disk."""
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1, 1, 0)  # type: ignore[attr-defined, assignment]
    raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0")


def vanishing(place: Place, n: int, where: str, moved: bool) -> Outcome:
    """Remove a folder under a training run, or move it away, and train again."""
    task, folder, away = TASKS["train"], place.root / where, place.base / "moved"

    def vanish() -> None:
        if folder.exists():
            folder.rename(away) if moved else shutil.rmtree(folder)

    place.put(task.state)
    said = place.run(task.script, *task.words, before=at_operation(place.root, n, vanish))
    if (odd := odd_end(said)) is not None:
        return odd
    if away.exists() and said.status != 0:  # what has ended well is not put back into an earlier state
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        away.rename(folder)
    again = go_on(place, task) if said.status else said
    return judged(place, task, rehearsed(place, "train").expected, again)


WRITING = ("open", "mkdir", "save", "symlink", "fsync")
"""The file operations that fail on a full disk."""


def storage_faults(place: Place, every: bool) -> Found:
    for name, (*_, step) in EVERY.items():
        for label, code, only, offset in (("a full disk", ENOSPC, WRITING, 0), ("a read-only disk", EROFS, (), 2)):
            for n, at in chosen(rehearsed(place, name).operations, step and (int(every) or step), offset):
                yield f"{label} for {name} from {at}", denied, name, n, fails(code), only
    operations = rehearsed(place, "train").operations
    for n, at in chosen(operations, 1):
        if at.startswith("fsync") and (every or n % 3 == 0):
            yield f"an error of the disk for train at {at}", denied, "train", n, fails(EIO), (), False
        if at.startswith("save"):
            yield f"torch's writer fails for train at {at}", denied, "train", n, writer_fails, ("save",)
        if at.startswith("rename") and every:
            yield f"no access for train at {at}", denied, "train", n, fails(EACCES), (), False
    for where in ("runs/a", "runs/a/checkpoints", "runs"):
        for moved, what in ((False, "removed"), (True, "moved away")):
            for n, at in chosen(operations, 1 if every else 18, 9):
                yield f"{where} is {what} under train at {at}", vanishing, n, where, moved


# ---- damage

Damage = Callable[[Path], object]


def flips(share: float) -> Damage:
    """One bit at a share of the length of a file."""

    def do(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(share * (len(content) - 1))] ^= 4
        file.write_bytes(content)

    return do


def bytewise(change: Callable[[bytes], bytes]) -> Damage:
    return lambda file: file.write_bytes(change(file.read_bytes()))


def in_lines(change: Callable[[list[bytes]], list[bytes]]) -> Damage:
    return bytewise(lambda content: b"".join(change(content.splitlines(keepends=True))))


def last_value(value: bytes) -> Damage:
    return in_lines(lambda rows: [*rows[:-1], rows[-1].rpartition(b",")[0] + b"," + value + b"\r\n"])


BYTES: dict[str, Damage] = {
    **{f"a bit at {share:.0%} of": flips(share) for share in (0.02, 0.3, 0.5, 0.8, 0.99)},
    "nothing in": bytewise(lambda content: b""),
    "half of": bytewise(lambda content: content[: len(content) // 2]),
    "all but a byte of": bytewise(lambda content: content[:-1]),
    "zeros in": bytewise(lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2)),
    "noise in": bytewise(lambda content: b"\x00\xff noise" * 99),
    "no": Path.unlink,
    "a folder for": lambda file: (file.unlink(), file.mkdir()),
}
TEXTS: dict[str, Damage] = {f"{t} in": bytewise(lambda content, t=t: t.encode()) for t in ("{", "null", "[]", "{}")}
ROWS: dict[str, Damage] = {
    "every row twice in": in_lines(lambda rows: rows + rows[1:]),
    "a row twice in": in_lines(lambda rows: [*rows, rows[-1]]),
    "half a row at the end of": in_lines(lambda rows: [*rows, b"3,0.75,trai"]),
    "half of the last row of": in_lines(lambda rows: [*rows[:-1], rows[-1][: len(rows[-1]) // 2]]),
    "a row lost from": in_lines(lambda rows: rows[:3] + rows[4:]),
    "no head in": in_lines(lambda rows: rows[1:]),
    "NaN in": last_value(b"nan"),
    "a word for a number in": last_value(b"many"),
    "a word for a step in": in_lines(lambda rows: [*rows[:-1], b"x" + rows[-1]]),
    "another number in": last_value(b"7.5"),
    "rows of later steps in": in_lines(lambda rows: [*rows, rows[-1].replace(b"2,", b"999,", 1)]),
}
TELLING = ("damaged", "not what the run had written", "are gone", "start anew", "is another one", "not the one")

CONFIG = BYTES | TEXTS
USES = {  # what is done with a damaged file: the state, the program that needs it, and the task that leaves the same
    "resume": ("half", TASKS["train"], "train"),
    "resume of a finished run": ("done", TASKS["train"], "train"),
    "evaluate": ("done", TASKS["evaluate"], "evaluate"),
    "train with a calibration": ("calibrated", Task("", "train", (*QUICK, "name=b"), ("b",)), "calibrate and train"),
    "calibrate": ("half calibrated", TASKS["calibrate"], "calibrate"),
    "sweep": ("half a sweep", TASKS["sweep"], "sweep"),
}
FILES: dict[str, dict[str, dict[str, Damage]]] = {
    "resume": {"last.ckpt": BYTES, "best.ckpt": BYTES, "metrics.csv": ROWS | BYTES, "config.yaml": CONFIG},
    "resume of a finished run": {"summary.json": CONFIG},
    "evaluate": {"last.ckpt": BYTES, "config.yaml": CONFIG, "metrics.csv": ROWS, "summary.json": TEXTS},
    "train with a calibration": {"calibration.json": CONFIG, "theta.pt": BYTES},
    "calibrate": {"last.ckpt": BYTES, "metrics.csv": ROWS, "config.yaml": TEXTS},
    "sweep": {"ensemble.ckpt": BYTES, "task.json": CONFIG, "metrics.csv": ROWS}
    | dict.fromkeys(("chunks.json", "progress.json", "config.yaml"), TEXTS),
}


def damaged(place: Place, use: str, file: str, damage: Damage) -> Outcome:
    place.put(USES[use][0])
    path = place.file(file)
    damage(path)
    return told_or_like(place, use, go_on(place, USES[use][1]), (file, path.parent.name, path.parent.parent.name))


def told_or_like(place: Place, use: str, said: Said, names: Sequence[str]) -> Outcome:
    """Judge what a program does with a damaged file: go on as if it were whole, go on and say so, or refuse and name it."""
    if (outcome := not_done(said, names)) is not None:
        return outcome
    _, task, like = USES[use]
    there = found(place, task)
    differs = [
        f"{folder}: {key}"
        for folder, picture in rehearsed(place, like).expected.items()
        for key in unlike(picture, there.get(folder, {}))
        if folder in task.folders and (use != "evaluate" or key.startswith("evaluation"))  # which leaves the run's own files
    ]
    summaries = [there.get(folder, {}).get("summary.json") for folder in task.folders]
    messages = [message for each in summaries if isinstance(each, dict) for message in each.get("messages", ())]
    text = " ".join([said.text, *messages])  # a sweep leaves it to the summary of the run, and so to its report
    text = " ".join(text.split())
    if differs and not any(sign in text for sign in TELLING):
        return silent(f"{', '.join(differs[:4])} unlike, and nothing said")
    return survived("told") if differs else EQUAL


def damage_faults(place: Place, every: bool) -> Found:
    for use, files in FILES.items():
        for file, damages in files.items():
            for k, (label, damage) in enumerate(damages.items()):
                if every or use != "sweep" or k % 2 == 0:  # a sweep takes some seconds
                    yield f"{label} {file}, then {use}", damaged, use, file, damage


# ---- numbers


def entry(where: Any, value: float) -> Callable[[np.ndarray], Any]:
    return lambda x: x.__setitem__(where, value)


DATA: dict[str, Callable[[np.ndarray], Any]] = {
    **{f"{v:g} in a cell of the data": entry((7, 2), v) for v in (math.nan, math.inf, -math.inf, 1e6, 1e19, 1e30, 3e38, 1e-42)},
    **{f"a column of {v:g} in the data": entry((slice(None), 1), v) for v in (0.0, 1e8, math.nan)},
    "nothing but zeros as data": lambda x: 0 * x,
    "a constant as data": lambda x: 0 * x + 3,
    "one sample again and again": lambda x: x[:1].repeat(200, 0),
    "float64 beyond float32": lambda x: x.astype("f8") * 1e200,
    "float16 with inf": lambda x: (x.astype("f8") * 1e6).astype("f2"),
    "whole numbers beyond 2^53": lambda x: (x * 2**60).astype("i8"),
    "yes and no as data": lambda x: x > 0,
    "tiny data": lambda x: x * 1e-30,
    "large data": lambda x: x * 1e12,
}
NUMBERS = """
model.optimizer.lr 1e9 1e30 1e-30 0 nan -inf
constraints.neg_elbo.epsilon 1e308 -1e308 nan 1e39 -inf
constraints.mmd.gamma 1e300 nan -1e-9
alpha.q 1e38 -1e38 1e39 nan 0 1e-40
constraints.mmd.multiplier 1e30 nan inf 1e-40
constraints.mmd.scale 1e-300 1e300 0 nan inf
constraints.neg_elbo.max_multiplier 1e300 0 nan
training.gradient_clip 1e-30 nan 1e30
data.source.noise 1e30 1e-30 nan
multiplier.optimizer.reach 1e30 nan 1e-30
model.optimizer.betas [1,1]
data.val nan
data.test 1e-9
"""


def finite(place: Place) -> Outcome:
    """Whether a run was trained to numbers that are all finite."""
    summary = json.loads((place.run_a / "summary.json").read_text())
    normal = rehearsed(place, "train").expected["a"]["summary.json"]
    none, usual = (
        {name for values in each["splits"].values() for name, value in values.items() if value is None}
        for each in (summary, normal)
    )
    λ = [c["multiplier"] for c in summary["constraints"].values()]
    if none - usual or None in λ:
        return silent(f"finished with {', '.join(sorted(none - usual)) or 'λ'} not finite: {summary['verdict']}")
    return survived("finite")


def without(base: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words of a command line without those whose setting, or the node of it, other words give."""
    keys = [word.lstrip("~+").partition("=")[0] for word in words]
    of = {word: word.lstrip("~+").partition("=")[0] for word in base}
    return [word for word in base if not any(of[word] == key or of[word].startswith(f"{key}.") for key in keys)]


def trained_on(place: Place, change: Callable[[np.ndarray], Any]) -> Outcome:
    x = np.random.default_rng(0).standard_normal((200, 4)).astype("f4")
    changed = change(x)
    place.put("empty")
    np.save(place.root / "x.npy", x if changed is None else changed)
    own = ("data=array", f"data.source.path={place.root}/x.npy", "data.batch=40", "data.draws=40", "data.likelihood=normal")
    return not_done(place.run("train", *without(RUN, own), *own)) or finite(place)


def trained_with(place: Place, word: str) -> Outcome:
    place.put("empty")
    return not_done(place.run("train", *without(RUN, [word]), word)) or finite(place)


Edit = Callable[[dict[str, Any]], Any]


def tensors_of(content: Any) -> list[torch.Tensor]:
    """All floating tensors of a checkpoint with more than one number, in a fixed order."""
    if isinstance(content, torch.Tensor):
        return [content] if content.is_floating_point() and content.numel() > 1 else []
    each = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for value in each for tensor in tensors_of(value)]


def multiplier(value: float) -> Edit:
    return lambda content: [t.fill_(value) for key, t in content["state_dict"].items() if "scaled" in key]


def first_of(part: str, value: float) -> Edit:
    return lambda content: tensors_of(content[part])[0].view(-1)[:1].fill_(value)


EDITS: dict[str, Edit] = {
    **{f"a weight is {v:g}": first_of("state_dict", v) for v in (math.nan, math.inf)},
    **{f"a moment of the optimizer is {v:g}": first_of("optimizer_states", v) for v in (math.nan, math.inf)},
    **{f"λ is {v:g}": multiplier(v) for v in (math.nan, math.inf, -1.0)},
    **{f"the step is {v!r}": lambda c, v=v: c.update(global_step=v) for v in (-1, 10**9, "two", 2.5, None)},
    **{f"without {key}": lambda c, key=key: c.pop(key) for key in ("optimizer_states", "loops", "callbacks", "lagvae")},
    "of another version of Lightning": lambda c: c.update({"pytorch-lightning_version": "99.0"}),
    "its bounds are NaN": lambda c: c["lagvae"]["bounds"].update(neg_elbo=math.nan),
    "its bounds are others": lambda c: c["lagvae"]["bounds"].update(neg_elbo=3.0),
    "its data are others": lambda c: c["lagvae"].update(digest="0123456789abcdef"),
    "its settings are others": lambda c: c["lagvae"]["config"]["alpha"].update(q=2.0),
    "its settings are none": lambda c: c["lagvae"].update(config={}),
}


def edited(place: Place, change: Edit) -> Outcome:
    """Change the numbers in a checkpoint, whose checksums are right, and resume."""
    place.put("half")
    content = torch.load(place.file("last.ckpt"), weights_only=True)
    change(content)
    torch.save(content, place.file("last.ckpt"))
    return told_or_like(place, "resume", go_on(place, TASKS["train"]), ())


def numbers_faults(place: Place, every: bool) -> Found:
    yield from ((label, trained_on, change) for label, change in DATA.items())
    for key, *values in map(str.split, NUMBERS.strip().splitlines()):
        yield from ((word, trained_with, word) for word in (f"{key}={value}" for value in values))
    yield from ((f"a checkpoint that is resumed: {label}", edited, edit) for label, edit in EDITS.items())


# ---- settings

SETTINGS = r"""
training.steps=0|training.steps=-3|training.steps=1e3|training.steps=many|training.interval=0|training.interval=1000000
seed=-1|seed=99999999999999999999|seed=null|name=../x|name=/x|name=a/../b|name=|name=.x|name=latest|name=a\nb
model.latent=0|model.latent=99999999999|model.latent=null|model.encoder.hidden=[]|model.encoder.hidden=[0]
model.encoder.hidden=[-1]|model.encoder.hidden=8|model.encoder=null|model.decoder=null|model.optimizer=null|data=null
data.source=null|data.batch=0|data.batch=99999|data.batch=null|data.val=1|data.val=-0.1|data.workers=-1|data.workers=many
data.source.n=2|data.source.n=0|data.source.dim=0|data.likelihood=poisson|data.draws=0|data.seed=null
constraints.neg_elbo.gamma=-1|constraints.neg_elbo.gamma=null|constraints.mmd=null|constraints={}|divergence=[]
divergence=[mmd,mmd]|kernel=null|kernel.lengthscales=[]|alpha.q=null|epsilon=none
epsilon=calibrated epsilon.calibration=/nowhere|multiplier=fixed|multiplier.learned=false|+trainer.max_epochs=2
+trainer.max_steps=2|+trainer.logger=true|+trainer.limit_train_batches=0|+trainer.limit_val_batches=0|+trainer.fast_dev_run=true
+trainer.callbacks=[]|+trainer.enable_checkpointing=false|+trainer.max_time=00:00:00:00|+trainer.accumulate_grad_batches=4
+trainer.gradient_clip_val=1|+trainer.detect_anomaly=true|+trainer.profiler=simple|+trainer.barebones=true
trainer.precision=16-true|trainer.precision=64-true|trainer.precision=bf16-true|trainer.devices=0|trainer.devices=99
trainer.devices=-1|trainer.accelerator=tpu|trainer.accelerator=null|trainer.strategy=nonsense|trainer.num_nodes=0
trainer=gpu|callbacks=null|callbacks.training=null|callbacks.final=null|~callbacks.final.terms|~callbacks.training.terms
~callbacks.final.mmd|+callbacks.lightning.x=null|+callbacks.lightning.x._target_=nowhere.X|+callbacks.final.x._target_=os.mkdir
logger=[]|logger=null|+logger.x._target_=nowhere.Y|model.encoder._target_=os.mkdir|model.encoder._target_=nowhere.Net
model.optimizer._target_=torch.optim.LBFGS|model.optimizer._target_=torch.optim.SparseAdam|model.optimizer._target_=os.getcwd
model.encoder.activation=nothing|model.likelihood=bernoulli|prior=data|posterior=point|posterior=codes|training.average=2
training.average=-1|training.start=calibrated|training.threads=0|training.gradient_clip=0|training.log_every=0|match=x
resume=nothing|resume=../..|resume=[1]|paths.root=/proc/x|paths.runs=/dev/null/x|paths.root=|paths=null|launcher=null
debug=fast|debug=slow|sweep=pareto|hydra.run.dir=/proc/x|hydra/launcher=basic|experiment=nowhere|family=null|family=[vae,aae]
colour=red|+colour=red|=|a=b=c|constraints.neg_elbo.epsilon='${nowhere}'|seed='${oc.env:NOWHERE}'|seed='${seed}'
model=conv|model=square|critic=conv|calibration.split=none|calibration.steps=0|--config-dir=/nowhere|--multirun|-m
+trainer.overfit_batches=1
"""


def setting(place: Place, words: Sequence[str]) -> Outcome:
    """A run with some settings is trained to finite numbers, or refused before anything is trained, naming one of them."""
    place.put("empty")
    said = place.run("train", *without(RUN, words), *words)
    keys = [word.lstrip("~+").partition("=")[0] for word in words]
    names = [*keys, *(part for key in keys for part in key.split(".")), *(word.partition("=")[2] for word in words)]
    if said.status and not odd_end(said, names) and any(place.root.rglob("*.ckpt")):
        return wrong(f"refused after training: {said.message}")
    return not_done(said, names) or (finite(place) if (place.run_a / "summary.json").exists() else survived("no run a"))


def settings_faults(place: Place, every: bool) -> Found:
    for words in SETTINGS.strip().replace("\n", "|").split("|"):
        yield words, setting, words.replace("\\n", "\n").split(" ")


# ---- combinations


def combined(place: Place, use: str, *steps: Callable[[Place], Said | None]) -> Outcome:
    """Several things in a row, then going on; each may refuse with a message."""
    place.put(USES[use][0])
    for step in steps:
        said = step(place)
        if said is not None and said.status > 0 and (odd := odd_end(said)) is not None:
            return odd
    return told_or_like(place, use, go_on(place, USES[use][1]), ("a", "data", "config", "calibration", "checkpoint"))


def resumed(n: int, do: Callable[[], None], lasting: bool = False) -> Callable[[Place], Said]:
    """Resume, and let something happen at the n-th operation."""
    return lambda place: place.run("train", "resume=a", before=at_operation(place.root, n, do, lasting))


def in_config(key: str, value: Any) -> Callable[[Place], None]:
    """Put a value, or a node with HARM for a path below the root, into the config of the run."""

    def change(place: Place) -> None:
        content = yaml.safe_load((place.run_a / "config.yaml").read_text())
        put_in(content, key, value, place)
        (place.run_a / "config.yaml").write_text(yaml.safe_dump(content))

    return change


def put_in(content: Any, key: str, value: Any, place: Place) -> None:
    *above, last = key.split(".")
    for name in above:
        content[name] = content.get(name) if isinstance(content.get(name), dict) else {}
        content = content[name]
    content[last] = json.loads(json.dumps(value).replace("HARM", str(place.root / "harm")))


def renewed(path: Path, new: Callable[[Path], Any]) -> None:
    """Put something in the place of a file or a link, whether that is there or not."""
    path.unlink(missing_ok=True)
    new(path)


CHANGED = {
    "its data are others": ("data.source.seed", 5),
    "its data are fewer": ("data.source.n", 190),
    "another α": ("alpha.q", 2.0),
    "another bound": ("constraints.neg_elbo.epsilon", 9.0),
    "another network": ("model.latent", 3),
    "another seed": ("seed", 4),
    "another seed of the data": ("data.seed", 4),
    "another batch": ("data.batch", 50),
    "another rate": ("model.optimizer.lr", 0.1),
    "another family": ("family", "vae"),
    "fewer steps than it has": ("training.steps", 1),
}
CHANGES: dict[str, Callable[[Place], Any]] = {
    **{label: in_config(*change) for label, change in CHANGED.items()},
    "last.ckpt is best.ckpt": lambda p: shutil.copy(p.file("best.ckpt"), p.file("last.ckpt")),
    "no lock, and a note of an owner": lambda p: (p.run_a / ".owner.json").write_text("{"),
    "a lock that is a folder": lambda p: renewed(p.run_a / "lock", Path.mkdir),
    "temporary files": lambda p: [(p.run_a / name).touch() for name in (".metrics.csv.0123abcd.csv", ".lock.9876fedc")],
    "runs/latest leads nowhere": lambda p: renewed(p.root / "runs/latest", lambda path: path.symlink_to("gone")),
    "runs/latest is a folder": lambda p: renewed(p.root / "runs/latest", Path.mkdir),
    "failure.json of before": lambda p: (p.run_a / "failure.json").write_text('{"error": "x"}'),
    "no best.ckpt, no metrics.csv": lambda p: [(p.run_a / f).unlink() for f in ("checkpoints/best.ckpt", "metrics.csv")],
    "only its config": lambda p: [shutil.rmtree(p.run_a / "checkpoints"), (p.run_a / "metrics.csv").unlink()],
}


def combination_faults(place: Place, every: bool) -> Found:
    kill = signals(SIGKILL)
    for k in (3, 12, 20, 30):
        for n in (2, 9, 17, 26):
            label = f"killed at operation {k} of resuming, and at {n} again"
            yield label, combined, "resume", resumed(k, kill), resumed(n, kill)
        label = f"a full disk from operation {k} of resuming, then killed"
        yield label, combined, "resume", resumed(k, fails(ENOSPC), True), resumed(k + 2, kill)
    for label, change in CHANGES.items():
        yield f"killed, then {label}, then resumed", combined, "resume", lambda p, c=change: c(p) and None
        if label in CHANGED and not label.startswith("fewer"):
            yield f"finished, then {label}, then evaluated", combined, "evaluate", lambda p, c=change: c(p) and None
    yield "killed, then the project is moved, then resumed", moved_elsewhere
    for word in ("seed=3", "-m", "training.steps=9", "family=vae"):
        yield f"resume=a {word} after a kill", combined, "resume", lambda p, w=word: p.run("train", "resume=a", w)


def moved_elsewhere(place: Place) -> Outcome:
    expected = rehearsed(place, "train").expected["a"]
    place.put("half")
    there = place.root.rename(place.base / "moved")
    said = Program("train", ("resume=a",), there, place.base / "said").wait()
    if said.status != 0:
        return lost(said.message)
    if place.root.exists():
        return silent("files were made where the project was before")
    differs = unlike(expected, pictures(there).get("a", {}))
    return silent(f"{differs} unlike") if differs else EQUAL


# ---- concurrency

OWNED = ("belongs to", "another process", "Another process")


def at_once(place: Place, *commands: tuple[str, ...], groups: int = 0, before: Before = None) -> list[Said]:
    """Start programs at once and wait for all. groups: of processes that they are spread over; 0 for one each."""
    started: list[Program] = []
    for k, (script, *words) in enumerate(commands):
        group = started[k % groups].pid if groups and k >= groups else 0
        started.append(place.start(script, *words, label=f"said-{k}", group=group, before=before))
    return [program.wait(600) for program in started]


def together(place: Place, state: str, task: Task, like: str, *commands: tuple[str, ...]) -> Outcome:
    """Programs at once: each ends well or says who has the folder, and what is there is whole, after going on where needed."""
    normal = rehearsed(place, like).expected
    # A run that both sweeps have is trained by the one or the other: in its ensemble, or alone in a process.
    alone = rehearsed(place, "sweep on processes").expected if ("train", *ON_PROCESSES) in commands else None
    place.put(state)
    ended = at_once(place, *commands)
    for odd in filter(None, (odd_end(said, OWNED) for said in ended)):
        return odd
    if all(said.status for said in ended):
        return wrong(f"none of them went on: {ended[0].message}")
    return judged(place, task, normal, go_on(place, task), alone=alone)


def agents(place: Place) -> Outcome:
    """Eight agents in two groups of processes on one sweep: every run once, and no row twice."""
    normal = rehearsed(place, "sweep on processes").expected
    place.put("empty")
    log = place.base / "reported"
    log.unlink(missing_ok=True)

    def note_reports() -> None:
        from lagvae.experiment import run

        write = run.write_report
        run.write_report = lambda fit, *args: (appends(log, fit.folder.path.name), write(fit, *args))[1]

    words = ("train", "-m", *QUICK, *BOUNDS, "seed=0,1,2,3", "launcher.runs_per_job=1")
    for said in at_once(place, *[words] * 8, groups=2, before=note_reports):
        if said.broken or said.status:
            return wrong(said.message)
    done = Counter(log.read_text().split())
    if set(done.values()) != {1} or len(done) != 4:
        return wrong(f"runs were not done once: {dict(done)}")
    if twice := doubled_rows(place.root):
        return silent(f"{twice} rows are there twice")
    there = pictures(place.root)
    differs = [name for name, picture in normal.items() if unlike(picture, there.get(name, {}))]
    return silent(f"{', '.join(differs)} unlike") if differs else survived("every run once")


def owner_dies(place: Place) -> Outcome:
    """The process that makes a calibration is killed while another one waits for it."""
    normal = rehearsed(place, "calibrate")
    n = len(normal.operations) // 2
    place.put("empty")
    die = at_operation(place.root, n, lambda: (time.sleep(1.5), os.kill(os.getpid(), SIGKILL)))
    first = place.start("calibrate", *QUICK, label="said-0", before=die)
    time.sleep(0.5)
    second = place.start("calibrate", *QUICK, label="said-1")
    killed, said = first.wait(), second.wait()
    if killed.status != -9:
        return wrong(f"the fault did not happen: {killed.message}")
    return judged(place, TASKS["calibrate"], normal.expected, said, saved_steps(normal.operations[:n]))


def concurrency_faults(place: Place, every: bool) -> Found:
    resume, evaluate, calibrate = ("train", "resume=a"), ("evaluate", "run=a"), ("calibrate", *QUICK)
    sweep, also = ("train", *SWEEP), Task("empty", "train", (*QUICK, "name=c"), ("calibrations",))
    several: list[tuple[str, str, Task, str, tuple[str, ...]]] = [
        ("resume a run", "half", TASKS["train"], "train", resume),
        ("evaluate a run", "done", TASKS["evaluate"], "evaluate", evaluate),
        ("make a calibration", "empty", TASKS["calibrate"], "calibrate", calibrate),
        ("train with a calibration that is missing", "empty", also, "calibrate", ("train", *QUICK, "name=b")),
        ("start a sweep", "empty", TASKS["sweep"], "sweep", sweep),
    ]
    for count in (2, 4):
        for label, state, task, like, command in several:
            yield f"{count} {label}", together, state, task, like, *[command] * count
    for label, state, like, *commands in (
        ("a sweep on processes beside an ensemble", "empty", "sweep", sweep, ("train", *ON_PROCESSES)),
        ("resume beside evaluate", "half", "train", resume, evaluate),
        ("calibrate beside a sweep", "empty", "calibrate", calibrate, ("train", "-m", *QUICK, "seed=0,1")),
    ):
        yield label, together, state, TASKS[like], like, *commands
    yield "eight agents in two groups of processes on a sweep", agents
    yield "the owner of a calibration is killed while another one waits", owner_dies


# ---- several processes

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


def ranks(place: Place, world: int, *words: str, before: dict[int, Before] | None = None) -> list[Said]:
    """Train with some ranks as torchrun starts them, one too. before: what happens to some of them."""
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        port = str(given.getsockname()[1])
    started = []
    for rank in range(world):
        values = (str(rank), str(rank), str(world), str(world), "127.0.0.1", port, "none")
        env: dict[str, str | None] = dict(zip(LAUNCHERS, values, strict=True))
        started.append(place.start("train", *words, label=f"said-{rank}", env=env, before=(before or {}).get(rank)))
    ended = [program.wait(240) for program in started]
    for program in started:
        program.end_group()
    return ended


def near(a: Any, b: Any) -> bool:
    """Whether numbers are the same within 1e-5, relative where they are above 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float | int):
        return abs(a - b) <= 1e-5 * max(1.0, abs(a)) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def like_one(place: Place) -> Outcome:
    """Whether the run has the numbers of one process."""
    both = rehearsed(place, "train").expected["a"], pictures(place.root).get("a", {})
    for key in ("splits", "constraints", "steps", "verdict"):
        if not near(*(each.get("summary.json", {}).get(key) for each in both)):
            return silent(f"{key} of the summary is not that of one process")
    tables = [
        {(row["step"], row["split"], row["name"]): float(row["value"]) for row in csv.DictReader(text.splitlines())}
        for text in (each.get("metrics.csv", "") for each in both)
    ]
    if not near(*tables) or doubled_rows(place.root):
        return silent("metrics.csv is not that of one process")
    return survived("as one process")


def at_step(step: int, number: int) -> Callable[[], None]:
    """A signal in the middle of training."""

    def before() -> None:
        from lagvae.model import LatentVariableModel

        train = LatentVariableModel.training_step

        def signalled(self: Any, batch: Any, batch_idx: int) -> Any:
            if batch.step == step:
                os.kill(os.getpid(), number)
                time.sleep(0.05)
            return train(self, batch, batch_idx)

        LatentVariableModel.training_step = signalled  # type: ignore[method-assign]

    return before


def spread(place: Place, number: Signals, who: Sequence[int], n: int, world: int) -> Outcome:
    """Train with two ranks, stop some of them at their n-th step, and go on with another number of them."""
    place.put("empty")
    ended = ranks(place, 2, *RUN, before=dict.fromkeys(who, at_step(n, number)))
    for said in ended:
        if said.broken:
            return wrong(said.message)
    if (count := sum(len(TOLD.findall(said.text)) for said in ended)) != 1:
        return wrong(f"{count} messages: {ended[0].message}")
    place.cuts.unlink(missing_ok=True)
    again = ranks(place, world, "resume=a")
    if any(said.status for said in again):
        return lost(again[0].message)
    if max(map(max, place.began().values())) < n - n % INTERVAL:
        return lost(f"went on from {place.began()}")
    return like_one(place)


def stray(place: Place, words: Sequence[str], env: dict[str, Any]) -> Outcome:
    """A variable that no launcher has set: a run as usual, or a message."""
    place.put("empty")
    return not_done(place.run("train", *RUN, *words, env=dict(env), seconds=60)) or like_one(place)


def uneven(place: Place, world: int) -> Outcome:
    """Data whose splits no number of ranks divides: a batch of 42 for three ranks, compared with one process."""
    words, there = ("data.batch=42", "data.source.n=215"), []
    for count in (1, world):
        place.put("empty")
        for said in ranks(place, count, *without(RUN, words), *words):
            if said.status:
                return wrong(said.message)
        there.append(pictures(place.root)["a"]["summary.json"])
    same = all(near(there[0][key], there[1][key]) for key in ("splits", "constraints"))
    return survived("as one process") if same else silent("other numbers than one process")


SLURM = "SLURM_JOB_ID=7 SLURM_PROCID=0 SLURM_LOCALID=0"


def ddp_faults(place: Place, every: bool) -> Found:
    yield from ((f"an uneven split over {world} ranks", uneven, world) for world in (2, 3))
    for number, who, n, world in (
        *((SIGKILL, (1,), 3, 1), (SIGKILL, (0,), 3, 1), (SIGTERM, (0, 1), 3, 1), (SIGINT, (0, 1), 3, 1)),
        *((SIGTERM, (1,), 4, 2), (SIGKILL, (1,), 5, 2)),
    ):
        label = f"{number.name} to rank {' and '.join(map(str, who))} of 2, resumed on {world}"
        yield label, spread, number, who, n, world
    for words in ("LOCAL_RANK=1", "WORLD_SIZE=4", "WORLD_SIZE=many RANK=0 LOCAL_RANK=0", f"SLURM_NTASKS=1 {SLURM}"):
        yield words, stray, (), dict(word.split("=") for word in words.split())
    three = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3")
    yield "a batch that three processes cannot share", stray, three, {}


# ---- resources


def limited(name: int, soft: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(name, (soft, resource.getrlimit(name)[1]))


def little_memory(more: int) -> Callable[[], None]:
    def before() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limited(resource.RLIMIT_AS, pages + more)()

    return before


def without_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def stream_to(path: str, number: int) -> Callable[[], object]:
    return lambda: os.dup2(os.open(path, os.O_WRONLY), number)


def closed(*numbers: int) -> Callable[[], None]:
    """Standard streams closed, in place of which Python has None."""

    def before() -> None:
        for number in numbers:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)

    return before


def no_reader() -> None:
    """Standard output into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


def clock_back() -> None:
    """The clock is set back by a day at every look."""
    now = time.time
    time.time = lambda: now() - 86_400  # type: ignore[assignment]


NO_FOLDERS = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "/nowhere")
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "no $TMPDIR": NO_FOLDERS,
    "no $HOME": {"HOME": None},
    "a $HOME that is not there": dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "/nowhere"),
    "no $PATH": {"PATH": ""},
    "a dumb terminal": {"TERM": "dumb", "COLUMNS": "1"},
    "no $TERM": {"TERM": None, "COLUMNS": "0"},
    "an ASCII locale": {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    "a word for $COLUMNS": {"COLUMNS": "many"},
    "a word for OMP_NUM_THREADS": {"OMP_NUM_THREADS": "many"},
    "no $USER": {"USER": None, "LOGNAME": None, "USERNAME": None},
    "an unknown time zone": {"TZ": "Nowhere/Nowhere"},
}
HAPPENINGS: dict[str, tuple[Callable[[], object], bool]] = {  # what happens first, and whether it may end without a message
    "a working directory that is gone": (without_folder, False),
    "standard output closed": (closed(1), False),
    "standard error closed": (closed(2), True),
    "both closed": (closed(1, 2), True),
    "standard output full": (stream_to("/dev/full", 1), False),
    "standard error full": (stream_to("/dev/full", 2), True),
    "standard output without a reader": (no_reader, True),
    "standard input closed": (lambda: os.close(0), False),
    "umask 077": (lambda: os.umask(0o077), False),
    **{f"files of {n} bytes at most": (limited(resource.RLIMIT_FSIZE, n), False) for n in (600, 3000, 9000)},
    **{f"{n} open files": (limited(resource.RLIMIT_NOFILE, n), False) for n in (12, 16, 24)},
    **{f"{n} MiB more of memory": (little_memory(n * 2**20), False) for n in (1, 8)},
    "SIGHUP, as from a terminal that is closed,": (at_step(3, SIGHUP), True),
    **{number.name: (at_step(3, number), True) for number in (SIGXCPU, SIGUSR1, SIGPIPE, SIGQUIT)},
    "SIGABRT": (at_step(5, SIGABRT), True),
    "a clock that goes back": (clock_back, False),
}


def squeezed(
    place: Place, name: str, before: Before = None, quiet: bool = False, words: Sequence[str] = (), env: Any = None
) -> Outcome:
    """A task with less than it may expect: the usual result, or a message and the usual result when there is enough again.

    Args:
        quiet: whether it may end without a message, where nobody could read it, or where the signal ends it.
        words: with which it must be refused.
    """
    task = TASKS[name]
    place.put(task.state)
    said = place.run(task.script, *without(task.words, words), *words, before=before, env=env)
    if said.broken or (not quiet and odd_end(said)):
        return wrong(said.message)
    if words:
        return not_done(said) or wrong("the fault did not happen")
    return judged(place, task, rehearsed(place, name).expected, go_on(place, task) if said.status else said)


def resources_faults(place: Place, every: bool) -> Found:
    for label, env in ENVIRONMENTS.items():
        yield f"train with {label}", squeezed, "train", None, False, (), env
    for label, happening in HAPPENINGS.items():
        yield f"train with {label}", squeezed, "train", *happening
    for name in ("calibrate", "evaluate", "sweep"):
        yield f"{name} with no $TMPDIR", squeezed, name, None, False, (), NO_FOLDERS
    large = ("model.encoder.hidden=[4000,4000]",)
    yield "train with a network beyond the memory", squeezed, "train", little_memory(2**24), False, large
    for name in ("calibrate", "sweep"):
        for label in ("files of 9000 bytes at most", "SIGHUP, as from a terminal that is closed,", "standard output full"):
            yield f"{name} with {label}", squeezed, name, *HAPPENINGS[label]


# ---- secrets

SECRET = "correct-horse-battery"


def kept(place: Place, state: str, *commands: tuple[str, ...]) -> Outcome:
    """Whether programs write a secret of the environment into a file that was not its own."""
    place.put(state)
    for script, *words in commands:
        said = place.run(script, *words, env={"SECRET": SECRET, "WANDB_API_KEY": SECRET * 2})
        for path in place.root.rglob("*"):
            if path.is_file() and SECRET.encode() in path.read_bytes():
                return silent(f"{path.relative_to(place.root)} holds the secret")
        if said.broken or said.status:
            return wrong(f"it was refused: {said.message}")
    return survived("in no file")


def private(place: Place, state: str, script: str, *words: str) -> Outcome:
    """Whether umask 077 keeps all new files from others."""
    place.put(state)
    before = set(place.root.rglob("*"))
    said = place.run(script, *words, before=lambda: os.umask(0o077))
    if said.status != 0:
        return wrong(said.message)
    for path in set(place.root.rglob("*")) - before:
        if not path.is_symlink() and path.stat().st_mode & 0o077:
            return silent(f"{path.relative_to(place.root)} is open to others: {path.stat().st_mode & 0o777:o}")
    return survived("all private")


def secrets_faults(place: Place, every: bool) -> Found:
    own = ("logger=[tensorboard]", "+logger.tensorboard.comment='${oc.env:SECRET}'")
    evaluate, programs = ("evaluate", "run=a"), (("train", RUN), ("sweep", SWEEP), ("calibrate and train", (*QUICK, "name=b")))
    for name, words in programs[:2]:
        yield f"a key in the environment, {name}", kept, "empty", ("train", *words)
    yield "a key in the environment, evaluate", kept, "done", evaluate
    for name, words in programs:
        yield f"a setting of a logger from the environment, {name}", kept, "empty", ("train", *words, *own)
    yield "a setting of a logger from the environment, train and evaluate", kept, "empty", ("train", *RUN, *own), evaluate
    for name in ("train", "calibrate", "sweep", "evaluate"):
        task = TASKS[name]
        yield f"umask 077, {name}", private, task.state, task.script, *task.words


# ---- stored code

HARM = {"_target_": "os.mkdir", "path": "HARM"}
NODES: dict[str, Any] = {
    **dict.fromkeys(("model.encoder", "model.optimizer", "model.likelihood", "constraints.mmd.divergence", "kernel"), HARM),
    **dict.fromkeys(("critic.network", "callbacks.final.terms", "callbacks.lightning.own", "logger.own"), HARM),
    **dict.fromkeys(("launcher.executor", "trainer.strategy"), HARM),
    "data.source": {"_target_": "torch.load", "f": "HARM", "weights_only": False},
    "data": {**HARM, "_recursive_": False},
    "model.schedule": {"_target_": "torch.os.mkdir", "path": "HARM"},
    "constraints.mmd.divergence.kernel": {"_target_": "lagvae.io.os.mkdir", "path": "HARM"},
    "multiplier.optimizer": {"_target_": "subprocess.call", "_args_": [["mkdir", "HARM"]]},
    "callbacks.training.terms": {"_target_": "builtins.exec", "_args_": ["import os; os.mkdir('HARM')"]},
    "trainer.callbacks": [HARM],
    "name": "${oc.create:'{_target_: os.mkdir, path: HARM}'}",
}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def harmless(place: Place, said: Said, harm: Path) -> Outcome:
    return Outcome("executed", said.message) if harm.exists() else not_done(said) or survived("ignored")


def stored(place: Place, key: str, node: Any, state: str, script: str, *words: str) -> Outcome:
    """Put a node into a stored config, and use its run."""
    place.put(state)
    in_config(key, node)(place)
    return harmless(place, place.run(script, *words), place.root / "harm")


def pickled(place: Place, inside: bool, state: str, file: str, script: str, *words: str) -> Outcome:
    """A pickle in place of a file, or inside a file of torch, that does something when it is read."""
    place.put(state)
    path, bomb = place.file(file), Bomb(str(place.root / "harm"))
    if inside:
        content = torch.load(path, weights_only=True)
        content["callbacks" if "callbacks" in content else "own"] = bomb
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
    return harmless(place, place.run(script, *words), place.root / "harm")


def described(place: Place, key: str, node: Any) -> Outcome:
    """A harmful node in the settings that a checkpoint holds."""
    place.put("done")
    path = place.file("last.ckpt")
    content = torch.load(path, weights_only=True)
    put_in(content["lagvae"]["config"], key, node, place)
    torch.save(content, path)
    (place.run_a / "config.yaml").unlink()
    return harmless(place, place.run("train", before=loads(path)), place.root / "harm")


def loads(path: Path) -> Callable[[], None]:
    """Load a model in place of the program."""

    def before() -> None:
        import lagvae

        try:
            lagvae.load(path)
        except lagvae.errors.LagvaeError as error:
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(1)
        sys.exit(0)

    return before


PICKLES = (
    ("half", "last.ckpt", "train", "resume=a"),
    ("done", "last.ckpt", "evaluate", "run=a"),
    ("done", "best.ckpt", "evaluate", "run=a", "checkpoint=best"),
    ("calibrated", "theta.pt", "train", *QUICK, "name=b"),
    ("half a sweep", "ensemble.ckpt", "train", *SWEEP),
    ("half calibrated", "last.ckpt", "calibrate", *QUICK),
)


def stored_code_faults(place: Place, every: bool) -> Found:
    for key, node in NODES.items():
        yield f"{key} in a config, resume", stored, key, node, "half", "train", "resume=a"
        yield f"{key} in a config, evaluate", stored, key, node, "done", "evaluate", "run=a"
        if key.split(".")[0] in ("model", "constraints", "kernel", "critic", "multiplier"):
            yield f"{key} in a checkpoint, lagvae.load", described, key, node
    for inside, what in ((False, "for"), (True, "inside")):
        for state, file, script, *words in PICKLES:
            yield f"a pickle {what} {file} of {state}, {script}", pickled, inside, state, file, script, *words


# ---- the campaign

MAKERS = {
    made.__name__.removesuffix("_faults").replace("_", " "): made
    for made in (
        *(signal_faults, storage_faults, damage_faults, numbers_faults, settings_faults, combination_faults),
        *(concurrency_faults, ddp_faults, resources_faults, secrets_faults, stored_code_faults),
    )
}
KINDS = tuple(MAKERS)


def make_states(place: Place) -> None:
    """Tell a place how the states are made that faults start from."""

    def make(name: str, state: str, file: str = "") -> None:
        """Run a task to its end, or kill it after it has written a file for the first time, and keep what there is."""
        task, before = TASKS[name], None
        if file:
            written = [n for n, line in enumerate(rehearsed(place, name).operations) if line.startswith("rename")]
            n = next(n for n in written if rehearsed(place, name).operations[n].endswith(file))
            before = at_operation(place.root, n + 2, signals(SIGKILL))
        place.put(task.state)
        if (said := place.run(task.script, *task.words, before=before)).status != (-9 if file else 0):
            raise SystemExit(f"{name} could not be brought to {state}: {said.text[-2000:]}")
        place.keep(state)

    states = {"done": ("train",), "calibrated": ("calibrate",), "half": ("train", "last.ckpt")}
    states |= {"half calibrated": ("calibrate", "last.ckpt"), "half a sweep": ("sweep", "ensemble.ckpt")}
    for state, (name, *file) in states.items():
        place.makers[state] = functools.partial(make, name, state, *file)


def code_digest() -> str:
    """A hash of the package, its settings and this campaign."""
    digest = hashlib.sha256()
    for folder, pattern in (("src", "*.py"), ("conf", "*.yaml"), ("benchmarks", "faults.py"), ("benchmarks", "disturbed.py")):
        for file in sorted((ROOT / folder).rglob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def read_outcomes(file: Path) -> dict[str, dict[str, str]]:
    """Name of a fault → what became of it, as it was found before."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    outcomes = [json.loads(line) for line in lines if line.endswith("}")]  # a line that a kill cut short is tried again
    return {f"{each['kind']}: {each['name']}": each for each in outcomes}


def table(outcomes: Sequence[dict[str, str]], digest: str) -> str:
    """The report, in Markdown."""
    lines = ["| kind | tried | survived | wrong | silent | lost | code executed |", "|---|" + "---:|" * 6]
    for kind in (*KINDS, "all"):
        states = [each["state"] for each in outcomes if kind in (each["kind"], "all")]
        counts = " | ".join(str(states.count(state)) for state in STATES)
        lines.append(f"| {kind} | {len(states)} | {counts} |")
    text = ["# Faults", "", __doc__.split("\n\n")[2].strip() if __doc__ else "", "", *lines]
    if earlier := sum(each["digest"] != digest for each in outcomes):
        text += ["", f"{earlier} of these outcomes are of an earlier version of the code."]
    text += ["", f"Made by `{shlex.join(['python', *sys.argv])}` on {date.today()}; code {digest}."]
    for state in STATES[1:]:
        named = [f"- {each['kind']}: `{each['name']}`: {each['message']}" for each in outcomes if each["state"] == state]
        text += ["", f"{state.capitalize()}:", "", *named] if named else []
    return "\n".join(text) + "\n"


def all_faults(place: Place, kinds: Sequence[str], every: bool) -> list[Fault]:
    """The faults of some kinds, each under a name of its own."""
    faults, names = [], Counter[str]()
    for kind in kinds:
        for name, try_out, *given in MAKERS[kind](place, every):
            names[f"{kind} {name}"] += 1
            k = names[f"{kind} {name}"]
            faults.append(Fault(kind, f"{name} ({k})" if k > 1 else name, try_out, tuple(given)))
    return faults


def campaign(
    place: Place, faults: Sequence[Fault], known: dict[str, dict[str, str]], file: Path | None, digest: str, keep: bool
) -> list[dict[str, str]]:
    """Try faults that are not known yet. Returns the outcomes of all, in their order; Ctrl-C ends it with those so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    outcomes: list[dict[str, str]] = []
    # The bar has no thread of its own, which a fork would not have.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar, suppress(KeyboardInterrupt):
        task = bar.add_task("Faults", total=len(faults))
        for kind, name, try_out, given in faults:
            each = known.get(f"{kind}: {name}")
            if each is None or not (each["digest"] == digest or (keep and each["state"] == "survived")):
                bar.update(task, description=f"{kind}: {name}"[:70], refresh=True)
                start = time.perf_counter()
                each = {"kind": kind, "name": name, **try_out(place, *given)._asdict(), "digest": digest}
                each["seconds"] = f"{time.perf_counter() - start:.1f}"
                if file is not None:
                    appends(file, json.dumps(each, ensure_ascii=False))
            outcomes.append(each)
            bar.advance(task)
            bar.refresh()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--only", default="", help="a part of the names of the faults to try")
    parser.add_argument("--limit", type=int, help="faults of each kind, spread evenly (default: all)")
    parser.add_argument("--every", action="store_true", help="signals and errors at every file operation, not at some of them")
    parser.add_argument("--keep", action="store_true", help="do not try again what an earlier version of the code survived")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "faults.md", help="the table; .jsonl lies beside it")
    args = parser.parse_args()
    digest, file = code_digest(), args.out.with_suffix(".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as name, loaded(Path(name).resolve()) as place:
        make_states(place)
        faults = [fault for fault in all_faults(place, args.kind, args.every) if args.only in fault.name]
        if args.limit:
            of_kind = [[fault for fault in faults if fault.kind == kind] for kind in args.kind]
            faults = [fault for some in of_kind for fault in some[:: max(1, -(-len(some) // args.limit))]]
        outcomes = campaign(place, faults, read_outcomes(file), file, digest, args.keep)
    report = table(outcomes, digest)
    args.out.write_text(report, encoding="utf-8")
    print(report, end="")


if __name__ == "__main__":
    main()
