"""What can be computed with what: classes of terms, forms in them, and the closest form where there is none.

    likelihood based        E_s log p(x|z), E_s log p(z), E_s log q(z|x)
    unary likelihood free   and E_s log q(x)/p(x), E_s log q(z)/p(z), by a critic of x or of z
    binary likelihood free  and E_s log q(x,z)/p(x,z), by a critic of both;   s ∈ {q, p}

An objective is computable where it is a sum of such terms and a constant (Definition 2; Zhao, Song, Ermon, UAI 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from lagvae.algebra.linear import Vector, basic_solutions, rank, solve_linear
from lagvae.algebra.multipliers import DIVERGENCES, INFORMATION, KL_LAGRANGIANS, symbolic_lagrangian
from lagvae.algebra.notation import parse
from lagvae.algebra.objective import SIDES, VARYING, Class, Objective, Opaque, joined, single, total
from lagvae.errors import SettingError

LOGS = {
    Class.LIKELIHOOD: ("log p(x|z)", "log p(z)", "log q(z|x)"),
    Class.UNARY: ("log q(x)/p(x)", "log q(z)/p(z)"),
    Class.BINARY: ("log q(x,z)/p(x,z)",),
}


@dataclass(frozen=True)
class Term:
    """Something that can be estimated from samples: an elementary term, or an opaque divergence.

    Args:
        symbol: how it is written.
        level: the class that has it; a critic's log ratio may be used with either sign.
        objective: as a vector.
    """

    symbol: str
    level: Class
    objective: Objective

    def __str__(self) -> str:
        return self.symbol


TERMS = tuple(
    Term(text, level, parse(text)) for level in Class for side in SIDES for text in (f"E_{side}[{log}]" for log in LOGS[level])
)
"""The twelve elementary terms, those that need least first."""

VECTORS: Mapping[Term, Vector] = {term: term.objective.vector for term in TERMS}

UNITS = [single(atom) for atom in sorted(VARYING, key=lambda atom: len(atom.over))]
"""The atoms one by one, those of marginals first: what is missing is told in these."""


@dataclass(frozen=True)
class Form:
    """Σ c · term + constant: how an objective is computed.

    Args:
        terms: coefficients and terms.
        constant: what it leaves out, a sum of E_q log q(x) and E_p log p(z).
    """

    terms: tuple[tuple[Fraction, Term], ...]
    constant: Objective

    @property
    def objective(self) -> Objective:
        """The sum, constants too."""
        return total((value, term.objective) for value, term in self.terms) + self.constant

    @property
    def level(self) -> Class:
        """The least class that has all its terms."""
        return max((term.level for _, term in self.terms), default=Class.LIKELIHOOD)

    def __str__(self) -> str:
        return joined((value, str(term)) for value, term in self.terms)


def terms_of(within: Class) -> tuple[Term, ...]:
    """The elementary terms of a class."""
    return tuple(term for term in TERMS if term.level <= within)


def classify(objective: Objective) -> Class:
    """The smallest class in which an objective is computable: there always is one, the binary class has all atoms."""
    return next(level for level in Class if not missing(objective, level))


def missing(objective: Objective, within: Class) -> Objective:
    """What no sum of the class's terms gives: 0 where the objective is computable, else log densities and divergences."""
    found = solve_linear([*(VECTORS[term] for term in terms_of(within)), *(unit.vector for unit in UNITS)], objective.vector)
    assert found is not None, "atoms span all there is"
    left = total(zip(found[len(terms_of(within)) :], UNITS, strict=True))
    return left + objective.only(lambda symbol: isinstance(symbol, Opaque) and symbol.level > within)


def computable_form(objective: Objective, within: Class = Class.BINARY, name: str = "objective") -> Form:
    """The objective as terms of the smallest class that has it.

    Args:
        objective: what to compute.
        within: the largest class at hand.
        name: the setting it comes from, for errors.

    Raises:
        SettingError: where the class cannot compute it: what is missing, and what is closest.
    """
    if missing(objective, within):
        raise SettingError(f"{name}={plainest(objective)} is not {within}: {refusal(objective, within)}")
    terms = terms_of(classify(objective))
    found = solve_linear([VECTORS[term] for term in terms], objective.vector)
    assert found is not None
    used = [(value, term) for value, term in zip(found, terms, strict=True) if value]
    used += [(value, Term(str(symbol), symbol.level, single(symbol))) for symbol, value in objective.opaque.items()]
    return Form(tuple(used), objective - total((value, term.objective) for value, term in used))


def plainest(objective: Objective) -> str:
    """An objective in as few words as can be: as a Lagrangian, or as terms."""
    found, form = symbolic_lagrangian(objective), computable_form(objective)
    return str(found if found is not None and len(found.parts) <= len(form.terms) else form)


@dataclass(frozen=True)
class Closest:
    """The computable objective that is closest to one that is not.

    Args:
        form: how it is computed.
        added: divergences on top, coefficients > 0: it is an upper bound, tight where they vanish.
        dropped: parts that were left out because no bound on them can be computed.
    """

    form: Form
    added: tuple[tuple[Fraction, str], ...]
    dropped: tuple[tuple[Fraction, str], ...]

    def __str__(self) -> str:
        told = []
        if self.dropped:
            told.append(f"without {joined(self.dropped)}, on which no upper bound can be computed")
        if self.added:
            told.append(f"an upper bound, above it by {joined(self.added)}")
        return f"{self.form}" + (f" ({'; '.join(told)})" if told else "")


def closest(objective: Objective, within: Class) -> Closest:
    """The closest objective that a class can compute.

    An objective is minimised, so the closest one is an upper bound that differs by as few KL divergences as can be,
    conditional ones before joint ones: for −E_q log p(x) with likelihoods alone that is −ELBO, for I_q the rate, for
    −I_q the distortion. Where there is no such bound, as few parts as can be are left out first.
    """
    parts = _parts(objective)
    for size in range(len(parts) + 1):
        for chosen in combinations(parts, size):
            rest = objective - total((value, part) for value, _, part in chosen)
            added = _bound(rest, within)
            if added is not None:
                bound = rest + total((value, DIVERGENCES[name]) for value, name in added)
                return Closest(computable_form(bound, within), added, tuple((value, name) for value, name, _ in chosen))
    raise AssertionError("nothing at all is computable")


def refusal(objective: Objective, within: Class) -> str:
    """Why a class cannot compute an objective, and what is closest."""
    known = ", ".join(f"E[{log}]" for level in Class if level <= within for log in LOGS[level])
    return (
        f"it needs {missing(objective, within)}, which no sum of {known} gives. "
        f"Closest: {closest(objective, within)}. Or allow {classify(objective)} terms."
    )


def _parts(objective: Objective) -> list[tuple[Fraction, str, Objective]]:
    """An objective cut into information and divergences, or into atoms where it is no KL objective."""
    known, found = INFORMATION | DIVERGENCES, symbolic_lagrangian(objective.plain)
    if found is not None:
        parts = [(value, name, known[name]) for value, name in found.parts]
    else:
        parts = [(value, str(one), single(one)) for one, value in objective.plain.varying.coefficients.items()]
    return parts + [(value, str(one), single(one)) for one, value in objective.opaque.items()]


def _bound(objective: Objective, within: Class) -> tuple[tuple[Fraction, str], ...] | None:
    """KL divergences that make an objective computable when they are added; None where none do."""
    if any(symbol.level > within for symbol in objective.opaque):
        return None
    found: list[tuple[Fraction, str]] = []
    for side in SIDES:
        names = [name for name in reversed(DIVERGENCES) if name.startswith(f"KL({side}")]
        half = objective.only(lambda symbol, side=side: getattr(symbol, "side", None) == side)  # type: ignore[misc]
        free = [VECTORS[term] for term in terms_of(within) if term.symbol.startswith(f"E_{side}")]
        added = next(basic_solutions([DIVERGENCES[name].vector for name in names], (-half).vector, free), None)
        if added is None:
            return None
        found += [(value, name) for value, name in zip(added[0], names, strict=True) if value]
    return tuple(found)


def rewrite(
    objective: Objective, learned: Mapping[str, Objective] | None = None, within: Class = Class.BINARY
) -> tuple[Form, dict[str, Form]]:
    """What training computes: one form for all whose multiplier is fixed, and one for each constraint that learns its own.

    With fixed multipliers terms may cancel between preference and penalties, so that the sum can be computed where its
    parts cannot (−I_q + KL(q(x|z)‖p(x|z)) is the distortion). A learned multiplier needs the value of its divergence.
    A form's constant is not computed: a bound has to be on the terms alone, as on −ELBO instead of KL(q(x,z)‖p(x,z)).

    Args:
        objective: preference and penalties with fixed multipliers.
        learned: divergences with learned multipliers, by the name of their constraint.
        within: the largest class at hand.

    Raises:
        SettingError: naming the objective or the constraint that the class cannot compute.
    """
    alone = {}
    for name, divergence in (learned or {}).items():
        try:
            alone[name] = computable_form(divergence, within, f"constraints.{name}")
        except SettingError as error:
            raise SettingError(f"{error} A learned multiplier needs its divergence alone; or fix it.") from None
    return computable_form(objective, within), alone


def kl_dimension(within: Class = Class.BINARY) -> int:
    """The dimension of the KL Lagrangians that a class can compute, dim U + dim V − dim (U + V): 3, 7, 8."""
    terms = [VECTORS[term] for term in terms_of(within)]
    return rank(KL_LAGRANGIANS) + rank(terms) - rank([*KL_LAGRANGIANS, *terms])
