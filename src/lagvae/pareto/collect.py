"""Find run folders, and say of every run that is not compared why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lagvae.errors import CheckpointError, ComparisonError, SettingError
from lagvae.pareto.cell import INFORMATION, Cell, Unusable, read, title
from lagvae.pareto.settings import disagreements
from lagvae.runs import LATEST, Run

ANALYSIS = "pareto-analysis"
"""The folder that the comparison is written to where no other is named."""


@dataclass
class Collection:
    """The runs below some folders: those that are compared, and by name those that are not, with the reason."""

    folders: list[Path]
    information: str
    cells: list[Cell] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def families(self) -> list[str]:
        """The methods, LagVAE first."""
        return sorted({cell.family for cell in self.cells}, key=lambda family: (family != "lagvae", family))


def collect(folders: Sequence[Path], information: str = "i_q") -> Collection:
    """Read all runs in some folders and below them.

    Args:
        information: which estimate of I is meant, a key of `INFORMATION`.

    Raises:
        SettingError: a folder cannot be read, or the estimate is unknown.
        ComparisonError: no run can be used, or those that can do not belong together.
    """
    if information not in INFORMATION:
        raise SettingError(f"information={information} is unknown; choose one of {', '.join(INFORMATION)}.")
    for folder in folders:
        if not folder.is_dir():
            raise SettingError(f"{folder} is no folder. Name one that holds run folders, such as runs/pareto.")
    found = Collection(list(folders), information)
    roots, seen = [folder.resolve() for folder in folders], set[Path]()
    for run in (run for root in roots for run in runs_below(root, seen)):
        name = os.path.relpath(run.folder, os.path.commonpath(roots))
        name = run.folder.name if name == "." else name
        if not run.finished:
            found.unfinished.append(f"{name} (it failed)" if run.failure.is_file() else name)
            continue
        try:
            cell = read(run, name, information)
        except (CheckpointError, Unusable) as error:
            found.skipped[name] = str(error)
            continue
        if cell.alpha == 0:
            found.left_out[name] = "α = 0: it prefers neither more nor less information"
        elif cell.settings.varied["alpha.p"] != 0:
            found.left_out[name] = f"alpha.p = {cell.settings.varied['alpha.p']:g}: its preference is not of I_q alone"
        else:
            found.cells.append(cell)
    _drop_twins(found)
    _check(found)
    return found


def runs_below(folder: Path, seen: set[Path]) -> Iterator[Run]:
    """The run folders at and below a folder that were not seen before; not what a run itself keeps in folders.

    Calibrations, `latest`, hidden folders and earlier comparisons are passed by. SettingError where a folder cannot be read.
    """
    if folder.resolve() in seen:
        return  # named twice, or a link that leads back
    seen.add(folder.resolve())
    run = Run(folder)
    passed = {LATEST, ANALYSIS}
    if run.config.is_file():
        passed |= {"evaluation", run.checkpoints.name, run.figures.name}
        if not (folder / "calibration.json").exists():
            yield run
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise SettingError(f"{folder} cannot be read ({error.strerror}). Name folders that can.") from error
    for child in children:
        if child.name not in passed and not child.name.startswith("."):
            yield from runs_below(child, seen)


def _drop_twins(found: Collection) -> None:
    """Of runs with the same settings and seed only the first one counts."""
    first: dict[str, str] = {}
    for cell in list(found.cells):
        mark = repr((cell.family, cell.seed, cell.settings.shared, cell.settings.own, cell.settings.varied))
        if mark in first:
            found.cells.remove(cell)
            found.skipped[cell.name] = f"it has the settings and the seed of {first[mark]}, which is counted"
        first.setdefault(mark, cell.name)


def _check(found: Collection) -> None:
    """Raise ComparisonError where nothing is left to compare, or what is left does not belong together."""
    where = ", ".join(str(folder) for folder in found.folders)
    if not found.cells:
        groups = {"unfinished": found.unfinished, "skipped": found.skipped, "left out": found.left_out}
        told = "; ".join(f"{len(names)} {word}, such as {next(iter(names))}" for word, names in groups.items() if names)
        why = next((f" ({reason})" for reason in (found.skipped | found.left_out).values()), "")
        raise ComparisonError(
            f"There is no run to compare below {where}: "
            + (f"{told}{why}. Finish or repair them, or name another folder." if told else "it holds no run folder.")
            + " A sweep makes runs: python src/train.py -m sweep=NAME."
        )
    differ = disagreements({cell.name: cell.settings.shared for cell in found.cells})
    for family in found.families:
        own = {cell.name: cell.settings.own for cell in found.cells if cell.family == family}
        differ += [f"{told} (both {title(family)})" for told in disagreements(own)]
    if differ:
        more = f"\n  and {len(differ) - 5} more settings differ" if len(differ) > 5 else ""
        raise ComparisonError(
            f"The runs below {where} do not belong together:\n  " + ";\n  ".join(differ[:5]) + more + ".\n"
            "Name the folder of one sweep, or only folders of runs that share these settings."
        )
