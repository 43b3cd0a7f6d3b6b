"""Pareto dominance and fronts for information, −ELBO and MMD, where information is known as an interval.

−ELBO and MMD are always costs. Information is a cost for α > 0 (minimise); for α < 0 (maximise) its negative is. The end of the
interval that is worse for a run is the bound that it optimises: the lower end when maximising, the upper end when minimising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

MAXIMISE, MINIMISE = -1, 1
"""The signs of α."""


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error.

    Examples:
        >>> Estimate(24.0, 0.1).is_below(Estimate(25.0, 0.1), z=2.0)  # by 1 > 2 √(0.1² + 0.1²)
        True
    """

    value: float
    stderr: float

    def is_below(self, other: Estimate, z: float) -> bool:
        """Whether other − self > z · √(se² + se²)."""
        return other.value - self.value > z * hypot(self.stderr, other.stderr)


@dataclass(frozen=True)
class Point:
    """The estimates of a run on a split: the ends of the interval for I and −ELBO in nats, and MMD where it is known.

    Of a single estimate of I, both ends are that estimate.

    Examples:
        >>> point = Point(Estimate(5.0, 0.1), Estimate(6.0, 0.1), Estimate(24.0, 0.1))
        >>> point.costs(MAXIMISE), point.costs(MINIMISE)
        ((24.0, -5.0), (24.0, 6.0))
    """

    lower: Estimate
    upper: Estimate
    neg_elbo: Estimate
    mmd: Estimate | None = None

    def worse_end(self, sign: int) -> Estimate:
        """The end of the interval for I that is worse for a run with this sign of α."""
        return self.lower if sign == MAXIMISE else self.upper

    def costs(self, sign: int) -> tuple[float, float]:
        """(−ELBO, sign · I) in nats, with the worse end of the interval for I."""
        return self.neg_elbo.value, sign * self.worse_end(sign).value


def dominates(a: Point, b: Point, sign: int, z: float = 2.0, mmd: bool = False) -> bool:
    """Whether a is better than b in information and −ELBO, and with `mmd` also in MMD, by more than z standard errors each.

    cost(b) − cost(a) > z · √(se_a² + se_b²), for information between the *worse* end of a's interval and the *better* end of
    b's. Both runs are evaluated on the same data, so that their errors are positively correlated and the rule is stricter than
    a test of the paired difference. Where an MMD is unknown, none is better.

    Examples:
        >>> exact = [Estimate(value, 0.01) for value in (5.0, 6.0, 25.0, 24.0)]
        >>> worse, better = Point(exact[0], exact[0], exact[2]), Point(exact[1], exact[1], exact[3])
        >>> dominates(better, worse, sign=MAXIMISE), dominates(worse, better, sign=MAXIMISE)
        (True, False)
    """
    better_information = b.upper.is_below(a.lower, z) if sign == MAXIMISE else a.upper.is_below(b.lower, z)
    if not (better_information and a.neg_elbo.is_below(b.neg_elbo, z)):
        return False
    return not mmd or (a.mmd is not None and b.mmd is not None and a.mmd.is_below(b.mmd, z))


def front(points: Sequence[Point], sign: int) -> list[int]:
    """Indices of the nondominated points in −ELBO and the worse end of the interval for I, by increasing −ELBO.

    A point is dominated if another one is at least as good in both objectives and better in one. Standard errors are ignored,
    and equal points are on the front together.

    Examples:
        >>> def point(neg_elbo, information):
        ...     return Point(Estimate(information, 0.0), Estimate(information, 0.0), Estimate(neg_elbo, 0.0))
        >>> front([point(24.0, 5.0), point(25.0, 4.0), point(26.0, 7.0)], sign=MAXIMISE)  # the second costs more for less
        [0, 2]
    """
    costs = [point.costs(sign) for point in points]
    order = sorted(range(len(points)), key=costs.__getitem__)
    nondominated: list[int] = []
    for k in order:
        # In the order of increasing −ELBO a point is on the front only if its cost of information is lower than all before.
        if not nondominated or costs[k][1] < costs[nondominated[-1]][1] or costs[k] == costs[nondominated[-1]]:
            nondominated.append(k)
    return nondominated
