"""Parse objectives in mathematical notation, such as "-I_q + KL(q(x|z)||p(x|z)) + 2*JS(q(z)||p(z))".

    I_q, I_p                       mutual information of x and z under q(x,z) and p(x,z)
    H_q(x), H_p(z|x)               entropies
    KL(q(z|x)||p(z|x))             an expectation under the joint of the first argument: E_q(x) KL(q(z|x)‖p(z|x))
    E_q[log p(x|z) - 2 log p(z)]   expectations of sums of log densities, including logs of ratios and products of densities
    I(z;u), H(u|z)                 of an attribute u, as opaque symbols
    JS(q(z)||p(z)), W1(…), …       any other divergence, as an opaque symbol

Coefficients are written 2, 0.5 or 1/3, with or without *. The signs ‖, − and · may replace ||, - and *.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

from lagvae.algebra.objective import ZERO, Atom, Class, Objective, Opaque, single
from lagvae.errors import SettingError

NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

TOKEN = re.compile(rf"\s*({NUMBER.pattern}|[^\W\d]\w*|\|\||.)", re.DOTALL)

SPELLING = str.maketrans({"‖": "||", "−": "-", "–": "-", "·": "*", "×": "*", "∥": "||"})

VARIABLES = ("x", "z")

MARKS = ("||", ",", ";")
"""Separators of the two arguments of a divergence."""


@dataclass(frozen=True)
class Density:
    """The density of the variables `over` given the variables `given` under the joint `joint`, which is "q" or "p"."""

    joint: str
    over: tuple[str, ...]
    given: tuple[str, ...] = ()

    def log(self, side: str) -> Objective:
        """E_side of its log. A conditional density is the ratio of a joint and a marginal density."""
        variables = ",".join(sorted(self.over + self.given))
        found = single(Atom(side, self.joint, variables))
        return found - single(Atom(side, self.joint, self.given[0])) if self.given else found

    def __str__(self) -> str:
        return f"{self.joint}({','.join(self.over)}{'|' if self.given else ''}{','.join(self.given)})"


def parse(text: str, name: str = "objective") -> Objective:
    """Parse an objective.

    Args:
        text: the objective in the notation above.
        name: the setting that the text comes from, for error messages.

    Raises: SettingError that shows the position at which the text cannot be parsed.

    Examples:
        >>> bool(parse("-I_q + KL(q(x|z)||p(x|z))") - parse("-E_q[log p(x|z)]"))  # equal up to constants
        False
        >>> parse("KL(q(z)||p(x))")
        Traceback (most recent call last):
        lagvae.errors.SettingError: ...
    """
    return _Reader(text, name).whole()


class _Reader:
    """A recursive descent parser. `side` is the joint, "q" or "p", of the expectation that contains the current token."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        plain = text.translate(SPELLING)
        self.tokens = [match.group(1) for match in TOKEN.finditer(plain) if match.group(1).strip()]
        self.at = 0

    def whole(self) -> Objective:
        found = self.sum(None)
        if self.next:
            self.fail(f"{self.next!r} is not expected here")
        return found

    # ---- tokens

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """Return the next token, which must be one of `wanted` if any are given, and advance."""
        token = self.next
        if wanted and token not in wanted:
            expected = " or ".join(repr(word) for word in wanted)
            self.fail(f"found {token!r} where {expected} is expected" if token else f"it ends where {expected} is expected")
        self.at += 1
        return token

    def fail(self, why: str) -> NoReturn:
        before, after = " ".join(self.tokens[: self.at]), " ".join(self.tokens[self.at :])
        raise SettingError(
            f"{self.name}={self.text!r} cannot be read: {why} ({before} ⟨here⟩ {after}). Write sums of I_q, I_p, H_q(x), "
            "KL(q(z)||p(z)), E_q[log p(x|z) - log p(z)], or another divergence such as JS(q(z)||p(z))."
        )

    # ---- sums and products

    def sum(self, side: str | None) -> Objective:
        found = self.sign() * self.product(side)
        while self.next in ("+", "-"):
            found += self.sign() * self.product(side)
        return found

    def sign(self) -> int:
        value = 1
        while self.next in ("+", "-"):
            value *= -1 if self.take() == "-" else 1
        return value

    def product(self, side: str | None) -> Objective:
        factor, found = Fraction(1), None
        while True:
            if NUMBER.fullmatch(self.next):
                factor *= self.coefficient()
            elif found is not None:
                self.fail("a product of two quantities; only numbers can be factors")
            else:
                found = self.quantity(side)
            if self.next == "*":
                self.take()
            elif found is not None or not self.next or self.next in "+-)]":
                break
        if found is None and factor:
            self.fail(f"the number {factor} is not the factor of a quantity; leave constants out, they change nothing")
        return factor * (ZERO if found is None else found)  # an objective that is a constant is falsy, but is not None

    def coefficient(self) -> Fraction:
        value = Fraction(self.take())
        if self.next == "/":
            self.take()
            if not NUMBER.fullmatch(self.next) or not Fraction(self.next):
                self.fail("a number other than 0 must follow the /")
            value /= Fraction(self.take())
        return value

    def quantity(self, side: str | None) -> Objective:
        token = self.next
        special: dict[str, Callable[[], Objective]] = {
            "(": lambda: self.bracketed("(", ")", side),
            "log": lambda: self.log(side),
            "I_q": lambda: self.information("q"),
            "I_p": lambda: self.information("p"),
            "H_q": lambda: self.entropy("q"),
            "H_p": lambda: self.entropy("p"),
            "E_q": lambda: self.expectation("q"),
            "E_p": lambda: self.expectation("p"),
            "I": lambda: self.of_attribute("I(z;u)"),
            "H": lambda: self.of_attribute("H(u|z)"),
        }
        if token != "(" and not token[:1].isalpha():
            self.fail(f"{token!r} is not a quantity" if token else "it ends where a quantity is expected")
        if token not in ("(", "log") and side is not None and token != "KL":
            self.fail(f"inside E_{side}[…] only logs of densities are allowed, not {token}")
        if token not in special:
            return self.divergence(side)
        if token != "(" and token != "log":
            self.take()
        return special[token]()

    def bracketed(self, left: str, right: str, side: str | None) -> Objective:
        self.take(left)
        found = self.sum(side)
        self.take(right)
        return found

    # ---- quantities

    def expectation(self, side: str) -> Objective:
        if self.next == "[":
            return self.bracketed("[", "]", side)
        if self.next in ("log", "KL"):
            return self.quantity(side)
        self.fail(f"E_{side} must be followed by a bracket, as in E_{side}[log p(x|z)]")

    def log(self, side: str | None) -> Objective:
        if side is None:
            self.fail("a log outside of an expectation; write E_q[log …] or E_p[log …]")
        self.take("log")
        found = self.density().log(side)
        while self.next in ("/", "q", "p"):
            sign = -1 if self.next == "/" else 1
            if sign < 0:
                self.take()
            found += sign * self.density().log(side)
        return found

    def information(self, joint: str) -> Objective:
        if self.next == "(":
            for token in ("(", "x", ";", "z", ")"):
                self.take(token)
        xz, x, z = (Density(joint, over).log(joint) for over in (("x", "z"), ("x",), ("z",)))
        return xz - x - z

    def of_attribute(self, text: str) -> Objective:
        for token in text[1:]:
            self.take(token)
        return single(Opaque(text, Class.UNARY))

    def entropy(self, joint: str) -> Objective:
        return -self.arguments(joint).log(joint)

    def divergence(self, side: str | None) -> Objective:
        name = self.take()
        self.take("(")
        first, marks = [self.density()], 0
        second: list[Density] = []
        while self.next != ")":
            if self.next in MARKS and not marks:
                marks += 1
                self.take()
            (second if marks else first).append(self.density())
        self.take(")")
        if name == "KL":
            return self.kl(first, second, side)
        arguments = "‖".join("".join(map(str, half)) for half in (first, second) if half)
        over = {v for density in first + second for v in density.over + density.given}
        return single(Opaque(f"{name}({arguments})", Class.BINARY if len(over) == 2 else Class.UNARY))

    def kl(self, first: list[Density], second: list[Density], side: str | None) -> Objective:
        if len(first) != 1 or not second:
            self.fail("a KL divergence has two arguments, as in KL(q(z)||p(z))")
        density = first[0]
        over = sorted(v for other in second for v in other.over)
        given = {v for other in second for v in other.given} - set(density.given)
        if over != sorted(density.over) or given:
            self.fail(f"KL({density}||{''.join(map(str, second))}) has densities of different variables")
        if side not in (None, density.joint):
            self.fail(f"KL({density}||…) is an expectation under {density.joint}, not under {side}")
        return sum((-other.log(density.joint) for other in second), density.log(density.joint))

    # ---- densities

    def density(self) -> Density:
        return self.arguments(self.take("q", "p"))

    def arguments(self, joint: str) -> Density:
        self.take("(")
        over = self.variables()
        given: tuple[str, ...] = ()
        if self.next == "|":
            self.take()
            given = self.variables()
        self.take(")")
        if set(over) & set(given):
            self.fail("a variable appears on both sides of |")
        return Density(joint, over, given)

    def variables(self) -> tuple[str, ...]:
        found = [self.take(*VARIABLES)]
        if self.next == ",":
            self.take()
            found.append(self.take(*(v for v in VARIABLES if v not in found)))
        return tuple(sorted(found))
