"""KL Lagrangians: the information preference and the multipliers of an objective.

    α₁ I_q + α₂ I_p + Σ_i λ_i KL_i,   KL_i over x, z, (x,z), x|z, z|x, in both directions.

They span 8 dimensions. α is unique, but λ is not, because a joint divergence is the sum of a marginal and a conditional one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product

from lagvae.algebra.linear import Vector, basic_solutions
from lagvae.algebra.notation import parse
from lagvae.algebra.objective import SIDES, Objective, Opaque, joined, single, total

OVER = ("x,z", "z", "x", "x|z", "z|x")
"""The variables of a divergence: first joint, then marginal, then conditional distributions."""

DIVERGENCES = {
    f"KL({side}({over})‖{other}({over}))": parse(f"KL({side}({over})||{other}({over}))")
    for side, other in (("q", "p"), ("p", "q"))
    for over in OVER
}
"""The ten KL divergences by name. Conditional ones are expectations under the joint of the first argument."""

INFORMATION = {f"I_{side}": parse(f"I_{side}") for side in SIDES}

KL_LAGRANGIANS: list[Vector] = [part.vector for part in (*INFORMATION.values(), *DIVERGENCES.values())]
"""Vectors that span the KL Lagrangians."""


@dataclass(frozen=True)
class SymbolicLagrangian:
    """An objective as preference and penalties, α₁ I_q + α₂ I_p + Σ λ D.

    Args:
        alpha: (α₁, α₂), where positive values minimise and negative values maximise information.
        multipliers: name of a KL divergence → its λ ≠ 0.
        opaque: other divergences → their λ.
    """

    alpha: tuple[Fraction, Fraction]
    multipliers: Mapping[str, Fraction]
    opaque: Mapping[Opaque, Fraction]

    @property
    def feasible(self) -> bool:
        """Whether all multipliers are ≥ 0, as the multipliers of inequality constraints must be."""
        return all(value >= 0 for value in (*self.multipliers.values(), *self.opaque.values()))

    @property
    def parts(self) -> list[tuple[Fraction, str]]:
        """Nonzero coefficients and names: first I_q and I_p, then the divergences."""
        named = [*zip(self.alpha, INFORMATION, strict=True), *((v, name) for name, v in self.multipliers.items())]
        return [(value, name) for value, name in named if value] + [(v, str(symbol)) for symbol, v in self.opaque.items()]

    @property
    def objective(self) -> Objective:
        """The Lagrangian as an objective."""
        by_name = INFORMATION | DIVERGENCES | {str(symbol): single(symbol) for symbol in self.opaque}
        return total((value, by_name[name]) for value, name in self.parts)

    def __str__(self) -> str:
        return joined(self.parts)


def symbolic_lagrangians(objective: Objective, signed: bool = False) -> Iterator[SymbolicLagrangian]:
    """All KL Lagrangians with multipliers > 0 and no redundant divergence that are equal to an objective.

    Their multipliers are the vertices of the polyhedron of all nonnegative multipliers, which is the product of one for
    expectations under q and one for p. Nothing is yielded if it is empty. Lagrangians with fewer divergences come first, and
    among equally many those of joint distributions first.

    Args:
        objective: the objective; opaque divergences retain their coefficients.
        signed: whether multipliers may have either sign. There is then at least one Lagrangian for every KL objective.

    Examples:
        >>> [str(found) for found in symbolic_lagrangians(parse("KL(q(x,z)||p(x,z))"))][:2]
        ['KL(q(x,z)‖p(x,z))', 'KL(q(z)‖p(z)) + KL(q(x|z)‖p(x|z))']
    """
    halves = [list(_half(objective, side, signed)) for side in SIDES]
    ways = sorted(product(*halves), key=lambda way: sum(len(multipliers) for _, multipliers in way))
    for (alpha_q, of_q), (alpha_p, of_p) in ways:
        yield SymbolicLagrangian((alpha_q, alpha_p), {**of_q, **of_p}, objective.opaque)


def _half(objective: Objective, side: str, signed: bool) -> Iterator[tuple[Fraction, dict[str, Fraction]]]:
    names = [name for name in DIVERGENCES if name.startswith(f"KL({side}")]
    columns = [DIVERGENCES[name].vector for name in names]
    target = objective.only(lambda symbol: getattr(symbol, "side", None) == side).vector
    for found, (alpha,) in basic_solutions(columns, target, [INFORMATION[f"I_{side}"].vector], signed):
        yield alpha, {name: value for name, value in zip(names, found, strict=True) if value}


def symbolic_lagrangian(objective: Objective) -> SymbolicLagrangian | None:
    """The first of `symbolic_lagrangians`, with multipliers ≥ 0 if possible; None if the objective is not a KL Lagrangian.

    Examples:
        >>> str(symbolic_lagrangian(parse("-E_q[log p(x|z)]")))
        '−I_q + KL(q(x|z)‖p(x|z))'
    """
    return _symbolic_lagrangian(objective.varying)


@cache
def _symbolic_lagrangian(objective: Objective) -> SymbolicLagrangian | None:
    return next(symbolic_lagrangians(objective), None) or next(symbolic_lagrangians(objective, signed=True), None)


def preference(objective: Objective) -> tuple[Fraction, Fraction] | None:
    """The unique (α₁, α₂) of an objective; None if it is not a KL Lagrangian.

    Examples:
        >>> preference(parse("-E_q[log p(x|z)]"))  # an autoencoder maximises I_q
        (Fraction(-1, 1), Fraction(0, 1))
    """
    found = symbolic_lagrangian(objective)
    return None if found is None else found.alpha
