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
    fronts: seed → runs that no run of the group beats, by −ELBO upwards. hypervolumes: seed → nats².
    """

    sign: int
    split: str
    family: str
    runs: list[RunPoint]
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

    def dominators(self, run: RunPoint, split: str) -> list[RunPoint]:
        """The runs of other methods that dominate a run on a split."""
        return [found.better for found in self.dominations if found.split == split and found.worse.name == run.name]


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
        runs = [run for run in collection.runs if run.sign == sign]
        if not runs:
            continue
        for split in SPLITS:
            found[sign, split] = (references or {}).get((sign, split)) or worst([c.points[split] for c in runs], sign)
            dominations += (pairs := _dominations(runs, split, z))
            groups += [
                _group(runs, family, split, pairs, found[sign, split])
                for family in collection.families
                if any(run.family == family for run in runs)
            ]
    curves = [curve for split in SPLITS for curve in _curves(collection, split)]
    return Analysis(collection, z, found, groups, dominations, curves)


def _rivals(run: RunPoint, runs: list[RunPoint]) -> list[RunPoint]:
    return [other for other in runs if other.seed == run.seed and other.family != run.family]


def _dominations(runs: list[RunPoint], split: str, z: float) -> list[Domination]:
    return [
        Domination(split, rival, run)
        for run in runs
        for rival in _rivals(run, runs)
        if dominates(rival.points[split], run.points[split], run.sign, z)
    ]


def _group(
    runs: list[RunPoint], family: str, split: str, dominations: list[Domination], reference: tuple[float, float]
) -> Group:
    """The group of a method among the runs of one sign."""
    losers = {pair.worse.name for pair in dominations}
    beaten = {pair.worse.name for pair in _dominations(runs, split, z=0.0)}
    members = [run for run in runs if run.family == family]
    sign, fronts, hypervolumes = members[0].sign, {}, {}
    for seed in sorted({run.seed for run in members}):
        here = [run for run in members if run.seed == seed]
        points = [run.points[split] for run in here]
        fronts[seed] = [here[k] for k in front(points, sign)]
        hypervolumes[seed] = hypervolume(points, sign, reference)
    return Group(
        sign=sign,
        split=split,
        family=family,
        runs=members,
        compared=[run for run in members if _rivals(run, runs)],
        dominated=[run for run in members if run.name in losers],
        beaten=[run for run in members if run.name in beaten],
        fronts=fronts,
        hypervolumes=hypervolumes,
    )


def _curves(collection: Collection, split: str) -> list[SlackCurve]:
    """A curve per method and α; none where γ₁ has a single value."""
    slack = [(run, run.gamma) for run in collection.runs if run.gamma is not None]
    if len({gamma for _, gamma in slack}) < 2:
        return []
    curves = []
    for family, alpha in sorted({(run.family, run.alpha) for run, _ in slack}):
        own = [(run, gamma) for run, gamma in slack if (run.family, run.alpha) == (family, alpha)]
        gammas = sorted({gamma for _, gamma in own})
        points = [[run.points[split] for run, at in own if at == gamma] for gamma in gammas]
        values = [[point.information for point in at] for at in points]
        spreads = [stdev(v) if len(v) > 1 else at[0].information_stderr for v, at in zip(values, points, strict=True)]
        counts = [len(v) for v in values]
        errors = [spread / n**0.5 for spread, n in zip(spreads, counts, strict=True)]
        curves.append(SlackCurve(family, alpha, split, gammas, [fmean(v) for v in values], spreads, errors, counts))
    return curves
