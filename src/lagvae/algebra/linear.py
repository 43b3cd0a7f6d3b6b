"""Exact linear algebra for small sets of vectors of fractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

Vector = tuple[Fraction, ...]


def solve_linear(columns: Sequence[Vector], target: Vector) -> Vector | None:
    """Solve Σ_j c_j columns_j = target by Gauss–Jordan elimination; None if there is no solution.

    Pivots are searched from left to right, so c_j = 0 for every column that depends linearly on the columns before it.
    """
    rows = [[*(column[i] for column in columns), value] for i, value in enumerate(target)]
    pivots: list[int] = []
    for j in range(len(columns)):
        done = len(pivots)
        pivot = next((i for i in range(done, len(rows)) if rows[i][j]), None)
        if pivot is None:
            continue
        rows[done], rows[pivot] = rows[pivot], rows[done]
        rows[done] = [value / rows[done][j] for value in rows[done]]
        for i, row in enumerate(rows):
            if i != done and row[j]:
                rows[i] = [value - row[j] * pivot_value for value, pivot_value in zip(row, rows[done], strict=True)]
        pivots.append(j)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    found = [Fraction(0)] * len(columns)
    for row, j in zip(rows, pivots, strict=False):
        found[j] = row[-1]
    return tuple(found)


def rank(vectors: Sequence[Vector]) -> int:
    """The dimension of the span of the vectors."""
    return sum(solve_linear(vectors[:j], vector) is None for j, vector in enumerate(vectors))


def basic_solutions(
    columns: Sequence[Vector], target: Vector, free: Sequence[Vector] = (), signed: bool = False
) -> Iterator[tuple[Vector, Vector]]:
    """The basic solutions of target = Σ_j c_j columns_j + Σ_k f_k free_k with c ≥ 0, those with the fewest columns first.

    The columns with c_j ≠ 0 are linearly independent. By Carathéodory's theorem there is a basic solution whenever there is any
    solution with c ≥ 0. Solutions with equally many columns are in lexicographic order of their columns.

    Args:
        columns: the vectors whose coefficients are restricted in sign.
        target: the vector to represent.
        free: vectors whose coefficients may have either sign.
        signed: whether c may have either sign, too.

    Yields: c, with a coefficient for every column, and f.
    """
    n = len(free)
    for size in range(len(columns) + 1):
        for support in combinations(range(len(columns)), size):
            found = solve_linear([*free, *(columns[j] for j in support)], target)
            if found is None or not all(value if signed else value > 0 for value in found[n:]):
                continue
            coefficients = dict(zip(support, found[n:], strict=True))
            yield tuple(coefficients.get(j, Fraction(0)) for j in range(len(columns))), found[:n]
