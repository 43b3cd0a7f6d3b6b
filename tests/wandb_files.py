"""What a W&B run has written without a server, read back from its files."""

from __future__ import annotations

import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from wandb.proto.wandb_internal_pb2 import Record


@dataclass
class Offline:
    """What a W&B run has written without a server.

    Attributes:
        run: its record. rows: those of the history, key → value. summary: key → value. metrics: key → its options.
        artifacts: those it logged. changes: of the config, after the run had begun. files: the folder of its media.
    """

    run: Any = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    exit: int | None = None
    files: Path = Path()

    @property
    def history(self) -> dict[str, list[Any]]:
        """Key → values."""
        found = defaultdict(list)
        for row in self.rows:
            for key, value in row.items():
                found[key].append(value)
        return found

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update if item.key != "_wandb"}


def core() -> psutil.Process:
    """The process of W&B that this one has started."""
    (found,) = (child for child in psutil.Process().children() if "wandb-core" in child.name())
    return found


def kill_core() -> None:
    """Kill the process of W&B that this one has started, as the system does where memory is short."""
    process = core()
    process.kill()
    process.wait()


def records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file, which are parted as those of LevelDB's logs are."""
    data, at, body = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        body += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(body)
            yield record
            body = b""


def add(to: dict[str, Any], item: Any) -> None:
    """Put a value where its nested key leads; what is no number in JSON is null there."""
    *path, last = item.nested_key or [item.key]
    for part in path:
        to = to.setdefault(part, {})
    to[last] = json.loads(item.value_json)


def read_offline(run: Path) -> Offline:
    """What the only W&B run in a run's folder has written, which W&B does shortly after the run has ended."""
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    for _ in range(300):
        if (found := read_file(file)).exit is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def read_file(file: Path) -> Offline:
    found = Offline(files=file.parent / "files")
    for record in records(file):
        match record.WhichOneof("record_type"):
            case "run":
                found.run = record.run
            case "history":
                row: dict[str, Any] = {}
                for item in record.history.item:
                    add(row, item)
                found.rows.append(row)
            case "summary":
                for item in record.summary.update:
                    add(found.summary, item)
            case "config":
                for item in record.config.update:
                    add(found.changes, item)
            case "metric":
                found.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "artifact":
                found.artifacts.append(record.artifact)
            case "exit":
                found.exit = record.exit.exit_code
    return found
