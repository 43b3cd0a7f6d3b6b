"""Whether a run has converged: what longer training would still change, from the learning curve of the run itself.

The curve is that of the Lagrangian at the final multipliers, V = f + Σ λ_i D_i in nats, which prices a violation that differs
from interval to interval at what it is worth. Over the second half of training it is fitted by

    V = a − b · ln τ + c · η + d · Σ_i w_i ln²(λ_{i,t} / λ_i),        τ_k = Σ_{t ≤ k} η_t,        w_i = λ_i · scale_i

with the learning rate η. The first term is what more training gains, per logarithm of its length. The next is the noise of
the gradients, which vanishes as the learning rate is lowered to zero and would otherwise be taken for a gain. The last is the
path of the learned multipliers: a model that is trained at another λ_t is not the best one at λ, by an amount that is quadratic
in the difference, and it would otherwise be taken for a gain that λ comes to where it is. Doubling the length of training then
gains b · ln 2. A curve that flattens gains less than that.

λ itself still moves where it changed over the last quarter of training. That is not extrapolated: the dual optimizer's steps
depend on the length of the run, so that a longer run would take another path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from lagvae.lagrangian import TOLERANCE, Lagrangian
from lagvae.runs.metrics_table import read_rows

MIN_VALUES = 4
"""Smallest number of values in the second half of training that a curve is fitted to."""

MULTIPLIER_DRIFT = 0.05
"""λ moves if it changes by more than this fraction over the last quarter of training, beyond its error."""

FREEDOM = 3
"""Smallest number of values beyond the coefficients with which the path of the multipliers is one of them."""


@dataclass(frozen=True)
class Convergence:
    """What doubling the length of training would change, and what still changed at its end.

    An error is half of the 95 % confidence interval (Student's t) that the scatter about the fitted curve gives.

    Attributes:
        gain: the decrease of V in nats. gain_error: its error.
        drift: constraint → the relative change of its learned λ over the last quarter of training. drift_error: their errors.
        multiplier_std: constraint → the standard deviation of its learned λ over the last quarter of training.
    """

    gain: float
    gain_error: float
    drift: dict[str, float]
    drift_error: dict[str, float]
    multiplier_std: dict[str, float]

    @property
    def moving(self) -> bool:
        """Whether V still falls by more than `TOLERANCE` nats, beyond the error."""
        return self.gain - self.gain_error > TOLERANCE

    def drifting(self, names: Iterable[str]) -> dict[str, float]:
        """The relative changes of those of the named multipliers that still move."""
        moving = (n for n in names if n in self.drift and abs(self.drift[n]) - self.drift_error[n] > MULTIPLIER_DRIFT)
        return {name: self.drift[name] for name in moving}

    def as_dict(self) -> dict[str, Any]:
        """The attributes as plain values that JSON can hold."""
        return asdict(self)


def effect_of_doubling(
    curve: Mapping[int, float], rates: Mapping[int, float], path: Mapping[int, float] | None = None
) -> tuple[float, float] | None:
    """The change of a logged value if training were twice as long, and its error (see `Convergence`).

    Args:
        curve: step → value. rates: step → learning rate, in order.
        path: step → Σ_i w_i ln²(λ_{i,t} / λ_i), in order; left out where it is constant or there are too few values.

    Returns: None if there are fewer than `MIN_VALUES` values in the second half of τ, or no learning rate.
    """
    at, y = np.asarray([*curve], float), np.asarray([*curve.values()], float)
    known, eta = np.asarray([*rates], float), np.asarray([*rates.values()], float)
    if not len(at) or not len(eta) or not eta[0] > 0:
        return None
    # The rate before the first logged step is that of the first; between two it is taken to be linear.
    known, eta = np.concatenate([[0.0], known]), np.concatenate([eta[:1], eta]) / eta[0]
    elapsed = np.concatenate([[0.0], np.cumsum(np.diff(known) * (eta[1:] + eta[:-1]) / 2)])
    tau, rate = np.interp(at, known, elapsed), np.interp(at, known, eta)
    late = (tau >= tau[-1] / 2) & (tau > 0)
    if late.sum() < MIN_VALUES or not np.isfinite(y[late]).all():
        return None
    columns = [np.ones(late.sum()), np.log(tau[late])]
    if np.ptp(rate[late]) > 0.01:
        columns.append(rate[late])
    if path and late.sum() - len(columns) > FREEDOM:
        moved = np.interp(at, np.asarray([*path], float), np.asarray([*path.values()], float))[late]
        if np.ptp(moved) > MULTIPLIER_DRIFT**2:
            columns.append(moved)
    slope, error = fitted_coefficient(columns, y[late])
    return slope * log(2), error * log(2)


def fitted_coefficient(columns: list[Any], y: Any) -> tuple[float, float]:
    """The coefficient of the second of the columns, which fit y by least squares, and its error (see `Convergence`)."""
    design = np.stack(columns, 1)
    freedom = len(design) - design.shape[1]
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ solution
    stderr = np.sqrt(residual @ residual / freedom * np.linalg.pinv(design.T @ design)[1, 1])
    return float(solution[1]), float(student_t.ppf(0.975, freedom) * stderr)


def late_change(trace: Mapping[int, float], last: int) -> tuple[float, float] | None:
    """The change of a value over the last quarter of training, from a straight line, and its error (see `Convergence`).

    Args:
        trace: step → value. last: the last step of training.

    Returns: None if fewer than `MIN_VALUES` values are that late, or if one is not finite.

    Examples:
        >>> change, error = late_change({step: step / 100 for step in range(100, 1001, 50)}, last=1000)
        >>> round(change, 6), round(error, 6)
        (2.5, 0.0)
    """
    late = {step: value for step, value in trace.items() if step >= 0.75 * last}
    y = np.asarray([*late.values()], float)
    if len(late) < MIN_VALUES or not np.isfinite(y).all():
        return None
    slope, error = fitted_coefficient([np.ones(len(late)), np.asarray([*late], float)], y)
    return slope * 0.25 * last, error * 0.25 * last


def multiplier_path(
    traces: Mapping[str, Mapping[int, float]], multiplier: Mapping[str, float], scale: Mapping[str, float]
) -> dict[int, float]:
    """Step → Σ_i λ_i scale_i ln²(λ_{i,t} / λ_i) at the steps where all λ_i,t were logged: how far λ was from where it ended.

    Args:
        traces: constraint → step → λ. multiplier, scale: constraint → final λ > 0, and its scale.

    Examples:
        >>> multiplier_path({"neg_elbo": {50: 1.0, 100: 2.0}}, {"neg_elbo": 2.0}, {"neg_elbo": 1.0})
        {50: 0.960..., 100: 0.0}
    """
    steps = set.intersection(*map(set, traces.values())) if traces else set()
    tiny = 1e-3  # a multiplier of zero has no logarithm
    return {
        step: sum(
            final * scale[name] * log(max(trace[step], tiny * final) / final) ** 2
            for name, trace in traces.items()
            for final in [multiplier[name]]
        )
        for step in sorted(steps)
    }


def assess_convergence(metrics: Path, lagrangian: Lagrangian, last: int) -> Convergence | None:
    """Assess a run from its metrics.csv, up to the step `last`.

    The curve is that of the training samples that are evaluated after every interval, always with the same noise, or that of
    the logged batches, whichever has the smaller error; for a preference on I_p, that of the batches.

    Returns: None if there is a critic, whose estimates change with the critic itself, or if too little was logged.
    """
    if not metrics.is_file() or any(c.divergence.uses_critic for c in lagrangian.constraints):
        return None
    series: dict[tuple[str, str], dict[int, float]] = {}
    for row in read_rows(metrics):
        if row["split"] in ("train", "train_probe") and int(row["step"]) <= last:
            series.setdefault((row["split"], row["name"]), {})[int(row["step"])] = float(row["value"])
    rates = series.get(("train", "learning_rate"), {})
    multiplier = dict(zip(lagrangian.names, lagrangian.mean_multiplier.tolist(), strict=True))
    learned = [name for name, is_learned in zip(lagrangian.names, lagrangian.learned.tolist(), strict=True) if is_learned]
    traces = {name: series.get(("train", f"multiplier/{name}"), {}) for name in learned if multiplier[name] > 0}
    path = multiplier_path(traces, multiplier, dict(zip(lagrangian.names, lagrangian.scale.tolist(), strict=True)))
    fits = []
    for split, prefix in (("train_probe", "constraint/"), ("train", "")):
        values = {name: values for (s, name), values in series.items() if s == split}
        fits.append(effect_of_doubling(lagrangian_curve(values, prefix, multiplier, lagrangian), rates, path))
    known = [fit for fit in fits if fit is not None]
    if not known:
        return None
    change, error = min(known, key=lambda fit: fit[1])
    drift, drift_error, spread = {}, {}, {}
    for name, trace in traces.items():
        if not trace:
            continue
        spread[name] = float(np.std([value for step, value in trace.items() if step >= 0.75 * last]))
        if (fit := late_change(trace, last)) is not None:
            drift[name], drift_error[name] = fit[0] / multiplier[name], fit[1] / multiplier[name]
    return Convergence(-change, error, drift, drift_error, spread)


def lagrangian_curve(
    values: Mapping[str, Mapping[int, float]], prefix: str, multiplier: Mapping[str, float], lagrangian: Lagrangian
) -> dict[int, float]:
    """Step → V, at the steps where all its terms were logged.

    Args:
        values: name → step → value. prefix: of the names of constraints.
    """
    weights = {f"{prefix}{name}": weight for name, weight in multiplier.items()}
    if not prefix:
        weights["objective"] = 1.0
    elif float(lagrangian.preference.alpha_p):
        return {}
    else:
        weights |= {name: float(w) for name, w in lagrangian.preference.weights.items() if w > 0}
    if not weights:
        return {}
    steps = set.intersection(*(set(values.get(name, {})) for name in weights))
    return {step: sum(weight * values[name][step] for name, weight in weights.items()) for step in sorted(steps)}
