"""Objectives as vectors: linear combinations of expected log densities (atoms) and of opaque divergences.

    E_s log r(v),   s, r ∈ {q, p},  v ∈ {x, z, (x,z)}:   12 atoms.

E_q log q(x), a property of the data, and E_p log p(z), a property of the prior, are constants, which leaves 10 dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import cached_property

from lagvae.algebra.linear import Vector

SIDES = ("q", "p")


class Class(IntEnum):
    """What an objective needs to be computed: densities, critics of x or z, or critics of (x,z) (Definition 2).

    Examples:
        >>> str(Class.UNARY), Class.LIKELIHOOD < Class.BINARY
        ('unary likelihood free', True)
    """

    LIKELIHOOD = 1
    UNARY = 2
    BINARY = 3

    def __str__(self) -> str:
        return ("likelihood based", "unary likelihood free", "binary likelihood free")[self - 1]


@dataclass(frozen=True, order=True)
class Atom:
    """E_side[log joint(over)] in nats, where `side` and `joint` are "q" or "p" and `over` is "x", "z" or "x,z".

    Examples:
        >>> str(Atom("q", "p", "x,z")), Atom("q", "q", "x").constant
        ('E_q[log p(x,z)]', True)
    """

    side: str
    joint: str
    over: str

    @property
    def constant(self) -> bool:
        """Whether it is a constant of the data, E_q log q(x), or of the prior, E_p log p(z)."""
        return (self.side, self.joint, self.over) in {("q", "q", "x"), ("p", "p", "z")}

    @property
    def log(self) -> str:
        """The log density, without the expectation."""
        return f"log {self.joint}({self.over})"

    def __str__(self) -> str:
        return f"E_{self.side}[{self.log}]"


@dataclass(frozen=True, order=True)
class Opaque:
    """A divergence that is not a linear combination of atoms, such as JS, W1 or MMD.

    Args:
        name: its text including its arguments, as in `JS(q(z)‖p(z))`.
        level: the smallest class in which it can be estimated.

    Examples:
        >>> str(single(Opaque("JS(q(z)‖p(z))", Class.UNARY)))
        'JS(q(z)‖p(z))'
    """

    name: str
    level: Class = Class.BINARY

    def __str__(self) -> str:
        return self.name


Symbol = Atom | Opaque

ATOMS = tuple(Atom(side, joint, over) for side in SIDES for joint in ("p", "q") for over in ("x", "z", "x,z"))

VARYING = tuple(atom for atom in ATOMS if not atom.constant)


def number(value: Fraction) -> str:
    """Format a coefficient as 3, 0.25 or 1/3, with the minus sign −.

    Examples:
        >>> number(Fraction(-1, 4)), number(Fraction(1, 3))
        ('−0.25', '1/3')
    """
    size = abs(value)
    short = 1e-4 < size < 10**6 and Fraction(f"{float(size):.6g}") == size
    return ("−" if value < 0 else "") + (f"{float(size):.6g}" if short else str(size))


def joined(parts: Iterable[tuple[Fraction, str]]) -> str:
    """Format Σ c · text, without the parts whose coefficient is 0.

    Examples:
        >>> joined([(Fraction(-1), "I_q"), (Fraction(0), "I_p"), (Fraction(2), "JS(q(z)‖p(z))")])
        '−I_q + 2·JS(q(z)‖p(z))'
    """
    line = ""
    for value, text in parts:
        if value:
            if text.startswith("−"):
                value, text = -value, text[1:]
            size = "" if abs(value) == 1 else f"{number(abs(value))}·"
            sign = ("− " if value < 0 else "+ ") if line else ("−" if value < 0 else "")
            line += f"{' ' if line else ''}{sign}{size}{text}"
    return line or "0"


@dataclass(frozen=True, eq=False)
class Objective:
    """A linear combination of atoms and opaque divergences, to be minimised.

    Two objectives are equal if they differ only by constants, which do not affect training (elementary equivalence,
    Definition 1; Zhao, Song, Ermon, UAI 2018).

    Args:
        coefficients: symbol → coefficient. Zeros are removed.

    Examples:
        >>> from lagvae.algebra import parse
        >>> information = parse("I_q")
        >>> information == parse("I_q + H_q(x)"), str(2 * information - information)
        (True, 'E_q[log q(x,z) − log q(z) − log q(x)]')
    """

    coefficients: Mapping[Symbol, Fraction]

    def __post_init__(self) -> None:
        nonzero = {symbol: Fraction(value) for symbol, value in self.coefficients.items() if value}
        object.__setattr__(self, "coefficients", nonzero)

    def __add__(self, other: Objective) -> Objective:
        total = dict(self.coefficients)
        for symbol, value in other.coefficients.items():
            total[symbol] = total.get(symbol, Fraction(0)) + value
        return Objective(total)

    def __mul__(self, factor: int | Fraction) -> Objective:
        return Objective({symbol: value * factor for symbol, value in self.coefficients.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return -1 * self

    def __sub__(self, other: Objective) -> Objective:
        return self + -other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objective) and not any((self - other).varying.coefficients)

    def __hash__(self) -> int:
        return hash(frozenset(self.varying.coefficients.items()))

    def __bool__(self) -> bool:
        return self != ZERO

    @property
    def varying(self) -> Objective:
        """The objective without its constants."""
        return self.only(lambda symbol: not getattr(symbol, "constant", False))

    @property
    def constants(self) -> Objective:
        """The constants of the objective."""
        return self.only(lambda symbol: bool(getattr(symbol, "constant", False)))

    @property
    def opaque(self) -> dict[Opaque, Fraction]:
        """The opaque divergences with their coefficients."""
        return {symbol: value for symbol, value in self.coefficients.items() if isinstance(symbol, Opaque)}

    @property
    def plain(self) -> Objective:
        """The objective without its opaque divergences."""
        return self.only(lambda symbol: isinstance(symbol, Atom))

    def only(self, keep: Callable[[Symbol], bool]) -> Objective:
        """The part of the objective whose symbols satisfy `keep`."""
        return Objective({symbol: value for symbol, value in self.coefficients.items() if keep(symbol)})

    @cached_property
    def vector(self) -> Vector:
        """The coefficients of the ten atoms that are not constant."""
        return tuple(self.coefficients.get(atom, Fraction(0)) for atom in VARYING)

    def at(self, values: Mapping[Symbol, float]) -> float:
        """The value of the objective for given values of all its symbols."""
        return sum(float(value) * values[symbol] for symbol, value in self.coefficients.items())

    def __str__(self) -> str:
        texts = []
        for side in SIDES:
            logs = [(value, atom.log) for atom, value in self._atoms() if atom.side == side]
            texts += [f"E_{side}[{joined(logs)}]"] if logs else []
        opaque = joined((value, str(symbol)) for symbol, value in self.opaque.items())
        if opaque == "0":
            return " + ".join(texts) or "0"
        link = "" if not texts else " − " if opaque.startswith("−") else " + "
        return " + ".join(texts) + link + (opaque.removeprefix("−") if texts else opaque)

    def _atoms(self) -> list[tuple[Atom, Fraction]]:
        order = {atom: i for i, atom in enumerate(reversed(ATOMS))}
        found = [(symbol, value) for symbol, value in self.coefficients.items() if isinstance(symbol, Atom)]
        return sorted(found, key=lambda pair: order[pair[0]])


ZERO = Objective({})


def single(symbol: Symbol) -> Objective:
    """The objective that consists of a single symbol.

    Examples:
        >>> str(single(Atom("q", "p", "z")))
        'E_q[log p(z)]'
    """
    return Objective({symbol: Fraction(1)})


def total(parts: Iterable[tuple[Fraction, Objective]]) -> Objective:
    """The linear combination Σ c · objective.

    Examples:
        >>> str(total([(Fraction(2), single(Atom("q", "p", "z"))), (Fraction(1), single(Atom("q", "p", "z")))]))
        'E_q[3·log p(z)]'
    """
    return sum((value * part for value, part in parts), ZERO)
