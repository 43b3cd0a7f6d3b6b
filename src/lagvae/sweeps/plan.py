"""Which runs of a sweep are left to do, which of them train together, and in which jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lagvae.errors import SettingError
from lagvae.experiment.calibration import calibration_folder, calibration_settings, uses_critics
from lagvae.experiment.factory import build_data, build_joint
from lagvae.experiment.run import find_calibration
from lagvae.experiment.settings import OWN, SHARED_OF_CONSTRAINTS, differences, fingerprint, without
from lagvae.experiment.validate import needs_calibration
from lagvae.runs.layout import Run
from lagvae.sweeps.job import SweepJob
from lagvae.sweeps.run import SweepRun
from lagvae.terminal import print_line, short_path


def trains_alone(cell: SweepRun) -> bool:
    """Whether a cell trains by itself: a critic, or an average of θ, is no part of a stack."""
    return uses_critics(cell.cfg) or cell.cfg.training.average is not None


def ensemble_key(cell: SweepRun) -> dict[str, Any]:
    """What cells must share to train as one stack."""
    shared = without(cell.content, OWN)
    constraints = cell.content["constraints"].items()
    shared["constraints"] = {name: {key: c[key] for key in SHARED_OF_CONSTRAINTS} for name, c in constraints}
    if trains_alone(cell):
        shared["alone"] = cell.name
    p = cell.content["alpha"]["p"]
    shared["preference on I_p"] = (p > 0) - (p < 0)
    return shared


def dual_optimizer_of(cell: SweepRun) -> str | None:
    """The optimizer of λ of a cell, as text; None where nothing is learned."""
    optimizer = cell.content["multiplier"]["optimizer"]
    learns = any(c["learned"] for c in cell.content["constraints"].values())
    return json.dumps(optimizer, sort_keys=True) if learns else None


def group_runs(cells: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """Cells that can train as one stack, together; cells without learned multipliers go with any optimizer of λ."""
    keys: dict[str, list[SweepRun]] = {}
    for cell in cells:
        keys.setdefault(fingerprint(ensemble_key(cell)), []).append(cell)
    found: list[list[SweepRun]] = []
    for alike in keys.values():
        duals: dict[str | None, list[SweepRun]] = {}
        for cell in alike:
            duals.setdefault(dual_optimizer_of(cell), []).append(cell)
        fixed = duals.pop(None, [])
        parts = list(duals.values()) or [[]]
        parts[0] = sorted(parts[0] + fixed, key=lambda cell: alike.index(cell))
        found += parts
    return found


def differing_settings(groups: Sequence[Sequence[SweepRun]]) -> list[str]:
    """The settings that keep groups apart, as "key: a → b"."""
    first = groups[0][0]
    apart: list[str] = []
    for other in groups[1:]:
        apart += differences(ensemble_key(first), ensemble_key(other[0])) or differences(
            first.content["multiplier"], other[0].content["multiplier"], "multiplier"
        )
    return list(dict.fromkeys(apart))


def check_runs(cells: Sequence[SweepRun]) -> None:
    """Raise SettingError for cells that are the same, or would be written to the same folder."""
    if not cells:
        raise SettingError("The sweep has no cells: its grids are empty, or no cell of them fits your overrides.")
    contents: dict[str, str] = {}
    names: set[str] = set()
    for cell in cells:
        Run.check_name(cell.name)
        mark = fingerprint(cell.content)
        if mark in contents:
            raise SettingError(
                f"The sweep has a cell twice: {contents[mark]} and {cell.name} have the same settings. A value stands twice in "
                "a grid, or an override makes cells alike."
            )
        contents[mark] = cell.name
        if cell.name in names:
            raise SettingError(
                f"Two cells of the sweep would be kept in the same folder, {cell.name}. Add what tells them apart to name, "
                "as in 'name=${folder}/${family}${label}-seed${seed}'."
            )
        names.add(cell.name)


Jobs = list[tuple[SweepJob, list[SweepRun]]]
"""Jobs, each with its cells."""


def missing_calibrations(cells: Sequence[SweepRun]) -> list[list[SweepRun]]:
    """The cells of each calibration that is not there yet; everything that does not fit the data is found here."""
    datas: dict[str, Any] = {}
    found: dict[Path, list[SweepRun]] = {}
    for cell in cells:
        key = json.dumps({k: v for k, v in cell.content["data"].items() if k != "seed"}, sort_keys=True)
        if key not in datas:
            datas[key] = build_data(cell.cfg)
        build_joint(cell.cfg, datas[key])
        if needs_calibration(cell.cfg) and find_calibration(cell.cfg, datas[key]) is None:
            folder = calibration_folder(cell.cfg, calibration_settings(cell.cfg, datas[key]))
            found.setdefault(folder, []).append(cell)
    return list(found.values())


def plan_jobs(waiting: Sequence[SweepRun], folder: Path, settings: Any, workers: int) -> Jobs:
    """Jobs with their cells: stacks that were interrupted go on as they are, the rest is grouped anew."""
    size = settings.cells_per_job
    if size != "auto" and (not isinstance(size, int) or size < 1):
        raise SettingError(f"launcher.cells_per_job={size} must be auto, or a whole number of at least 1.")
    left = {cell.name: cell for cell in waiting}
    jobs: Jobs = []
    for job, cells in interrupted_jobs(folder):
        mine = [left[cell.name] for cell in cells if cell.name in left and cell.content == left[cell.name].content]
        if mine:
            job.forget()
            jobs.append((job, cells))
            for cell in mine:
                del left[cell.name]
    options = {"compile": bool(settings.compile), "size": None if size == "auto" else size}
    for alike in group_runs(list(left.values())):
        most = -(-len(alike) // workers) if size == "auto" else size
        for start in range(0, len(alike), most):
            part = alike[start : start + most]
            mark = fingerprint({cell.name: cell.content for cell in part})
            jobs.append((SweepJob.create(folder / mark, "train", part, options), part))
    return jobs


def interrupted_jobs(folder: Path) -> Iterator[tuple[SweepJob, list[SweepRun]]]:
    """Jobs that hold a checkpoint of a stack. Whoever removed the folder of a run wants it anew: then it counts no more."""
    for file in sorted(folder.glob("*/*/stack.ckpt")):
        job = SweepJob(file.parent.parent)
        try:
            _, cells, _ = job.read()
        except (OSError, ValueError, KeyError):
            cells = []
        if cells and all(cell.run.config.is_file() for cell in cells):
            yield job, cells
        else:
            file.unlink()


def print_sweep_plan(cells: Sequence[SweepRun], already: int, jobs: Jobs, missing: Sequence[Sequence[SweepRun]]) -> None:
    """What the sweep is about to do."""
    done = f", {already} of them finished before" if already else ""
    sizes = sorted({len(part) for _, part in jobs}, reverse=True)
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[-1]} to {sizes[0]}"
    what = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} of {each} cell{'s' if sizes[0] > 1 else ''}"
    print_line(f"{len(cells)} cells{done}; {what}, in {short_path(Path(cells[0].cfg.paths.runs))}")
    todo = [cell for _, part in jobs for cell in part]
    if single := sum(map(trains_alone, todo)):
        print_line(f"{single} of them train one by one, for they have critics or an average of their weights")
    groups = group_runs([cell for cell in todo if not trains_alone(cell)])
    if len(groups) > 1:
        apart = differing_settings(groups)
        print_line(f"{len(groups)} stacks, for these differ: {'; '.join(apart[:3])}{' …' if len(apart) > 3 else ''}")
    if missing:
        print_line(f"Calibrating first, {len(missing)} time{'s' if len(missing) > 1 else ''}.")
