"""From the field's notation to objectives: "-I_q + KL(q(x|z)||p(x|z)) + 2*JS(q(z)||p(z))".

    I_q, I_p                       mutual information of q(x,z), of p(x,z)
    H_q(x), H_p(z|x)               entropies
    KL(q(z|x)||p(z|x))             expected under the law that stands first: E_q(x) KL(q(z|x)‖p(z|x))
    E_q[log p(x|z) - 2 log p(z)]   sums of expected log densities, ratios and products of densities too
    JS(q(z)||p(z)), W1(…), …       any other divergence: a symbol of its own

Coefficients are 2, 0.5, 1/3 with or without *; ‖, − and · may stand for ||, - and *.
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
"""What may stand between the two laws of a divergence."""


@dataclass(frozen=True)
class Density:
    """One law: of `over`, given `given`; both in the order x, z."""

    law: str
    over: tuple[str, ...]
    given: tuple[str, ...] = ()

    def log(self, side: str) -> Objective:
        """E_side of its log, where a conditional is joint over marginal."""
        whole = ",".join(sorted(self.over + self.given))
        found = single(Atom(side, self.law, whole))
        return found - single(Atom(side, self.law, self.given[0])) if self.given else found

    def __str__(self) -> str:
        return f"{self.law}({','.join(self.over)}{'|' if self.given else ''}{','.join(self.given)})"


def parse(text: str, name: str = "objective") -> Objective:
    """The objective that a text states.

    Args:
        text: in the notation above.
        name: the setting it comes from, for errors.

    Raises:
        SettingError: where the text cannot be read, with the place.
    """
    return _Reader(text, name).whole()


class _Reader:
    """Recursive descent; `side` is the law of the expectation that a log stands in."""

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
        """The next token, which must be one of those wanted."""
        token = self.next
        if wanted and token not in wanted:
            told = " or ".join(repr(word) for word in wanted)
            self.fail(f"{token!r} stands where {told} is expected" if token else f"it ends where {told} is expected")
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
                self.fail("two quantities are multiplied; only numbers multiply")
            else:
                found = self.quantity(side)
            if self.next == "*":
                self.take()
            elif found is not None or not self.next or self.next in "+-)]":
                break
        if found is None and factor:
            self.fail(f"the number {factor} stands alone; a constant changes nothing, leave it out")
        return factor * (ZERO if found is None else found)  # a constant is false, but not nothing

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
        }
        if token != "(" and not token[:1].isalpha():
            self.fail(f"{token!r} is no quantity" if token else "it ends where a quantity is expected")
        if token not in ("(", "log") and side is not None and token != "KL":
            self.fail(f"inside E_{side}[…] there are only logs of densities, not {token}")
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
        self.fail(f"E_{side} takes a bracket, as in E_{side}[log p(x|z)]")

    def log(self, side: str | None) -> Objective:
        if side is None:
            self.fail("a log stands outside of an expectation; write E_q[log …] or E_p[log …]")
        self.take("log")
        found = self.density().log(side)
        while self.next in ("/", "q", "p"):
            sign = -1 if self.next == "/" else 1
            if sign < 0:
                self.take()
            found += sign * self.density().log(side)
        return found

    def information(self, law: str) -> Objective:
        if self.next == "(":
            for token in ("(", "x", ";", "z", ")"):
                self.take(token)
        joint, x, z = (Density(law, over).log(law) for over in (("x", "z"), ("x",), ("z",)))
        return joint - x - z

    def entropy(self, law: str) -> Objective:
        return -self.arguments(law).log(law)

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
        laws = "‖".join("".join(map(str, half)) for half in (first, second) if half)
        over = {v for law in first + second for v in law.over + law.given}
        return single(Opaque(f"{name}({laws})", Class.BINARY if len(over) == 2 else Class.UNARY))

    def kl(self, first: list[Density], second: list[Density], side: str | None) -> Objective:
        if len(first) != 1 or not second:
            self.fail("a KL is between two laws, as in KL(q(z)||p(z))")
        law = first[0]
        over = sorted(v for other in second for v in other.over)
        given = {v for other in second for v in other.given} - set(law.given)
        if over != sorted(law.over) or given:
            self.fail(f"KL({law}||{''.join(map(str, second))}) compares laws of different variables")
        if side not in (None, law.law):
            self.fail(f"KL({law}||…) is an expectation under {law.law}, not under {side}")
        return sum((-other.log(law.law) for other in second), law.log(law.law))

    # ---- laws

    def density(self) -> Density:
        return self.arguments(self.take("q", "p"))

    def arguments(self, law: str) -> Density:
        self.take("(")
        over = self.variables()
        given: tuple[str, ...] = ()
        if self.next == "|":
            self.take()
            given = self.variables()
        self.take(")")
        if set(over) & set(given):
            self.fail("a variable stands on both sides of |")
        return Density(law, over, given)

    def variables(self) -> tuple[str, ...]:
        found = [self.take(*VARIABLES)]
        if self.next == ",":
            self.take()
            found.append(self.take(*(v for v in VARIABLES if v not in found)))
        return tuple(sorted(found))
