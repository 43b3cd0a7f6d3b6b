"""The maximising problem, which is not convex: its duality gap, by searching whole grids of tiny tables.

    V(ε) = min −|α| I   subject to   KL(q(x,z)‖p(x,z)) ≤ ε;     max over λ ≥ 0 of its dual is V**(ε), the convex hull of V

Two problems over q(z|x), with q(x) and p(z) given:

    model given     I = I_q, p(x|z) fixed. −|α| I_q + λ KL is convex in q(z|x) once λ ≥ |α|: there no gap is left
    decoder free    I = I̲_q, p(x|z) any table. The best one is q(x|z), for both terms: I̲_q = I_q and KL = KL(q(z)‖p(z)).
                    No λ makes it convex
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

MOST = 20_000_000
"""Tables that a grid may have: 2 GB."""


def simplex(k: int, cells: int) -> Array:
    """All laws of k values whose probabilities are multiples of 1/cells, (m, k)."""
    cuts = np.array(list(combinations_with_replacement(range(cells + 1), k - 1)))
    edges = np.hstack([np.zeros((len(cuts), 1)), cuts, np.full((len(cuts), 1), cells)])
    found: Array = np.diff(edges, axis=1) / cells
    return found


@dataclass(frozen=True)
class TradeOffCurve:
    """What a grid reaches: the tables that no other beats in both, by rising KL; and the convex hull of all.

    Args:
        kl, information: of these tables, (m,), in nats. hull_kl, hull_information: corners of the hull, (h,).
        tables: their numbers in the grid, (m,).
    """

    kl: Array
    information: Array
    hull_kl: Array
    hull_information: Array
    tables: NDArray[np.intp]

    @property
    def gap(self) -> Array:
        """The duality gap at ε = kl, (m,), for |α| = 1, in nats: at other α, |α| times as much."""
        gap: Array = np.interp(self.kl, self.hull_kl, self.hull_information) - self.information
        return gap

    @property
    def multiplier(self) -> Array:
        """λ*/|α| at ε = kl, (m,): the slope of the hull, of its steeper side at a corner."""
        slopes = np.diff(self.hull_information) / np.diff(self.hull_kl)
        left = np.clip(np.searchsorted(self.hull_kl, self.kl, side="left") - 1, 0, len(slopes) - 1)
        found: Array = slopes[left] if len(slopes) else np.zeros_like(self.kl)
        return found


def check_positive(name: str, table: Array, shape: tuple[int, ...]) -> None:
    """Raise SettingError unless the last axis of a table holds distributions without zeros."""
    check_table(name, torch.tensor(table), shape)
    if (table == 0).any():
        raise SettingError(f"{name} has a zero, where KL or its slope is infinite; leave that value out, or raise it above 0.")


def search(q_x: Array, p_z: Array, p_x_given_z: Array, cells: int, polished: int = 0) -> TradeOffCurve:
    """The model given: search all q(z|x) on a grid.

    Args:
        q_x: (n,). p_z: (k,). p_x_given_z: (k, n). cells: of the grid, along each probability.
        polished: at how many ε a local search goes on from the best table of the grid; then the curve has these ε alone.

    Returns: the curve. A grid reaches less than all tables do: V is too high by what a step of it costs.

    Raises: SettingError for tables that are no distributions or have zeros, and for a grid of no cell or of more than `MOST`
        tables.
    """
    n, k = len(q_x), len(p_z)
    for name, table, shape in (("q_x", q_x, (n,)), ("p_z", p_z, (k,)), ("p_x_given_z", p_x_given_z, (k, n))):
        check_positive(name, table, shape)
    if cells < 1:
        raise SettingError(f"cells={cells} must be at least 1.")
    rows = simplex(k, cells)
    if len(rows) ** n > MOST:
        raise SettingError(f"cells={cells} makes {len(rows)}^{n} tables of {n} × {k}; at most {MOST} are searched. Lower it.")
    # Sums over rows are added up row by row: a table is never held as a whole.
    minus_entropy = xlogy(rows, rows).sum(1)
    given, kl, marginal = np.zeros(1), np.zeros(1), np.zeros((1, k))
    for i in range(n):
        given = np.add.outer(given, q_x[i] * minus_entropy).ravel()
        marginal = (marginal[:, None] + q_x[i] * rows).reshape(-1, k)
        kl = np.add.outer(kl, rel_entr(q_x[i] * rows, p_z * p_x_given_z[:, i]).sum(1)).ravel()
    found = trade_off_curve(kl, given - xlogy(marginal, marginal).sum(1))
    if not polished:
        return found
    chosen = np.unique(np.searchsorted(found.kl, np.linspace(found.kl[0], found.kl[-1], polished + 1)[1:]))
    more = []
    for at in chosen:
        # Where two kinds of tables are about as good, those a little before are of the other kind.
        near = [rows[list(np.unravel_index(found.tables[max(0, at - back)], (len(rows),) * n))] for back in (0, 2, 5, 10)]
        ended = [polish(start, q_x, p_z[None] * p_x_given_z.T, float(found.kl[at])) for start in near]
        more.append(max(ended, key=lambda end: end[1]))
    ends = np.array(more)
    whole = trade_off_curve(np.concatenate([found.kl, ends[:, 0]]), np.concatenate([found.information, ends[:, 1]]))
    return TradeOffCurve(ends[:, 0], ends[:, 1], whole.hull_kl, whole.hull_information, chosen)


def search_free(q_x: Array, p_one: float, points: int = 20_000) -> TradeOffCurve:
    """The decoder free, z of two values with p(z = 1) = `p_one`: search all q(z = 1).

    I_q is H(z) less a sum of entropies, which are concave: at given q(z) it is largest at a corner of the tables, where all
    values of x but one have a certain z. So one grid, over q(z = 1), has the best tables.

    Args:
        q_x: (n,). p_one: above 0 and below 1. points: ≥ 1, of the grid; q(z = 1) of all certain tables, and `p_one`, are in it.

    Raises: SettingError for a q(x) that is no distribution or has zeros, and for numbers out of range.
    """
    check_positive("q_x", q_x, (len(q_x),))
    if not 0 < p_one < 1:
        raise SettingError(f"p_one={p_one} must lie above 0 and below 1: else KL is infinite for all but one q(z).")
    if points < 1:
        raise SettingError(f"points={points} must be at least 1.")

    def entropy(w: Array) -> Array:
        found: Array = -xlogy(w, w) - xlogy(1 - w, 1 - w)
        return found

    n = len(q_x)
    sums = [sum(q_x[list(chosen)]) for size in range(n + 1) for chosen in combinations(range(n), size)]
    ones = np.unique(np.concatenate([np.linspace(0, 1, points + 1), [p_one], np.clip(sums, 0, 1)]))
    lost = np.full(len(ones), np.inf)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for certain in (sum(q_x[list(c)]) for size in range(n) for c in combinations(others, size)):
            share = (ones - certain) / q_x[i]
            cost = np.where((share > -1e-12) & (share < 1 + 1e-12), q_x[i] * entropy(np.clip(share, 0, 1)), np.inf)
            lost = np.minimum(lost, cost)
    return trade_off_curve(rel_entr(ones, p_one) + rel_entr(1 - ones, 1 - p_one), entropy(ones) - lost)


def polish(start: Array, q_x: Array, p: Array, epsilon: float) -> tuple[float, float]:
    """The KL and the information of the best table near one, (n, k), with KL ≤ ε, by sequential quadratic programming."""

    def information(flat: Array) -> tuple[float, Array]:
        rows = flat.reshape(start.shape)
        slope = q_x[:, None] * np.log(rows / (q_x @ rows))
        return -float((rows * slope).sum()), -slope.ravel()

    def divergence(flat: Array) -> float:
        return float(rel_entr(q_x[:, None] * flat.reshape(start.shape), p).sum())

    def slope(flat: Array) -> Array:
        found: Array = (q_x[:, None] * (np.log(q_x[:, None] * flat.reshape(start.shape) / p) + 1)).ravel()
        return found

    ones = np.kron(np.eye(len(q_x)), np.ones(start.shape[1]))
    inside = np.clip(start, 1e-9, None)
    rules = [
        {"type": "eq", "fun": lambda flat: ones @ flat - 1, "jac": lambda flat: ones},
        {"type": "ineq", "fun": lambda flat: epsilon - divergence(flat), "jac": lambda flat: -slope(flat)},
    ]
    ended = minimize(
        information, inside.ravel(), jac=True, method="SLSQP", bounds=[(1e-12, 1)] * start.size, constraints=rules,
        options={"maxiter": 200, "ftol": 1e-12},
    )  # fmt: skip
    # What breaks a rule by more than rounding, or is worse than where it began, is not better.
    fits = divergence(ended.x) <= epsilon + 1e-9 and abs(ones @ ended.x - 1).max() < 1e-9
    best = ended.x if fits and ended.fun < information(inside.ravel())[0] else inside.ravel()
    return divergence(best), -information(best)[0]


def trade_off_curve(kl: Array, information: Array) -> TradeOffCurve:
    """The curve of a cloud of tables."""
    kl = np.round(kl, 12)  # what is 0 up to rounding must not have tables of its own
    order = np.lexsort((-information, kl))
    kl, information = kl[order], information[order]
    best = np.maximum.accumulate(information)
    kept = np.concatenate([[True], best[1:] > best[:-1] + 1e-12])
    kl, information = kl[kept], information[kept]
    if len(kl) < 3:
        return TradeOffCurve(kl, information, kl, information, order[kept])
    # The hull of the points and of what lies below and to the right of them: its upper left side is V**.
    corners = np.vstack([np.column_stack([kl, information]), [[kl[-1] + 1, information[-1]], [kl[-1] + 1, information[0] - 1]]])
    hull = np.sort(ConvexHull(np.vstack([corners, [[kl[0], information[0] - 1]]])).vertices)
    hull = hull[hull < len(kl)]
    return TradeOffCurve(kl, information, kl[hull], information[hull], order[kept])


def mixing_lowers_the_bound(t: float) -> float:
    """I̲_q − H_q(x) = t log t + (1−t) log(1−t), in nats, on the line of joint tables that are t/2 on one diagonal.

    q = p there: KL(q(x,z)‖p(x,z)) = 0 on all of the line. The bound is the same at t and 1 − t, and lower in the middle of
    them: it is not concave in the joint tables, and no λ · KL can make up for it.
    """
    if not 0 <= t <= 1:
        raise SettingError(f"t={t} must lie between 0 and 1.")
    return float(xlogy(t, t) + xlogy(1 - t, 1 - t))


def random_tables(n: int, k: int, seed: int) -> tuple[Array, Array, Array]:
    """q(x), p(z) and p(x|z) from flat Dirichlet distributions."""
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.ones(n)), generator.dirichlet(np.ones(k)), generator.dirichlet(np.ones(n), k)
