"""Exact linear algebra on a handful of vectors, in fractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

Vector = tuple[Fraction, ...]


def solve_linear(columns: Sequence[Vector], target: Vector) -> Vector | None:
    """The c with Σ_j c_j columns_j = target, zero on every column that depends on those before it; None where there is none.

    Gauss and Jordan: pivots are looked for from left to right, so that of several solutions the one in the first
    independent columns is found.
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
                rows[i] = [value - row[j] * one for value, one in zip(row, rows[done], strict=True)]
        pivots.append(j)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    found = [Fraction(0)] * len(columns)
    for row, j in zip(rows, pivots, strict=False):
        found[j] = row[-1]
    return tuple(found)


def rank(vectors: Sequence[Vector]) -> int:
    """The dimension of what the vectors span."""
    return sum(solve_linear(vectors[:j], vector) is None for j, vector in enumerate(vectors))


def basic_solutions(
    columns: Sequence[Vector], target: Vector, free: Sequence[Vector] = (), signed: bool = False
) -> Iterator[tuple[Vector, Vector]]:
    """The ways to write target = Σ_j c_j columns_j + Σ_k f_k free_k with c ≥ 0 on independent columns, fewest columns first.

    By Carathéodory's theorem there is one of these wherever there is any with c ≥ 0. Of equally many columns, those
    that stand first come first.

    Args:
        columns: the vectors whose coefficients are restricted.
        target: what is to be written.
        free: vectors that may take any coefficient.
        signed: let c have either sign.

    Yields:
        c, with a coefficient for every column, and f.
    """
    n = len(free)
    for size in range(len(columns) + 1):
        for support in combinations(range(len(columns)), size):
            found = solve_linear([*free, *(columns[j] for j in support)], target)
            if found is None or not all(value if signed else value > 0 for value in found[n:]):
                continue
            spread = dict(zip(support, found[n:], strict=True))
            yield tuple(spread.get(j, Fraction(0)) for j in range(len(columns))), found[:n]
