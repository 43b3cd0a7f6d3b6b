"""The symbolic side of the family: objectives up to constants, what they prefer, and what they can be computed with.

Exact: coefficients are fractions. Nothing here needs samples, networks or tensors."""

from lagvae.algebra.closure import Combination, closure
from lagvae.algebra.computing import (
    TERMS,
    Closest,
    Form,
    Term,
    classify,
    closest,
    computable_form,
    kl_dimension,
    missing,
    plainest,
    refusal,
    rewrite,
)
from lagvae.algebra.multipliers import (
    DIVERGENCES,
    INFORMATION,
    SymbolicLagrangian,
    preference,
    symbolic_lagrangian,
    symbolic_lagrangians,
)
from lagvae.algebra.notation import parse
from lagvae.algebra.objective import ATOMS, Atom, Class, Objective, Opaque, Symbol, joined, number, single, total

__all__ = [
    "ATOMS",
    "DIVERGENCES",
    "INFORMATION",
    "TERMS",
    "Atom",
    "Class",
    "Closest",
    "Combination",
    "Form",
    "Objective",
    "Opaque",
    "Symbol",
    "SymbolicLagrangian",
    "Term",
    "classify",
    "closest",
    "closure",
    "computable_form",
    "joined",
    "kl_dimension",
    "missing",
    "number",
    "parse",
    "plainest",
    "preference",
    "refusal",
    "rewrite",
    "single",
    "symbolic_lagrangian",
    "symbolic_lagrangians",
    "total",
]
