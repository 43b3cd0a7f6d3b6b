"""Watch a run, or the runs of a sweep, while another process trains them: what `watch` does.

All is read from the files in their folders, of which nothing is changed. A terminal shows it until the last run has ended; any
other output gets what is so now, in lines of 80 columns.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lagvae.cli.compare import runs_folder, told
from lagvae.cli.version import describe_version
from lagvae.errors import CheckpointError, SettingError
from lagvae.runs.layout import RunFolder, find_runs, runs_below
from lagvae.terminal import command, goals_of, plain_table, short_names

PLAIN_WIDTH = 80
"""Columns of an output that is no terminal."""

EVERY = 1.0
"""Seconds between two looks at the files."""

MEASURING = 0.5
"""The time in which a run is measured, relative to that in which it is trained, as a sweep assumes it."""

COLOURS = {
    "failed": "red", "training": "cyan", "measuring": "cyan", "stopped": "yellow", "waiting": "dim", "trained": "dim",
    "finished": "green",
}  # fmt: skip
"""The states of a run, in the order in which they are listed → their colours."""

ENDED = ("finished", "failed")
ACTIVE = ("training", "measuring")

LONGEST_STATE = 18
"""The largest number of letters of a verdict in a table of runs, as of "met, not converged"; longer ones are cut."""

BLOCKS = "▁▂▃▄▅▆▇█"


def watch(root: Path, words: Sequence[str] | None = None) -> None:
    """Read a command line and watch; what a user can act on is printed as one paragraph, with exit status 1.

    Args:
        root: of the project, where LAGVAE_ROOT does not name another one; runs are looked for in its runs/.
    """
    parser = argparse.ArgumentParser(
        prog=command("watch"),
        description="Watch a run or a sweep that another process trains. Ctrl-C ends the view, and not the training.",
    )
    parser.add_argument("run", nargs="?", default="latest", metavar="RUN|SWEEP", help="folder, or its name under runs/")
    parser.add_argument("--version", action="version", version=describe_version(), help="print versions and exit")
    options = parser.parse_args(words)
    with told():
        view = find_view(runs_folder(root), options.run)
        console = Console(highlight=False)
        if not console.is_terminal:
            Console(highlight=False, width=PLAIN_WIDTH).print(view.look())
            return
        with Live(
            view.look(console.width, console.height), console=console, auto_refresh=False, vertical_overflow="ellipsis"
        ) as live:
            while not view.ended:
                time.sleep(EVERY)
                live.update(view.look(console.width, console.height), refresh=True)


def find_view(runs: Path, name: str) -> View:
    """The view of a run or a folder of runs; SettingError where there is neither, nor a job that will make it."""
    for folder in (Path(name).expanduser(), runs / name):
        if (folder / "config.yaml").is_file():
            return View(folder.resolve(), runs, alone=True)
    if any(str(config["name"]).startswith(f"{name}/") for job in jobs_of(runs) for config in job.configs):
        return View(runs / name, runs)
    folder = find_runs(runs, name).resolve()
    if next(iter(runs_below(folder, set())), None) is None:
        raise SettingError(f"{folder} holds no runs, and no job will make some there. Name a run, or a folder with runs.")
    return View(folder, runs)


# ---- what the files say


class Curves:
    """The rows of a metrics.csv, of which every call of `read` reads what is new.

    Attributes:
        values: SPLIT/NAME → its values so far. step: the last one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clear()

    def _clear(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.step, self._at, self._rest, self._file = 0, 0, b"", 0

    def read(self) -> None:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._at:  # it was cut, for a run that is resumed
                    self._clear()
                    self._file = status.st_ino
                file.seek(self._at)
                new = file.read()
        except OSError:
            return
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            step, _, split, name, value = (line.decode(errors="replace").strip().split(",") + 5 * [""])[:5]
            try:
                at_step, number = int(step), float(value)
            except ValueError:
                continue
            self.values.setdefault(f"{split}/{name}", []).append(number)
            self.step = max(self.step, at_step)

    def last(self, *keys: str) -> float | None:
        """The last value of the first of these curves that there is."""
        return next((self.values[key][-1] for key in keys if self.values.get(key)), None)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def since(folder: Path) -> float | None:
    """When the process began that owns a folder now; None where none does. That of another machine is taken at its word."""
    owner = read_object(folder / ".owner.json")
    try:
        if owner["host"] == socket.gethostname():
            os.kill(owner["pid"], 0)
        return time.mktime(time.strptime(owner["since"], "%Y-%m-%d %H:%M:%S"))
    except PermissionError:  # it is alive, and of another user
        return time.time()
    except (KeyError, TypeError, ValueError, OSError):
        return None


@dataclass
class JobFiles:
    """A job of a sweep that has no result yet.

    Attributes:
        configs: those of its runs. since: when its process began; None where it has none.
    """

    folder: Path
    kind: str
    configs: list[dict[str, Any]]
    since: float | None

    @property
    def steps(self) -> int:
        """The steps of each run that it says are done; those of runs that train together are told more often than metrics."""
        done = read_object(self.folder / "progress.json").get("steps", 0)
        return int(done) // max(1, len(self.configs))

    @property
    def paths(self) -> list[Path]:
        """The folders of its runs."""
        return [Path(config["paths"]["runs"]) / str(config["name"]) for config in self.configs]

    @property
    def message(self) -> str:
        """The last line of its output, without those of W&B and on the data, warnings, and the code that a warning shows."""
        try:
            lines = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        said = (line.rstrip() for line in reversed(lines) if line.strip() and not line[0].isspace())
        return next((line for line in said if "Warning: " not in line and not line.startswith(("wandb: ", "data="))), "")


def jobs_of(runs: Path) -> list[JobFiles]:
    """The jobs in a folder of runs that have no result yet."""
    found = []
    for task in sorted(runs.glob(".jobs/*/task.json")):
        if not (task.parent / "result.json").exists() and (content := read_object(task)):
            found.append(JobFiles(task.parent, str(content.get("kind")), content.get("runs", []), since(task.parent)))
    return found


@dataclass
class WatchedRun:
    """A run, as far as its files say how it is.

    Attributes:
        state: a key of `COLOURS`. steps: those that it is to be trained for. summary: what it ended with.
    """

    folder: RunFolder
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "waiting"
    message: str = ""
    step: int = 0

    def __post_init__(self) -> None:
        self.curves = Curves(self.folder.metrics)

    @property
    def steps(self) -> int:
        return int((self.config.get("training") or {}).get("steps") or 0)

    def read(self, job: JobFiles | None) -> None:
        """Look at the files again. `job`: the job that has the run, if there is one."""
        if self.state == "finished":
            return
        begun = self.folder.config.is_file()
        if begun and not self.config:
            self.config = self.folder.read_settings()
        self.curves.read()
        owned, job_owned = since(self.folder.path) is not None, job is not None and job.since is not None
        self.step = self.curves.step
        if self.folder.summary.is_file():
            try:
                self.summary, self.state = self.folder.read_summary(), "finished"
                self.step, self.message = int(self.summary.get("steps", self.step)), " ".join(self.summary["messages"][:1])
                return
            except (CheckpointError, KeyError, TypeError):
                pass  # it is damaged, and is made again
        if failure := read_object(self.folder.failure):
            self.state, self.message = "failed", str(failure.get("error", ""))
        elif self.step >= self.steps > 0:
            self.state = "measuring" if owned else "trained"
        elif owned:
            self.state = "training"
            if job is not None and len(job.configs) > 1:
                self.step = min(self.steps, max(self.step, job.steps))
        else:
            self.state = "stopped" if begun and not job_owned else "waiting"

    @property
    def work(self) -> float:
        """What is done of it, in training steps; measuring counts with `MEASURING`."""
        return self.steps * (1 + MEASURING) if self.state in ENDED else self.step

    def constraints(self) -> dict[str, dict[str, Any]]:
        """Constraint → divergence, bound, multiplier and whether it is learned: at the end, or the last that is known."""
        if self.summary:
            return dict(self.summary["constraints"])
        found = {}
        for name, node in (self.config.get("constraints") or {}).items():
            value, violation = self.curves.last(f"train/{name}"), self.curves.last(f"train/violation/{name}")
            found[str(name)] = {
                "divergence": self.curves.last(f"train_probe/constraint/{name}", f"train/{name}"),
                "bound": value - violation if value is not None and violation is not None else None,
                "multiplier": self.curves.last(f"train/multiplier/{name}"),
                "learned": bool(node.get("learned", True)) if isinstance(node, Mapping) else False,
            }
        return found

    def interval(self, side: str) -> tuple[float, float] | None:
        """The two ends of the information of a side, q or p."""
        measured = (self.summary.get("splits") or {}).get("train", {})
        keys = [f"i_{side}_{end}" for end in ("lower", "upper")]
        ends = [measured.get(key, self.curves.last(f"train_probe/{key}")) for key in keys]
        return (float(ends[0]), float(ends[1])) if None not in ends else None

    @property
    def sides(self) -> list[str]:
        """The sides whose information is preferred; q where none is."""
        alpha = self.config.get("alpha") or {}
        return [side for side in ("q", "p") if alpha.get(side)] or ["q"]


# ---- what is shown


class View:
    """A run, or all runs in and below a folder with those that its jobs will make.

    Args:
        folder: of the run, or of the runs. runs: the folder in which jobs are. alone: whether it is one run.
    """

    def __init__(self, folder: Path, runs: Path, alone: bool = False) -> None:
        self.folder, self.runs, self.alone = folder, runs, alone
        self.watched: dict[Path, WatchedRun] = {}
        self.calibrations: dict[Path, Curves] = {}
        self.first: tuple[float, float] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return bool(self.watched) and all(run.state in ENDED for run in self.watched.values())

    def look(self, width: int = PLAIN_WIDTH, height: int | None = None) -> RenderableType:
        """What the files say now.

        Args:
            width, height: of the terminal in letters; runs beyond its height are counted.
        """
        jobs = jobs_of(self.runs)
        of_run: dict[Path, JobFiles] = {}
        inside = []
        for job in jobs:
            for path, config in zip(job.paths, job.configs, strict=True):
                if self.folder in (path, *path.parents):
                    inside.append(job)
                    if job.kind == "train":
                        of_run[path] = job
                        self._add(path, config)
        if self.alone:
            self._add(self.folder)
        else:
            for there in runs_below(self.folder, set()) if self.folder.is_dir() else ():
                self._add(there.path)
        for path, run in self.watched.items():
            run.read(of_run.get(path))
        calibrating = list(self._calibrating())
        parts = [self._head(inside), *calibrating]
        if self.alone:
            parts.append(run_table(self.watched[self.folder]))
        else:
            parts.append(sweep_table(self._sorted(), width, None if height is None else max(3, height - 9)))
        busy = calibrating or any(job.since is not None for job in inside)
        if not self.ended and not busy and not any(run.state in ACTIVE for run in self.watched.values()):
            parts.append(Text(self._idle(bool(inside)), "yellow", overflow="fold"))
        messages = [run.message for run in self._sorted() if run.message and (self.alone or run.state == "failed")]
        messages += [job.message for job in inside if job.message]
        if messages:
            parts.append(Text(messages[0], "dim", overflow="fold"))
        return Group(*parts)

    def _add(self, path: Path, config: Mapping[str, Any] | None = None) -> None:
        path = path.resolve()
        if path not in self.watched:
            name = path.name if self.alone else os.path.relpath(path, self.folder)
            self.watched[path] = WatchedRun(RunFolder(path), name, dict(config or {}))

    def _sorted(self) -> list[WatchedRun]:
        order = list(COLOURS)
        return sorted(self.watched.values(), key=lambda run: order.index(run.state))

    def _head(self, jobs: Sequence[JobFiles]) -> RenderableType:
        """Name, states, a bar, and the time left."""
        runs = list(self.watched.values())
        states = Counter(run.state for run in self._sorted())
        counted = Text(", ").join(
            Text(state if self.alone else f"{count} {state}", COLOURS[state]) for state, count in states.items()
        )
        done, total = sum(run.work for run in runs), sum(run.steps * (1 + MEASURING) for run in runs)
        title = Text(os.path.relpath(self.folder, self.runs.resolve()), "bold")
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        head.add_row(title, counted)
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        share = f"{done / total:.0%}" if total else "0%"
        bar.add_row(ProgressBar(total or 1.0, done), Text(f"{share}{self._left(done, total, jobs)}"))
        return Group(head, bar)

    def _left(self, done: float, total: float, jobs: Sequence[JobFiles]) -> str:
        """The time left: by what was done since the view began, or if that is nothing since the jobs did that are not done yet.

        A run that no job has is counted from when its process began.
        """
        now = time.time()
        active = [run for run in self.watched.values() if run.state in ACTIVE]
        if not active or done >= total:
            return ""
        if done and self.first is None:  # before that a sweep calibrates, or compiles its step
            self.first = now, done
        started, before = self.first or (now, done)
        if done <= before:
            of_jobs = {path.resolve() for job in jobs for path in job.paths}
            others = [run for path, run in self.watched.items() if path not in of_jobs]
            begun = [job.since for job in jobs if job.since is not None]
            begun += [begin for run in others if run in active and (begin := since(run.folder.path)) is not None]
            started, before = min(begun, default=now), sum(run.work for run in others if run not in active)
        if done <= before or now <= started:
            return ""
        return f"  {timedelta(seconds=round((total - done) * (now - started) / (done - before)))} left"

    def _idle(self, of_sweep: bool) -> str:
        """What to do where no process works on runs that have not ended: jobs of a queue may start yet, others do not."""
        if of_sweep or not self.alone:
            return (
                "No process works on these runs now. Where none waits in a queue, the command of the sweep goes on with them."
            )
        name = os.path.relpath(self.folder, self.runs.resolve())
        return f"No process works on this run now. Resume with: {command('train')} resume={name}"

    def _calibrating(self) -> Iterator[RenderableType]:
        """A line for each calibration that is being made."""
        for folder in sorted((self.runs.parent / "calibrations").glob("*")):
            if since(folder) is not None:
                curves = self.calibrations.setdefault(folder, Curves(folder / "metrics.csv"))
                curves.read()
                yield Text(f"calibrating {folder.name}: step {curves.step}", "cyan")


def run_table(run: WatchedRun) -> Table:
    """One run: each constraint against its bound, λ, and information."""
    named = [run.config.get("family"), (run.config.get("data") or {}).get("name"), *goals_of(run.config)]
    named.append(run.summary.get("verdict"))
    table = plain_table(f"step {run.step} of {run.steps}: {', '.join(str(word) for word in named if word)}", "")
    for head in ("value", "bound", "λ"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("λ over steps", no_wrap=True)
    for name, c in run.constraints().items():
        curve = run.curves.values.get(f"train/multiplier/{name}", []) if c["learned"] else []
        table.add_row(symbol(name), *bounded(c), short_number(c["multiplier"]), sparkline(curve, 24))
    for side in run.sides:
        if (ends := run.interval(side)) is not None:
            table.add_row(f"I_{side}", f"{between(ends)}", "", "", "")
    return table


def sweep_table(runs: Sequence[WatchedRun], width: int, most: int | None) -> Table:
    """A line for each of the first `most` runs. The title is what all names share, where one is too long."""
    heads, rows = ("state", "step", "−ELBO", "bound", "I", "λ"), []
    for run in runs[:most]:
        constraints = run.constraints()
        first = constraints.get("neg_elbo")
        value, bound = bounded(first) if first else (Text(short_number(run.curves.last("train_probe/neg_elbo"), 4)), "")
        learned = [name for name, c in constraints.items() if c["learned"]]
        curve = run.curves.values.get(f"train/multiplier/{learned[0]}", []) if learned else []
        verdict = str(run.summary.get("verdict", run.state))
        cut = verdict if len(verdict) <= LONGEST_STATE else f"{verdict[: LONGEST_STATE - 1].rstrip()}…"
        state = Text(cut, COLOURS[run.state])
        rows.append((state, str(run.step), value, bound, between(run.interval(run.sides[0])), sparkline(curve, 6)))
    others = sum(2 + max(map(len, column)) for column in zip(heads, *rows, strict=True))
    names, shared = short_names([run.name for run in runs[:most]], width - others - 3)
    table = plain_table(escape(shared if len(shared) <= width else f"{shared[: width - 1]}…"), "run")
    table.padding = (0, 1, 0, 0)
    for head in heads:
        table.add_column(head, justify="left" if head in ("state", "λ") else "right", no_wrap=True)
    shown = list(zip(names, rows, strict=True))
    if shared and most is not None and len(runs) > most:
        del shown[-1]
    for name, row in shown:
        table.add_row(escape(name), *row)
    if len(runs) > len(shown):
        table.add_row(f"{len(runs) - len(shown)} more")
    return table


def symbol(name: str) -> str:
    return {"neg_elbo": "−ELBO", "mmd": "MMD"}.get(name, name)


def bounded(constraint: Mapping[str, Any]) -> tuple[Text, str]:
    """The value of a constraint, red above its bound, and the bound."""
    value, bound = constraint["divergence"], constraint["bound"]
    violated = value is not None and bound is not None and value > bound
    return Text(short_number(value, 4), "red" if violated else ""), short_number(bound, 4)


def between(ends: tuple[float, float] | None) -> str:
    return "–" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def short_number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}g}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of at most `width` letters, from its smallest to its largest value.

    Example:
        >>> sparkline([0.0, 1.0, 2.0, 4.0], 8)
        '▁▃▅█'
    """
    finite = [value for value in values if isfinite(value)]
    if len(finite) > width:  # the last value is always among those that are shown
        finite = [finite[(k + 1) * len(finite) // width - 1] for k in range(width)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * (value - low) / (high - low)) if high > low else 0] for value in finite)
