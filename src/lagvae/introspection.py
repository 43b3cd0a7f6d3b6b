"""Helpers that tell whether a part is of this package or of a user, name it, and find its device and its mode."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


def class_of(part: Any) -> Any:
    """The class of a module, or the class or function itself, also where a partial holds it."""
    part = getattr(part, "func", part)
    return type(part) if isinstance(part, nn.Module) else part


def is_of_lagvae(part: Any) -> bool:
    """Whether a module, class, function or partial is of this package."""
    return str(getattr(class_of(part), "__module__", "")).split(".")[0] == "lagvae"


def draws_by_itself(module: nn.Module) -> bool:
    """Whether a module may draw from torch's own generators: it has dropout, or code that is neither of torch nor of lagvae."""
    return any(
        isinstance(part, nn.modules.dropout._DropoutNd)
        or not (is_of_lagvae(part) or type(part).__module__.startswith("torch."))
        for part in module.modules()
    )


def full_name(part: Any) -> str:
    """The module and name of a class or function, or of the class of a module."""
    cls = class_of(part)
    return f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', repr(cls))}"


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in eval mode and without gradients; afterwards each part is in its mode from before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def device_of(module: nn.Module) -> torch.device:
    """The device of the parameters and buffers of a module."""
    return next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def first_line(error: BaseException) -> str:
    """The first line of an error, with its kind, and the line of code that is neither of a package nor of lagvae."""
    text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.:')}"
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if is_file_of_user(frame.filename)]
    return f"{text} ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else text


def is_file_of_user(name: str) -> bool:
    """Whether a file of Python code is a user's: neither of lagvae, nor of an installed package, nor of Python itself."""
    path, others = Path(name), (Path(__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    return path.is_file() and not any(path.is_relative_to(other) for other in others)
