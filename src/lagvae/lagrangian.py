"""The constrained problem and its Lagrangian, for given values.

    min_θ  f = α_q Î_q + α_p Î_p      subject to   D_i ≤ bound_i
    L(θ, λ) = f + Σ_i λ_i (D_i − bound_i),   θ descends, λ ≥ 0 ascends.

Everything here is elementwise over a leading axis: for one model the values have shapes () and (m,),
for an ensemble of K models (K,) and (K, m).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lagvae.distributions import JointSamples
from lagvae.divergences import Divergence, i_p_upper, neg_i_p_lower
from lagvae.errors import SettingError

MEMORY = 500
"""Steps over which multipliers are averaged for a report."""


@dataclass(frozen=True)
class Constraint:
    """One constraint D ≤ bound, or one penalty λ D where the multiplier is fixed.

    Args:
        name: how it is called in configs, logs and the summary.
        divergence: the estimator of D.
        bound: ε, in the unit of D (nats, or none). None: a penalty that no bound belongs to.
        multiplier: λ: where a learned one starts, or its fixed value; in nats per unit of D, as in the paper.
        learned: whether λ ascends.
        unit: natural scale of D. A dual step sees the violation in units; L does not depend on it.
        largest: the largest λ · unit that ascent may reach; a violation that persists there is infeasible.
    """

    name: str
    divergence: Divergence
    bound: float | None = None
    multiplier: float = 1.0
    learned: bool = False
    scale: float = 1.0
    max_multiplier: float = 1000.0

    def __post_init__(self) -> None:
        key = f"constraints.{self.name}"
        if self.bound is not None and not isfinite(self.bound):
            raise SettingError(f"{key}: the bound is {self.bound}; it must be a finite number.")
        if not (isfinite(self.scale) and self.scale > 0):
            raise SettingError(f"{key}.scale={self.scale} must be a positive number.")
        if not (isfinite(self.multiplier) and self.multiplier >= 0):
            raise SettingError(f"{key}.multiplier={self.multiplier} must be a number ≥ 0; a multiplier is never negative.")
        if not self.max_multiplier > 0:
            raise SettingError(f"{key}.max_multiplier={self.max_multiplier} must be positive.")
        if self.learned and self.multiplier * self.scale > self.max_multiplier:
            raise SettingError(
                f"{key}.multiplier={self.multiplier:g} starts above {key}.max_multiplier={self.max_multiplier:g} (in units of "
                f"{self.scale:g}); lower the one or raise the other."
            )
        if self.learned and self.bound is None:
            raise SettingError(
                f"{key}: a learned multiplier needs a bound. Use epsilon=calibrated, or give {key}.epsilon=NUMBER, "
                "or fix the multiplier with multiplier=fixed."
            )


@dataclass
class Values:
    """What an objective measures on a batch: named terms, each (), and the divergences, (m,).

    Terms (nats), as far as the laws have them: "rate" and "distortion", for α_p > 0 "i_p_upper", for α_p < 0 "neg_i_p_lower".
    """

    terms: dict[str, Tensor]
    divergences: Tensor


class Preference(nn.Module):
    """f = α_q Î_q + α_p Î_p, with the bound on the right side by the sign of α.

    α > 0 minimises the upper bound (the rate), α < 0 maximises the lower one (minus the distortion, up to a
    constant of the data): f = max(α, 0) · rate + max(−α, 0) · distortion. No branch on a value, so that signs may
    differ within an ensemble. Of the terms on p, which draw from p(x,z), only the one that the sign of α_p takes is
    computed; one that the model does not have is left out (`check_preference` refuses the α that would take it).
    """

    alpha_q: Tensor
    alpha_p: Tensor

    def __init__(self, alpha_q: float, alpha_p: float = 0.0) -> None:
        super().__init__()
        for name, value in (("alpha.q", alpha_q), ("alpha.p", alpha_p)):
            if not isfinite(value):
                raise SettingError(f"{name}={value} must be a finite number (> 0 minimises, < 0 maximises information).")
        self.register_buffer("alpha_q", torch.tensor(float(alpha_q)), persistent=False)
        self.register_buffer("alpha_p", torch.tensor(float(alpha_p)), persistent=False)
        self.sign_p = (alpha_p > 0) - (alpha_p < 0)

    @property
    def required_noise(self) -> frozenset[str]:
        """Names of the noise that the terms draw on."""
        return frozenset({"z_q", "z_p", "x_p"}) if self.sign_p else frozenset({"z_q"})

    def terms(self, samples: JointSamples) -> dict[str, Tensor]:
        """The bounds' terms on a batch, each of shape ()."""
        joint, terms = samples.joint, {}
        if joint.has_rate:
            terms["rate"] = samples.rate.mean()
        if joint.has_distortion:
            terms["distortion"] = samples.distortion.mean()
        if self.sign_p > 0:
            terms["i_p_upper"] = i_p_upper(samples)
        if self.sign_p < 0:
            terms["neg_i_p_lower"] = neg_i_p_lower(samples)
        return terms

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The primal objective f, up to constants of the data; elementwise over a leading axis."""
        alpha = {"rate": self.alpha_q, "distortion": -self.alpha_q, "i_p_upper": self.alpha_p, "neg_i_p_lower": -self.alpha_p}
        return sum((a.clamp(min=0) * terms[name] for name, a in alpha.items() if name in terms), 0 * self.alpha_q)


def on_simplex(v: Tensor) -> Tensor:
    """The nearest point to v, (…, m), with w ≥ 0 and Σ w = 1: w = max(v − θ, 0) (Duchi et al., ICML 2008)."""
    ordered = v.sort(-1, descending=True).values
    over = (ordered.cumsum(-1) - 1) / torch.arange(1, v.shape[-1] + 1, device=v.device)
    last = (ordered > over).sum(-1, keepdim=True) - 1
    return (v - over.gather(-1, last)).clamp(min=0)


class Lagrangian(nn.Module):
    """L(θ, λ) = f + Σ_i λ_i (D_i − bound_i), and the ascent of λ.

    The parameter `scaled` holds λ_i · unit_i, (m,), always in fp32: with it a step of the dual optimizer means the
    same for every constraint, while L itself does not depend on the units. λ follows the noise of the batches, so a
    running mean over its last `MEMORY` steps is kept beside it: the estimate of λ* that summaries report.

    Args:
        preference: the primal objective.
        constraints: the constraints, in the order of every vector of shape (m,).
        simplex: keep λ · unit on the simplex instead of below `largest`: without a preference θ then minimises the largest
            (D_i − bound_i) / unit_i, for max_i v_i is the largest Σ w_i v_i. They start equal; all must be learned.

    Raises: SettingError for names that are not distinct, or a fixed multiplier on the simplex.
    """

    scale: Tensor
    bound: Tensor
    bounded: Tensor
    learned: Tensor
    max_multiplier: Tensor
    running: Tensor
    steps: Tensor

    def __init__(self, preference: Preference, constraints: Sequence[Constraint], simplex: bool = False) -> None:
        super().__init__()
        self.simplex = simplex
        self.preference = preference
        self.constraints = tuple(constraints)
        names = self.names
        if len(set(names)) != len(names):
            raise SettingError(f"Constraints need distinct names, not {', '.join(names)}.")
        scale = torch.tensor([c.scale for c in self.constraints], dtype=torch.float32)
        start = torch.tensor([c.multiplier for c in self.constraints], dtype=torch.float32)
        scaled = start * scale
        if simplex:
            if not all(c.learned for c in self.constraints):
                raise SettingError("simplex=True needs learned multipliers.")
            scaled = torch.full_like(scaled, 1 / max(len(scaled), 1))
        self.scaled = nn.Parameter(scaled, requires_grad=False)
        self.register_buffer("running", scaled.clone())
        self.register_buffer("steps", torch.zeros(()))
        for name, values in {
            "scale": scale,
            "bound": [0.0 if c.bound is None else c.bound for c in self.constraints],
            "bounded": [c.bound is not None for c in self.constraints],
            "learned": [c.learned for c in self.constraints],
            "max_multiplier": [c.max_multiplier for c in self.constraints],
        }.items():
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    @property
    def names(self) -> list[str]:
        """Names of the constraints, in order."""
        return [c.name for c in self.constraints]

    @property
    def required_noise(self) -> frozenset[str]:
        """Names of the noise that the objective draws on."""
        return self.preference.required_noise.union(*(c.divergence.required_noise for c in self.constraints))

    @property
    def multiplier(self) -> Tensor:
        """λ, (m,), in nats per unit of each divergence."""
        return self.scaled.detach() / self.scale

    @property
    def mean_multiplier(self) -> Tensor:
        """The mean of λ over its last `MEMORY` steps, (m,), in nats per unit of each divergence."""
        return self.running / self.scale

    def measure(self, samples: JointSamples) -> Values:
        """Terms and divergences of a batch: what an ensemble maps over its models."""
        terms = self.preference.terms(samples)
        divergences = [c.divergence(samples) for c in self.constraints]
        return Values(terms, torch.stack(divergences) if divergences else self.scaled.new_zeros(0))

    def forward(self, values: Values) -> Tensor:
        """L, shape () or (K,)."""
        penalty = (self.scaled.detach() * self.violation(values.divergences)).sum(-1)
        return self.preference(values.terms) + penalty

    def violation(self, divergences: Tensor) -> Tensor:
        """(D − bound) / unit, (m,); positive where a constraint is broken."""
        return (divergences.float() - self.bound) / self.scale

    @torch.no_grad()
    def ascend(self, violation: Tensor, optimizer: Optimizer) -> None:
        """One step of λ along the violation, then projection to 0 ≤ λ · unit ≤ largest, or the simplex; fixed ones stay."""
        before = self.scaled.clone()
        self.scaled.grad = torch.where(self.learned, violation.detach().float(), 0.0)
        optimizer.step()
        projected = on_simplex(self.scaled) if self.simplex else self.scaled.clamp(min=0).minimum(self.max_multiplier)
        self.scaled.copy_(torch.where(self.learned, projected, before))
        self.steps += self.learned.any(-1)
        self.running.lerp_(self.scaled, (1 / self.steps.clamp(min=1)).clamp(min=1 / MEMORY).unsqueeze(-1))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Move like any module, but keep λ and its bounds in fp32 under every precision."""
        kept = {"scaled": self.scaled.data} | {
            n: getattr(self, n) for n in ("scale", "bound", "max_multiplier", "running", "steps")
        }
        super()._apply(fn, recurse)
        for name, before in kept.items():
            now = getattr(self, name)
            if now.dtype != torch.float32:
                now.data = before.to(now.device, torch.float32)
        return self


TOLERANCE = 0.1
"""How near to its bound, in units, a constraint counts as met and active: 0.1 nat for −ELBO."""
