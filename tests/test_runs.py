"""What a run writes: whole files, one owner of a folder, the table of metrics, and what loggers are told."""

from __future__ import annotations

import csv
import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import files
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from lagvae.errors import CheckpointError, OwnedError, SettingError
from lagvae.io import (
    bytes_digest,
    check_archive,
    check_writable,
    file_digest,
    json_digest,
    owned,
    sync,
    wait_for_owner,
    write_atomically,
    write_json,
)
from lagvae.runs import wandb_logger
from lagvae.runs.layout import RunFolder
from lagvae.runs.loggers import close, log_picture
from lagvae.runs.metrics_table import COLUMNS, MetricsTable, read_rows, read_series
from lagvae.runs.wandb_logger import answers, has_key


def full_disk(part: Path) -> None:
    part.write_text("half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped(part: Path) -> None:
    part.write_text("half of it")
    raise KeyboardInterrupt


# ---- writing


def test_a_file_is_written_with_its_parent_folders(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "c.txt", lambda part: part.write_text("whole") and None)
    assert files(tmp_path) == {"a/b/c.txt"}
    assert (tmp_path / "a/b/c.txt").read_text() == "whole"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_a_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_a_file_is_on_the_disk_before_it_replaces_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a.txt", []
    path.write_text("old")

    def fsync(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")) if Path("/proc/self/fd").is_dir() else path
        seen.append((name.name.startswith(".a.txt"), path.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, lambda part: part.write_text("new") and None)
    assert seen == [(True, "old"), (False, "new")], "the file itself, then the folder's entry for it"


def test_no_file_stays_open(tmp_path: Path) -> None:
    """A process may open some thousand files; the lowest number that is free is the next to be given."""

    def free() -> int:
        handle = os.open(os.devnull, os.O_RDONLY)
        os.close(handle)
        return handle

    before = free()
    write_json(tmp_path / "a.json", {})
    assert free() <= before  # lower where something from before was closed meanwhile


@pytest.mark.parametrize(("write", "error"), [(full_disk, SettingError), (stopped, KeyboardInterrupt)])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, write: Callable[[Path], None], error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_atomically(path, write)
    assert files(tmp_path) == {"a.txt"}
    assert path.read_text() == "old"


def test_a_reader_never_sees_an_incomplete_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = []

    def write(part: Path) -> None:
        part.write_text("n")
        seen.append(path.read_text())
        part.write_text("new")
        seen.append(path.read_text())

    write_atomically(path, write)
    assert [*seen, path.read_text()] == ["old", "old", "new"]


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"disk is full: .*/a\.txt could not be written\. Free some space"):
        write_atomically(tmp_path / "a.txt", full_disk)


@pytest.mark.parametrize("free", [0, 10_000_000, 20_000_000, 2**40])
def test_a_failure_of_torchs_writer_is_a_full_disk_only_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**41, 2**41 - free, free))

    def write(part: Path) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    full = free < 2**24
    with pytest.raises(SettingError if full else RuntimeError, match="disk is full" if full else "Pytorch"):
        write_atomically(tmp_path / "theta.pt", write)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("limit", [600, 9000])
def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path, limit: int) -> None:
    """torch's writer only says that it failed."""
    (tmp_path / "theta.pt").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(SettingError, match=r"so large here \(see ulimit -f\): .*theta\.pt could not be written\. Raise"):
            write_atomically(tmp_path / "theta.pt", lambda part: torch.save({"x": torch.zeros(10_000)}, part))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path) == {"theta.pt"}
    assert (tmp_path / "theta.pt").read_text() == "old"


def test_ctrl_c_while_torch_writes_is_ctrl_c(tmp_path: Path) -> None:
    class Interrupted:
        left = 2

        def write(self, data: bytes) -> int:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return len(data)

        def flush(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "theta.pt", lambda part: torch.save({"a": torch.zeros(1000)}, Interrupted()))  # type: ignore[arg-type]
    assert files(tmp_path) == set()


def test_a_folder_in_place_of_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(SettingError, match=r"/summary\.json is a folder where a file should be\. Remove it\."):
        write_json(tmp_path / "summary.json", {})


def test_a_file_in_place_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(SettingError, match=rf"{tmp_path}/runs is a file, not a folder\). Set paths\.root"):
        write_atomically(tmp_path / "runs" / "a" / "b.txt", stopped)
    with pytest.raises(SettingError, match=rf"{tmp_path}/runs is a file, not a folder"):
        RunFolder.create(tmp_path / "runs", "a")
    with pytest.raises(SettingError, match=rf"{tmp_path}/runs is a file, not a folder"):
        check_writable(tmp_path / "runs")


def test_a_folder_that_cannot_be_written_is_reported_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "runs" / "deep")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingError, match=rf"{tmp_path} is not writable"):
        check_writable(tmp_path / "runs")


def test_json_contains_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": nan, "b": [inf, 1.5, (2, "λ")], 3: {"c": -inf, "d": None}})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [None, 1.5, [2, "λ"]], "3": {"c": None, "d": None}}
    assert "λ" in text


def test_digests_of_a_content_are_those_of_the_runs_that_there_are(tmp_path: Path) -> None:
    """Calibrations and checkpoints are found by them: they must never change. 16 digits of SHA-256."""
    assert bytes_digest(b"abc") == "ba7816bf8f01cfea", "the published digest of this text"
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == bytes_digest(b"abc")
    text = '{"a": [1, null], "λ": 0.5}'
    for content in ({"a": (1, nan), "λ": 0.5}, {"λ": 0.5, "a": [1, None]}):
        assert json_digest(content) == bytes_digest(text.encode()), "whatever the order of the keys"


def test_json_is_indented_by_two_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"λ": 2}})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": {\n    "λ": 2\n  }\n}\n'


def test_an_archive_whose_bytes_have_changed_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, file := tmp_path / "a.pt")
    check_archive(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="has another checksum than when it was written"):
        check_archive(file)


@pytest.mark.parametrize(("number", "told"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_only_a_file_system_that_cannot_tell_need_not_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: bool
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output") if told else nullcontext():
        sync(tmp_path)


# ---- owning


HOLD = """
import sys, time, pathlib, lagvae.io
with lagvae.io.owned(pathlib.Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_owner_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "has it\n"
            who = f"process {other.pid} on {socket.gethostname()}, since 20"
            with pytest.raises(OwnedError, match=rf"{tmp_path} belongs to {who}"), owned(tmp_path):
                pass
            owners = []

            def kill(owner: str) -> None:
                owners.append(owner)
                other.kill()

            with owned(tmp_path, waiting=kill), pytest.raises(OwnedError, match=f"process {os.getpid()} on"), owned(tmp_path):
                pass
        finally:
            other.kill()
    assert owners[0].startswith(who)
    assert files(tmp_path) == set()


def test_a_disk_that_has_become_read_only_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of the owner then cannot be removed, and the folder is free again."""

    def read_only(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def fail() -> None:
        with owned(tmp_path):
            monkeypatch.setattr(Path, "unlink", read_only)
            raise SettingError("first")

    with pytest.raises(SettingError, match="first"):
        fail()
    monkeypatch.undo()
    with owned(tmp_path):
        pass


def test_nobody_is_waited_for_where_a_folder_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that is mounted for reading only."""

    def refuse(self: Any, timeout: float) -> None:
        raise PermissionError("read-only file system")

    (tmp_path / "lock").touch()
    monkeypatch.setattr("lagvae.io.FileLock.acquire", refuse)
    assert not wait_for_owner(tmp_path, lambda owner: pytest.fail(f"waits for {owner}"))


def test_who_waits_for_a_folder_is_told_of_its_owner_and_does_not_keep_it(tmp_path: Path) -> None:
    told: list[str] = []
    assert not wait_for_owner(tmp_path, told.append), "nobody has owned it"
    with owned(tmp_path):
        pass
    assert not wait_for_owner(tmp_path, told.append), "it is free again"
    assert told == []
    lock = FileLock(tmp_path / "lock")
    lock.acquire()

    def release(owner: str) -> None:
        told.append(owner)
        lock.release()

    assert wait_for_owner(tmp_path, release)
    assert len(told) == 1
    with owned(tmp_path):
        pass


def test_what_a_killed_process_left_half_written_is_removed_by_the_next_owner(tmp_path: Path) -> None:
    kept, left = {"config.yaml", ".mine", "checkpoints/last.ckpt", "evaluation/summary.json"}, []
    for name in kept:
        write_atomically(tmp_path / name, lambda part: left.append(part))
    for part in left:
        part.touch()
    with owned(tmp_path / "evaluation"):
        left = [part for part in left if not part.exists()]
        assert [part.parent.name for part in left] == ["evaluation"]
        part = left[0]
        part.touch()
        with owned(tmp_path):
            there = {file for file in files(tmp_path) if not file.endswith(".owner.json")}
    assert there == kept | {f"evaluation/{part.name}"}, "that folder has another owner"


# ---- the table of metrics


def table(path: Path, *rows: tuple[int, str, float], per_epoch: int = 10) -> MetricsTable:
    logger = MetricsTable(path, per_epoch)
    for step, name, value in rows:
        logger.log_metrics({name: value}, step)
    return logger


def test_rows_are_step_epoch_split_name_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = table(path, (5, "train/rate", 0.1 + 0.2), (20, "val/multiplier/mmd", nan))
    logger.log_metrics({"train/rate": torch.tensor(2.5)})  # type: ignore[dict-item]
    assert not path.exists()
    logger.save()
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(COLUMNS),
        ["5", "0.5", "train", "rate", "0.30000000000000004"],
        ["20", "2", "val", "multiplier/mmd", "nan"],
        ["0", "0", "train", "rate", "2.5"],
    ]


def test_saving_appends_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = table(path, (1, "train/a", 1.0))
    logger.save()
    logger.save()
    logger.log_metrics({"train/a": 2.0}, 2)
    logger.finalize("success")
    other = table(path, (3, "train/a", 3.0))
    other.save()
    assert read_series(path, "train", ["a", "b"]) == {"a": ([1, 2, 3], [1.0, 2.0, 3.0]), "b": ([], [])}
    assert path.read_text().count("step") == 1


def test_cut_drops_rows_after_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = table(path, *((step, "train/a", float(step)) for step in (10, 20, 30, 40)))
    logger.cut(20)  # there is no file yet
    logger.save()
    logger.cut(20)
    assert [row["step"] for row in read_rows(path)] == ["10", "20"]
    logger.log_metrics({"train/a": 25.0}, 25)
    logger.save()
    assert read_series(path, "train", ["a"])["a"] == ([10, 20, 25], [10.0, 20.0, 25.0])
    logger.cut(0)
    assert path.read_text().strip() == ",".join(COLUMNS)


def test_cut_drops_rows_that_are_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = table(path, (10, "train/a", 1.0), (10, "val/a", 2.0), (20, "train/a", 3.0))
    logger.save()
    written, text = logger.digest(), path.read_text()
    path.write_text(text + "".join(text.splitlines(keepends=True)[1:]))
    assert logger.digest() != written
    logger.cut(20)
    assert logger.digest() == written


def test_a_table_that_vanishes_after_a_cut_is_not_begun_anew(tmp_path: Path) -> None:
    """What is kept of the run that is resumed would be lost."""
    path = tmp_path / "metrics.csv"
    table(path, (10, "train/a", 1.0)).save()
    resumed = table(path, (20, "train/a", 2.0))
    resumed.cut(10)
    path.unlink()
    with pytest.raises(CheckpointError, match="has vanished"):
        resumed.save()


DAMAGED = [
    *("30,3,train,a", "30,3", "30", "x30,3,train,a,1.0", "30,3,train,a,many", "30,3,train,a,1.0,1.0"),
    *("\0\0\0", '"' + 2**18 * "a"),
]


@pytest.mark.parametrize("lost", DAMAGED)
def test_an_incomplete_row_is_left_out(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "metrics.csv"
    table(path, (10, "train/a", 1.0), (20, "train/a", 2.0)).save()
    with path.open("a") as file:
        file.write(lost)
    assert [row["step"] for row in read_rows(path)] == ["10", "20"]
    table(path).cut(20)
    assert [row["step"] for row in read_rows(path)] == ["10", "20"]


def test_a_table_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read \(Is a directory\)"):
        read_rows(tmp_path)
    (tmp_path / "metrics.csv").write_bytes(b"\xff\x00 noise" * 99)
    assert read_rows(tmp_path / "metrics.csv") == []


def test_a_table_that_has_vanished_is_not_begun_anew(tmp_path: Path) -> None:
    logger = table(tmp_path / "metrics.csv", (10, "train/a", 1.0))
    logger.save()
    logger.path.unlink()
    logger.log_metrics({"train/a": 2.0}, 20)
    with pytest.raises(CheckpointError, match=r"metrics\.csv has vanished while the run wrote it"):
        logger.save()


def test_a_table_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.mkdir()
    with pytest.raises(SettingError, match=r"metrics\.csv is a folder where a file should be"):
        table(path, (1, "train/a", 1.0)).save()


# ---- loggers


def test_a_login_of_wandb_is_a_key_or_an_entry_of_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not has_key()
    (tmp_path / ".netrc").touch(0o600)
    for text, found in {"machine elsewhere login a password b": False, "machine api.wandb.ai login a password b": True}.items():
        (tmp_path / ".netrc").write_text(text)
        assert has_key() == found
    (tmp_path / ".netrc").write_text("damaged")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0")
    assert has_key()


def test_a_server_that_does_not_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes the connection, and says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        assert not answers(url, patience=0.2)
        assert time.monotonic() - started < 5
    assert not answers(url, patience=5.0), "nobody listens there now"


def test_a_server_that_refuses_has_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")
            connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        assert answers(f"http://127.0.0.1:{server.getsockname()[1]}", patience=20.0)


@pytest.mark.parametrize("there", [True, False])
def test_a_command_asks_the_server_of_wandb_once(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    asked: list[str] = []
    monkeypatch.setattr(wandb_logger, "answers", lambda url: asked.append(url) or there)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0")
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")
    monkeypatch.setenv(wandb_logger.WANDB_ANSWER, "anothermachine online")
    assert {wandb_logger.wandb_mode() for _ in range(3)} == {"online" if there else "offline"}
    assert asked == ["http://wandb.invalid"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger.wandb_mode() == "disabled"


def test_a_resumed_run_has_one_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    monkeypatch.setattr(wandb_logger, "RunWandbLogger", lambda run, config, **settings: given.append(settings))
    for name in ("a", "a", "b"):
        wandb_logger.build_wandb_logger(RunFolder(tmp_path / name), {}, "offline")
    first, again, other = (settings["id"] for settings in given)
    assert first == again != other
    assert {settings["resume"] for settings in given} == {"allow"}
    wandb_logger.build_wandb_logger(RunFolder(tmp_path / "a"), {}, "offline", id="mine")
    assert given[-1]["id"] == "mine"


def test_tensorboard_gets_the_pictures_of_a_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pixels = torch.arange(4 * 5 * 3, dtype=torch.uint8).view(4, 5, 3).numpy()
    Image.fromarray(pixels).save(tmp_path / "samples.png")
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    log_picture(logger, tmp_path / "samples.png")
    close(logger)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("figures/samples")
    assert np.array_equal(np.asarray(Image.open(BytesIO(image.encoded_image_string))), pixels)
