"""metrics.csv: a long table of step, epoch, split, name and value, written by a Lightning logger."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from lagvae.errors import CheckpointError
from lagvae.io import bytes_digest, file_digest, storage_error, write_atomically

COLUMNS = ("step", "epoch", "split", "name", "value")


class MetricsTable(Logger):
    """A Lightning logger that appends rows (step, epoch, split, name, value) to metrics.csv.

    Names are given as "split/name"; those without a split are filed under "callback". Rows are saved before a checkpoint is.
    When a run is resumed, the rows after the step of its checkpoint are dropped and written again.

    Args:
        path: of metrics.csv.
        per_epoch: steps per epoch, by which the column "epoch" is computed.
    """

    def __init__(self, path: Path, per_epoch: int) -> None:
        super().__init__()
        self.path, self.per_epoch = path, per_epoch
        self._rows: list[tuple[int, str, str, str, str]] = []
        self._written = False

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        at_step = step or 0
        epoch = f"{at_step / self.per_epoch:.4g}"
        for key, value in metrics.items():
            split, slash, name = key.partition("/")
            if not slash:  # a callback such as LearningRateMonitor knows no splits
                split, name = "callback", key
            self._rows.append((at_step, epoch, split, name, repr(float(value))))

    def save(self) -> None:
        """Append the rows logged since the last call to the file. Raises CheckpointError where the file has vanished."""
        if not self._rows:
            return
        new = not self.path.exists()
        if new and self._written:
            raise CheckpointError(
                f"{self.path} has vanished while the run wrote it. Put its folder back and resume the run, or train it again."
            )
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                writer.writerows(self._rows)
                file.flush()
            self._written = True
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._rows.clear()

    def finalize(self, status: str) -> None:
        self.save()

    def forget(self) -> None:
        """Discard the rows logged since the last call of save."""
        self._rows.clear()

    def digest(self) -> str:
        """A hash of the file; empty where there is none."""
        return file_digest(self.path) if self.path.is_file() else ""

    def cut(self, step: int) -> None:
        """Remove all rows after a step, and rows that are there twice, before a run is resumed from there."""
        if not self.path.exists():
            return
        text = text_up_to(self.path, step)

        def write(part: Path) -> None:
            part.write_bytes(text)

        write_atomically(self.path, write)
        self._written = True


def text_up_to(path: Path, step: int) -> bytes:
    """The content of a metrics.csv without rows after a step, and without rows that are there twice."""
    of_name = {(row["step"], row["split"], row["name"]): row for row in reversed(read_rows(path))}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(row for row in reversed(of_name.values()) if int(row["step"]) <= step)
    return text.getvalue().encode()


def digest_up_to(path: Path, step: int) -> str:
    """`MetricsTable.digest` of a file after `MetricsTable.cut`, which it leaves as it is; empty where there is none."""
    return bytes_digest(text_up_to(path, step)) if path.exists() else ""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; those that an interrupted write, or damage, has left incomplete are left out.

    Raises: CheckpointError where it is no file that can be read.
    """
    rows: list[dict[str, str]] = []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
            for row in csv.DictReader(line.replace("\0", "") for line in file):
                if is_complete(row):
                    rows.append(row)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Remove it, or put back what it was.") from error
    return rows


def is_complete(row: Mapping[Any, Any]) -> bool:
    """Whether a row has all columns, no others, and numbers where these must be."""
    try:
        int(row["step"]), float(row["value"])
    except (KeyError, TypeError, ValueError):
        return False
    return set(row) == set(COLUMNS) and all(row[c] not in (None, "") for c in COLUMNS)


def read_series(path: Path, split: str, names: Iterable[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Name → (steps, values) on a split, in the order of the file."""
    wanted = set(names)
    series: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in wanted}
    for row in read_rows(path):
        if row["split"] == split and row["name"] in wanted:
            steps, values = series[row["name"]]
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return series
