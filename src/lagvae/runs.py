"""The run folder: what a run leaves behind, written so that a reader never sees half a file.

runs/<name>/config.yaml  metrics.csv  summary.json  checkpoints/  figures/
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from lagvae.errors import CheckpointError, SettingError

COLUMNS = ("step", "epoch", "split", "name", "value")
LATEST = "latest"
ALMOST_FULL = 2**24
"""Free bytes below which a writer that failed for no stated reason is taken to have met a full disk."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` make a file beside `path`, then move it there in one step.

    Raises: SettingError where the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        part = Path(name)
        try:
            write(part)
            part.chmod(0o644)
            part.replace(path)
        except RuntimeError as error:  # torch's file writer reports a full disk in its own way
            if shutil.disk_usage(part.parent).free < ALMOST_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> SettingError:
    """What to tell a user whose folder cannot be written."""
    if error.errno == errno.ENOSPC:
        return SettingError(f"The disk is full: {path} could not be written. Free some space; a stopped run can be resumed.")
    files = [parent for parent in path.parents if os.path.isfile(parent)]
    reason = f"{files[0]} is a file, not a folder" if files else error.strerror or error
    return SettingError(f"{path} cannot be written ({reason}). Set paths.root to a folder that can.")


def check_writable(folder: Path) -> None:
    """Raise SettingError where a folder could not be made or written to; it is not made."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise storage_error(folder / "NAME", OSError(errno.EACCES, f"{there} is not writable"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value

    text = json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n"

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, write)


class Run:
    """A run folder and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def config(self) -> Path:
        """The resolved config, enough to run again."""
        return self.folder / "config.yaml"

    @property
    def summary(self) -> Path:
        """What was reached; its presence says that the run finished."""
        return self.folder / "summary.json"

    @property
    def failure(self) -> Path:
        """Why the run failed, where it did; gone when it is tried again."""
        return self.folder / "failure.json"

    @property
    def metrics(self) -> Path:
        """Long table: step, epoch, split, name, value."""
        return self.folder / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def finished(self) -> bool:
        return self.summary.is_file()

    def read_summary(self) -> dict[str, Any]:
        """The summary; CheckpointError where it is missing or damaged."""
        try:
            content: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.summary} is missing or damaged: the run did not finish. Resume it.") from error
        return content

    @staticmethod
    def check_name(name: str) -> None:
        """Raise SettingError for a name that is no place below runs/, or is taken by what is kept there."""
        path = Path(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0] in (LATEST, ".multirun"):
            raise SettingError(f"name={name!r} cannot be a folder under runs/; use one such as name=first or name=a/b.")

    @classmethod
    def create(cls, runs: Path, name: str) -> Run:
        """Make a new folder; a name that is taken gets a number. `runs/latest` points at it from now on.

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
            part.symlink_to(os.path.relpath(folder, runs), target_is_directory=True)
            part.replace(latest)
        except OSError as error:
            raise storage_error(runs / name, error) from error
        return cls(folder)

    @classmethod
    def find(cls, runs: Path, which: str) -> Run:
        """The run that a user named: "latest", a name under runs/, or a path. CheckpointError where there is none."""
        for folder in (Path(which).expanduser(), runs / which):
            if (folder / "config.yaml").is_file():
                return cls(folder.resolve())
        configs = sorted(runs.glob("**/config.yaml"), key=lambda file: file.stat().st_mtime)
        folders = [config.parent.relative_to(runs) for config in configs]
        names = [str(folder) for folder in folders if folder.parts[:1] != (LATEST,)]
        hint = f"The newest there: {', '.join(names[-5:])}." if names else "Make one with python src/train.py."
        raise CheckpointError(f"{which!r} is no run: there is no {runs / which / 'config.yaml'}. {hint}")


class MetricsTable(Logger):
    """A Lightning logger that appends rows (step, epoch, split, name, value) to metrics.csv.

    Names are given as "split/name". What is not yet on disk when a run stops belongs to steps after its last
    checkpoint; resuming drops rows after that step and writes them again.
    """

    def __init__(self, path: Path, per_epoch: int) -> None:
        super().__init__()
        self.path, self.per_epoch = path, per_epoch
        self._rows: list[tuple[int, str, str, str, str]] = []

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        at = step or 0
        epoch = f"{at / self.per_epoch:.4g}"
        for key, value in metrics.items():
            split, _, name = key.partition("/")
            self._rows.append((at, epoch, split, name, repr(float(value))))

    def save(self) -> None:
        """Append what was logged since the last call."""
        if not self._rows:
            return
        new = not self.path.exists()
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                writer.writerows(self._rows)
                file.flush()
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._rows.clear()

    def finalize(self, status: str) -> None:
        self.save()

    def forget(self) -> None:
        """Drop what was logged since the last call of save."""
        self._rows.clear()

    def cut(self, step: int) -> None:
        """Drop all rows after a step, before a run goes on from there."""
        if not self.path.exists():
            return
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= step]

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.path, write)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; a row that a kill cut short is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row.get(c) not in (None, "") for c in COLUMNS)]


def read_series(path: Path, split: str, names: Iterable[str]) -> dict[str, tuple[list[int], list[float]]]:
    """name → (steps, values) of a split, in the order of the file."""
    wanted = set(names)
    series: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in wanted}
    for row in read_rows(path):
        if row["split"] == split and row["name"] in wanted:
            steps, values = series[row["name"]]
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return series
