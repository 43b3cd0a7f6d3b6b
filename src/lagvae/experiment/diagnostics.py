"""What a finished run shows: the verdict on each constraint, and how far from a KKT point it is.

At a solution: D_i ≤ bound_i (primal), λ_i ≥ 0 (dual, by projection), λ_i (D_i − bound_i) = 0 (complementary),
∇f + Σ λ_i ∇D_i = 0 (stationary).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences import NegElbo
from lagvae.lagrangian import TOLERANCE, Constraint, Lagrangian

DOMINANT = 5.0
"""λ · unit above this multiple of max(1, |α|) that still leaves a violation: the bound is out of reach."""


class Verdict(StrEnum):
    """The state a constraint ended in."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    INFEASIBLE = "infeasible"
    NOT_CONVERGED = "not converged"
    PENALTY = "penalty"


@dataclass(frozen=True)
class Finding:
    """One constraint at the end of a run; D and bound in the unit of D, complementarity in nats.

    violation: D − bound, positive where broken. tolerance: below it a violation cannot be told from zero.
    complementarity: λ (D − bound). best: the smallest D that training saw.
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
        """Plain values for JSON."""
        return asdict(self) | {"verdict": str(self.verdict)}


def judge(constraint: Constraint, divergence: float, stderr: float, multiplier: float, alpha: float, best: float) -> Finding:
    """Judge one constraint.

    active: |D − bound| within tolerance. inactive: below the bound, and λ (D − bound) is near 0.
    infeasible: above the bound although λ dominates the preference. not converged: anything else. penalty: no bound.

    Args:
        divergence, stderr: D on the training split, its standard error (of the estimate, where it is noisy by itself).
        multiplier: λ at the end, averaged over its noise. alpha: max(|α_q|, |α_p|). best: the smallest D seen while training.

    The tolerance is `TOLERANCE` units, or two standard errors where D is a noisy estimate without unit (MMD).
    """
    c = constraint
    tolerance = TOLERANCE * c.scale
    if not c.divergence.nats and isfinite(stderr):
        tolerance = max(tolerance, 2 * stderr)
    best = min(best, divergence)
    if c.bound is None:
        return Finding(c.name, divergence, stderr, None, multiplier, None, tolerance, None, best, Verdict.PENALTY)
    violation = divergence - c.bound
    complementarity = multiplier * violation
    size = max(1.0, alpha)
    if abs(violation) <= tolerance:
        verdict = Verdict.ACTIVE
    elif not isfinite(divergence):
        verdict = Verdict.NOT_CONVERGED
    elif violation < 0:
        settled = not c.learned or -complementarity <= TOLERANCE * size
        verdict = Verdict.INACTIVE if settled else Verdict.NOT_CONVERGED
    elif c.learned and multiplier * c.scale >= DOMINANT * size:
        verdict = Verdict.INFEASIBLE
    else:
        verdict = Verdict.NOT_CONVERGED
    return Finding(c.name, divergence, stderr, c.bound, multiplier, violation, tolerance, complementarity, best, verdict)


def sensitivity(finding: Finding, scale: float, alpha_q: float, alpha_p: float) -> float | None:
    """Change of the preferred bound on I, in nats, per unit of slack more on a constraint: −λ · unit / α.

    λ is the shadow price: with V(ε) the least α · (bound on I), dV/dε = −λ. It holds for small changes. None where the
    constraint is not active, or where the preference is on both I_q and I_p, or on none.
    """
    alphas = [a for a in (alpha_q, alpha_p) if a != 0]
    if finding.verdict is not Verdict.ACTIVE or len(alphas) != 1:
        return None
    return -finding.multiplier * scale / alphas[0]


def overall(findings: Iterable[Finding]) -> str:
    """The verdict on a run: the worst of its constraints, "met" where all are, "unconstrained" without bounds."""
    verdicts = {f.verdict for f in findings} - {Verdict.PENALTY}
    for worst in (Verdict.INFEASIBLE, Verdict.NOT_CONVERGED):
        if worst in verdicts:
            return str(worst)
    return "met" if verdicts else "unconstrained"


def regime(constraints: Iterable[Constraint], findings: Iterable[Finding], alpha_q: float, alpha_p: float) -> str | None:
    """A sentence on whether the dual of a maximising run can be trusted, or None where there is nothing to say.

    −|α| I_q + λ KL(q(x,z)‖p(x,z)) is convex in the tables q(z|x), the model p held fixed, once λ ≥ |α|: then no duality gap
    is left there. Below, one is possible. This is about I_q itself: the bound that is trained in its place is linear in q(z|x),
    the decoder held fixed, and has no gap. Nothing is promised of both laws at once, nor of the parameters of networks
    (docs/theory.md).

    Says something where α_q < 0 is the whole preference and −ELBO is constrained, active, with a learned λ.
    """
    if not (alpha_q < 0 and alpha_p == 0):
        return None
    size = abs(alpha_q)
    for c, f in zip(constraints, findings, strict=True):
        if isinstance(c.divergence, NegElbo) and c.learned and f.verdict is Verdict.ACTIVE:
            if f.multiplier >= size:
                said = "≥", "has no duality gap in distribution space"
            else:
                said = "<", "may have a duality gap, even in distribution space"
            about = "with the decoder held fixed, maximising I_q itself, which the bound stands in for,"
            return f"λ = {f.multiplier:.3g} {said[0]} |α| = {size:.3g}: {about} {said[1]}."
    return None


def stationarity(joint: JointModel, lagrangian: Lagrangian, samples: Iterable[JointSamples]) -> float | None:
    """‖∇f + Σ λ_i ∇D_i‖ / (‖∇f‖ + Σ λ_i ‖∇D_i‖) over θ, gradients averaged over batches; 0 at a KKT point, at most 1.

    Noise of the batches adds to it: it does not reach 0 on a finite number of them. None for a problem of a single term.
    """
    preference = lagrangian.preference
    if not (preference.alpha_q or preference.alpha_p) and len(lagrangian.constraints) < 2:
        return None  # one term has nothing to balance: the ratio of a gradient to itself is 1
    parameters = [p for p in joint.parameters() if p.requires_grad]
    parts: list[Tensor] = []
    count = 0
    for batch in samples:
        count += 1
        values = lagrangian.measure(batch)
        weighted = lagrangian.mean_multiplier * values.divergences
        rows = []
        for value in (lagrangian.preference(values.terms), *weighted.unbind(-1)):
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            flat = [
                g.flatten() if g is not None else p.new_zeros(p.numel()) for g, p in zip(gradients, parameters, strict=True)
            ]
            rows.append(torch.cat(flat))
        stacked = torch.stack(rows)
        parts = [parts[0] + stacked] if parts else [stacked]
    total = parts[0] / count
    scale = float(total.norm(dim=1).sum())
    return float(total.sum(0).norm()) / scale if scale > 0 else 0.0


def explain_violation(finding: Finding, calibrated: float | None, unit: str) -> str | None:
    """A sentence for a user about a constraint that was not met, or None."""
    f = finding
    if f.verdict is Verdict.INFEASIBLE:
        known = f" Calibration reached {calibrated:.4g}{unit}." if calibrated is not None else ""
        return (
            f"{f.name} ≤ {f.bound:.4g}{unit} is out of reach: the best value in training was {f.best:.4g}{unit}, "
            f"with a multiplier of {f.multiplier:.3g}.{known} Raise constraints.{f.name}.epsilon above it, or use a larger "
            "model."
        )
    if f.verdict is Verdict.NOT_CONVERGED and f.violation is not None:
        side = "above" if f.violation > 0 else "below"
        return (
            f"{f.name} ended {abs(f.violation):.3g}{unit} {side} its bound with a multiplier of {f.multiplier:.3g}: "
            "not converged. Train longer (training.steps)."
        )
    return None


NEAR = 0.03
"""The share of the scale of a divergence that counts as standing at its end."""


def explain_critic(name: str, values: Sequence[float], largest: float) -> str | None:
    """A sentence about a critic whose divergence stood at an end of its scale for most of the second half of training, or None.

    Args:
        values: the divergence on logged batches. largest: the largest value that it can have; may be infinite.
    """
    late = values[len(values) // 2 :]
    if len(late) < 4 or not isfinite(largest):
        return None
    if sum(v > (1 - NEAR) * largest for v in late) > len(late) / 2:
        return (
            f"The critic of {name} tells the laws apart completely: {name} stood at its largest value, {largest:.3g}, where it "
            f"has hardly a gradient. Raise constraints.{name}.divergence.r1, or lower critic.optimizer.lr."
        )
    if sum(v < NEAR * largest for v in late) > len(late) / 2:
        return (
            f"The critic of {name} tells nothing apart: {name} stood near 0. Either the laws agree (see the p-values), or the "
            f"critic is too weak: lower constraints.{name}.divergence.r1, or raise critic.steps."
        )
    return None
