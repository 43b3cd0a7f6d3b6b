"""The terminal: plain lines, errors, and numbers and paths as people read them."""

from __future__ import annotations

import gc
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lagvae.ranks import is_quiet

COMMAND = "LAGVAE_COMMAND"
"""The variable of the environment that says how the user starts `lagvae`; processes that it starts inherit it."""


def command(program: str) -> str:
    """What to type for a program: python src/train.py in a clone, unless the user started with the command; lagvae train."""
    if COMMAND not in os.environ and (Path(__file__).parents[1] / "train.py").is_file():
        return f"python src/{program}.py"
    return f"{os.environ.get(COMMAND, 'lagvae')} {program}"


_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """A context in which runs of this thread print nothing."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def is_silent() -> bool:
    """Whether another process prints for this one, or inside `silence`."""
    return _silent.get() or is_quiet()


def make_printable() -> None:
    """Replace the signs that the terminal cannot show, such as λ in ASCII, instead of failing at them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            with suppress(OSError):  # a stream that has become another one since it was opened
                stream.reconfigure(errors="replace")


FILE_WIDTH = 100
"""The width of tables where the output is no terminal, whose width is not known: neither a number nor a name is broken."""


def console(stderr: bool = False) -> Console:
    """The terminal; it prints nothing where `is_silent`."""
    found = Console(stderr=stderr, quiet=is_silent(), highlight=False, soft_wrap=True)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = FILE_WIDTH
    return found


def print_line(text: str) -> None:
    """A plain line."""
    console().print(text)


def print_error(text: str) -> None:
    """An error, on stderr."""
    console(stderr=True).print(f"[bold red]Error:[/] {escape(text)}")


def print_note(text: str) -> None:
    """Something that a user should look at, on stderr."""
    console(stderr=True).print(f"[bold]Note:[/] {escape(text)}")


def short_names(names: Sequence[str], room: int) -> tuple[list[str], str]:
    """Names for a column of `room` letters, and what was taken from both ends of all of them where one is longer.

    What is then still longer is cut in the middle, where runs are still told apart; else it stays, and takes two lines.

    Example:
        >>> short_names(["lagvae-q-1-gamma0.6-seed0", "lagvae-q1-gamma3-seed0"], 20)
        (['q-1-gamma0.6', 'q1-gamma3'], 'lagvae-…-seed0')
        >>> short_names(["infovae-q-1-neg_elbo0.3-mmd15"], 20)
        (['infovae-q-1….3-mmd15'], '')
    """
    words = [re.split(r"-(?!\d)", name) for name in names]  # a sign is part of a word, as in q-1 and 1e-05
    first = last = 0
    if len(names) > 1 and max(map(len, names)) > room:
        first = equal_words([of_name[:-1] for of_name in words])
        last = equal_words([of_name[:first:-1] for of_name in words])
    short = ["-".join(of_name[first : len(of_name) - last]) for of_name in words]
    room = max(room, 12)
    ends = 2 * room // 5
    cut = [name if len(name) <= room else f"{name[: room - ends - 1]}…{name[-ends:]}" for name in short]
    shared = "-".join([*words[0][:first], "…", *words[0][len(words[0]) - last :]]) if first or last else ""
    return cut if len(set(cut)) == len(set(short)) else short, shared


def equal_words(rows: Sequence[Sequence[str]]) -> int:
    """How many words all rows begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def format_number(value: float | None, nats: bool = True, stderr: float | None = None) -> str:
    """A number as people read it: nats with two decimals, others with three digits; ± its standard error."""
    if value is None or not isfinite(value):
        return "–"
    text = f"{value:.2f}" if nats else f"{value:.2e}"
    if stderr is not None and isfinite(stderr):
        text += f" ± {stderr:.2f}" if nats else f" ± {stderr:.0e}"
    return text


def format_duration(seconds: float) -> str:
    """Seconds as people say them.

    Examples:
        >>> format_duration(40), format_duration(600), format_duration(9000)
        ('40 s', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def goals_of(config: Mapping[str, Any]) -> list[str]:
    """What the settings of a run prefer, in their own words.

    Examples:
        >>> goals_of({"alpha": {"q": -1.0, "p": 0.0}})
        ['maximize I_q']
    """
    alpha = config.get("alpha") or {}
    return [f"{'maximize' if alpha[side] < 0 else 'minimize'} I_{side}" for side in ("q", "p") if alpha.get(side)]


def short_path(path: Path) -> str:
    """A path as short as can be from where the user stands."""
    relative = os.path.relpath(path)
    return escape(relative if not relative.startswith("..") else str(path))


def quiet_libraries() -> None:
    """Keep what Lightning and torch say about deliberate choices off the terminal, also when they are imported later."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        vars(logger)["setLevel"] = lambda level: None  # Lightning sets its own level when it is imported
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning\.")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import large libraries with the garbage collector off, which saves a third of the time; later it passes them over.

    Does nothing where torch, the largest, is there already, since what the program has made would be kept, too, or where the
    collector is off.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def plain_table(title: str, first: str) -> Table:
    """A table with a bold title, a line under its head and no frame; `first` is the head of its first column.

    Where it is too wide for the terminal the first column is broken into lines, since a number must be whole.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table
