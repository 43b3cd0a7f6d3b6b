"""The run folder and the files that a run writes to it:

runs/<name>/config.yaml  metrics.csv  summary.json  report.html  checkpoints/  figures/
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lagvae.errors import CheckpointError, SettingError
from lagvae.io import json_digest, storage_error, write_json
from lagvae.terminal import command

LATEST = "latest"

SWEEP_FILE = "sweep.json"
"""The file in the folder of a sweep with the states of its runs, also of those that have not begun."""

ANALYSIS = "pareto-analysis"
"""The folder to which a comparison of runs is written by default."""


def clone_root() -> Path | None:
    """The root of the clone that this package is imported from; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "conf" / "family" / "lagvae.yaml").is_file() else None


_followed_by: dict[Path, list[Callable[[Mapping[str, Any]], None]]] = {}
"""Run folder → who waits for its summary, in this process."""


class RunFolder:
    """A run folder and the files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved config, from which the run can be repeated."""
        return self.path / "config.yaml"

    @property
    def summary(self) -> Path:
        """The results, which are written last."""
        return self.path / "summary.json"

    @property
    def failure(self) -> Path:
        """The error of a failed run; removed when the run is tried again."""
        return self.path / "failure.json"

    @property
    def metrics(self) -> Path:
        """The table of metrics in long format: step, epoch, split, name, value."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint where there is one."""
        return self.last if self.last.is_file() else None

    @property
    def checkpoint_cure(self) -> str:
        """What to do where there is no checkpoint."""
        if self.finished:
            return f"The run has finished, and its checkpoints are gone: train it again, as a new run, with {command('train')}."
        return f"The run has no checkpoint yet: resume it with {command('train')} resume={self.path}."

    @property
    def page(self) -> Path:
        """The results as a page for a browser."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def finished(self) -> bool:
        """Whether the run has a summary. A damaged one counts as missing, so that it is made again."""
        try:
            self.read_summary()
        except CheckpointError:
            return False
        return True

    def read_summary(self) -> dict[str, Any]:
        """Read the summary; CheckpointError where it is missing or damaged."""
        try:
            content = json.loads(self.summary.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not content:
                raise ValueError("it holds no results")
            if content.pop("digest", None) not in (None, summary_digest(content)):  # earlier versions wrote none
                raise ValueError("it was changed after it was written")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.summary} is missing or damaged. Resume the run, which writes it.") from error
        return content

    def read_settings(self) -> dict[str, Any]:
        """The settings in config.yaml as they stand there, neither resolved nor checked; empty where they cannot be read."""
        try:
            content = yaml.load(self.config.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}

    def follow(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """Have `tell` called with the summary of the run, once, before it is written. Loggers end their part of a run so."""
        _followed_by.setdefault(self.path.resolve(), []).append(tell)

    def unfollow(self) -> None:
        """Forget who waits for the summary, as a run that has failed writes none."""
        _followed_by.pop(self.path.resolve(), None)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Tell those who wait for it the summary, and write it, with a digest by which damage is noticed."""
        for tell in _followed_by.pop(self.path.resolve(), ()):
            tell(summary)
        write_json(self.summary, {**summary, "digest": summary_digest(summary)})

    @staticmethod
    def check_name(name: str) -> None:
        """Raise SettingError for a name that is not a path below runs/ or is reserved there."""
        path = Path(name)
        hidden = any(part.startswith(".") for part in path.parts)  # as runs/.jobs, which is not the user's
        if not path.parts or path.is_absolute() or hidden or not name.isprintable() or {LATEST, ANALYSIS} & set(path.parts):
            raise SettingError(f"name={name!r} cannot be a folder under runs/; use one such as name=first or name=a/b.")

    @classmethod
    def create(cls, runs: Path, name: str) -> RunFolder:
        """Make a new folder, with a number appended if the name is taken, and point `runs/latest` to it.

        Raises: SettingError for a name that cannot be used, or where the folder cannot be made.
        """
        cls.check_name(name)
        try:
            runs.mkdir(parents=True, exist_ok=True)
            for k in range(1, 10_000):
                folder = runs / (name if k == 1 else f"{name}-{k}")
                try:
                    folder.mkdir(parents=True)
                    break
                except FileExistsError:
                    continue
            else:
                raise SettingError(f"name={name}: there are already 10,000 runs of that name under {runs}.")
            latest = runs / LATEST
            part = runs / f".latest.{os.getpid()}"
            part.unlink(missing_ok=True)
            try:
                part.symlink_to(os.path.relpath(folder, runs))
                part.replace(latest)
            except OSError:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
                    folder.rmdir()  # else the run, begun again, would get a number
                raise
        except OSError as error:
            raise storage_error(runs / name, error) from error
        return cls(folder)

    @classmethod
    def find(cls, runs: Path, which: str) -> RunFolder:
        """Find a run by "latest", a name under runs/ or a path; CheckpointError where there is none."""
        for folder in (Path(which).expanduser(), runs / which):
            if (folder / "config.yaml").is_file():
                return cls(folder.resolve())
        configs = sorted(runs.glob("**/config.yaml"), key=lambda file: file.stat().st_mtime)
        folders = [config.parent.relative_to(runs) for config in configs]
        names = [str(folder) for folder in folders if folder.parts[:1] != (LATEST,)]
        hint = f"The newest there: {', '.join(names[-5:])}." if names else f"Make one with {command('train')}."
        where = Path(which).expanduser() if Path(which).expanduser().is_dir() else runs / which
        raise CheckpointError(f"{which!r} is not a run: there is no {where / 'config.yaml'}. {hint}")


def summary_digest(summary: Mapping[str, Any]) -> str:
    """A hash of what a summary says, apart from durations, so that a run that is repeated has the same."""
    return json_digest({key: value for key, value in summary.items() if key not in ("seconds", "ensemble")})


def runs_below(folder: Path, seen: set[Path]) -> Iterator[RunFolder]:
    """The run folders at and below a folder that are not in `seen`, which is updated.

    Calibrations, `latest`, hidden folders, earlier comparisons and the subfolders of a run are excluded.

    Raises: SettingError where a folder cannot be read.
    """
    if folder.resolve() in seen:
        return  # the folder was named twice, or a link leads back to it
    seen.add(folder.resolve())
    run = RunFolder(folder)
    excluded = {LATEST, ANALYSIS}
    if run.config.is_file():
        excluded |= {"evaluation", run.checkpoints.name, run.figures.name}
        if not (folder / "calibration.json").exists():
            yield run
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise SettingError(f"{folder} cannot be read ({error.strerror}). Name folders that can.") from error
    for child in children:
        if child.name not in excluded and not child.name.startswith("."):
            yield from runs_below(child, seen)


def find_runs(runs: Path, name: str) -> Path:
    """A folder of runs that a user named: a path, or a name under runs/. SettingError where there is none."""
    for folder in (Path(name).expanduser(), runs / name):
        if folder.is_dir():
            return folder
    folders = [child for child in runs.iterdir() if child.is_dir()] if runs.is_dir() else []
    there = sorted(child.name for child in folders if not child.name.startswith("."))
    hint = f"There are {', '.join(there[:10])}." if there else f"A sweep makes some: {command('train')} -m sweep=NAME."
    raise SettingError(f"{name!r} is not a folder of runs: there is no {runs / name}. {hint}")
