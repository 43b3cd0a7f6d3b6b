"""Write files atomically, own folders, check what is read, and report folders that cannot be written."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock, Timeout

from lagvae.errors import OwnedError, SettingError

CURE = "Set paths.root to a writable folder."
"""What to do where a folder cannot be written, unless the caller knows better."""

ALMOST_FULL = 2**24
"""If a writer fails without a stated reason and fewer bytes than this are free, the disk is assumed to be full."""


MOMENT = 0.2
"""Seconds for which another process may have a folder without being its owner, as one does that looks whether it has one."""

MORE = 2**16
"""Bytes by which a file can grow where neither a limit nor a quota forbids it."""

NO_SPACE = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The quota of the disk is used up",
    errno.EFBIG: "Files may not become so large here (see ulimit -f)",
}
"""Errors of the operating system that a user ends by making room."""


def write_atomically(path: Path, write: Callable[[Path], None], cure: str = CURE) -> None:
    """Let `write` create a temporary file in the folder of `path`, then move it to `path` atomically.

    Args:
        cure: what the error says to do where the folder cannot be written.

    Raises:
        SettingError: if the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{token_hex(4)}{path.suffix}")
        part.touch(exist_ok=False)
        try:
            write(part)
            sync(part)
            part.replace(path)
            sync(path.parent)
        except RuntimeError as error:  # torch's file writer reports a full disk, and an interruption, as a RuntimeError
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            if (reason := why_not_longer(part)) is not None:
                raise reason from error
            raise
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error, cure) from error


def why_not_longer(part: Path) -> OSError | None:
    """The error of the operating system for a file of which a writer says only that it failed; None where it may grow."""
    if shutil.disk_usage(part.parent).free < ALMOST_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        with part.open("ab") as file:
            file.write(bytes(MORE))
    except OSError as error:
        return error
    return None


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk, where the file system can tell."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def storage_error(path: Path, error: OSError, cure: str = CURE) -> SettingError:
    """The error for the user when `path` cannot be written."""
    if error.errno in NO_SPACE:
        cure = "Raise the limit" if error.errno == errno.EFBIG else "Free some space"
        return SettingError(f"{NO_SPACE[error.errno]}: {path} could not be written. {cure}; a stopped run can be resumed.")
    if error.errno == errno.EISDIR:
        return SettingError(f"{path} is a folder where a file should be. Remove it.")
    files = [parent for parent in path.parents if os.path.isfile(parent)]
    reason = f"{files[0]} is a file, not a folder" if files else error.strerror or error
    if cure == CURE and (runs := [parent for parent in path.parents if (parent / "config.yaml").is_file()]):
        cure = f"Make {runs[-1]} writable, or copy it to a folder that is."  # what is there already stays in its place
    return SettingError(f"{path} cannot be written ({reason}). {cure}")


def check_writable(folder: Path, cure: str = CURE) -> None:
    """Raise SettingError if a folder cannot be created or written to. The folder is not created."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise storage_error(folder / "NAME", OSError(errno.EACCES, f"{existing} is not writable"), cure)


def wait_for_owner(folder: Path, waiting: Callable[[str], None]) -> bool:
    """Wait until no other process owns a folder. Returns whether one did. Nothing is written there.

    Args:
        waiting: called with the owner where there is one.
    """
    lock = FileLock(folder / "lock")
    if not Path(lock.lock_file).is_file():
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting(describe_owner(folder / ".owner.json"))
        lock.acquire()
        lock.release()
        return True
    except OSError:  # as in a folder that cannot be written
        return False
    lock.release()
    return False


@contextmanager
def owned(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Own a folder, which is made, while the block runs. If this process dies, on whatever node, the folder is free again.

    Args:
        waiting: called with the owner where there is another one, for whose end this process then waits.

    Raises:
        OwnedError: where another process owns the folder and there is no `waiting`.
    """
    note = folder / ".owner.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=MOMENT)
        except Timeout:
            owner = describe_owner(note)
            if waiting is None:
                raise OwnedError(f"{folder} belongs to {owner}. Wait until that has ended, or stop it.") from None
            waiting(owner)
            lock.acquire()
    except OSError as error:
        raise storage_error(folder / "lock", error) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        remove_leftovers(folder)
        write_json(note, {"host": socket.gethostname(), "pid": os.getpid(), "since": since})
        yield
    finally:
        with suppress(OSError):  # as on a disk that has become read-only, which is told by what failed to be written there
            note.unlink(missing_ok=True)
        lock.release()


LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")
"""The name of a temporary file of `write_atomically`."""


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process has not written to its end, in a folder that is owned and in those below it that are not."""
    for place in (folder, *(child for child in folder.iterdir() if child.is_dir() and not (child / "lock").exists())):
        for file in place.iterdir():
            if file.is_file() and LEFTOVER.fullmatch(file.name):
                file.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what a killed process has not written to its end in a folder of which no one needs to be the owner again."""
    if any(LEFTOVER.fullmatch(file.name) for file in folder.iterdir()):
        with suppress(OwnedError, SettingError), owned(folder):
            pass


def describe_owner(note: Path) -> str:
    """The process that owns a folder, as it says in its note there."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not yet written one
        return "another process"


def check_archive(path: Path) -> None:
    """Raise ValueError where a file that torch.save wrote does not have the checksums that it holds; torch ignores them."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} has another checksum than when it was written")


def file_digest(path: Path) -> str:
    """A hash of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def bytes_digest(content: bytes) -> str:
    """The `file_digest` of a file with this content."""
    return hashlib.sha256(content).hexdigest()[:16]


def json_values(value: Any) -> Any:
    """A value as JSON can hold it. NaN and infinite numbers become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): json_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(v) for v in value]
    return value


def json_digest(content: Mapping[str, Any]) -> str:
    """A hash of what JSON keeps of a content."""
    text = json.dumps(json_values(content), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically. NaN and infinite numbers become null."""
    write_text(path, json.dumps(json_values(content), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, write)
