"""An extension of griffe: the docstrings of the package in the form that its parser of Google's style takes.

A section of one paragraph (`Raises: SettingError for …`, `Returns: …`, `Reference: …`) becomes a paragraph with a bold head.
Names that share a description (`loc, scale: …`) or a line (`n: …. batch: …`) become entries of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Extension

HEAD = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Shapes|Reference):(?: (.*))?")

NAMES = re.compile(r"(?:^|(?<=[.;] ))(\**\w+(?:, \**\w+)*): ", re.MULTILINE)
"""The names before a description, at the start of a line or after a sentence."""


class Docstrings(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if not obj.is_class:
            adapt(obj)

    def on_class_members(self, *, cls: Any, **_: Any) -> None:  # whose parameters are known only now
        adapt(cls)


def adapt(obj: Any) -> None:
    """Rewrite the docstring of a module, class, function or attribute."""
    if not obj.is_alias and obj.docstring is not None:
        parameters = {parameter.name for parameter in getattr(obj, "parameters", ())}
        obj.docstring.value = "\n".join(rewrite(obj.docstring.value.splitlines(), parameters | set(obj.members)))


def rewrite(lines: list[str], names: set[str]) -> Iterator[str]:
    """The lines of a docstring; `names` are the parameters and members of what it describes."""
    while lines:
        line, *lines = lines
        head = HEAD.fullmatch(line)
        if head is None:
            yield escape(line)
            continue
        section, text = head.groups()
        # A paragraph ends at an empty line, a list of entries at one that is not indented.
        ends = (k for k, other in enumerate(lines) if not other.strip() or (text is None and not other.startswith(" ")))
        n = next(ends, len(lines))
        block, lines = lines[:n], lines[n:]
        if text is not None:
            yield from ("", f"**{section}:** " + escape(" ".join([text, *(other.strip() for other in block)])), "")
        elif section not in ("Args", "Attributes"):
            yield from (line, *map(escape, block))
        else:
            yield from ("", line, *(f"    {entry}" for entry in entries("\n".join(other[4:] for other in block), names)), "")


def entries(text: str, names: set[str]) -> Iterator[str]:
    """`name: description` for every name that a block describes. After a sentence only known names begin a description."""
    if NAMES.match(text) is None:
        raise ValueError(f"A list of parameters or attributes begins with `name: description`, not with {text[:60]!r}.")
    heads = [
        head
        for head in NAMES.finditer(text)
        if text[: head.start()][-1:] in ("", "\n") or names.issuperset(head[1].split(", "))
    ]
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        description = " ".join(text[head.end() : after.start() if after else None].split())
        yield from (f"{name}: {escape(description)}" for name in head[1].split(", "))


def escape(line: str) -> str:
    """A line in which (B, *shape) and <name> are no marks of Markdown; *a* word may be emphasised, and code stays as it is."""
    if line.startswith("    "):
        return line
    parts = re.split(r"(`[^`]*`|\*\w+\*)", line)
    return "".join(part if k % 2 else part.replace("*", r"\*").replace("<", "&lt;") for k, part in enumerate(parts))
