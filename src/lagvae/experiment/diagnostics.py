"""Diagnostics of a finished run: a verdict on each constraint, and the distance from a KKT point.

The KKT conditions at a solution are D_i ≤ bound_i (primal feasibility), λ_i ≥ 0 (dual feasibility, ensured by projection),
λ_i (D_i − bound_i) = 0 (complementary slackness) and ∇f + Σ λ_i ∇D_i = 0 (stationarity).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import floor, isfinite, log10
from typing import Any

import torch
from torch import Tensor

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences import NegElbo
from lagvae.experiment.convergence import Convergence
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian

DOMINANT_MULTIPLIER = 5.0
"""A bound that is violated although λ · scale is at least this multiple of max(1, |α|) counts as infeasible."""


class Verdict(StrEnum):
    """The state of a constraint at the end of a run."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    INFEASIBLE = "infeasible"
    NOT_CONVERGED = "not converged"
    PENALTY = "penalty"


@dataclass(frozen=True)
class ConstraintResult:
    """What is known of one constraint at the end of a run.

    The complementarity is in nats and λ in nats per unit of D; every other quantity is in the units of D.

    Attributes:
        violation: D − bound, positive if the bound is violated. tolerance: a smaller violation counts as zero.
        complementarity: λ (D − bound). best: the smallest D that was measured during training.
    """

    name: str
    divergence: float
    stderr: float
    bound: float | None
    multiplier: float
    violation: float | None
    tolerance: float
    complementarity: float | None
    best: float
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """The attributes as plain values that JSON can hold."""
        return asdict(self) | {"verdict": str(self.verdict)}


def assess_constraint(
    constraint: Constraint, divergence: float, stderr: float, multiplier: float, alpha: float, best: float
) -> ConstraintResult:
    """Give the verdict on one constraint.

    active: |D − bound| is within the tolerance. inactive: D is below the bound, and λ (D − bound) is close to 0.
    infeasible: D is above the bound although λ dominates the preference. penalty: there is no bound.
    not converged: none of these.

    The tolerance is `TOLERANCE` times the constraint's scale. If D is not in nats (MMD), it is at least two standard errors.

    Args:
        divergence, stderr: D on the training split and the standard error of the estimate.
        multiplier: λ at the end, averaged over its fluctuations. alpha: max(|α_q|, |α_p|).
        best: the smallest D that was measured during training.
    """
    c = constraint
    tolerance = TOLERANCE * c.scale
    if not c.divergence.nats and isfinite(stderr):
        tolerance = max(tolerance, 2 * stderr)
    best = min(best, divergence)
    if c.bound is None:
        return ConstraintResult(c.name, divergence, stderr, None, multiplier, None, tolerance, None, best, Verdict.PENALTY)
    violation = divergence - c.bound
    complementarity = multiplier * violation
    size = max(1.0, alpha)
    if abs(violation) <= tolerance:
        verdict = Verdict.ACTIVE
    elif not isfinite(divergence):
        verdict = Verdict.NOT_CONVERGED
    elif violation < 0:
        complementary = not c.learned or -complementarity <= TOLERANCE * size
        verdict = Verdict.INACTIVE if complementary else Verdict.NOT_CONVERGED
    elif c.learned and multiplier * c.scale >= DOMINANT_MULTIPLIER * size:
        verdict = Verdict.INFEASIBLE
    else:
        verdict = Verdict.NOT_CONVERGED
    return ConstraintResult(
        c.name, divergence, stderr, c.bound, multiplier, violation, tolerance, complementarity, best, verdict
    )


def sensitivity(result: ConstraintResult, scale: float, alpha_q: float, alpha_p: float) -> float | None:
    """The change of the preferred bound on I, in nats, if the slack grows by the constraint's scale: −λ · scale / α.

    λ is the shadow price: if V(ε) is the minimum of α · (bound on I), then dV/dε = −λ. This holds for small changes. None if
    the constraint is not active, or if the preference is on both I_q and I_p or on neither.
    """
    alphas = [a for a in (alpha_q, alpha_p) if a != 0]
    if result.verdict is not Verdict.ACTIVE or len(alphas) != 1:
        return None
    return -result.multiplier * scale / alphas[0]


def overall_verdict(results: Iterable[ConstraintResult], moving: bool = False, short_calibration: bool = False) -> str:
    """The verdict on a run: the worst of its constraints, "met" if all are met, "unconstrained" if none has a bound.

    Args:
        moving: whether the objective had not settled, which makes it "met, not converged".
        short_calibration: whether the run shows that ε̂ was not the least value, which makes it "met, calibration too short".
    """
    verdicts = {result.verdict for result in results} - {Verdict.PENALTY}
    for worst in (Verdict.INFEASIBLE, Verdict.NOT_CONVERGED):
        if worst in verdicts:
            return str(worst)
    if not verdicts:
        return "unconstrained"
    return "met" + (", calibration too short" if short_calibration else ", not converged" if moving else "")


def explain_convergence(
    convergence: Convergence, active: Iterable[str], alpha_q: float, alpha_p: float, steps: int
) -> str | None:
    """A sentence for the user about what longer training would change, or None if that is nothing.

    Args:
        active: the names of the constraints whose λ matters. steps: the length of training.
    """
    alphas = {side: alpha for side, alpha in (("q", alpha_q), ("p", alpha_p)) if alpha}
    size = 1.0
    what = "the objective was still falling"
    if len(alphas) == 1:
        ((side, alpha),) = alphas.items()
        size = abs(alpha)
        what = f"the {'lower' if alpha < 0 else 'upper'} bound on I_{side} was still {'rising' if alpha < 0 else 'falling'}"
    parts = []
    if convergence.moving:
        gain, error = convergence.gain / size, convergence.gain_error / size
        digits = max(0, -floor(log10(error))) if error > 0 else 2
        parts.append(f"{what} by about {gain:.{digits}f} ± {error:.{digits}f} nats per doubling of the length")
    if drifting := convergence.drifting(active):
        changes = " and ".join(f"λ of {name} by {change:+.0%}" for name, change in drifting.items())
        parts.append(f"{changes} over the last quarter of training")
    return f"Not converged: {'; '.join(parts)}. Train longer, such as training.steps={2 * steps}." if parts else None


def explain_calibration(below: float) -> str:
    """A sentence about a run whose weighted divergences lie `below` nats below those of its calibration."""
    return (
        f"The weighted sum of the divergences ended {below:.3g} nats below that of the calibration, which was too short: "
        "ε̂ is not what the model can attain, and the bounds leave more room than the slack says. Calibrate longer: "
        "calibration.steps=auto."
    )


def duality_gap_note(
    constraints: Iterable[Constraint], results: Iterable[ConstraintResult], alpha_q: float, alpha_p: float
) -> str | None:
    """A sentence on whether a run that maximises I_q may have a duality gap, or None if the question does not arise.

    With p held fixed, −|α| I_q + λ KL(q(x,z)‖p(x,z)) is convex in q(z|x) for λ ≥ |α|, and there is no duality gap. For
    λ < |α| a gap is possible. This concerns I_q itself: the bound that is trained in its place is linear in q(z|x) for a fixed
    decoder and has no gap. Nothing is implied for q and p optimised together, or for the parameters of networks
    (docs/theory.md).

    There is a sentence if α_q < 0 is the whole preference and −ELBO has an active bound and a learned λ.
    """
    if not (alpha_q < 0 and alpha_p == 0):
        return None
    size = abs(alpha_q)
    for c, result in zip(constraints, results, strict=True):
        if isinstance(c.divergence, NegElbo) and c.learned and result.verdict is Verdict.ACTIVE:
            if result.multiplier >= size:
                relation, conclusion = "≥", "has no duality gap in distribution space"
            else:
                relation, conclusion = "<", "may have a duality gap, even in distribution space"
            problem = "with the decoder held fixed, maximising I_q itself, which the bound stands in for,"
            return f"λ = {result.multiplier:.3g} {relation} |α| = {size:.3g}: {problem} {conclusion}."
    return None


def stationarity(joint: JointModel, lagrangian: Lagrangian, samples: Iterable[JointSamples]) -> float | None:
    """‖∇f + Σ λ_i ∇D_i‖ / (‖∇f‖ + Σ λ_i ‖∇D_i‖) in θ, with gradients averaged over batches: 0 at a KKT point, at most 1.

    The noise of the batches contributes to it, so it does not reach 0 on a finite number of batches. None if the objective has
    a single term.
    """
    preference = lagrangian.preference
    if not (preference.alpha_q or preference.alpha_p) and len(lagrangian.constraints) < 2:
        return None  # with one term no gradients can cancel: the ratio is always 1
    parameters = [p for p in joint.parameters() if p.requires_grad]

    def gradients(batch: JointSamples) -> Tensor:
        """∇f and each λ_i ∇D_i, a row each; nothing of the batch is kept beyond it."""
        values = lagrangian.measure(batch)
        weighted = lagrangian.mean_multiplier * values.divergences
        rows = []
        for value in (lagrangian.preference(values.terms), *weighted.unbind(-1)):
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            flat = [g.flatten() if g is not None else p.new_zeros(p.numel()) for g, p in zip(found, parameters, strict=True)]
            rows.append(torch.cat(flat))
        return torch.stack(rows)

    total, count = torch.zeros((), device=parameters[0].device), 0
    for batch in samples:
        total, count = total + gradients(batch), count + 1
    total = total / count
    scale = float(total.norm(dim=1).sum())
    return float(total.sum(0).norm()) / scale if scale > 0 else 0.0


def explain_violation(result: ConstraintResult, calibrated: float | None, unit: str) -> str | None:
    """A sentence for the user about a constraint that was not met, or None if it was.

    Args:
        unit: what follows a value of D, such as " nats".
    """
    r = result
    if r.verdict is Verdict.INFEASIBLE:
        attained = f" Calibration reached {calibrated:.4g}{unit}." if calibrated is not None else ""
        return (
            f"{r.name} ≤ {r.bound:.4g}{unit} is out of reach: the best value in training was {r.best:.4g}{unit}, "
            f"with a multiplier of {r.multiplier:.3g}.{attained} Raise constraints.{r.name}.epsilon above it, or use a larger "
            "model."
        )
    if r.verdict is Verdict.NOT_CONVERGED and r.violation is not None:
        side = "above" if r.violation > 0 else "below"
        return (
            f"{r.name} ended {abs(r.violation):.3g}{unit} {side} its bound with a multiplier of {r.multiplier:.3g}: "
            "it has not converged. Train longer (training.steps)."
        )
    return None


SATURATION_MARGIN = 0.03
"""A critic's divergence is saturated within this fraction of its range from either end of the range."""


def explain_critic(name: str, values: Sequence[float], largest: float) -> str | None:
    """A sentence about a critic whose divergence was saturated for most of the second half of training, or None.

    Args:
        values: the divergence on logged batches. largest: the largest value that it can have, possibly infinite.
    """
    late = values[len(values) // 2 :]
    if len(late) < 4 or not isfinite(largest):
        return None
    if sum(v > (1 - SATURATION_MARGIN) * largest for v in late) > len(late) / 2:
        return (
            f"The critic of {name} separates the two distributions completely: {name} stayed at its largest value, "
            f"{largest:.3g}, where its gradient almost vanishes. Raise constraints.{name}.divergence.r1, or lower "
            "critic.optimizer.lr."
        )
    if sum(v < SATURATION_MARGIN * largest for v in late) > len(late) / 2:
        return (
            f"The critic of {name} does not separate the two distributions: {name} stayed near 0. Either the distributions "
            f"agree (see the p-values), or the critic is too weak: lower constraints.{name}.divergence.r1, or raise "
            "critic.steps."
        )
    return None
