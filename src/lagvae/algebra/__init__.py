"""Symbolic algebra of objectives: their information preference, their multipliers, and the terms that can compute them.

Objectives are vectors with exact rational coefficients, compared up to constants of the data and the prior. There are no
samples, networks or tensors here, and the package imports `lagvae.errors` only.
"""

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
