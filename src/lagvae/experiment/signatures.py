"""What classes and functions take, and whether a value of a config fits."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Union

TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
"""Type → how messages name it."""


@cache
def signature(function: Any) -> tuple[Mapping[str, inspect.Parameter], Mapping[str, Any]]:
    """The parameters of a class or function, and the types of those that have one.

    Raises: ValueError for a function in C that does not say what it takes, such as torch.zeros.
    """
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):  # an annotation is imported for type checkers only, or a partial has none
        hints = {}
    return inspect.signature(function).parameters, hints


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a plain value of a config has the type of the annotation `hint`. True if that cannot be decided."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) or (isinstance(value, str) and value.startswith("${")):
        return True
    if origin in (Union, UnionType):
        return any(matches_type(value, option) for option in options)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(any(matches_type(v, option) for option in options) for v in value)
    if not isinstance(hint, type) or hint in (Any, object):
        return True
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def describe_type(hint: Any) -> str:
    """What a user may write as a value with the annotation `hint`."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple, Sequence):
        return f"a list, each {describe_type(options[0])}"
    if origin in (Union, UnionType):
        names = [describe_type(option) for option in options if option in TYPE_NAMES or option is type(None)]
        return " or ".join(names) or str(hint)
    if hint is type(None):
        return "null"
    return TYPE_NAMES.get(hint) or f"a config node with the _target_ of a {getattr(hint, '__name__', hint)}"
