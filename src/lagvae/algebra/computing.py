"""Computability of objectives: classes of terms, computable forms, and the closest form of an objective that has none.

    likelihood based        E_s log p(x|z), E_s log p(z), E_s log q(z|x)
    unary likelihood free   in addition E_s log q(x)/p(x) and E_s log q(z)/p(z), by a critic of x or of z
    binary likelihood free  in addition E_s log q(x,z)/p(x,z), by a critic of (x,z);   s ∈ {q, p}

An objective is computable in a class if it is a linear combination of such terms and a constant.

Reference: Definition 2 of Zhao, Song, Ermon, UAI 2018.
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
    """A quantity that can be estimated from samples: an elementary term, or an opaque divergence.

    Args:
        symbol: its text.
        level: the smallest class that contains it. The log ratio of a critic may have either sign.
        objective: the term as a vector.
    """

    symbol: str
    level: Class
    objective: Objective

    def __str__(self) -> str:
        return self.symbol


TERMS = tuple(
    Term(text, level, parse(text)) for level in Class for side in SIDES for text in (f"E_{side}[{log}]" for log in LOGS[level])
)
"""The twelve elementary terms, in the order of their classes."""

VECTORS: Mapping[Term, Vector] = {term: term.objective.vector for term in TERMS}

UNIT_VECTORS = [single(atom) for atom in sorted(VARYING, key=lambda atom: len(atom.over))]
"""The varying atoms, those of marginals first. `missing` is expressed in them."""


@dataclass(frozen=True)
class Form:
    """The computable form Σ c · term + constant of an objective.

    Args:
        terms: coefficients and terms.
        constant: a linear combination of E_q log q(x) and E_p log p(z), which training leaves out.
    """

    terms: tuple[tuple[Fraction, Term], ...]
    constant: Objective

    @property
    def objective(self) -> Objective:
        """The form as an objective, including its constant."""
        return total((value, term.objective) for value, term in self.terms) + self.constant

    @property
    def level(self) -> Class:
        """The smallest class that contains all terms."""
        return max((term.level for _, term in self.terms), default=Class.LIKELIHOOD)

    def __str__(self) -> str:
        return joined((value, str(term)) for value, term in self.terms)


def terms_of(within: Class) -> tuple[Term, ...]:
    """The elementary terms of a class."""
    return tuple(term for term in TERMS if term.level <= within)


def classify(objective: Objective) -> Class:
    """The smallest class in which an objective is computable. It always exists, because the binary class spans all atoms.

    Examples:
        >>> from lagvae.algebra import parse
        >>> str(classify(parse("KL(q(x,z)||p(x,z))")))
        'likelihood based'
    """
    return next(level for level in Class if not missing(objective, level))


def missing(objective: Objective, within: Class) -> Objective:
    """The part of an objective that no linear combination of the class's terms gives; 0 if the objective is computable.

    Examples:
        >>> str(missing(parse("I_q"), Class.LIKELIHOOD)), bool(missing(parse("I_q"), Class.UNARY))
        ('E_q[−log q(z)]', False)
    """
    found = solve_linear(
        [*(VECTORS[term] for term in terms_of(within)), *(unit.vector for unit in UNIT_VECTORS)], objective.vector
    )
    assert found is not None, "the atoms span all objectives"
    remainder = total(zip(found[len(terms_of(within)) :], UNIT_VECTORS, strict=True))
    return remainder + objective.only(lambda symbol: isinstance(symbol, Opaque) and symbol.level > within)


def computable_form(objective: Objective, within: Class = Class.BINARY, name: str = "objective") -> Form:
    """The form of an objective in the smallest class in which it is computable.

    Args:
        objective: the objective to compute.
        within: the largest class that may be used.
        name: the setting that the objective comes from, for error messages.

    Raises: SettingError if it is not computable in that class. The message states what is missing and the closest form.

    Examples:
        >>> from lagvae.algebra import parse
        >>> str(computable_form(parse("-I_q + KL(q(x|z)||p(x|z))")))  # the distortion
        '−E_q[log p(x|z)]'
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
    """The shorter text of an objective, as a Lagrangian or as a form.

    Examples:
        >>> plainest(parse("-I_q + KL(q(x|z)||p(x|z))")), plainest(parse("E_q[log q(x,z) - log p(x,z)]"))
        ('−E_q[log p(x|z)]', 'KL(q(x,z)‖p(x,z))')
    """
    found, form = symbolic_lagrangian(objective), computable_form(objective)
    return str(found if found is not None and len(found.parts) <= len(form.terms) else form)


@dataclass(frozen=True)
class Closest:
    """The computable objective closest to one that is not computable.

    Args:
        form: its computable form.
        added: divergences that were added with coefficients > 0, so that it is an upper bound, tight where they vanish.
        dropped: parts that were left out, because no upper bound on them is computable.
    """

    form: Form
    added: tuple[tuple[Fraction, str], ...]
    dropped: tuple[tuple[Fraction, str], ...]

    def __str__(self) -> str:
        remarks = []
        if self.dropped:
            remarks.append(f"without {joined(self.dropped)}, for which no upper bound can be computed")
        if self.added:
            remarks.append(f"an upper bound that exceeds it by {joined(self.added)}")
        return f"{self.form}" + (f" ({'; '.join(remarks)})" if remarks else "")


def closest(objective: Objective, within: Class) -> Closest:
    """The closest objective that is computable in a class.

    Objectives are minimised, so the closest one is the upper bound that differs by the fewest KL divergences, with preference
    for conditional over joint ones. In the likelihood based class it is −ELBO for −E_q log p(x), the rate for I_q, and the
    distortion for −I_q. If there is no such bound, the fewest possible parts are left out first.

    Examples:
        >>> from lagvae.algebra import parse
        >>> str(closest(parse("I_q"), Class.LIKELIHOOD))  # the rate
        '−E_q[log p(z)] + E_q[log q(z|x)] (an upper bound that exceeds it by KL(q(z)‖p(z)))'
    """
    parts = _parts(objective)
    for size in range(len(parts) + 1):
        for chosen in combinations(parts, size):
            rest = objective - total((value, part) for value, _, part in chosen)
            added = _bound(rest, within)
            if added is not None:
                bound = rest + total((value, DIVERGENCES[name]) for value, name in added)
                return Closest(computable_form(bound, within), added, tuple((value, name) for value, name, _ in chosen))
    raise AssertionError("the objective 0 is computable in every class")


def refusal(objective: Objective, within: Class) -> str:
    """Explain why an objective is not computable in a class, and what is the closest that is.

    Examples:
        >>> refusal(parse("I_q"), Class.LIKELIHOOD)
        'it needs E_q[−log q(z)], which is not ... Closest: −E_q[log p(z)] + E_q[log q(z|x)] (an upper bound ...
    """
    available = ", ".join(f"E[{log}]" for level in Class if level <= within for log in LOGS[level])
    return (
        f"it needs {missing(objective, within)}, which is not a linear combination of {available}. "
        f"Closest: {closest(objective, within)}. Alternatively, allow {classify(objective)} terms."
    )


def _parts(objective: Objective) -> list[tuple[Fraction, str, Objective]]:
    """The parts of an objective: information and divergences of a KL Lagrangian, otherwise atoms; and opaque divergences."""
    by_name, found = INFORMATION | DIVERGENCES, symbolic_lagrangian(objective.plain)
    if found is not None:
        parts = [(value, name, by_name[name]) for value, name in found.parts]
    else:
        parts = [(value, str(one), single(one)) for one, value in objective.plain.varying.coefficients.items()]
    return parts + [(value, str(one), single(one)) for one, value in objective.opaque.items()]


def _bound(objective: Objective, within: Class) -> tuple[tuple[Fraction, str], ...] | None:
    """KL divergences that make an objective computable when they are added, with coefficients > 0; None if there are none."""
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
    """The forms that training computes: one for everything with fixed multipliers, and one per learned multiplier.

    With fixed multipliers terms may cancel between preference and penalties, so that the sum can be computed where its
    parts cannot (−I_q + KL(q(x|z)‖p(x|z)) is the distortion). A learned multiplier needs the value of its divergence.
    A form's constant is not computed: a bound has to be on the terms alone, as on −ELBO instead of KL(q(x,z)‖p(x,z)).

    Args:
        objective: the preference plus the penalties with fixed multipliers.
        learned: name of a constraint with a learned multiplier → its divergence.
        within: the largest class that may be used.

    Raises: SettingError that names the objective or the constraint that is not computable in the class.

    Examples:
        >>> fixed, learned = rewrite(parse("-I_q + KL(q(x|z)||p(x|z))"), {"js": parse("JS(q(z)||p(z))")})
        >>> str(fixed), {name: str(form) for name, form in learned.items()}
        ('−E_q[log p(x|z)]', {'js': 'JS(q(z)‖p(z))'})
    """
    separate = {}
    for name, divergence in (learned or {}).items():
        try:
            separate[name] = computable_form(divergence, within, f"constraints.{name}")
        except SettingError as error:
            raise SettingError(
                f"{error} A learned multiplier needs a computable divergence; otherwise fix the multiplier."
            ) from None
    return computable_form(objective, within), separate


def kl_dimension(within: Class = Class.BINARY) -> int:
    """The dimension of the KL Lagrangians that are computable in a class, dim U + dim V − dim (U + V): 3, 7, 8.

    Examples:
        >>> [kl_dimension(level) for level in Class]
        [3, 7, 8]
    """
    terms = [VECTORS[term] for term in terms_of(within)]
    return rank(KL_LAGRANGIANS) + rank(terms) - rank([*KL_LAGRANGIANS, *terms])
