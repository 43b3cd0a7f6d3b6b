"""Who dominates whom, which runs form fronts, what these cover, and how information follows the slack γ₁.

Only runs with the same sign of α are compared, and dominance and fronts are within a seed: there the runs of a sweep
share their start θ* and their random numbers. Seeds are replicates; what is found in each is summarised over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, isfinite
from statistics import fmean, stdev

from lagvae.errors import SettingError
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, dominates, front, hypervolume, worst
from lagvae.pareto.points import SPLITS, Collection, RunPoint


@dataclass(frozen=True)
class Domination:
    """On a split, `better` dominates `worse`, which is a run of another method with the same sign of α and seed."""

    split: str
    better: RunPoint
    worse: RunPoint


@dataclass(frozen=True)
class Group:
    """The runs of one method with one sign of α, on one split.

    compared: runs that have a rival, a run of another method with the same seed. dominated: those that some rival dominates.
    beaten: those that some rival is better than in both objectives, whatever the noise (z = 0).
    fronts: seed → cells that no run of the group beats, by −ELBO upwards. hypervolumes: seed → nats².
    """

    sign: int
    split: str
    family: str
    cells: list[RunPoint]
    compared: list[RunPoint]
    dominated: list[RunPoint]
    beaten: list[RunPoint]
    fronts: Mapping[int, list[RunPoint]]
    hypervolumes: Mapping[int, float]

    @property
    def hypervolume(self) -> tuple[float, float | None]:
        """Mean over seeds, and their standard deviation where there are several."""
        values = list(self.hypervolumes.values())
        return fmean(values), stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class SlackCurve:
    """Information over the slack γ₁ for one α, on one split: the paper's Figure 1.

    Per γ₁, upwards: the mean over seeds (nats); its spread, the standard deviation over seeds, or with one run the standard
    error of the measurement; the standard error of the mean; the number of runs.
    """

    family: str
    alpha: float
    split: str
    gammas: list[float]
    means: list[float]
    spreads: list[float]
    errors: list[float]
    counts: list[int]

    def breaks(self) -> list[tuple[float, float, float, float]]:
        """Where a larger slack does not give more of what α asks for: (γ, next γ, I(next γ) − I(γ), its standard error)."""
        found = []
        for k in range(len(self.gammas) - 1):
            step = self.means[k + 1] - self.means[k]
            if step * self.alpha >= 0:  # α < 0 asks for more information, α > 0 for less
                found.append((self.gammas[k], self.gammas[k + 1], step, hypot(self.errors[k], self.errors[k + 1])))
        return found

    @property
    def monotone(self) -> bool:
        """Whether mean information strictly rises (α < 0) or falls (α > 0) with γ₁."""
        return not self.breaks()


@dataclass(frozen=True)
class Analysis:
    """All that is said of a collection.

    references: (sign, split) → (−ELBO, I) in nats, where hypervolumes are measured from.
    """

    collection: Collection
    z: float
    references: Mapping[tuple[int, str], tuple[float, float]]
    groups: list[Group]
    dominations: list[Domination]
    curves: list[SlackCurve]

    def dominators(self, cell: RunPoint, split: str) -> list[RunPoint]:
        """The runs of other methods that dominate a run on a split."""
        return [found.better for found in self.dominations if found.split == split and found.worse.name == cell.name]


def analyse(
    collection: Collection, z: float = 2.0, references: Mapping[tuple[int, str], tuple[float, float]] | None = None
) -> Analysis:
    """Compare the runs of a collection.

    Args:
        z: how many standard errors of the difference a run must be better by, in both objectives, to dominate.
        references: (sign, split) → (−ELBO, I) in nats, instead of the worst values of all runs of that sign and split.

    Raises: SettingError for a z that is not a number ≥ 0.
    """
    if not isfinite(z) or z < 0:
        raise SettingError(f"z={z} must be a number ≥ 0: standard errors that a difference must exceed; 2 by default.")
    found: dict[tuple[int, str], tuple[float, float]] = {}
    groups: list[Group] = []
    dominations: list[Domination] = []
    for sign in (MAXIMISE, MINIMISE):
        cells = [cell for cell in collection.cells if cell.sign == sign]
        if not cells:
            continue
        for split in SPLITS:
            found[sign, split] = (references or {}).get((sign, split)) or worst([c.points[split] for c in cells], sign)
            dominations += (pairs := _dominations(cells, split, z))
            groups += [
                _group(cells, family, split, pairs, found[sign, split])
                for family in collection.families
                if any(cell.family == family for cell in cells)
            ]
    curves = [curve for split in SPLITS for curve in _curves(collection, split)]
    return Analysis(collection, z, found, groups, dominations, curves)


def _rivals(cell: RunPoint, cells: list[RunPoint]) -> list[RunPoint]:
    return [other for other in cells if other.seed == cell.seed and other.family != cell.family]


def _dominations(cells: list[RunPoint], split: str, z: float) -> list[Domination]:
    return [
        Domination(split, rival, cell)
        for cell in cells
        for rival in _rivals(cell, cells)
        if dominates(rival.points[split], cell.points[split], cell.sign, z)
    ]


def _group(
    cells: list[RunPoint], family: str, split: str, dominations: list[Domination], reference: tuple[float, float]
) -> Group:
    """The group of a method among the cells of one sign."""
    losers = {pair.worse.name for pair in dominations}
    beaten = {pair.worse.name for pair in _dominations(cells, split, z=0.0)}
    members = [cell for cell in cells if cell.family == family]
    sign, fronts, hypervolumes = members[0].sign, {}, {}
    for seed in sorted({cell.seed for cell in members}):
        here = [cell for cell in members if cell.seed == seed]
        points = [cell.points[split] for cell in here]
        fronts[seed] = [here[k] for k in front(points, sign)]
        hypervolumes[seed] = hypervolume(points, sign, reference)
    return Group(
        sign=sign,
        split=split,
        family=family,
        cells=members,
        compared=[cell for cell in members if _rivals(cell, cells)],
        dominated=[cell for cell in members if cell.name in losers],
        beaten=[cell for cell in members if cell.name in beaten],
        fronts=fronts,
        hypervolumes=hypervolumes,
    )


def _curves(collection: Collection, split: str) -> list[SlackCurve]:
    """A curve per method and α; none where γ₁ has a single value."""
    slack = [(cell, cell.gamma) for cell in collection.cells if cell.gamma is not None]
    if len({gamma for _, gamma in slack}) < 2:
        return []
    curves = []
    for family, alpha in sorted({(cell.family, cell.alpha) for cell, _ in slack}):
        own = [(cell, gamma) for cell, gamma in slack if (cell.family, cell.alpha) == (family, alpha)]
        gammas = sorted({gamma for _, gamma in own})
        points = [[cell.points[split] for cell, at in own if at == gamma] for gamma in gammas]
        values = [[point.information for point in at] for at in points]
        spreads = [stdev(v) if len(v) > 1 else at[0].information_stderr for v, at in zip(values, points, strict=True)]
        counts = [len(v) for v in values]
        errors = [spread / n**0.5 for spread, n in zip(spreads, counts, strict=True)]
        curves.append(SlackCurve(family, alpha, split, gammas, [fmean(v) for v in values], spreads, errors, counts))
    return curves
