"""Two objectives per run, information and −ELBO: which run is better, which runs form a front, how much it covers.

The sign of α says what is better. For α > 0 (minimise) information is a cost, for α < 0 (maximise) its negative is;
−ELBO is always a cost. So a point is (−ELBO, sign · I), both in nats, both better when lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

MAXIMISE, MINIMISE = -1, 1
"""The signs of α."""


@dataclass(frozen=True)
class Point:
    """What was measured of a run on a split: I and −ELBO (nats), each with its standard error."""

    information: float
    information_stderr: float
    neg_elbo: float
    neg_elbo_stderr: float

    def costs(self, sign: int) -> tuple[float, float]:
        """(−ELBO, sign · I) in nats."""
        return self.neg_elbo, sign * self.information


def dominates(a: Point, b: Point, sign: int, z: float = 2.0) -> bool:
    """Whether a is better than b in *both* objectives by more than the noise of the measurement.

    cost(b) − cost(a) > z · √(se_a² + se_b²) for −ELBO and for sign · I (nats). Both runs are measured on the same data, so
    that their errors go together: the rule asks for more than a test of the difference would.
    """
    (e_a, i_a), (e_b, i_b) = a.costs(sign), b.costs(sign)
    better_fit = e_b - e_a > z * hypot(a.neg_elbo_stderr, b.neg_elbo_stderr)
    better_information = i_b - i_a > z * hypot(a.information_stderr, b.information_stderr)
    return better_fit and better_information


def front(points: Sequence[Point], sign: int) -> list[int]:
    """Positions of the points that no other one beats or ties in both objectives and beats in one, by −ELBO upwards.

    The measured values are taken as they are, without their errors. Equal points are on the front together.
    """
    costs = [point.costs(sign) for point in points]
    order = sorted(range(len(points)), key=costs.__getitem__)
    found: list[int] = []
    for k in order:
        # By −ELBO upwards only a lower cost of information can bring a point onto the front.
        if not found or costs[k][1] < costs[found[-1]][1] or costs[k] == costs[found[-1]]:
            found.append(k)
    return found


def worst(points: Sequence[Point], sign: int) -> tuple[float, float]:
    """The worst −ELBO and the worst I of some points (nats), as (−ELBO, I): where a hypervolume is measured from."""
    return max(p.neg_elbo for p in points), sign * max(sign * p.information for p in points)


def hypervolume(points: Sequence[Point], sign: int, reference: tuple[float, float]) -> float:
    """Area of the plane (nats²) between the points and the reference: what is worse than some point, better than it.

    Exact: a sum of rectangles along the front. Points that are not better than the reference in both count for nothing.

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
