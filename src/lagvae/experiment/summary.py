"""The content of summary.json that follows from settings and results, with the verdict on each constraint.

`write_report` of `lagvae.experiment.run` adds what only the fit knows, such as steps, seconds and versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lagvae.data import SPLITS
from lagvae.divergences import AttributeInformation
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.convergence import Convergence
from lagvae.experiment.diagnostics import (
    Verdict,
    assess_constraint,
    duality_gap_note,
    explain_calibration,
    explain_convergence,
    explain_critic,
    explain_violation,
    overall_verdict,
    sensitivity,
)
from lagvae.experiment.factory import instantiate
from lagvae.experiment.validate import has_calibrated_bounds
from lagvae.front import NegElboNear
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian
from lagvae.metrics import tightest
from lagvae.model import LatentVariableModel
from lagvae.runs.metrics_table import read_series

RATES = {True: "KL(q(z|x)‖p(z)) in closed form", False: "log q(z|x) − log p(z) at one z ∼ q(z|x), as no closed form is known"}
"""Whether the rate is exact → how it is computed."""


def summarise(
    cfg: DictConfig,
    model: LatentVariableModel,
    calibration: Calibration | None,
    splits: Mapping[str, Mapping[str, float]],
    best: Mapping[str, float],
    convergence: Convergence | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Summarise a run.

    Args:
        splits: split → metric → value, of the full evaluation. best: constraint → the smallest divergence in training.
        convergence: what longer training would change, as far as the run shows.
        labels: metric → what reports call it, for user-defined metrics.
    """
    lagrangian = model.lagrangian
    multiplier = lagrangian.mean_multiplier.tolist()
    constraints, results, messages = {}, [], []
    configured = {c.name for c in lagrangian.configured}
    for i, c in enumerate(lagrangian.constraints):
        key = f"constraint/{c.name}"
        result = assess_constraint(
            c,
            splits["train"][key],
            splits["train"][f"{key}_stderr"],
            multiplier[i],
            max(abs(cfg.alpha.q), abs(cfg.alpha.p)),
            best.get(c.name, float("inf")),
        )
        calibrated = None if calibration is None else calibration.calibrated.get(c.name)
        results.append(result)
        if c.name in configured:
            message = explain_violation(result, calibrated, " nats" if c.divergence.nats else "")
            messages += [message] if message else []
        constraints[c.name] = {
            "estimator": repr(c.divergence),
            "nats": c.divergence.nats,
            "calibrated": calibrated,
            "slack": slack_of(cfg, c, calibrated),
            "learned": c.learned,
            "multiplier_std": None if convergence is None else convergence.multiplier_std.get(c.name),
            "scale": c.scale,
            "sensitivity": sensitivity(result, c.scale, cfg.alpha.q, cfg.alpha.p) if c.learned else None,
            **{split: splits[split][key] for split in SPLITS},
            **{f"{split}_stderr": splits[split][f"{key}_stderr"] for split in SPLITS},
            **result.as_dict(),
        }
    curve = [
        {"gamma": c.divergence.gamma, **constraints[c.name]}
        for c in lagrangian.constraints
        if isinstance(c.divergence, NegElboNear)
    ]
    if missed := [point for point in curve if point["verdict"] not in (Verdict.ACTIVE, Verdict.INACTIVE)]:
        messages.append(explain_missed(missed, len(curve)))
    own = [(c, result) for c, result in zip(lagrangian.constraints, results, strict=True) if c.name in configured]
    messages += [message for c, _ in own if (message := explain_attribute(c, splits["train"])) is not None]
    below = below_calibration(cfg, calibration, splits)
    if below is not None:
        messages.append(explain_calibration(below))
    unsettled = None
    if convergence is not None:
        active = [r.name for _, r in own if r.verdict is Verdict.ACTIVE]
        unsettled = explain_convergence(convergence, active, cfg.alpha.q, cfg.alpha.p, cfg.training.steps)
        messages += [unsettled] if unsettled else []
    return {
        "family": cfg.family,
        "alpha": {"q": cfg.alpha.q, "p": cfg.alpha.p},
        "data": cfg.data.name,
        "model": cfg.model.name,
        "mmd_estimator": f"{instantiate(cfg.callbacks.final.mmd)().divergences['mmd']!r}, batches of {cfg.data.batch}"
        if "mmd" in cfg.callbacks.final
        else None,
        "constraints": {c.name: constraints[c.name] for c, _ in own},
        **({"curve": curve} if curve else {}),
        "splits": {
            split: {k: v for k, v in values.items() if not k.startswith("constraint/")} | tightest(values)
            for split, values in splits.items()
        },
        "labels": dict(labels or {}),
        "verdict": overall_verdict(results, unsettled is not None, below is not None),
        "convergence": None if convergence is None else convergence.as_dict(),
        "regime": duality_gap_note([c for c, _ in own], [result for _, result in own], cfg.alpha.q, cfg.alpha.p),
        "messages": messages,
    }


def slack_of(cfg: DictConfig, c: Constraint, calibrated: float | None) -> float | None:
    """How far a calibrated bound is from ε̂: bound − ε̂, in the unit of D; None where the bound comes from no calibration."""
    if calibrated is None or c.bound is None or not has_calibrated_bounds(cfg):
        return None
    if cfg.constraints.get(c.name, {}).get("epsilon") is not None:
        return None
    return round(c.bound - calibrated, 12)  # without the trace of the sum


def explain_attribute(c: Constraint, values: Mapping[str, float]) -> str | None:
    """A sentence on a bound on I(z;u) that the adversary says is met, where a new classifier finds more, or None."""
    found = values.get("i_zu_lower")
    if not isinstance(c.divergence, AttributeInformation) or c.bound is None or found is None:
        return None
    error = values["i_zu_lower_stderr"]
    if found - 2 * error <= c.bound + TOLERANCE * c.scale or values[f"constraint/{c.name}"] > c.bound + TOLERANCE * c.scale:
        return None
    return (
        f"A new classifier finds {found:.3g} ± {error:.2g} nats of I(z;u), more than the bound of {c.bound:g}, of which the "
        f"adversary of {c.name} says that it is met: it was too weak. Give it more steps (critic.steps) or a larger network "
        "(critic.network.hidden)."
    )


def explain_missed(missed: Sequence[Mapping[str, Any]], of: int) -> str:
    """A sentence for the user about the slacks of a front whose bounds are not met with a λ that fits."""
    worst = max(missed, key=lambda point: abs(point["violation"]))
    slacks = ", ".join(f"{point['gamma']:.3g}" for point in missed)
    side = "above" if worst["violation"] > 0 else "below"
    return (
        f"At {len(missed)} of {of} slacks (γ = {slacks}) −ELBO did not end at its bound: by up to "
        f"{abs(worst['violation']):.2g} nats {side}, at γ = {worst['gamma']:.3g}. Train longer (training.steps), or narrow "
        "training.slacks."
    )


def below_calibration(
    cfg: DictConfig, calibration: Calibration | None, splits: Mapping[str, Mapping[str, float]]
) -> float | None:
    """How far the weighted divergences of a run lie below those of its calibration, in nats; None if they do not, or if no
    bound comes from the calibration.

    θ* minimises Σ w_i D_i with the calibration weights w, so that no run can be below Σ w_i ε̂_i by more than the tolerance and
    two standard errors, unless the calibration was too short. The split is that on which ε̂ was measured.
    """
    if calibration is None or not has_calibrated_bounds(cfg):
        return None
    excess, variance, values = 0.0, 0.0, splits[calibration.split]
    for name, c in cfg.constraints.items():
        key, weight = f"constraint/{name}", c.calibration_weight
        if not weight or str(name) not in calibration.calibrated:
            continue
        excess += weight * (values[key] - calibration.calibrated[str(name)])
        error = weight * hypot(values[f"{key}_stderr"], calibration.stderr[str(name)])
        variance += error**2 if isfinite(error) else 0.0
    return -excess if excess < -TOLERANCE - 2 * variance**0.5 else None


def critic_messages(lagrangian: Lagrangian, metrics: Path) -> list[str]:
    """A message for each critic whose divergence was saturated for most of the second half of training."""
    critics = {c.name: c.divergence for c in lagrangian.constraints if c.divergence.uses_critic}
    series = read_series(metrics, "train", critics) if critics and metrics.is_file() else {}
    messages = [
        explain_critic(name, series[name][1], divergence.largest) for name, divergence in critics.items() if name in series
    ]
    return [message for message in messages if message is not None]
