"""Dominance between runs, Pareto fronts, matched runs, and information as a function of the slack γ₁.

Only runs with the same sign of α are compared, and dominance and fronts are determined within each seed, because the runs of a
sweep with the same seed share their initial parameters θ* and their random numbers. Seeds are replicates, over which the
results are summarised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, isclose, isfinite
from statistics import fmean, stdev

from lagvae.errors import SettingError
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Estimate, dominates, front
from lagvae.pareto.points import SPLITS, Collection, RunPoint


@dataclass(frozen=True)
class Domination:
    """On one split, `better` dominates `worse`, a run of another method with the same seed and sign of α, in (I, −ELBO).

    Attributes:
        with_mmd: whether it does in (I, −ELBO, MMD), too.
    """

    split: str
    better: RunPoint
    worse: RunPoint
    with_mmd: bool


@dataclass(frozen=True)
class MatchedPair:
    """A run of LagVAE and the run of InfoVAE whose −ELBO and MMD are its bounds."""

    lagvae: RunPoint
    infovae: RunPoint

    def gain(self, split: str) -> Estimate:
        """By how many nats LagVAE is better in the bound on I that both optimise: positive if it is.

        I_LagVAE − I_InfoVAE of the lower ends of the intervals when maximising, I_InfoVAE − I_LagVAE of the upper ends when
        minimising. The standard error takes the two estimates for independent, which overstates it.
        """
        sign = self.lagvae.sign
        a, b = self.lagvae.points[split].worse_end(sign), self.infovae.points[split].worse_end(sign)
        return Estimate(sign * (b.value - a.value), hypot(a.stderr, b.stderr))

    def objective_gain(self, split: str) -> Estimate:
        """By how many nats LagVAE is better in the objective that InfoVAE itself minimises, per |α|: positive if it is.

        That is `gain`, plus λ₁/|α| times what its −ELBO is lower by, plus λ₂/|α| times what its MMD is lower by, with the λ of
        InfoVAE: a bound that is not met to the last hundredth of a nat is no part of the difference. The standard error is that
        of `gain`: both runs are measured on the same images with the same noise, so that the errors of −ELBO are common.
        """
        gain, own, other = self.gain(split), self.lagvae.points[split], self.infovae.points[split]
        value = gain.value
        for name, a, b in (("neg_elbo", own.neg_elbo, other.neg_elbo), ("mmd", own.mmd, other.mmd)):
            if a is not None and b is not None:
                value += self.infovae.multipliers.get(name, 0.0) / abs(self.infovae.alpha) * (b.value - a.value)
        return Estimate(value, gain.stderr)


@dataclass(frozen=True)
class Group:
    """The runs of one method with one sign of α, on one split.

    Attributes:
        compared: the runs that have a rival, which is a run of another method with the same seed.
        dominated: the runs that some rival dominates in (I, −ELBO). dominated_with_mmd: in (I, −ELBO, MMD).
        fronts: seed → the runs on the Pareto front of the group, by increasing −ELBO.
    """

    sign: int
    split: str
    family: str
    runs: list[RunPoint]
    compared: list[RunPoint]
    dominated: list[RunPoint]
    dominated_with_mmd: list[RunPoint]
    fronts: Mapping[int, list[RunPoint]]

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest −ELBO of the runs (nats)."""
        values = [run.points[self.split].neg_elbo.value for run in self.runs]
        return min(values), max(values)


@dataclass(frozen=True)
class SlackCurve:
    """Information as a function of the slack γ₁ for one α, on one split: a curve of the paper's Figure 1.

    Of an interval for I, the values are those of the end that the runs optimise: the lower one for α < 0, else the upper one.

    Attributes:
        gammas: the values of γ₁ in nats, increasing. The lists below have an entry for each.
        means: of information over seeds, in nats. errors: standard errors of the means.
        others: means over seeds of the other end of the interval.
        spreads: standard deviations over seeds; of a single run, the standard error of its estimate.
        counts: numbers of runs.
    """

    family: str
    alpha: float
    split: str
    gammas: list[float]
    means: list[float]
    others: list[float]
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


@dataclass(frozen=True)
class Analysis:
    """The result of a comparison.

    Attributes:
        z: number of standard errors that a difference must exceed.
        pairs: the runs of LagVAE that are matched with a run of InfoVAE, by increasing gain on the training split.
        unpaired: names of matched runs whose run of InfoVAE is not among those compared, or has other values by now.
    """

    collection: Collection
    z: float
    pairs: list[MatchedPair]
    unpaired: list[str]
    groups: list[Group]
    dominations: list[Domination]
    curves: list[SlackCurve]

    def dominators(self, run: RunPoint, split: str) -> list[Domination]:
        """The dominations of a run by runs of other methods on a split."""
        return [pair for pair in self.dominations if pair.split == split and pair.worse.name == run.name]


def analyse(collection: Collection, z: float = 2.0) -> Analysis:
    """Compare the runs of a collection.

    Args:
        z: number of standard errors of the difference by which a run must be better in every objective to dominate.

    Raises: SettingError for a z that is not a number ≥ 0.
    """
    if not isfinite(z) or z < 0:
        raise SettingError(f"z={z} must be a number ≥ 0: the standard errors that a difference must exceed; 2 by default.")
    groups: list[Group] = []
    dominations: list[Domination] = []
    for sign in (MAXIMISE, MINIMISE):
        runs = [run for run in collection.runs if run.sign == sign]
        if not runs:
            continue
        for split in SPLITS:
            dominations += (pairs := _dominations(runs, split, z))
            groups += [
                _group(runs, family, split, pairs)
                for family in collection.families
                if any(run.family == family for run in runs)
            ]
    curves = [curve for split in SPLITS for curve in _curves(collection, split)]
    return Analysis(collection, z, *_matched_pairs(collection), groups, dominations, curves)


def _matched_pairs(collection: Collection) -> tuple[list[MatchedPair], list[str]]:
    """The matched pairs, and the names of the matched runs that have no partner."""
    partners = {run.stored_name: run for run in collection.runs}
    pairs, unpaired = [], []
    for run in collection.runs:
        if run.match is None:
            continue
        partner = partners.get(run.match)
        # The bound is the −ELBO that the partner's summary had, unless the partner was trained again afterwards.
        if partner is None or run.bound is None or not isclose(run.bound, partner.points["train"].neg_elbo.value, rel_tol=1e-6):
            unpaired.append(run.name)
        else:
            pairs.append(MatchedPair(run, partner))
    return sorted(pairs, key=lambda pair: (pair.lagvae.sign, pair.gain("train").value)), unpaired


def _rivals(run: RunPoint, runs: list[RunPoint]) -> list[RunPoint]:
    return [other for other in runs if other.seed == run.seed and other.family != run.family]


def _dominations(runs: list[RunPoint], split: str, z: float) -> list[Domination]:
    return [
        Domination(split, rival, run, dominates(rival.points[split], run.points[split], run.sign, z, mmd=True))
        for run in runs
        for rival in _rivals(run, runs)
        if dominates(rival.points[split], run.points[split], run.sign, z)
    ]


def _group(runs: list[RunPoint], family: str, split: str, dominations: list[Domination]) -> Group:
    """The group of a method among the runs of one sign."""
    dominated = {pair.worse.name for pair in dominations}
    dominated_with_mmd = {pair.worse.name for pair in dominations if pair.with_mmd}
    members = [run for run in runs if run.family == family]
    sign, fronts = members[0].sign, {}
    for seed in sorted({run.seed for run in members}):
        of_seed = [run for run in members if run.seed == seed]
        fronts[seed] = [of_seed[k] for k in front([run.points[split] for run in of_seed], sign)]
    return Group(
        sign=sign,
        split=split,
        family=family,
        runs=members,
        compared=[run for run in members if _rivals(run, runs)],
        dominated=[run for run in members if run.name in dominated],
        dominated_with_mmd=[run for run in members if run.name in dominated_with_mmd],
        fronts=fronts,
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
        sign = own[0][0].sign
        values = [[point.worse_end(sign).value for point in group] for group in points]
        others = [fmean(point.worse_end(-sign).value for point in group) for group in points]
        spreads = [stdev(v) if len(v) > 1 else group[0].worse_end(sign).stderr for v, group in zip(values, points, strict=True)]
        counts = [len(v) for v in values]
        errors = [spread / n**0.5 for spread, n in zip(spreads, counts, strict=True)]
        curves.append(SlackCurve(family, alpha, split, gammas, [fmean(v) for v in values], others, spreads, errors, counts))
    return curves
