"""The maximising problem, which is not convex: its duality gap, by exhaustive search over grids of small tables.

    V(ε) = min −|α| I   subject to   KL(q(x,z)‖p(x,z)) ≤ ε;     the dual optimum is V**(ε), the lower convex envelope of V

Two problems over q(z|x), with q(x) and p(z) given:

    model given     I = I_q, p(x|z) fixed. −|α| I_q + λ KL is convex in q(z|x) for λ ≥ |α|, where no gap is left
    decoder free    I = I̲_q, p(x|z) any table. The best table for both terms is q(x|z): I̲_q = I_q and KL = KL(q(z)‖p(z)).
                    No λ makes the Lagrangian convex
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import ConvexHull
from scipy.special import rel_entr, xlogy

from lagvae.errors import SettingError
from lagvae.oracles.tabular import check_table

Array = NDArray[np.float64]

MAX_TABLES = 20_000_000
"""Largest number of tables in a grid, which take 2 GB."""


def simplex_grid(k: int, divisions: int) -> Array:
    """All distributions over k values whose probabilities are multiples of 1/divisions, (m, k)."""
    cuts = np.array(list(combinations_with_replacement(range(divisions + 1), k - 1)))
    edges = np.hstack([np.zeros((len(cuts), 1)), cuts, np.full((len(cuts), 1), divisions)])
    grid: Array = np.diff(edges, axis=1) / divisions
    return grid


@dataclass(frozen=True)
class TradeOffCurve:
    """The Pareto front of information against KL over a grid of tables, by increasing KL, and its concave envelope.

    Args:
        kl, information: of the tables on the front, (m,), in nats. hull_kl, hull_information: vertices of the envelope, (h,).
        tables: indices of the tables in the grid, (m,).
    """

    kl: Array
    information: Array
    hull_kl: Array
    hull_information: Array
    tables: NDArray[np.intp]

    @property
    def gap(self) -> Array:
        """The duality gap at ε = kl, (m,), for |α| = 1, in nats; for other α it is |α| times as large."""
        gap: Array = np.interp(self.kl, self.hull_kl, self.hull_information) - self.information
        return gap

    @property
    def multiplier(self) -> Array:
        """λ*/|α| at ε = kl, (m,): the slope of the envelope; at a vertex the steeper of its two slopes."""
        slopes = np.diff(self.hull_information) / np.diff(self.hull_kl)
        left = np.clip(np.searchsorted(self.hull_kl, self.kl, side="left") - 1, 0, len(slopes) - 1)
        multiplier: Array = slopes[left] if len(slopes) else np.zeros_like(self.kl)
        return multiplier


def check_positive(name: str, table: Array, shape: tuple[int, ...]) -> None:
    """Raise SettingError unless the last axis of a table holds distributions without zeros."""
    check_table(name, torch.tensor(table), shape)
    if (table == 0).any():
        raise SettingError(
            f"{name} has a zero, where KL or its slope is infinite; leave that value out, or raise its probability above 0."
        )


def search(q_x: Array, p_z: Array, p_x_given_z: Array, divisions: int, polished: int = 0) -> TradeOffCurve:
    """With the model given, search all q(z|x) on a grid.

    Args:
        q_x: (n,). p_z: (k,). p_x_given_z: (k, n).
        divisions: probabilities on the grid are multiples of 1/divisions.
        polished: number of ε at which a local search continues from the best table of the grid; then the curve consists of
            these ε alone. 0: no local search.

    Returns: the curve. Since the grid holds only some of the tables, V is too high by an amount that falls with its step.

    Raises: SettingError for tables that are not distributions or have zeros, and for a grid of less than one division or more
        than `MAX_TABLES` tables.
    """
    n, k = len(q_x), len(p_z)
    for name, table, shape in (("q_x", q_x, (n,)), ("p_z", p_z, (k,)), ("p_x_given_z", p_x_given_z, (k, n))):
        check_positive(name, table, shape)
    if divisions < 1:
        raise SettingError(f"divisions={divisions} must be at least 1.")
    rows = simplex_grid(k, divisions)
    if len(rows) ** n > MAX_TABLES:
        raise SettingError(
            f"divisions={divisions} makes {len(rows)}^{n} tables of {n} × {k}; at most {MAX_TABLES} are searched. Lower it."
        )
    # Sums over the rows of a table accumulate row by row, so that no table is held in memory as a whole.
    minus_entropy = xlogy(rows, rows).sum(1)
    given, kl, marginal = np.zeros(1), np.zeros(1), np.zeros((1, k))
    for i in range(n):
        given = np.add.outer(given, q_x[i] * minus_entropy).ravel()
        marginal = (marginal[:, None] + q_x[i] * rows).reshape(-1, k)
        kl = np.add.outer(kl, rel_entr(q_x[i] * rows, p_z * p_x_given_z[:, i]).sum(1)).ravel()
    curve = trade_off_curve(kl, given - xlogy(marginal, marginal).sum(1))
    if not polished:
        return curve
    chosen = np.unique(np.searchsorted(curve.kl, np.linspace(curve.kl[0], curve.kl[-1], polished + 1)[1:]))
    best = []
    for at in chosen:
        # Where two kinds of tables are about equally good, points a little before on the front are of the other kind.
        starts = [rows[list(np.unravel_index(curve.tables[max(0, at - back)], (len(rows),) * n))] for back in (0, 2, 5, 10)]
        results = [polish(start, q_x, p_z[None] * p_x_given_z.T, float(curve.kl[at])) for start in starts]
        best.append(max(results, key=lambda result: result[1]))
    points = np.array(best)
    whole = trade_off_curve(np.concatenate([curve.kl, points[:, 0]]), np.concatenate([curve.information, points[:, 1]]))
    return TradeOffCurve(points[:, 0], points[:, 1], whole.hull_kl, whole.hull_information, chosen)


def search_free(q_x: Array, p_one: float, points: int = 20_000) -> TradeOffCurve:
    """With the decoder free and a binary z with p(z = 1) = `p_one`, search all q(z = 1).

    I_q is H(z) minus a sum of entropies, which are concave in the table. For a given q(z) it is largest at a vertex of the set
    of tables, where z is deterministic for all values of x but one. A grid over q(z = 1) alone therefore holds the best tables.

    Args:
        q_x: (n,). p_one: above 0 and below 1. points: size of the grid, ≥ 1; the grid also holds `p_one` and the q(z = 1) of
            all deterministic tables.

    Raises: SettingError for a q(x) that is not a distribution or has zeros, and for numbers out of range.
    """
    check_positive("q_x", q_x, (len(q_x),))
    if not 0 < p_one < 1:
        raise SettingError(f"p_one={p_one} must lie above 0 and below 1; otherwise KL is infinite for all but one q(z).")
    if points < 1:
        raise SettingError(f"points={points} must be at least 1.")

    def entropy(w: Array) -> Array:
        h: Array = -xlogy(w, w) - xlogy(1 - w, 1 - w)
        return h

    n = len(q_x)
    sums = [sum(q_x[list(chosen)]) for size in range(n + 1) for chosen in combinations(range(n), size)]
    ones = np.unique(np.concatenate([np.linspace(0, 1, points + 1), [p_one], np.clip(sums, 0, 1)]))
    conditional_entropy = np.full(len(ones), np.inf)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for deterministic in (sum(q_x[list(c)]) for size in range(n) for c in combinations(others, size)):
            share = (ones - deterministic) / q_x[i]
            cost = np.where((share > -1e-12) & (share < 1 + 1e-12), q_x[i] * entropy(np.clip(share, 0, 1)), np.inf)
            conditional_entropy = np.minimum(conditional_entropy, cost)
    kl = rel_entr(ones, p_one) + rel_entr(1 - ones, 1 - p_one)
    return trade_off_curve(kl, entropy(ones) - conditional_entropy)


def polish(start: Array, q_x: Array, p: Array, epsilon: float) -> tuple[float, float]:
    """KL and information of the best table with KL ≤ ε near a table (n, k), by sequential quadratic programming."""

    def information(flat: Array) -> tuple[float, Array]:
        rows = flat.reshape(start.shape)
        slope = q_x[:, None] * np.log(rows / (q_x @ rows))
        return -float((rows * slope).sum()), -slope.ravel()

    def divergence(flat: Array) -> float:
        return float(rel_entr(q_x[:, None] * flat.reshape(start.shape), p).sum())

    def divergence_gradient(flat: Array) -> Array:
        gradient: Array = (q_x[:, None] * (np.log(q_x[:, None] * flat.reshape(start.shape) / p) + 1)).ravel()
        return gradient

    ones = np.kron(np.eye(len(q_x)), np.ones(start.shape[1]))
    inside = np.clip(start, 1e-9, None)
    constraints = [
        {"type": "eq", "fun": lambda flat: ones @ flat - 1, "jac": lambda flat: ones},
        {"type": "ineq", "fun": lambda flat: epsilon - divergence(flat), "jac": lambda flat: -divergence_gradient(flat)},
    ]
    result = minimize(
        information, inside.ravel(), jac=True, method="SLSQP", bounds=[(1e-12, 1)] * start.size, constraints=constraints,
        options={"maxiter": 200, "ftol": 1e-12},
    )  # fmt: skip
    # The result counts only if it is feasible up to rounding and better than the start.
    feasible = divergence(result.x) <= epsilon + 1e-9 and abs(ones @ result.x - 1).max() < 1e-9
    best = result.x if feasible and result.fun < information(inside.ravel())[0] else inside.ravel()
    return divergence(best), -information(best)[0]


def trade_off_curve(kl: Array, information: Array) -> TradeOffCurve:
    """The curve of a set of tables with the given KL and information."""
    kl = np.round(kl, 12)  # values that are 0 up to rounding must not become separate points
    order = np.lexsort((-information, kl))
    kl, information = kl[order], information[order]
    best = np.maximum.accumulate(information)
    on_front = np.concatenate([[True], best[1:] > best[:-1] + 1e-12])
    kl, information = kl[on_front], information[on_front]
    if len(kl) < 3:
        return TradeOffCurve(kl, information, kl, information, order[on_front])
    # The hull of the points and of the region below and to the right of them; its upper left side is V**.
    corners = np.vstack([np.column_stack([kl, information]), [[kl[-1] + 1, information[-1]], [kl[-1] + 1, information[0] - 1]]])
    hull = np.sort(ConvexHull(np.vstack([corners, [[kl[0], information[0] - 1]]])).vertices)
    hull = hull[hull < len(kl)]
    return TradeOffCurve(kl, information, kl[hull], information[hull], order[on_front])


def mixing_lowers_the_bound(t: float) -> float:
    """I̲_q − H_q(x) = t log t + (1−t) log(1−t), in nats, on the line of 2 × 2 joint tables with t/2 on one diagonal.

    On this line q = p, so that KL(q(x,z)‖p(x,z)) = 0 everywhere. The bound has the same value at t and 1 − t and a lower one at
    their midpoint: it is not concave in the joint tables, and no term λ · KL can change that.
    """
    if not 0 <= t <= 1:
        raise SettingError(f"t={t} must lie between 0 and 1.")
    return float(xlogy(t, t) + xlogy(1 - t, 1 - t))


def random_tables(n: int, k: int, seed: int) -> tuple[Array, Array, Array]:
    """q(x), p(z) and p(x|z) from flat Dirichlet distributions."""
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.ones(n)), generator.dirichlet(np.ones(k)), generator.dirichlet(np.ones(n), k)
