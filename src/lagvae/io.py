"""Write files atomically, so that a reader never sees a partial one, and report folders that cannot be written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lagvae.errors import SettingError

CURE = "Set paths.root to a writable folder."
"""What to do where a folder cannot be written, unless the caller knows better."""

ALMOST_FULL = 2**24
"""If a writer fails without a stated reason and fewer bytes than this are free, the disk is assumed to be full."""


def write_atomically(path: Path, write: Callable[[Path], None], cure: str = CURE) -> None:
    """Let `write` create a temporary file in the folder of `path`, then move it to `path` atomically.

    Args:
        cure: what the error says to do where the folder cannot be written.

    Raises:
        SettingError: if the folder cannot be written or the disk is full.
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
        except RuntimeError as error:  # torch's file writer reports a full disk, and an interruption, as a RuntimeError
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            if shutil.disk_usage(part.parent).free < ALMOST_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error, cure) from error


def storage_error(path: Path, error: OSError, cure: str = CURE) -> SettingError:
    """The error for the user when `path` cannot be written."""
    if error.errno == errno.ENOSPC:
        return SettingError(f"The disk is full: {path} could not be written. Free some space; a stopped run can be resumed.")
    files = [parent for parent in path.parents if os.path.isfile(parent)]
    reason = f"{files[0]} is a file, not a folder" if files else error.strerror or error
    return SettingError(f"{path} cannot be written ({reason}). {cure}")


def check_writable(folder: Path, cure: str = CURE) -> None:
    """Raise SettingError if a folder cannot be created or written to. The folder is not created."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise storage_error(folder / "NAME", OSError(errno.EACCES, f"{existing} is not writable"), cure)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically. NaN and infinite numbers become null."""

    def to_json(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {str(k): to_json(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [to_json(v) for v in value]
        return value

    text = json.dumps(to_json(content), indent=2, ensure_ascii=False) + "\n"

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_atomically(path, write)
