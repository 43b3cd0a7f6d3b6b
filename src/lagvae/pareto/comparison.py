"""Dominance between runs, Pareto fronts with their hypervolumes, and information as a function of the slack γ₁.

Only runs with the same sign of α are compared, and dominance and fronts are determined within each seed, because the runs of a
sweep with the same seed share their initial parameters θ* and their random numbers. Seeds are replicates, over which the
results are summarised.
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
    """On one split, `better` dominates `worse`, a run of another method with the same seed and sign of α."""

    split: str
    better: RunPoint
    worse: RunPoint


@dataclass(frozen=True)
class Group:
    """The runs of one method with one sign of α, on one split.

    Attributes:
        compared: the runs that have a rival, which is a run of another method with the same seed.
        dominated: the runs that some rival dominates.
        dominated_ignoring_errors: the runs that some rival dominates if standard errors are ignored (z = 0).
        fronts: seed → the runs on the Pareto front of the group, by increasing −ELBO. hypervolumes: seed → nats².
    """

    sign: int
    split: str
    family: str
    runs: list[RunPoint]
    compared: list[RunPoint]
    dominated: list[RunPoint]
    dominated_ignoring_errors: list[RunPoint]
    fronts: Mapping[int, list[RunPoint]]
    hypervolumes: Mapping[int, float]

    @property
    def hypervolume(self) -> tuple[float, float | None]:
        """Mean over seeds, and the standard deviation over seeds if there are several."""
        values = list(self.hypervolumes.values())
        return fmean(values), stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class SlackCurve:
    """Information as a function of the slack γ₁ for one α, on one split: a curve of the paper's Figure 1.

    Attributes:
        gammas: the values of γ₁ in nats, increasing. The lists below have an entry for each.
        means: of information over seeds, in nats. errors: standard errors of the means.
        spreads: standard deviations over seeds; of a single run, the standard error of its estimate.
        counts: numbers of runs.
    """

    family: str
    alpha: float
    split: str
    gammas: list[float]
    means: list[float]
    spreads: list[float]
    errors: list[float]
    counts: list[int]

    def non_monotone_steps(self) -> list[tuple[float, float, float, float]]:
        """Steps where a larger slack does not improve information: (γ, next γ, I(next γ) − I(γ), its standard error)."""
        steps = []
        for k in range(len(self.gammas) - 1):
            change = self.means[k + 1] - self.means[k]
            if change * self.alpha >= 0:  # α < 0 prefers more information, α > 0 less
                steps.append((self.gammas[k], self.gammas[k + 1], change, hypot(self.errors[k], self.errors[k + 1])))
        return steps

    @property
    def monotone(self) -> bool:
        """Whether mean information strictly rises (α < 0) or falls (α > 0) with γ₁."""
        return not self.non_monotone_steps()


@dataclass(frozen=True)
class Analysis:
    """The result of a comparison.

    Attributes:
        z: number of standard errors that a difference must exceed.
        references: (sign, split) → (−ELBO, I) in nats, the reference point of the hypervolumes.
    """

    collection: Collection
    z: float
    references: Mapping[tuple[int, str], tuple[float, float]]
    groups: list[Group]
    dominations: list[Domination]
    curves: list[SlackCurve]

    def dominators(self, run: RunPoint, split: str) -> list[RunPoint]:
        """The runs of other methods that dominate a run on a split."""
        return [pair.better for pair in self.dominations if pair.split == split and pair.worse.name == run.name]


def analyse(
    collection: Collection, z: float = 2.0, references: Mapping[tuple[int, str], tuple[float, float]] | None = None
) -> Analysis:
    """Compare the runs of a collection.

    Args:
        z: number of standard errors of the difference by which a run must be better in both objectives to dominate.
        references: (sign, split) → (−ELBO, I) in nats; by default the worst values of all runs of that sign and split.

    Raises: SettingError for a z that is not a number ≥ 0.
    """
    if not isfinite(z) or z < 0:
        raise SettingError(f"z={z} must be a number ≥ 0: the standard errors that a difference must exceed; 2 by default.")
    used: dict[tuple[int, str], tuple[float, float]] = {}
    groups: list[Group] = []
    dominations: list[Domination] = []
    for sign in (MAXIMISE, MINIMISE):
        runs = [run for run in collection.runs if run.sign == sign]
        if not runs:
            continue
        for split in SPLITS:
            used[sign, split] = (references or {}).get((sign, split)) or worst([run.points[split] for run in runs], sign)
            dominations += (pairs := _dominations(runs, split, z))
            groups += [
                _group(runs, family, split, pairs, used[sign, split])
                for family in collection.families
                if any(run.family == family for run in runs)
            ]
    curves = [curve for split in SPLITS for curve in _curves(collection, split)]
    return Analysis(collection, z, used, groups, dominations, curves)


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
    dominated = {pair.worse.name for pair in dominations}
    dominated_ignoring_errors = {pair.worse.name for pair in _dominations(runs, split, z=0.0)}
    members = [run for run in runs if run.family == family]
    sign, fronts, hypervolumes = members[0].sign, {}, {}
    for seed in sorted({run.seed for run in members}):
        of_seed = [run for run in members if run.seed == seed]
        points = [run.points[split] for run in of_seed]
        fronts[seed] = [of_seed[k] for k in front(points, sign)]
        hypervolumes[seed] = hypervolume(points, sign, reference)
    return Group(
        sign=sign,
        split=split,
        family=family,
        runs=members,
        compared=[run for run in members if _rivals(run, runs)],
        dominated=[run for run in members if run.name in dominated],
        dominated_ignoring_errors=[run for run in members if run.name in dominated_ignoring_errors],
        fronts=fronts,
        hypervolumes=hypervolumes,
    )


def _curves(collection: Collection, split: str) -> list[SlackCurve]:
    """A curve for each method and α; none if γ₁ has a single value."""
    with_slack = [(run, run.gamma) for run in collection.runs if run.gamma is not None]
    if len({gamma for _, gamma in with_slack}) < 2:
        return []
    curves = []
    for family, alpha in sorted({(run.family, run.alpha) for run, _ in with_slack}):
        own = [(run, gamma) for run, gamma in with_slack if (run.family, run.alpha) == (family, alpha)]
        gammas = sorted({gamma for _, gamma in own})
        points = [[run.points[split] for run, run_gamma in own if run_gamma == gamma] for gamma in gammas]
        values = [[point.information for point in group] for group in points]
        spreads = [stdev(v) if len(v) > 1 else group[0].information_stderr for v, group in zip(values, points, strict=True)]
        counts = [len(v) for v in values]
        errors = [spread / n**0.5 for spread, n in zip(spreads, counts, strict=True)]
        curves.append(SlackCurve(family, alpha, split, gammas, [fmean(v) for v in values], spreads, errors, counts))
    return curves
