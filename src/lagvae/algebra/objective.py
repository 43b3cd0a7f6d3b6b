"""Objectives as vectors: sums of expected log densities, and of divergences that stay symbols of their own.

    E_s log r(v),   s, r ∈ {q, p},  v ∈ {x, z, (x,z)}:   12 atoms.

E_q log q(x), the data's, and E_p log p(z), the prior's, are constants: 10 dimensions are left.
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
    """What is needed to compute an objective: densities, critics of one variable, critics of both (Definition 2)."""

    LIKELIHOOD = 1
    UNARY = 2
    BINARY = 3

    def __str__(self) -> str:
        return ("likelihood based", "unary likelihood free", "binary likelihood free")[self - 1]


@dataclass(frozen=True, order=True)
class Atom:
    """E_side log law(over), in nats."""

    side: str
    law: str
    over: str

    @property
    def constant(self) -> bool:
        """Whether training cannot change it: the data's and the prior's own expected log density."""
        return (self.side, self.law, self.over) in {("q", "q", "x"), ("p", "p", "z")}

    @property
    def log(self) -> str:
        """The log density inside."""
        return f"log {self.law}({self.over})"

    def __str__(self) -> str:
        return f"E_{self.side}[{self.log}]"


@dataclass(frozen=True, order=True)
class Opaque:
    """A divergence that is no sum of atoms (JS, W1, MMD …): a symbol of its own.

    Args:
        name: how it is written, with what it is over, as in `JS(q(z)‖p(z))`.
        level: the class that can estimate it.
    """

    name: str
    level: Class = Class.BINARY

    def __str__(self) -> str:
        return self.name


Symbol = Atom | Opaque

ATOMS = tuple(Atom(side, law, over) for side in SIDES for law in ("p", "q") for over in ("x", "z", "x,z"))

VARYING = tuple(atom for atom in ATOMS if not atom.constant)


def number(value: Fraction) -> str:
    """A coefficient as people write it: 3, 0.25, 1/3; minus as −."""
    size = abs(value)
    short = size.denominator == 1 or Fraction(f"{float(size):.6g}") == size
    return ("−" if value < 0 else "") + (f"{float(size):.6g}" if short and 1e-4 < size < 10**6 else str(size))


def joined(parts: Iterable[tuple[Fraction, str]]) -> str:
    """Σ c · text as a line, without what has coefficient 0."""
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

    Two are equal where they differ by constants alone (elementary equivalence, Definition 1; Zhao, Song, Ermon,
    UAI 2018): training cannot tell them apart.

    Args:
        coefficients: symbol → coefficient; zeros are dropped.
    """

    coefficients: Mapping[Symbol, Fraction]

    def __post_init__(self) -> None:
        kept = {symbol: Fraction(value) for symbol, value in self.coefficients.items() if value}
        object.__setattr__(self, "coefficients", kept)

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
        """Without its constants."""
        return self.only(lambda symbol: not getattr(symbol, "constant", False))

    @property
    def constants(self) -> Objective:
        """Its constants alone."""
        return self.only(lambda symbol: bool(getattr(symbol, "constant", False)))

    @property
    def opaque(self) -> dict[Opaque, Fraction]:
        """Its opaque divergences with their coefficients."""
        return {symbol: value for symbol, value in self.coefficients.items() if isinstance(symbol, Opaque)}

    @property
    def plain(self) -> Objective:
        """Without its opaque divergences."""
        return self.only(lambda symbol: isinstance(symbol, Atom))

    def only(self, keep: Callable[[Symbol], bool]) -> Objective:
        """The part whose symbols are wanted."""
        return Objective({symbol: value for symbol, value in self.coefficients.items() if keep(symbol)})

    @cached_property
    def vector(self) -> Vector:
        """Coefficients of the ten atoms that vary."""
        return tuple(self.coefficients.get(atom, Fraction(0)) for atom in VARYING)

    def at(self, values: Mapping[Symbol, float]) -> float:
        """The value, in nats, where every symbol has the value that is given."""
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
    """A symbol by itself."""
    return Objective({symbol: Fraction(1)})


def total(parts: Iterable[tuple[Fraction, Objective]]) -> Objective:
    """Σ c · objective."""
    return sum((value * part for value, part in parts), ZERO)
