"""Pareto dominance, fronts and hypervolumes for two objectives, information and −ELBO.

−ELBO is always a cost. Information is a cost for α > 0 (minimise); for α < 0 (maximise) its negative is. The costs of a run
are therefore (−ELBO, sign · I), both in nats and both better when lower, where sign is the sign of α.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

MAXIMISE, MINIMISE = -1, 1
"""The signs of α."""


@dataclass(frozen=True)
class Point:
    """The estimates of a run on a split: I and −ELBO in nats, each with its standard error."""

    information: float
    information_stderr: float
    neg_elbo: float
    neg_elbo_stderr: float

    def costs(self, sign: int) -> tuple[float, float]:
        """(−ELBO, sign · I) in nats."""
        return self.neg_elbo, sign * self.information


def dominates(a: Point, b: Point, sign: int, z: float = 2.0) -> bool:
    """Whether a is better than b in *both* objectives by more than z standard errors.

    cost(b) − cost(a) > z · √(se_a² + se_b²) for −ELBO and for sign · I (nats). Both runs are evaluated on the same data, so
    that their errors are positively correlated and the rule is stricter than a test of the paired difference.
    """
    (e_a, i_a), (e_b, i_b) = a.costs(sign), b.costs(sign)
    better_fit = e_b - e_a > z * hypot(a.neg_elbo_stderr, b.neg_elbo_stderr)
    better_information = i_b - i_a > z * hypot(a.information_stderr, b.information_stderr)
    return better_fit and better_information


def front(points: Sequence[Point], sign: int) -> list[int]:
    """Indices of the nondominated points, by increasing −ELBO.

    A point is dominated if another one is at least as good in both objectives and better in one. Standard errors are ignored,
    and equal points are on the front together.
    """
    costs = [point.costs(sign) for point in points]
    order = sorted(range(len(points)), key=costs.__getitem__)
    nondominated: list[int] = []
    for k in order:
        # In the order of increasing −ELBO a point is on the front only if its cost of information is lower than all before.
        if not nondominated or costs[k][1] < costs[nondominated[-1]][1] or costs[k] == costs[nondominated[-1]]:
            nondominated.append(k)
    return nondominated


def worst(points: Sequence[Point], sign: int) -> tuple[float, float]:
    """The worst −ELBO and the worst I of some points (nats), as (−ELBO, I): the reference point of a hypervolume."""
    return max(p.neg_elbo for p in points), sign * max(sign * p.information for p in points)


def hypervolume(points: Sequence[Point], sign: int, reference: tuple[float, float]) -> float:
    """The area (nats²) of the region that some point dominates and that dominates the reference point.

    It is an exact sum of rectangles along the front. Points that are not better than the reference in both objectives
    contribute nothing.

    Args:
        reference: (−ELBO, I) in nats.
    """
    edge, ceiling = reference[0], sign * reference[1]
    area = 0.0
    for k in front(points, sign):
        neg_elbo, information = points[k].costs(sign)
        if neg_elbo < edge and information < ceiling:
            area += (edge - neg_elbo) * (ceiling - information)
            ceiling = information
    return area
