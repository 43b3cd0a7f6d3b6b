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
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from disturbed import (
    BOUNDS,
    BROKEN,
    FULL,
    INTERVAL,
    NO_ACCESS,
    QUICK,
    READ_ONLY,
    ROOT,
    Place,
    Program,
    Said,
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
KINDS = (
    *("signal", "storage", "damage", "numbers", "settings", "combination"),
    *("concurrency", "ddp", "resources", "secrets", "stored code"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a fault, and what the program said or what is unlike."""

    state: str
    message: str


def survived(message: str = "equal") -> Outcome:
    return Outcome("survived", message)


@dataclass(frozen=True)
class Fault:
    """A fault: its kind, its name, the state that it starts from, and what is done and how it is judged."""

    kind: str
    name: str
    state: str
    try_out: Callable[[Place], Outcome]


# ---- programs that something is done to


@dataclass(frozen=True)
class Task:
    """A program on a state of the root, and how one goes on with it after it was stopped."""

    state: str
    script: str
    words: tuple[str, ...]
    folders: tuple[str, ...]
    """The folders of its results, below runs/, or "calibrations"."""
    resume: tuple[str, ...] | None = None
    """The words with which it goes on where it has a config; None: its own."""


RUN = (*QUICK, *BOUNDS, "name=a")
SWEEP = ("-m", *QUICK, *BOUNDS, "seed=0,1")
CELLS = ("sweep/lagvae-seed0", "sweep/lagvae-seed1")
TASKS = {
    "train": Task("empty", "train", RUN, ("a",), ("resume=a",)),
    "calibrate": Task("empty", "calibrate", QUICK, ("calibrations",)),
    "calibrate and train": Task("empty", "train", (*QUICK, "name=b"), ("b", "calibrations"), ("resume=b",)),
    "evaluate": Task("done", "evaluate", ("run=a",), ("a",)),
    "sweep": Task("empty", "train", SWEEP, CELLS),
    "sweep on processes": Task("empty", "train", (*SWEEP, "launcher=processes", "launcher.executor.jobs=1"), CELLS),
    "sweep on devices": Task("empty", "train", (*SWEEP, "launcher=gpus", "launcher.executor.devices=[0]"), CELLS),
}


@dataclass(frozen=True)
class Rehearsal:
    """A task without a fault: its file operations, and what it leaves."""

    operations: tuple[str, ...]
    expected: dict[str, dict[str, Any]]


@functools.cache
def rehearsed(place_of: Callable[[], Place], name: str) -> Rehearsal:
    """A task as it is without a fault."""
    place, task = place_of(), TASKS[name]
    place.put(task.state)
    log = place.base / "operations"
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
    steps: Counter[str] = Counter()
    for line in operations:
        operation, _, path = line.partition(" ")
        if operation == "rename" and path.endswith(("last.ckpt", "ensemble.ckpt")):
            steps["" if path.endswith("ensemble.ckpt") else Path(path).parts[-3]] += INTERVAL
    return dict(steps)


def go_on(place: Place, task: Task, **kw: Any) -> Said:
    """Go on with a task as its user would."""
    place.cuts.unlink(missing_ok=True)
    words = task.words
    if task.resume and (place.root / "runs" / task.folders[0] / "config.yaml").exists():
        words = task.resume
    return place.run(task.script, *words, **kw)


def judged(place: Place, task: Task, expected: dict[str, Any], said: Said, saved: dict[str, int] | None = None) -> Outcome:
    """Judge a task that has gone on.

    Args:
        expected: what it leaves without a fault. said: what it said when it went on. saved: see `saved_steps`.
    """
    if said.broken or said.status == 124:
        return Outcome("wrong", f"going on: {said.message}")
    if said.status != 0:
        return Outcome("lost", f"going on: {said.message}")
    there = found(place, task)
    for folder, picture in expected.items():
        if differs := unlike(picture, there.get(folder, {})):
            return Outcome("silent", f"{folder}: {', '.join(differs)} unlike")
    if twice := doubled_rows(place.root):
        return Outcome("silent", f"{twice} rows of metrics.csv are there twice")
    began = place.began()
    for name, step in (saved or {}).items():
        for folder, steps in began.items():
            if (name in ("", folder)) and max(steps) < step:
                return Outcome("lost", f"{folder} went on from step {max(steps)}, and had saved step {step}")
    if (left := leftovers(place.root)) and not (place.root / "runs" / f"{task.folders[0]}-2").exists():
        return Outcome("wrong", f"left behind: {left[0]}")
    return survived()


def chosen(operations: Sequence[str], step: int, offset: int = 0) -> Iterator[tuple[int, str]]:
    """Every `step`-th operation with its number, and a name for it that does not depend on chance."""
    seen: Counter[str] = Counter()
    for n, line in enumerate(operations):
        operation, _, path = line.partition(" ")
        parts = [part for part in Path(path).parts if part not in ("runs", "checkpoints")]
        name = f"{operation} of {stable('/'.join(parts))}"
        seen[name] += 1
        if (n - offset) % step == 0:
            yield n, f"{name} {seen[name]}"


def stable(path: str) -> str:
    """A path without what is drawn at random, or is a hash, in it."""
    parts = ["NAME" if len(p) >= 8 and set(p[-8:]) <= set("0123456789abcdef") else p for p in path.split("/")]
    joined = "/".join(parts)
    pieces = joined.split(".")
    kept = [p for p in pieces if not (len(p) == 8 and set(p) <= set("0123456789abcdef"))]
    kept = ["PID" if p.isdigit() and len(p) > 1 else p for p in kept]
    return ".".join(kept)


# ---- signals


def signalled(name: str, n: int, number: int) -> Callable[[Place], Outcome]:
    """Send a signal to a task before its n-th file operation, and go on."""

    def try_out(place: Place) -> Outcome:
        task, normal = TASKS[name], rehearsed(HERE, name)
        place.put(task.state)
        said = place.run(task.script, *task.words, before=at_operation(place.root, n, signals(number)))
        stopped = {signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 130), signal.SIGINT: (130,)}[signal.Signals(number)]
        if name in ("sweep on processes", "sweep on devices") and said.status == 1 and said.refused:
            stopped = (*stopped, 1)  # its job was stopped, and not the process that waits for it
        if said.broken or said.status == 124:
            return Outcome("wrong", f"at the signal: {said.message}")
        if said.status == 0 and number != signal.SIGKILL:
            return judged(place, task, normal.expected, said)
        if said.status not in stopped:
            return Outcome("wrong", f"at the signal: {said.message}")
        return judged(place, task, normal.expected, go_on(place, task), saved_steps(normal.operations[:n]))

    return try_out


def signal_faults(every: bool) -> Iterator[Fault]:
    plan = {"train": (1, 4), "calibrate": (2, 8), "evaluate": (1, 4), "calibrate and train": (9, 0)}
    plan |= {"sweep": (5, 18), "sweep on processes": (9, 36), "sweep on devices": (30, 0)}
    for name, (kill, stop) in plan.items():
        operations = rehearsed(HERE, name).operations
        for number, step, offset in ((signal.SIGKILL, kill, 0), (signal.SIGTERM, stop, 1), (signal.SIGINT, stop, stop // 2)):
            for n, at in chosen(operations, 1 if every else step, offset) if step or every else ():
                label = f"{signal.Signals(number).name} to {name} at {at}"
                yield Fault("signal", label, TASKS[name].state, signalled(name, n, number))


# ---- storage


def refused_or_like(place: Place, said: Said, names: Sequence[str] = ()) -> Outcome | None:
    """None where a program ended well or with a message, which has one of some pieces; else what is wrong with its end."""
    if said.broken or said.status == 124:
        return Outcome("wrong", said.message)
    if said.status != 0 and not said.refused:
        return Outcome("wrong", f"no message: {said.message}")
    if said.status != 0 and names and not any(name in said.text for name in names):
        return Outcome("wrong", f"names none of {', '.join(names)}: {said.message}")
    return None


def denied(name: str, n: int, do: Callable[[], None], only: Sequence[str], lasting: bool = True) -> Callable[[Place], Outcome]:
    """Let file operations of a task fail from the n-th on, and go on when they no longer do."""

    def try_out(place: Place) -> Outcome:
        task, normal = TASKS[name], rehearsed(HERE, name)
        place.put(task.state)
        said = place.run(task.script, *task.words, before=at_operation(place.root, n, do, lasting, only))
        if (
            odd := refused_or_like(place, said, ("full", "cannot be written", "could not be written", "cannot be read"))
        ) is not None:
            return odd
        if said.status == 0:
            return judged(place, task, normal.expected, said)
        return judged(place, task, normal.expected, go_on(place, task), saved_steps(normal.operations[:n]))

    return try_out


def writer_fails() -> None:
    """As torch's writer of files fails on a full disk."""
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1, 1, 0)  # type: ignore[attr-defined, assignment]
    raise RuntimeError(
        "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0: file write failed"
    )


def vanishes(place: Place, where: str, moved: bool) -> Callable[[], None]:
    """Remove a folder below the root, or move it away."""

    def do() -> None:
        folder = place.root / where
        if folder.exists():
            shutil.rmtree(folder) if not moved else os.rename(folder, place.base / "moved")

    return do


WRITING = ("open", "mkdir", "save", "symlink", "fsync")
"""The file operations that fail on a full disk."""


def storage_faults(every: bool) -> Iterator[Fault]:
    plan = {"train": 4, "calibrate": 9, "evaluate": 4, "sweep": 16, "sweep on processes": 40}
    for name, step in plan.items():
        operations = rehearsed(HERE, name).operations
        for label, code, only, offset in (("a full disk", FULL, WRITING, 0), ("a read-only disk", READ_ONLY, (), 2)):
            for n, at in chosen(operations, 1 if every else step, offset):
                yield Fault("storage", f"{label} for {name} from {at}", TASKS[name].state, denied(name, n, fails(code), only))
    operations = rehearsed(HERE, "train").operations
    for n, at in chosen(operations, 1):
        if at.startswith("fsync") and (every or n % 3 == 0):
            yield Fault(
                "storage", f"an error of the disk for train at {at}", "empty", denied("train", n, fails(BROKEN), (), False)
            )
        if at.startswith("save"):
            yield Fault(
                "storage", f"torch's writer fails for train at {at}", "empty", denied("train", n, writer_fails, ("save",))
            )
        if at.startswith("rename") and every:
            yield Fault("storage", f"no access for train at {at}", "empty", denied("train", n, fails(NO_ACCESS), (), False))
    for where in ("runs/a", "runs/a/checkpoints", "runs"):
        for moved in (False, True):
            for n, at in chosen(operations, 1 if every else 18, 9):
                label = f"{where} is {'moved away' if moved else 'removed'} under train at {at}"
                yield Fault("storage", label, "empty", vanishing(n, where, moved))


def vanishing(n: int, where: str, moved: bool) -> Callable[[Place], Outcome]:
    """Remove a folder under a training run, and train again."""

    def try_out(place: Place) -> Outcome:
        task, normal = TASKS["train"], rehearsed(HERE, "train")
        place.put(task.state)
        said = place.run(task.script, *task.words, before=at_operation(place.root, n, vanishes(place, where, moved)))
        if (odd := refused_or_like(place, said)) is not None:
            return odd
        if moved and (place.base / "moved").exists():
            back = place.root / where
            shutil.rmtree(back, ignore_errors=True)
            back.parent.mkdir(parents=True, exist_ok=True)
            (place.base / "moved").rename(back)
        return judged(place, task, normal.expected, said if said.status == 0 and not moved else go_on(place, task))

    return try_out


# ---- damage

Damage = Callable[[Path], None]


def flips(share: float) -> Damage:
    """One bit at a share of the length of a file."""

    def do(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(share * (len(content) - 1))] ^= 4
        file.write_bytes(content)

    return do


def zeroes(file: Path) -> None:
    """Zeros in the second half, as a file system leaves that lost power."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def in_lines(change: Callable[[list[str]], list[str]]) -> Damage:
    def do(file: Path) -> None:
        file.write_text("".join(change(file.read_text().splitlines(keepends=True))))

    return do


def without_any(file: Path) -> None:
    file.unlink()
    file.mkdir()


BYTES: dict[str, Damage] = {
    **{f"a bit at {share:.0%} of": flips(share) for share in (0.02, 0.3, 0.5, 0.8, 0.99)},
    "nothing in": lambda file: file.write_bytes(b"") and None,
    "half of": lambda file: os.truncate(file, file.stat().st_size // 2),
    "all but a byte of": lambda file: os.truncate(file, file.stat().st_size - 1),
    "zeros in": zeroes,
    "noise in": lambda file: file.write_bytes(b"\x00\xff noise" * 99) and None,
    "no": Path.unlink,
    "a folder for": without_any,
}
TEXTS: dict[str, Damage] = {
    "{ in": lambda file: file.write_text("{") and None,
    "null in": lambda file: file.write_text("null") and None,
    "[] in": lambda file: file.write_text("[]") and None,
    "{} in": lambda file: file.write_text("{}") and None,
}
ROWS: dict[str, Damage] = {
    "every row twice in": in_lines(lambda rows: rows + rows[1:]),
    "a row twice in": in_lines(lambda rows: [*rows, rows[-1]]),
    "half a row at the end of": in_lines(lambda rows: [*rows, "3,0.75,trai"]),
    "half of the last row of": in_lines(lambda rows: [*rows[:-1], rows[-1][: len(rows[-1]) // 2]]),
    "a row lost from": in_lines(lambda rows: rows[:3] + rows[4:]),
    "no head in": in_lines(lambda rows: rows[1:]),
    "NaN in": in_lines(lambda rows: [*rows[:-1], rows[-1].rpartition(",")[0] + ",nan\r\n"]),
    "a word for a number in": in_lines(lambda rows: [*rows[:-1], rows[-1].rpartition(",")[0] + ",many\r\n"]),
    "a word for a step in": in_lines(lambda rows: [*rows[:-1], "x" + rows[-1]]),
    "another number in": in_lines(lambda rows: [*rows[:-1], rows[-1].rpartition(",")[0] + ",7.5\r\n"]),
    "rows of later steps in": in_lines(lambda rows: [*rows, rows[-1].replace("2,", "999,", 1)]),
}
TELLING = ("damaged", "not what the run had written", "are gone", "start anew", "is another one", "not the one")


def told(said: Said) -> bool:
    """Whether a program that ended well said that something was not as it should be."""
    text = " ".join(said.text.split())
    return any(sign in text for sign in TELLING)


@dataclass(frozen=True)
class Use:
    """What is done with a damaged file: the program that needs it, and the folders that count afterwards."""

    state: str
    file: str
    task: Task
    damages: dict[str, Damage]


EVALUATE = Task("done", "evaluate", ("run=a",), ("a",))
NEW_RUN = Task("calibrated", "train", (*QUICK, "name=b"), ("b",))
RESUME = TASKS["train"]
UNFINISHED = Task("half calibrated", "calibrate", QUICK, ("calibrations",))
USES = {
    "resume": (
        "half",
        RESUME,
        {"last.ckpt": BYTES, "best.ckpt": BYTES, "metrics.csv": ROWS | BYTES, "config.yaml": BYTES | TEXTS},
    ),
    "resume of a finished run": ("done", RESUME, {"summary.json": BYTES | TEXTS}),
    "evaluate": (
        "done",
        EVALUATE,
        {"last.ckpt": BYTES, "config.yaml": BYTES | TEXTS, "metrics.csv": ROWS, "summary.json": TEXTS},
    ),
    "train with a calibration": ("calibrated", NEW_RUN, {"calibration.json": BYTES | TEXTS, "theta.pt": BYTES}),
    "calibrate": ("half calibrated", UNFINISHED, {"last.ckpt": BYTES, "metrics.csv": ROWS, "config.yaml": TEXTS}),
    "sweep": ("half a sweep", TASKS["sweep"], {"ensemble.ckpt": BYTES, "task.json": BYTES | TEXTS, "chunks.json": TEXTS}),
}
SWEEP_FILES = {"progress.json": TEXTS, "metrics.csv": ROWS, "config.yaml": TEXTS}


def damaged(use: str, file: str, damage: Damage) -> Callable[[Place], Outcome]:
    state, task, _ = USES[use]

    def try_out(place: Place) -> Outcome:
        place.put(state)
        (path, *_) = sorted(path for path in place.root.rglob(file) if "latest" not in path.parts)
        damage(path)
        said = go_on(place, task)
        return told_or_like(place, task, use, said, (file, path.parent.name, path.parent.parent.name))

    return try_out


def told_or_like(place: Place, task: Task, use: str, said: Said, names: Sequence[str]) -> Outcome:
    """Judge what a program does with a damaged file: go on as if it were whole, go on and say so, or refuse and name it."""
    if (odd := refused_or_like(place, said, names)) is not None:
        return odd
    if said.status != 0:
        return survived(f"refused: {said.message}")
    there = found(place, task)
    expected = reference(use)  # for which the task may run once more
    differs = [f"{folder}: {key}" for folder, picture in expected.items() for key in unlike(picture, there.get(folder, {}))]
    if use == "evaluate":  # which leaves the files of the run as they are
        differs = [key for key in differs if key.endswith("evaluation/summary.json")]
    if differs and not told(said):
        return Outcome("silent", f"{', '.join(differs[:4])} unlike, and nothing said")
    return survived("told" if differs else "equal")


def reference(use: str) -> dict[str, dict[str, Any]]:
    """What a use leaves where no file is damaged."""
    names = {"resume": "train", "resume of a finished run": "train", "calibrate": "calibrate"}
    if use == "train with a calibration":
        expected = rehearsed(HERE, "calibrate and train").expected
        return {"b": expected["b"]}
    return rehearsed(HERE, names.get(use, use)).expected


def damage_faults(every: bool) -> Iterator[Fault]:
    for use, (state, _, files) in USES.items():
        for file, damages in (files | (SWEEP_FILES if use == "sweep" else {})).items():
            for k, (label, damage) in enumerate(damages.items()):
                if every or use != "sweep" or k % 2 == 0:  # a sweep takes some seconds
                    yield Fault("damage", f"{label} {file}, then {use}", state, damaged(use, file, damage))


# ---- numbers


def data_with(change: Callable[[np.ndarray], np.ndarray | None]) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((200, 4)).astype("f4")
    changed = change(x)
    return x if changed is None else changed


def cell(value: float) -> Callable[[np.ndarray], None]:
    def change(x: np.ndarray) -> None:
        x[7, 2] = value

    return change


def column(value: float) -> Callable[[np.ndarray], None]:
    def change(x: np.ndarray) -> None:
        x[:, 1] = value

    return change


DATA: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    **{
        f"{value:g} in a cell of the data": cell(value)
        for value in (math.nan, math.inf, -math.inf, 1e6, 1e19, 1e30, 3e38, 1e-42)
    },
    **{f"a column of {value:g} in the data": column(value) for value in (0.0, 1e8, math.nan)},
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
NUMBERS = {
    **{f"model.optimizer.lr={v}": () for v in ("1e9", "1e30", "1e-30", "0", "nan", "-inf")},
    **{f"constraints.neg_elbo.epsilon={v}": () for v in ("1e308", "-1e308", "nan", "1e39", "-inf")},
    **{f"constraints.mmd.gamma={v}": () for v in ("1e300", "nan", "-1e-9")},
    **{f"alpha.q={v}": () for v in ("1e38", "-1e38", "1e39", "nan", "0", "1e-40")},
    **{f"constraints.mmd.multiplier={v}": () for v in ("1e30", "nan", "inf", "1e-40")},
    **{f"constraints.mmd.scale={v}": () for v in ("1e-300", "1e300", "0", "nan", "inf")},
    **{f"constraints.neg_elbo.max_multiplier={v}": () for v in ("1e300", "0", "nan")},
    **{f"training.gradient_clip={v}": () for v in ("1e-30", "nan", "1e30")},
    **{f"data.source.noise={v}": () for v in ("1e30", "1e-30", "nan")},
    **{f"multiplier.optimizer.reach={v}": () for v in ("1e30", "nan", "1e-30")},
    "model.optimizer.betas=[1,1]": (),
    "data.val=nan": (),
    "data.test=1e-9": (),
}


def finite(place: Place, said: Said) -> Outcome:
    """Refused with a message, or trained to numbers that are all finite."""
    if (odd := refused_or_like(place, said)) is not None:
        return odd
    if said.status != 0:
        return survived(f"refused: {said.message}")
    summary = json.loads((place.root / "runs" / "a" / "summary.json").read_text())
    missing = {name for values in summary["splits"].values() for name, value in values.items() if value is None}
    normal = rehearsed(HERE, "train").expected["a"]["summary.json"]["splits"]
    usual = {name for values in normal.values() for name, value in values.items() if value is None}
    λ = [c["multiplier"] for c in summary["constraints"].values()]
    if missing - usual or None in λ:
        return Outcome("silent", f"finished with {', '.join(sorted(missing - usual)) or 'λ'} not finite: {summary['verdict']}")
    return survived("finite")


def trained_on(change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Place], Outcome]:
    def try_out(place: Place) -> Outcome:
        place.put("empty")
        np.save(place.root / "x.npy", data_with(change))
        words = [word for word in RUN if not word.startswith("data") or word.startswith("data.draws")]
        own = ("data=array", f"data.source.path={place.root}/x.npy", "data.batch=40", "data.likelihood=normal")
        return finite(place, place.run("train", *words, *own))

    return try_out


def trained_with(*words: str) -> Callable[[Place], Outcome]:
    def try_out(place: Place) -> Outcome:
        place.put("empty")
        keys = {word.partition("=")[0] for word in words}
        return finite(place, place.run("train", *(word for word in RUN if word.partition("=")[0] not in keys), *words))

    return try_out


def tensors_of(content: Any) -> list[torch.Tensor]:
    """All floating tensors of a checkpoint in a fixed order."""
    if isinstance(content, torch.Tensor):
        return [content] if content.is_floating_point() and content.numel() else []
    each = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for value in each for tensor in tensors_of(value)]


def weight(value: float, part: str) -> Callable[[dict[str, Any]], None]:
    """A number in the first tensor of a part of a checkpoint."""

    def change(content: dict[str, Any]) -> None:
        tensor = next(t for t in tensors_of(content[part]) if t.numel() > 1)
        tensor.view(-1)[0] = value

    return change


def multiplier(value: float) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key, tensor in content["state_dict"].items():
            if "scaled" in key:
                tensor.fill_(value)

    return change


def sets(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[key] = value

    return change


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"a weight is {v:g}": weight(v, "state_dict") for v in (math.nan, math.inf)},
    **{f"a moment of the optimizer is {v:g}": weight(v, "optimizer_states") for v in (math.nan, math.inf)},
    **{f"λ is {v:g}": multiplier(v) for v in (math.nan, math.inf, -1.0)},
    **{f"the step is {v!r}": sets("global_step", v) for v in (-1, 10**9, "two", 2.5, None)},
    **{f"without {key}": lambda c, key=key: c.pop(key) for key in ("optimizer_states", "loops", "callbacks", "lagvae")},
    "of another version of Lightning": sets("pytorch-lightning_version", "99.0"),
    "its bounds are NaN": lambda c: c["lagvae"]["bounds"].update(neg_elbo=math.nan),
    "its bounds are others": lambda c: c["lagvae"]["bounds"].update(neg_elbo=3.0),
    "its data are others": lambda c: c["lagvae"].update(digest="0123456789abcdef"),
    "its settings are others": lambda c: c["lagvae"]["config"]["alpha"].update(q=2.0),
    "its settings are none": lambda c: c["lagvae"].update(config={}),
}


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Place], Outcome]:
    """Change the numbers in a checkpoint, whose checksums are right, and resume."""

    def try_out(place: Place) -> Outcome:
        place.put("half")
        file = place.root / "runs" / "a" / "checkpoints" / "last.ckpt"
        content = torch.load(file, weights_only=True)
        change(content)
        torch.save(content, file)
        said = go_on(place, RESUME)
        if (odd := refused_or_like(place, said)) is not None:
            return odd
        if said.status != 0:
            return survived(f"refused: {said.message}")
        return told_or_like(place, RESUME, "resume", said, ())

    return try_out


def number_faults(every: bool) -> Iterator[Fault]:
    for label, change in DATA.items():
        yield Fault("numbers", label, "empty", trained_on(change))
    for word in NUMBERS:
        yield Fault("numbers", word, "empty", trained_with(word))
    for label, edit in EDITS.items():
        yield Fault("numbers", f"a checkpoint that is resumed: {label}", "half", edited(edit))


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
+trainer.max_steps=2|+trainer.logger=true|+trainer.limit_train_batches=0|+trainer.limit_val_batches=0|+trainer.fast_dev_run=true|+trainer.overfit_batches=1
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
"""


def setting(words: Sequence[str]) -> Callable[[Place], Outcome]:
    """A run with some settings is trained to finite numbers, or refused before anything is trained, naming one of them."""

    def try_out(place: Place) -> Outcome:
        place.put("empty")
        keys = {word.lstrip("~+").partition("=")[0] for word in words}
        base = [w for w in RUN if w.lstrip("~").partition("=")[0] not in keys and not any(w.startswith(f"{k}.") for k in keys)]
        base = [w for w in base if not any(w.lstrip("~").startswith(f"{k}.") for k in keys)]
        said = place.run("train", *base, *words)
        if (odd := refused_or_like(place, said)) is not None:
            return odd
        if said.status == 0:
            if not any(place.root.rglob("summary.json")):
                return survived("nothing to do")
            return (
                survived("trained") if (place.root / "runs" / "a" / "summary.json").exists() is False else finite(place, said)
            )
        named = [part for key in keys for part in (key, key.rpartition(".")[2], *key.split("."))]
        values = [word.partition("=")[2] for word in words]
        if not any(name and name in said.text for name in (*named, *values)):
            return Outcome("wrong", f"does not name the setting: {said.message}")
        if any(place.root.rglob("*.ckpt")):
            return Outcome("wrong", f"refused after training: {said.message}")
        return survived(f"refused: {said.message}")

    return try_out


def setting_faults(every: bool) -> Iterator[Fault]:
    for entry in SETTINGS.strip().replace("\n", "|").split("|"):
        words = entry.replace("\\n", "\n").split(" ")
        yield Fault("settings", entry, "empty", setting(words))


# ---- combinations


def combined(*steps: Callable[[Place], Said | None], use: str = "resume", task: Task = RESUME) -> Callable[[Place], Outcome]:
    """Several things in a row, then going on; each may refuse with a message."""

    def try_out(place: Place) -> Outcome:
        place.put(USES[use][0])
        for step in steps:
            said = step(place)
            if said is not None and said.status > 0 and (odd := refused_or_like(place, said)) is not None:
                return odd
        said = go_on(place, task)
        return told_or_like(place, task, use, said, ("a", "data", "config", "calibration", "checkpoint"))

    return try_out


def doing(change: Callable[[Path], Any]) -> Callable[[Place], None]:
    return lambda place: change(place.root) and None


def killed_again(n: int, *words: str) -> Callable[[Place], Said]:
    """Resume, or start something else, and kill it at its n-th operation."""
    return lambda place: place.run(
        "train", *(words or ("resume=a",)), before=at_operation(place.root, n, signals(signal.SIGKILL))
    )


def full_again(n: int) -> Callable[[Place], Said]:
    return lambda place: place.run("train", "resume=a", before=at_operation(place.root, n, fails(FULL), lasting=True))


def edits_config(**values: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "runs" / "a" / "config.yaml"
        content = yaml.safe_load(file.read_text())
        for key, value in values.items():
            node = content
            *above, last = key.split("__")
            for name in above:
                node = node[name]
            node[last] = value
        file.write_text(yaml.safe_dump(content))

    return change


def of_checkpoint(name: str) -> Path:
    return Path("runs") / "a" / "checkpoints" / name


def combination_faults(every: bool) -> Iterator[Fault]:
    for first in (3, 12, 20, 30):
        for second in (2, 9, 17, 26):
            yield Fault(
                "combination",
                f"killed at operation {first} of resuming, and at {second} again",
                "half",
                combined(killed_again(first), killed_again(second)),
            )
        yield Fault(
            "combination",
            f"a full disk from operation {first} of resuming, then killed",
            "half",
            combined(full_again(first), killed_again(first + 2)),
        )
    changes: dict[str, Callable[[Path], Any]] = {
        "last.ckpt is best.ckpt": lambda r: shutil.copy(r / of_checkpoint("best.ckpt"), r / of_checkpoint("last.ckpt")),
        "its data are others": edits_config(data__source__seed=5),
        "its data are fewer": edits_config(data__source__n=190),
        "another α": edits_config(alpha__q=2.0),
        "another bound": edits_config(constraints__neg_elbo__epsilon=9.0),
        "another network": edits_config(model__latent=3),
        "another seed": edits_config(seed=4),
        "another seed of the data": edits_config(data__seed=4),
        "another batch": edits_config(data__batch=50),
        "another rate": edits_config(model__optimizer__lr=0.1),
        "fewer steps than it has": edits_config(training__steps=1),
        "another family": edits_config(family="vae"),
        "no lock, and a note of an owner": lambda r: (r / "runs/a/.owner.json").write_text("{"),
        "a lock that is a folder": lambda r: ((r / "runs/a/lock").unlink(missing_ok=True), (r / "runs/a/lock").mkdir()),
        "temporary files": lambda r: [
            (r / "runs/a" / name).write_text("x") for name in (".metrics.csv.0123abcd.csv", ".lock.9876fedc")
        ],
        "runs/latest leads nowhere": lambda r: (
            (r / "runs/latest").unlink(missing_ok=True),
            (r / "runs/latest").symlink_to("gone"),
        ),
        "runs/latest is a folder": lambda r: ((r / "runs/latest").unlink(missing_ok=True), (r / "runs/latest").mkdir()),
        "failure.json of before": lambda r: (r / "runs/a/failure.json").write_text('{"error": "x"}'),
        "no best.ckpt, no metrics.csv": lambda r: [
            (r / "runs/a" / f).unlink() for f in ("checkpoints/best.ckpt", "metrics.csv")
        ],
        "only its config": lambda r: [shutil.rmtree(r / "runs/a/checkpoints"), (r / "runs/a/metrics.csv").unlink()],
    }
    for label, change in changes.items():
        yield Fault("combination", f"killed, then {label}, then resumed", "half", combined(doing(change)))
    for label, change in changes.items():
        if label.startswith(("another", "its data")):
            yield Fault(
                "combination",
                f"finished, then {label}, then evaluated",
                "done",
                combined(doing(change), use="evaluate", task=EVALUATE),
            )
    yield Fault("combination", "killed, then the project is moved, then resumed", "half", moved_elsewhere)
    for words in (("resume=a", "seed=3"), ("resume=a", "-m"), ("resume=a", "training.steps=9"), ("resume=a", "family=vae")):
        yield Fault("combination", f"{' '.join(words)} after a kill", "half", combined(lambda p, w=words: p.run("train", *w)))


def moved_elsewhere(place: Place) -> Outcome:
    expected = rehearsed(HERE, "train").expected["a"]
    place.put("half")
    shutil.copytree(place.root, place.base / "moved", symlinks=True)
    shutil.rmtree(place.root)
    said = Program("train", ("resume=a",), place.base / "moved", place.base / "said").wait()
    if said.status != 0:
        return Outcome("lost", said.message)
    if place.root.exists():
        return Outcome("silent", "files were made where the project was before")
    differs = unlike(expected, pictures(place.base / "moved").get("a", {}))
    return Outcome("silent", f"{differs} unlike") if differs else survived()


# ---- concurrency


def at_once(place: Place, *commands: tuple[str, ...], groups: int = 0, before: Callable[[], None] | None = None) -> list[Said]:
    """Start programs at once and wait for all. groups: of processes that they are spread over; 0 for one each."""
    started: list[Program] = []
    for k, words in enumerate(commands):
        script, *rest = words
        group = started[k % groups].pid if groups and k >= groups else 0
        started.append(place.start(script, *rest, label=f"said-{k}", group=group, before=before))
    return [program.wait(600) for program in started]


def together(
    state: str, task: Task, expected: Callable[[], dict[str, Any]], *commands: tuple[str, ...]
) -> Callable[[Place], Outcome]:
    """Programs at once: each ends well or says who has the folder, and what is there is whole, after going on where needed."""

    def try_out(place: Place) -> Outcome:
        normal = expected()
        place.put(state)
        ended = at_once(place, *commands)
        for said in ended:
            if (odd := refused_or_like(place, said, ("belongs to", "another process", "Another process"))) is not None:
                return odd
        if all(said.status for said in ended):
            return Outcome("wrong", f"none of them went on: {ended[0].message}")
        said = go_on(place, task)
        return judged(place, task, normal, said)

    return try_out


def agents(place: Place) -> Outcome:
    """Eight agents in two groups of processes on one sweep: every run once, and no row twice."""
    normal = rehearsed(HERE, "sweep on processes").expected
    place.put("empty")
    seeds = "seed=0,1,2,3"
    log = place.base / "reported"
    log.unlink(missing_ok=True)

    def note_reports() -> None:
        from lagvae.experiment import run

        write = run.write_report

        def noting(fit: Any, *args: Any) -> Any:
            with log.open("a") as file:
                file.write(f"{fit.folder.path.name}\n")
            return write(fit, *args)

        run.write_report = noting

    words = ("train", "-m", *QUICK, *BOUNDS, seeds, "launcher.runs_per_job=1")
    for _ in range(12):
        ended = at_once(place, *[words] * 8, groups=2, before=note_reports)
        for said in ended:
            if (odd := refused_or_like(place, said, ("belongs to", "Another process"))) is not None:
                return odd
        if all(said.status == 0 for said in ended):
            break
    else:
        return Outcome("wrong", f"the sweep did not end: {ended[0].message}")
    done = Counter(log.read_text().split())
    if set(done.values()) != {1} or len(done) != 4:
        return Outcome("wrong", f"runs were done more than once: {dict(done)}")
    if twice := doubled_rows(place.root):
        return Outcome("silent", f"{twice} rows are there twice")
    there = pictures(place.root)
    for name, picture in normal.items():
        if differs := unlike(picture, there.get(name, {})):
            return Outcome("silent", f"{name}: {', '.join(differs)} unlike")
    return survived("every run once")


def owner_dies(place: Place) -> Outcome:
    """The process that makes a calibration is killed while another one waits for it."""
    n = len(rehearsed(HERE, "calibrate").operations) // 2
    place.put("empty")

    def slowly_dying() -> None:
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGKILL)

    first = place.start("calibrate", *QUICK, label="said-0", before=at_operation(place.root, n, slowly_dying))
    time.sleep(0.5)
    second = place.start("calibrate", *QUICK, label="said-1")
    killed, said = first.wait(), second.wait()
    if killed.status != -9:
        return Outcome("wrong", f"the fault did not happen: {killed.message}")
    return judged(
        place,
        TASKS["calibrate"],
        rehearsed(HERE, "calibrate").expected,
        said,
        saved_steps(rehearsed(HERE, "calibrate").operations[:n]),
    )


def concurrency_faults(every: bool) -> Iterator[Fault]:
    def whole(name: str) -> Callable[[], dict[str, Any]]:
        return lambda: rehearsed(HERE, name).expected

    resume, evaluate, calibrate = ("train", "resume=a"), ("evaluate", "run=a"), ("calibrate", *QUICK)
    train_b, sweep = ("train", *QUICK, "name=b"), ("train", *SWEEP)
    both = Task("empty", "train", (*QUICK, "name=c"), ("calibrations",))
    for count in (2, 4):
        yield Fault("concurrency", f"{count} resume a run", "half", together("half", RESUME, whole("train"), *[resume] * count))
        yield Fault(
            "concurrency",
            f"{count} evaluate a run",
            "done",
            together("done", TASKS["evaluate"], whole("evaluate"), *[evaluate] * count),
        )
        yield Fault(
            "concurrency",
            f"{count} make a calibration",
            "empty",
            together("empty", TASKS["calibrate"], whole("calibrate"), *[calibrate] * count),
        )
        yield Fault(
            "concurrency",
            f"{count} train with a calibration that is missing",
            "empty",
            together("empty", both, whole("calibrate"), *[train_b] * count),
        )
        yield Fault(
            "concurrency",
            f"{count} start a sweep",
            "empty",
            together("empty", TASKS["sweep"], whole("sweep"), *[sweep] * count),
        )
    yield Fault(
        "concurrency",
        "a sweep on processes beside an ensemble",
        "empty",
        together("empty", TASKS["sweep"], whole("sweep"), sweep, (*sweep, "launcher=processes", "launcher.executor.jobs=1")),
    )
    yield Fault("concurrency", "resume beside evaluate", "half", together("half", RESUME, whole("train"), resume, evaluate))
    yield Fault(
        "concurrency",
        "calibrate beside a sweep that needs it",
        "empty",
        together("empty", TASKS["calibrate"], whole("calibrate"), calibrate, ("train", "-m", *QUICK, "seed=0,1")),
    )
    yield Fault("concurrency", "eight agents in two groups of processes on a sweep", "empty", agents)
    yield Fault("concurrency", "the owner of a calibration is killed while another one waits", "empty", owner_dies)


# ---- several processes

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


def ranks(place: Place, world: int, *words: str, doing: dict[int, Callable[[], None]] | None = None) -> list[Said]:
    """The ranks of a run as torchrun starts them. doing: what happens to some of them, by `before`."""
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        port = str(given.getsockname()[1])
    started = []
    for rank in range(world):
        values = (str(rank), str(rank), str(world), str(world), "127.0.0.1", port, "none")
        env: dict[str, str | None] = dict(zip(LAUNCHERS, values, strict=True))
        started.append(place.start("train", *words, label=f"said-{rank}", env=env, before=(doing or {}).get(rank)))
    ended = [program.wait(240) for program in started]
    for program in started:
        program.end_group()
    return ended


def near(a: Any, b: Any) -> bool:
    """Whether numbers are the same within 1e-5, relative where they are above 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(near, a, b))
    if isinstance(a, float) and isinstance(b, float | int):
        return abs(a - b) <= 1e-5 * max(1.0, abs(a)) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def like_one(place: Place) -> Outcome:
    """Whether the run has the numbers of one process."""
    there = pictures(place.root).get("a", {})
    twice = doubled_rows(place.root)
    expected = rehearsed(HERE, "train").expected["a"]
    kept = ("splits", "constraints", "steps", "verdict")
    for key in kept:
        if not near(expected["summary.json"].get(key), there.get("summary.json", {}).get(key)):
            return Outcome("silent", f"{key} of the summary is not that of one process")
    tables = [
        {(row["step"], row["split"], row["name"]): float(row["value"]) for row in csv.DictReader(text.splitlines())}
        for text in (expected["metrics.csv"], there.get("metrics.csv", ""))
    ]
    if not near(*tables) or twice:
        return Outcome("silent", "metrics.csv is not that of one process")
    return survived("as one process")


def spread(world: int, number: int, who: Sequence[int], n: int, resumed: int = 1) -> Callable[[Place], Outcome]:
    """Train with several ranks, stop some of them at their n-th step, and go on with another number of them."""

    def stops() -> None:
        from lagvae.model import LatentVariableModel

        step = LatentVariableModel.training_step

        def stopping(self: Any, batch: Any, batch_idx: int) -> Any:
            if batch.step == n:
                os.kill(os.getpid(), number)
                time.sleep(0.05)
            return step(self, batch, batch_idx)

        LatentVariableModel.training_step = stopping  # type: ignore[method-assign]

    def try_out(place: Place) -> Outcome:
        place.put("empty")
        ended = ranks(place, world, *RUN, doing=dict.fromkeys(who, stops))
        if any(said.broken or said.status == 124 for said in ended):
            return Outcome("wrong", next(said.message for said in ended if said.broken or said.status == 124))
        if sum(said.text.count("Error: ") for said in ended) != 1:
            return Outcome("wrong", f"{sum(said.text.count('Error: ') for said in ended)} messages: {ended[0].message}")
        place.cuts.unlink(missing_ok=True)
        again = ranks(place, resumed, "resume=a") if resumed > 1 else [place.run("train", "resume=a")]
        if any(said.status for said in again):
            return Outcome("lost", again[0].message)
        if max(map(max, place.began().values())) < n - n % INTERVAL:
            return Outcome("lost", f"went on from {place.began()}")
        return like_one(place)

    return try_out


def stray(words: Sequence[str], **env: str) -> Callable[[Place], Outcome]:
    """A variable that no launcher has set: a run as usual, or a message."""

    def try_out(place: Place) -> Outcome:
        place.put("empty")
        said = place.run("train", *RUN, *words, env=dict(env), seconds=60)
        if (odd := refused_or_like(place, said)) is not None:
            return odd
        return survived(f"refused: {said.message}") if said.status else like_one(place)

    return try_out


def ddp_faults(every: bool) -> Iterator[Fault]:
    for world in (2, 3):
        yield Fault("ddp", f"an uneven split over {world} ranks", "empty", uneven(world))
    for number, who in ((signal.SIGKILL, (1,)), (signal.SIGKILL, (0,)), (signal.SIGTERM, (0, 1)), (signal.SIGINT, (0, 1))):
        name = signal.Signals(number).name
        yield Fault(
            "ddp", f"{name} to rank {' and '.join(map(str, who))} of 2, resumed on 1", "empty", spread(2, number, who, 3)
        )
    yield Fault("ddp", "SIGTERM to one rank of 2, resumed on 2", "empty", spread(2, signal.SIGTERM, (1,), 4, 2))
    yield Fault("ddp", "SIGKILL to rank 1 of 2, resumed on 2", "empty", spread(2, signal.SIGKILL, (1,), 5, 2))
    yield Fault("ddp", "LOCAL_RANK alone", "empty", stray((), LOCAL_RANK="1"))
    yield Fault("ddp", "WORLD_SIZE alone", "empty", stray((), WORLD_SIZE="4"))
    yield Fault("ddp", "a word for WORLD_SIZE", "empty", stray((), WORLD_SIZE="many", RANK="0", LOCAL_RANK="0"))
    yield Fault(
        "ddp", "SLURM_NTASKS=1", "empty", stray((), SLURM_NTASKS="1", SLURM_JOB_ID="7", SLURM_PROCID="0", SLURM_LOCALID="0")
    )
    yield Fault(
        "ddp",
        "a batch that three processes cannot share",
        "empty",
        stray(("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3")),
    )


def uneven(world: int) -> Callable[[Place], Outcome]:
    """Data whose splits no number of ranks divides: a batch of 42 for three ranks, compared with one process."""

    def try_out(place: Place) -> Outcome:
        words = tuple(
            {"data.batch=40": "data.batch=42", "data.source.n=200": "data.source.n=215"}.get(word, word) for word in RUN
        )
        found = []
        for count in (1, world):
            place.put("empty")
            ended = ranks(place, count, *words) if count > 1 else [place.run("train", *words)]
            if any(said.status for said in ended):
                return Outcome("wrong", ended[0].message)
            found.append(pictures(place.root)["a"]["summary.json"])
        same = all(near(found[0][key], found[1][key]) for key in ("splits", "constraints"))
        return survived("as one process") if same else Outcome("silent", "other numbers than one process")

    return try_out


# ---- resources


def limited(name: int, soft: int) -> Callable[[], None]:
    def before() -> None:
        resource.setrlimit(name, (soft, resource.getrlimit(name)[1]))

    return before


def little_memory(more: int) -> Callable[[], None]:
    def before() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + more, resource.getrlimit(resource.RLIMIT_AS)[1]))

    return before


def without_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def stream_to(path: str, number: int) -> Callable[[], None]:
    def before() -> None:
        os.dup2(os.open(path, os.O_WRONLY), number)

    return before


def closed(*numbers: int) -> None:
    """Standard streams closed, in place of which Python has None."""
    for number in numbers:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)


def no_reader() -> None:
    """Standard output into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


def at_step(step: int, number: int) -> Callable[[], None]:
    """A signal in the middle of training."""

    def before() -> None:
        from lagvae.model import LatentVariableModel

        train = LatentVariableModel.training_step

        def signalled(self: Any, batch: Any, batch_idx: int) -> Any:
            if batch.step == step:
                os.kill(os.getpid(), number)
            return train(self, batch, batch_idx)

        LatentVariableModel.training_step = signalled  # type: ignore[method-assign]

    return before


def clock_back() -> None:
    """The clock is set back by a day at every look."""
    now = time.time
    time.time = lambda: now() - 86_400  # type: ignore[assignment]


def squeezed(
    name: str, before: Callable[[], None] | None = None, quiet: bool = False, words: Sequence[str] = (), **env: str | None
) -> Callable[[Place], Outcome]:
    """A task with less than it may expect: the usual result, or a message and the usual result when there is enough again.

    Args:
        quiet: whether it may end without a message, where nobody could read it, or where the signal ends it.
    """

    def try_out(place: Place) -> Outcome:
        task, normal = TASKS[name], rehearsed(HERE, name)
        place.put(task.state)
        keys = {word.partition("=")[0] for word in words}
        kept = [word for word in task.words if word.partition("=")[0] not in keys]
        said = place.run(task.script, *kept, *words, before=before, env=dict(env))
        if said.broken or said.status == 124:
            return Outcome("wrong", said.message)
        if said.status != 0 and not quiet and not said.refused:
            return Outcome("wrong", f"no message: {said.message}")
        if words and said.status == 0:
            return Outcome("wrong", "the fault did not happen")
        if words:
            return survived(f"refused: {said.message}")
        return judged(place, task, normal.expected, said if said.status == 0 else go_on(place, task))

    return try_out


def resource_faults(every: bool) -> Iterator[Fault]:
    nowhere = {"TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"}
    environments: dict[str, dict[str, str | None]] = {
        "no $TMPDIR": {**nowhere},
        "no $HOME": {"HOME": None},
        "a $HOME that is not there": {"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"},
        "no $PATH": {"PATH": ""},
        "a dumb terminal": {"TERM": "dumb", "COLUMNS": "1"},
        "no $TERM": {"TERM": None, "COLUMNS": "0"},
        "an ASCII locale": {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        "a word for $COLUMNS": {"COLUMNS": "many"},
        "a word for OMP_NUM_THREADS": {"OMP_NUM_THREADS": "many"},
        "no $USER": {"USER": None, "LOGNAME": None, "USERNAME": None},
        "an unknown time zone": {"TZ": "Nowhere/Nowhere"},
    }
    for label, env in environments.items():
        yield Fault("resources", f"train with {label}", "empty", squeezed("train", **env))
    for name in ("calibrate", "evaluate", "sweep"):
        yield Fault("resources", f"{name} with no $TMPDIR", TASKS[name].state, squeezed(name, **nowhere))
    happenings: dict[str, tuple[Callable[[], None], bool]] = {
        "a working directory that is gone": (without_folder, False),
        "standard output closed": (lambda: closed(1), False),
        "standard error closed": (lambda: closed(2), True),
        "both closed": (lambda: closed(1, 2), True),
        "standard output full": (stream_to("/dev/full", 1), True),
        "standard error full": (stream_to("/dev/full", 2), True),
        "standard output without a reader": (no_reader, True),
        "standard input closed": (lambda: os.close(0), False),
        "umask 077": (lambda: os.umask(0o077) and None, False),
        "files of 600 bytes at most": (limited(resource.RLIMIT_FSIZE, 600), False),
        "files of 3000 bytes at most": (limited(resource.RLIMIT_FSIZE, 3000), False),
        "files of 9000 bytes at most": (limited(resource.RLIMIT_FSIZE, 9000), False),
        "5 open files": (limited(resource.RLIMIT_NOFILE, 5), True),
        "12 open files": (limited(resource.RLIMIT_NOFILE, 12), False),
        "16 open files": (limited(resource.RLIMIT_NOFILE, 16), False),
        "24 open files": (limited(resource.RLIMIT_NOFILE, 24), False),
        "1 MiB more of memory": (little_memory(2**20), False),
        "8 MiB more of memory": (little_memory(2**23), False),
        "SIGHUP, as from a terminal that is closed,": (at_step(3, signal.SIGHUP), True),
        "SIGXCPU": (at_step(3, signal.SIGXCPU), True),
        "SIGUSR1": (at_step(3, signal.SIGUSR1), True),
        "SIGPIPE": (at_step(3, signal.SIGPIPE), True),
        "SIGQUIT": (at_step(3, signal.SIGQUIT), True),
        "SIGABRT": (at_step(5, signal.SIGABRT), True),
        "a clock that goes back": (clock_back, False),
    }
    for label, (before, quiet) in happenings.items():
        yield Fault("resources", f"train with {label}", "empty", squeezed("train", before, quiet))
    yield Fault(
        "resources",
        "train with a network beyond the memory",
        "empty",
        squeezed("train", little_memory(2**24), words=("model.encoder.hidden=[4000,4000]",)),
    )
    for name in ("calibrate", "sweep"):
        for label in ("files of 9000 bytes at most", "SIGHUP, as from a terminal that is closed,", "standard output full"):
            yield Fault("resources", f"{name} with {label}", "empty", squeezed(name, *happenings[label]))


# ---- secrets

SECRET = "correct-horse-battery"


def revealed(root: Path) -> list[str]:
    """The files below a folder that hold the secret."""
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def secretive(script: str, state: str, *words: str, then: Sequence[tuple[str, ...]] = ()) -> Callable[[Place], Outcome]:
    """Whether a program, or one after it, writes a secret of the environment into a file that was not its own."""

    def try_out(place: Place) -> Outcome:
        place.put(state)
        env: dict[str, str | None] = {"SECRET": SECRET, "WANDB_API_KEY": SECRET * 2}
        for name, *rest in ((script, *words), *then):
            said = place.run(name, *rest, env=env)
            if (odd := refused_or_like(place, said)) is not None:
                return odd
            if files := revealed(place.root):
                return Outcome("silent", f"{files[0]} holds the secret")
            if said.status != 0:
                return Outcome("wrong", f"it was refused: {said.message}")
        return survived("in no file")

    return try_out


def private(script: str, state: str, *words: str) -> Callable[[Place], Outcome]:
    """Whether umask 077 keeps all new files from others."""

    def try_out(place: Place) -> Outcome:
        place.put(state)
        before = set(place.root.rglob("*"))
        said = place.run(script, *words, before=lambda: os.umask(0o077) and None)
        if said.status != 0:
            return Outcome("wrong", said.message)
        for path in set(place.root.rglob("*")) - before:
            if not path.is_symlink() and path.stat().st_mode & 0o077:
                return Outcome("silent", f"{path.relative_to(place.root)} is open to others: {path.stat().st_mode & 0o777:o}")
        return survived("all private")

    return try_out


def secret_faults(every: bool) -> Iterator[Fault]:
    label = ("logger=[tensorboard]", "+logger.tensorboard.comment='${oc.env:SECRET}'")
    yield Fault("secrets", "a key in the environment, train", "empty", secretive("train", "empty", *RUN))
    yield Fault("secrets", "a key in the environment, sweep", "empty", secretive("train", "empty", *SWEEP))
    yield Fault("secrets", "a key in the environment, evaluate", "done", secretive("evaluate", "done", "run=a"))
    yield Fault(
        "secrets", "a setting of a logger from the environment, train", "empty", secretive("train", "empty", *RUN, *label)
    )
    yield Fault(
        "secrets",
        "a setting of a logger from the environment, train and evaluate",
        "empty",
        secretive("train", "empty", *RUN, *label, then=[("evaluate", "run=a")]),
    )
    yield Fault(
        "secrets",
        "a setting of a logger from the environment, calibrate and train",
        "empty",
        secretive("train", "empty", *QUICK, "name=b", *label),
    )
    yield Fault(
        "secrets", "a setting of a logger from the environment, sweep", "empty", secretive("train", "empty", *SWEEP, *label)
    )
    yield Fault("secrets", "umask 077, train", "empty", private("train", "empty", *RUN))
    yield Fault("secrets", "umask 077, calibrate", "empty", private("calibrate", "empty", *QUICK))
    yield Fault("secrets", "umask 077, sweep", "empty", private("train", "empty", *SWEEP))
    yield Fault("secrets", "umask 077, evaluate", "done", private("evaluate", "done", "run=a"))


# ---- stored code

HARM = {"_target_": "os.mkdir", "path": "HARM"}
NODES: dict[str, Any] = {
    "data.source": {"_target_": "torch.load", "f": "HARM", "weights_only": False},
    "data": {**HARM, "_recursive_": False},
    "model.encoder": HARM,
    "model.optimizer": HARM,
    "model.schedule": {"_target_": "torch.os.mkdir", "path": "HARM"},
    "model.likelihood": HARM,
    "constraints.mmd.divergence": HARM,
    "constraints.mmd.divergence.kernel": {"_target_": "lagvae.io.os.mkdir", "path": "HARM"},
    "kernel": HARM,
    "multiplier.optimizer": {"_target_": "subprocess.call", "_args_": [["mkdir", "HARM"]]},
    "critic.network": HARM,
    "callbacks.training.terms": {"_target_": "builtins.exec", "_args_": ["import os; os.mkdir('HARM')"]},
    "callbacks.final.terms": HARM,
    "callbacks.lightning.own": HARM,
    "logger.own": HARM,
    "launcher.executor": HARM,
    "trainer.strategy": HARM,
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
    if harm.exists():
        return Outcome("executed", said.message)
    if (odd := refused_or_like(place, said)) is not None:
        return odd
    return survived(f"refused: {said.message}" if said.status else "ignored")


def stored(key: str, node: Any, state: str, script: str, *words: str) -> Callable[[Place], Outcome]:
    """Put a node into a stored config, and use its run."""

    def try_out(place: Place) -> Outcome:
        place.put(state)
        harm = place.root / "harm"
        file = place.root / "runs" / "a" / "config.yaml"
        content = yaml.safe_load(file.read_text())
        *above, last = key.split(".")
        at = content
        for name in above:
            at[name] = at.get(name) if isinstance(at.get(name), dict) else {}
            at = at[name]
        at[last] = json.loads(json.dumps(node).replace("HARM", str(harm)))
        file.write_text(yaml.safe_dump(content))
        return harmless(place, place.run(script, *words), harm)

    return try_out


def pickled(state: str, file: str, inside: bool, script: str, *words: str) -> Callable[[Place], Outcome]:
    """A pickle in place of a file, or inside a file of torch, that does something when it is read."""

    def try_out(place: Place) -> Outcome:
        place.put(state)
        harm = place.root / "harm"
        (path, *_) = sorted(path for path in place.root.rglob(file) if "latest" not in path.parts)
        bomb = Bomb(str(harm))
        if inside:
            content = torch.load(path, weights_only=True)
            content["callbacks" if "callbacks" in content else "own"] = bomb
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(bomb))
        return harmless(place, place.run(script, *words), harm)

    return try_out


def described(key: str, node: Any) -> Callable[[Place], Outcome]:
    """A harmful node in the settings that a checkpoint holds."""

    def try_out(place: Place) -> Outcome:
        place.put("done")
        harm = place.root / "harm"
        path = place.root / of_checkpoint("last.ckpt")
        content = torch.load(path, weights_only=True)
        at = content["lagvae"]["config"]
        *above, last = key.split(".")
        for name in above:
            at = at.setdefault(name, {}) if isinstance(at.get(name, {}), dict) else {}
        at[last] = json.loads(json.dumps(node).replace("HARM", str(harm)))
        torch.save(content, path)
        (path.parents[1] / "config.yaml").unlink()
        return harmless(place, place.run("train", "resume=a", before=loads(path)), harm)

    return try_out


def loads(path: Path) -> Callable[[], None]:
    """Load a model in place of the program."""

    def before() -> None:
        import lagvae
        from lagvae.errors import LagvaeError

        try:
            lagvae.load(path)
        except LagvaeError as error:
            print(f"Error: {error}")
            sys.exit(1)
        sys.exit(0)

    return before


def code_faults(every: bool) -> Iterator[Fault]:
    for key, node in NODES.items():
        yield Fault("stored code", f"{key} in a config, resume", "half", stored(key, node, "half", "train", "resume=a"))
        yield Fault("stored code", f"{key} in a config, evaluate", "done", stored(key, node, "done", "evaluate", "run=a"))
        if key.split(".")[0] in ("model", "constraints", "kernel", "critic", "multiplier"):
            yield Fault("stored code", f"{key} in a checkpoint, lagvae.load", "done", described(key, node))
    for inside in (False, True):
        what = "a pickle inside" if inside else "a pickle for"
        yield Fault(
            "stored code", f"{what} last.ckpt, resume", "half", pickled("half", "last.ckpt", inside, "train", "resume=a")
        )
        yield Fault(
            "stored code", f"{what} last.ckpt, evaluate", "done", pickled("done", "last.ckpt", inside, "evaluate", "run=a")
        )
        yield Fault(
            "stored code",
            f"{what} best.ckpt, evaluate",
            "done",
            pickled("done", "best.ckpt", inside, "evaluate", "run=a", "checkpoint=best"),
        )
        yield Fault(
            "stored code",
            f"{what} theta.pt, train",
            "calibrated",
            pickled("calibrated", "theta.pt", inside, "train", *QUICK, "name=b"),
        )
        yield Fault(
            "stored code",
            f"{what} ensemble.ckpt, sweep",
            "half a sweep",
            pickled("half a sweep", "ensemble.ckpt", inside, "train", *SWEEP),
        )
        yield Fault(
            "stored code",
            f"{what} last.ckpt, calibrate",
            "half calibrated",
            pickled("half calibrated", "last.ckpt", inside, "calibrate", *QUICK),
        )


# ---- the campaign

_here: Place | None = None


def HERE() -> Place:
    """The place where this campaign happens."""
    assert _here is not None
    return _here


def stop_after(name: str, sign: str, count: int, state: str) -> None:
    """Keep a task as it is when it is killed after it has written a file for the `count`-th time."""
    place, task = HERE(), TASKS[name]
    operations = rehearsed(HERE, name).operations
    at = [n for n, line in enumerate(operations) if line.startswith("rename") and line.endswith(sign)][count - 1]
    place.put(task.state)
    said = place.run(task.script, *task.words, before=at_operation(place.root, at + 2, signals(signal.SIGKILL)))
    if said.status != -9:
        raise SystemExit(f"{name} could not be stopped: {said.text[-2000:]}")
    place.keep(state)


def make_states(place: Place) -> None:
    """Tell a place how the states are made that faults start from."""

    def run_and_keep(name: str, state: str) -> None:
        task = TASKS[name]
        place.put(task.state)
        if (said := place.run(task.script, *task.words)).status != 0:
            raise SystemExit(f"{name} does not work without a fault: {said.text[-2000:]}")
        place.keep(state)

    place.makers |= {
        "done": lambda: run_and_keep("train", "done"),
        "calibrated": lambda: run_and_keep("calibrate", "calibrated"),
        "half": lambda: stop_after("train", "last.ckpt", 1, "half"),
        "half calibrated": lambda: stop_after("calibrate", "last.ckpt", 1, "half calibrated"),
        "half a sweep": lambda: stop_after("sweep", "ensemble.ckpt", 1, "half a sweep"),
    }


MAKERS: dict[str, Callable[[bool], Iterator[Fault]]] = dict(
    zip(
        KINDS,
        (
            *(signal_faults, storage_faults, damage_faults, number_faults, setting_faults, combination_faults),
            *(concurrency_faults, ddp_faults, resource_faults, secret_faults, code_faults),
        ),
        strict=True,
    )
)


def code_digest() -> str:
    """A hash of the package, its settings and this campaign."""
    found = hashlib.sha256()
    for folder, pattern in (("src", "*.py"), ("conf", "*.yaml"), ("benchmarks", "faults.py"), ("benchmarks", "disturbed.py")):
        for file in sorted((ROOT / folder).rglob(pattern)):
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def read_outcomes(file: Path) -> dict[str, dict[str, str]]:
    """Name of a fault → what became of it, as it was found before."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]  # a line that a kill cut short is tried again
    return {f"{each['kind']}: {each['name']}": each for each in found}


def table(outcomes: Sequence[dict[str, str]], digest: str) -> str:
    """The report, in Markdown."""
    lines = ["| kind | tried | survived | wrong | silent | lost | code executed |", "|---|" + "---:|" * 6]
    for kind in (*KINDS, "all"):
        states = [each["state"] for each in outcomes if kind in (each["kind"], "all")]
        counts = " | ".join(str(states.count(state)) for state in STATES)
        lines.append(f"| {kind} | {len(states)} | {counts} |")
    earlier = sum(each["digest"] != digest for each in outcomes)
    text = ["# Faults", "", __doc__.split("\n\n")[2].strip() if __doc__ else "", "", *lines]
    if earlier:
        text += ["", f"{earlier} of these outcomes are of an earlier version of the code."]
    for state in STATES[1:]:
        named = [f"- {each['kind']}: `{each['name']}`: {each['message']}" for each in outcomes if each["state"] == state]
        text += ["", f"{state.capitalize()}:", "", *named] if named else []
    return "\n".join(text) + "\n"


def all_faults(kinds: Sequence[str], every: bool) -> list[Fault]:
    """The faults of some kinds, each under a name of its own."""
    found: dict[tuple[str, str], Fault] = {}
    for kind in kinds:
        for fault in MAKERS[kind](every):
            name, k = fault.name, 1
            while (kind, name) in found:
                k += 1
                name = f"{fault.name} ({k})"
            found[kind, name] = Fault(kind, name, fault.state, fault.try_out)
    return list(found.values())


def campaign(
    place: Place, faults: Sequence[Fault], known: dict[str, dict[str, str]], file: Path | None, digest: str, keep: bool
) -> list[dict[str, str]]:
    """Try faults that are not known yet. Returns the outcomes of all, in their order; Ctrl-C ends it with those so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    outcomes: list[dict[str, str]] = []
    # The bar has no thread of its own, which a fork would not have.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar, suppress(KeyboardInterrupt):
        task = bar.add_task("Faults", total=len(faults))
        for fault in faults:
            found = known.get(f"{fault.kind}: {fault.name}")
            if found is None or not (found["digest"] == digest or (keep and found["state"] == "survived")):
                bar.update(task, description=f"{fault.kind}: {fault.name}"[:70], refresh=True)
                start = time.perf_counter()
                outcome = fault.try_out(place)
                found = {"kind": fault.kind, "name": fault.name, "state": outcome.state, "message": outcome.message}
                found |= {"digest": digest, "seconds": f"{time.perf_counter() - start:.1f}"}
                if file is not None:
                    with file.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(found, ensure_ascii=False) + "\n")
            outcomes.append(found)
            bar.advance(task)
            bar.refresh()
    return outcomes


def set_place(place: Place) -> None:
    """Let the campaign happen somewhere."""
    global _here
    _here = place
    rehearsed.cache_clear()
    make_states(place)


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
        set_place(place)
        faults = [fault for fault in all_faults(args.kind, args.every) if args.only in fault.name]
        if args.limit:
            of_kind = [[fault for fault in faults if fault.kind == kind] for kind in args.kind]
            faults = [fault for some in of_kind for fault in some[:: max(1, -(-len(some) // args.limit))]]
        outcomes = campaign(place, faults, read_outcomes(file), file, digest, args.keep)
    report = table(outcomes, digest)
    args.out.write_text(report, encoding="utf-8")
    print(report, end="")


if __name__ == "__main__":
    main()
