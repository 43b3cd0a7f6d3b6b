"""Run the cells of a sweep: find what is left to do, calibrate once, group, hand jobs to an engine, watch, report."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lagvae import report
from lagvae.build import build_data, build_laws, check, make, needs_calibration
from lagvae.calibrating import calibration_folder, calibration_settings
from lagvae.calibration import fingerprint
from lagvae.cells import Cell, alone, check_cells, group, settings_of, why_apart
from lagvae.cli import FAILED
from lagvae.engines import Engine, Outcome
from lagvae.errors import LagvaeError, SettingError, Stopped
from lagvae.experiment import find_calibration, resume, train
from lagvae.runs import Run, check_writable, write_json
from lagvae.work import Job, ensure

Jobs = list[tuple[Job, list[Cell]]]
"""Jobs, each with its cells."""
MEASURING = 0.5
"""The work of measuring a cell, as a share of that of training it; for the bar's time left."""


def start(cfg: DictConfig) -> None:
    """What src/train.py runs: a new run, resume=…, or a cell of a sweep, which does only what is left of it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN or hydra.runtime.choices.get("sweep"):
        ensure(composed(lambda: cfg.copy()))
        return
    if cfg.resume is None:
        train(cfg)
        return
    others = [o for o in HydraConfig.get().overrides.task if not o.startswith(("resume=", "paths."))]
    if others:
        raise SettingError(
            f"resume={cfg.resume} goes on with the run's own settings; leave out {', '.join(others)}, or start a new run."
        )
    resume(Run.find(Path(cfg.paths.runs), cfg.resume))


def launch(config: DictConfig, composers: Sequence[Callable[[], DictConfig]]) -> None:
    """Run all cells of a sweep that are not finished."""
    started = time.perf_counter()
    cells = [composed(compose) for compose in composers]
    check_cells(cells)
    for cell in cells:
        try:
            check(cell.cfg)
        except LagvaeError as error:
            raise SettingError(f"The cell {cell.name}: {error}") from error
    runs = Path(cells[0].cfg.paths.runs)
    check_writable(runs)
    for cell in cells:
        cell.check_folder()
        if str(cell.cfg.trainer.devices) not in ("1", "auto") or cell.cfg.trainer.num_nodes != 1:
            raise SettingError(
                f"trainer.devices={cell.cfg.trainer.devices}: a cell of a sweep trains on one device; share cells out with "
                "launcher=gpus, or train one model on several with trainer=ddp and without -m."
            )
    settings = config.launcher
    engine: Engine = make(settings.engine, _convert_="all")
    waiting = [cell for cell in cells if not cell.finished]
    already = len(cells) - len(waiting)
    if waiting:
        missing = missing_calibrations(waiting)
        jobs = plan(waiting, runs / ".jobs", settings, engine.workers)
        tell_plan(cells, already, jobs, missing)
        failed = run_all(engine, missing, jobs, lambda left: plan(left, runs / ".jobs", settings, engine.workers))
    else:
        failed = {}
    conclude(cells, already, failed, time.perf_counter() - started)


def composed(compose: Callable[[], DictConfig]) -> Cell:
    """A cell from what Hydra composes of its overrides."""
    cfg = compose()
    with flag_override(cfg, ["struct", "readonly"], False):
        cfg.pop("hydra", None)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return Cell(settings_of(resolved))


def missing_calibrations(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each calibration that is not there yet; everything that does not fit the data is found here."""
    datas: dict[str, Any] = {}
    found: dict[Path, list[Cell]] = {}
    for cell in cells:
        key = json.dumps({k: v for k, v in cell.content["data"].items() if k != "seed"}, sort_keys=True)
        if key not in datas:
            datas[key] = build_data(cell.cfg)
        build_laws(cell.cfg, datas[key])
        if needs_calibration(cell.cfg) and find_calibration(cell.cfg, datas[key]) is None:
            folder = calibration_folder(cell.cfg, calibration_settings(cell.cfg, datas[key]))
            found.setdefault(folder, []).append(cell)
    return list(found.values())


def plan(waiting: Sequence[Cell], folder: Path, settings: Any, workers: int) -> Jobs:
    """Jobs with their cells: stacks that were interrupted go on as they are, the rest is grouped anew."""
    size = settings.cells_per_job
    if size != "auto" and (not isinstance(size, int) or size < 1):
        raise SettingError(f"launcher.cells_per_job={size} must be auto, or a whole number of at least 1.")
    left = {cell.name: cell for cell in waiting}
    jobs: Jobs = []
    for job, cells in begun(folder):
        mine = [left[cell.name] for cell in cells if cell.name in left and cell.content == left[cell.name].content]
        if mine:
            job.forget()
            jobs.append((job, cells))
            for cell in mine:
                del left[cell.name]
    options = {"compile": bool(settings.compile), "size": None if size == "auto" else size}
    for alike in group(list(left.values())):
        most = -(-len(alike) // workers) if size == "auto" else size
        for start in range(0, len(alike), most):
            part = alike[start : start + most]
            mark = fingerprint({cell.name: cell.content for cell in part})
            jobs.append((Job.create(folder / mark, "train", part, options), part))
    return jobs


def begun(folder: Path) -> Iterator[tuple[Job, list[Cell]]]:
    """Jobs that hold a checkpoint of a stack. Whoever removed the folder of a run wants it anew: then it counts no more."""
    for file in sorted(folder.glob("*/*/stack.ckpt")):
        job = Job(file.parent.parent)
        try:
            _, cells, _ = job.read()
        except (OSError, ValueError, KeyError):
            cells = []
        if cells and all(cell.run.config.is_file() for cell in cells):
            yield job, cells
        else:
            file.unlink()


def tell_plan(cells: Sequence[Cell], already: int, jobs: Jobs, missing: Sequence[Sequence[Cell]]) -> None:
    """What the sweep is about to do."""
    done = f", {already} of them finished before" if already else ""
    sizes = sorted({len(part) for _, part in jobs}, reverse=True)
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[-1]} to {sizes[0]}"
    what = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} of {each} cell{'s' if sizes[0] > 1 else ''}"
    report.say(f"{len(cells)} cells{done}; {what}, in {report.here(Path(cells[0].cfg.paths.runs))}")
    todo = [cell for _, part in jobs for cell in part]
    if single := sum(map(alone, todo)):
        report.say(f"{single} of them train one by one, for they have critics or an average of their weights")
    groups = group([cell for cell in todo if not alone(cell)])
    if len(groups) > 1:
        apart = why_apart(groups)
        report.say(f"{len(groups)} stacks, for these differ: {'; '.join(apart[:3])}{' …' if len(apart) > 3 else ''}")
    if missing:
        report.say(f"Calibrating first, {len(missing)} time{'s' if len(missing) > 1 else ''}.")


def run_all(
    engine: Engine, missing: Sequence[list[Cell]], jobs: Jobs, replan: Callable[[Sequence[Cell]], Jobs]
) -> dict[str, str]:
    """Calibrate, then train; cell → what went wrong. Cells whose calibration failed are left out."""
    failed: dict[str, str] = {}
    waiting = [cell for _, cells in jobs for cell in cells]
    try:
        with watching(jobs, len(missing) > 0) as watch:
            if missing:
                failed = calibrate_first(engine, missing, jobs[0][0].folder.parent)
                if failed:
                    watch.jobs = jobs = replan([cell for cell in waiting if cell.name not in failed])
                watch.training()
            failed |= blamed(jobs, engine.run([job.folder for job, _ in jobs]) if jobs else [])
    except (Stopped, KeyboardInterrupt):
        done = sum(cell.finished for cell in waiting)
        told = f"Stopped; {done} of {len(waiting)} cells are finished. Type the same command again to go on."
        raise KeyboardInterrupt from Stopped(told)
    return failed


def calibrate_first(engine: Engine, missing: Sequence[list[Cell]], folder: Path) -> dict[str, str]:
    """Make each calibration once, before the jobs that need it; cell → why it has none."""
    made: Jobs = []
    for cells in missing:
        name = f"calibrate-{fingerprint(cells[0].content)}"
        made.append((Job.create(folder / name, "calibrate", cells[:1], {}), cells[:1]))
    problems = blamed(made, engine.run([job.folder for job, _ in made]))
    lost = [cells for cells in missing if cells[0].name in problems]
    return {c.name: f"Its calibration failed. {problems[cells[0].name]}" for cells in lost for c in cells}


def blamed(jobs: Jobs, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Cell → what went wrong; where a whole job ended, its unfinished cells are to blame."""
    failed: dict[str, str] = {}
    for (_, cells), outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Stopped):
            raise outcome
        if isinstance(outcome, Exception):
            for cell in cells:
                if not cell.finished:
                    failed[cell.name] = str(outcome)
        else:
            failed |= outcome
    return failed


class Watch:
    """The progress of all jobs in one bar: cells done, step, time left; plain lines where there is no terminal."""

    def __init__(self, jobs: Jobs, calibrating: bool) -> None:
        self.jobs, self.calibrating = jobs, calibrating
        self.console = Console(file=sys.stderr)
        self._said = -1
        self.bar: Progress | None = None
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, refresh_per_second=4, expand=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self.task = self.bar.add_task(
                "Calibrating" if calibrating else "Starting", total=None if calibrating else self.total
            )
            self.bar.start()

    @property
    def cells(self) -> int:
        """The cells of all jobs."""
        return sum(len(cells) for _, cells in self.jobs)

    @property
    def total(self) -> float:
        """The work of all jobs, in cell-steps."""
        return (1 + MEASURING) * sum(steps_of(cells) * len(cells) for _, cells in self.jobs)

    def training(self) -> None:
        """Calibrations are made; from here on time is counted anew."""
        self.calibrating = False
        if self.bar is not None:
            self.bar.reset(self.task, total=self.total)

    def look(self) -> None:
        """Read what the jobs noted, and show it."""
        if self.calibrating:
            return
        told = [(job, cells, job.told()) for job, cells in self.jobs]
        steps = sum(note.get("steps", 0) for _, _, note in told)
        measured = sum(note.get("measured", 0) for _, _, note in told)
        done = steps + sum(MEASURING * steps_of(cells) * note.get("measured", 0) for _, cells, note in told)
        remarks = {note["note"] for _, _, note in told if note.get("note")}
        text = f"{measured}/{self.cells} cells  "
        if len(self.jobs) == 1 and steps:
            most = steps_of(told[0][1])
            text += f"step {min(steps // self.cells, most)}/{most}"
        else:
            text += f"{steps:,} cell-steps"
        text += "".join(f"  {remark}" for remark in sorted(remarks))
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=text)
        elif self.total and (tenth := int(10 * done / self.total)) > self._said:
            self._said = tenth
            self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.look()
        if self.bar is not None:
            self.bar.stop()


def steps_of(cells: Sequence[Cell]) -> int:
    """The steps of each cell of a job."""
    return int(cells[0].cfg.training.steps)


@contextmanager
def watching(jobs: Jobs, calibrating: bool) -> Iterator[Watch]:
    """Show the progress of jobs while they run, wherever they do."""
    watch, over = Watch(jobs, calibrating), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            watch.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.close()


def conclude(cells: Sequence[Cell], already: int, failed: dict[str, str], seconds: float) -> None:
    """Say what became of every cell, and write it beside them."""
    runs = Path(cells[0].cfg.paths.runs)
    states = {cell.name: "finished" if cell.finished else "failed" if cell.name in failed else "unfinished" for cell in cells}
    lost = {name: "It has no summary; see its job's log." for name, state in states.items() if state == "unfinished"}
    failed = {name: message for name, message in (failed | lost).items() if states.get(name) != "finished"}
    folders = {cell.run.folder.parent for cell in cells}
    for folder in folders if len(folders) == 1 else ():
        write_json(folder / "sweep.json", {"cells": states, "failed": failed, "seconds": round(seconds, 1)})
    done = sum(state == "finished" for state in states.values())
    minutes = f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} s"
    verdicts: dict[str, int] = {}
    for cell in cells:
        if states[cell.name] == "finished":
            verdict = str(cell.run.read_summary()["verdict"])
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items(), key=lambda pair: -pair[1]))
    where = folders.pop() if len(folders) == 1 else runs
    before = f" ({already} before)" if already else ""
    report.say(
        f"{done} of {len(cells)} cells finished{before} in {minutes}: {counts or 'none'}. They are in {report.here(where)}"
    )
    FAILED.setdefault("here", []).extend(f"{name}: {message}" for name, message in failed.items())
