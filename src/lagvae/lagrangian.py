"""The constrained optimisation problem and its Lagrangian, as functions of estimates on a batch.

    min_θ  f = α_q Î_q + α_p Î_p      subject to   D_i ≤ bound_i
    L(θ, λ) = f + Σ_i λ_i (D_i − bound_i)

Training descends L in θ and ascends it in λ ≥ 0. All functions are elementwise over a leading axis: the values of one model
have shapes () and (m,), those of an ensemble of K members (K,) and (K, m).
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
"""Time constant, in steps, of the running mean of multipliers that summaries report."""


@dataclass(frozen=True)
class Constraint:
    """A constraint D ≤ bound with a learned multiplier, or a penalty λ D with a fixed one, whose bound is only checked.

    Args:
        name: name of the constraint in configs, logs and the summary.
        divergence: the estimator of D.
        bound: ε, in the unit of D (nats, or none); None for a penalty without a bound.
        multiplier: the value of a fixed multiplier, in nats per unit of D, as in the paper; or where a learned one starts, in
            units of max(|α_q|, |α_p|). λ ≥ 0.
        learned: whether λ is learned by dual ascent.
        scale: natural scale of D, > 0. Dual ascent uses the violation divided by it; L does not depend on it.
        max_multiplier: upper limit of λ · scale in dual ascent, in units of max(|α_q|, |α_p|). A violation that persists there
            indicates that the problem is infeasible.
        warm_up_steps: number of steps of dual ascent in which λ may fall, but does not rise, whatever the violation.

    Raises: SettingError for a bound that is not finite or below the smallest value of the divergence, a scale or limit that is
        not positive, a negative multiplier or warm-up, a learned multiplier above its limit, or one without a bound.

    Examples:
        >>> from lagvae.divergences import MMD, MixtureRBF, NegElbo
        >>> Constraint("neg_elbo", NegElbo(), bound=24.0, learned=True)
        Constraint(name='neg_elbo', divergence=NegElbo, bound=24.0, multiplier=1.0, learned=True, scale=1.0, ...)
        >>> Constraint("mmd", MMD(MixtureRBF()), bound=-1.0)
        Traceback (most recent call last):
        lagvae.errors.SettingError: constraints.mmd.epsilon=-1 cannot be met: this divergence is never below 0, ...
    """

    name: str
    divergence: Divergence
    bound: float | None = None
    multiplier: float = 1.0
    learned: bool = False
    scale: float = 1.0
    max_multiplier: float = 100.0
    warm_up_steps: int = 0

    def __post_init__(self) -> None:
        key = f"constraints.{self.name}"
        if self.bound is not None and not isfinite(self.bound):
            raise SettingError(f"{key}: the bound is {self.bound}; it must be a finite number.")
        if self.bound is not None and self.bound < self.divergence.smallest:
            raise SettingError(
                f"{key}.epsilon={self.bound:g} cannot be met: this divergence is never below {self.divergence.smallest:g}, and "
                f"only the noise of an estimate takes it there. Give {key}.epsilon=NUMBER of at least "
                f"{self.divergence.smallest:g}, or use epsilon=calibrated."
            )
        if not (isfinite(self.scale) and self.scale > 0):
            raise SettingError(f"{key}.scale={self.scale} must be a positive number.")
        if not (isfinite(self.multiplier) and self.multiplier >= 0):
            raise SettingError(f"{key}.multiplier={self.multiplier} must be a number ≥ 0; a multiplier is never negative.")
        if self.warm_up_steps < 0:
            raise SettingError(f"{key}.warm_up_steps={self.warm_up_steps} must be at least 0.")
        if not self.max_multiplier > 0:
            raise SettingError(f"{key}.max_multiplier={self.max_multiplier} must be positive.")
        if self.learned and self.multiplier * self.scale > self.max_multiplier:
            raise SettingError(
                f"{key}.multiplier={self.multiplier:g} starts above its limit {key}.max_multiplier={self.max_multiplier:g} / "
                f"scale={self.scale:g}; lower the former or raise the latter."
            )
        if self.learned and self.bound is None:
            raise SettingError(
                f"{key}: a learned multiplier needs a bound. Use epsilon=calibrated, or give {key}.epsilon=NUMBER, "
                "or fix the multiplier with multiplier=fixed."
            )


@dataclass
class Values:
    """Estimates on a batch: the terms of the preference by name, each (), and the divergences of the constraints, (m,).

    The terms are in nats: "rate" and "distortion" where the joint model has them, "i_p_upper" for α_p > 0, and
    "neg_i_p_lower" for α_p < 0.
    """

    terms: dict[str, Tensor]
    divergences: Tensor


class Preference(nn.Module):
    """The information preference f = α_q Î_q + α_p Î_p in nats, where the sign of each α selects the bound Î.

    α > 0 minimises an upper bound on the mutual information, and α < 0 maximises a lower bound. For I_q these are the rate
    and, up to the entropy of the data, minus the distortion: f = max(α_q, 0) · rate + max(−α_q, 0) · distortion for α_p = 0.
    The computation does not branch on the value of α_q, so its sign may differ within an ensemble. Of the terms of I_p, which
    need samples of p(x,z), only the one that the sign of α_p selects is computed, so that this sign is the same for all. Terms
    that the joint model does not have are left out; `check_preference` rejects an α that would need one.

    Args:
        alpha_q, alpha_p: the weights of I_q(x;z) and I_p(x;z), without unit.

    Raises: SettingError for a weight that is not finite.

    Examples:
        >>> terms = {"rate": torch.tensor(12.0), "distortion": torch.tensor(13.0)}
        >>> Preference(alpha_q=1.0)(terms), Preference(alpha_q=-1.0)(terms)  # less information: the rate; more: the distortion
        (tensor(12.), tensor(13.))
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
        """Names of the noise that the terms need (see `draw_noise`)."""
        return frozenset({"z_q", "z_p", "x_p"}) if self.sign_p else frozenset({"z_q"})

    def terms(self, samples: JointSamples) -> dict[str, Tensor]:
        """The terms of the bounds on a batch, in nats, each of shape ()."""
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

    @property
    def weights(self) -> dict[str, Tensor]:
        """Term → its weight in f, ≥ 0: each sign of an α selects one term; elementwise over a leading axis.

        Examples:
            >>> {name: float(weight) for name, weight in Preference(alpha_q=-2.0).weights.items() if weight > 0}
            {'distortion': 2.0}
        """
        q, p = self.alpha_q, self.alpha_p
        signed = {"rate": q, "distortion": -q, "i_p_upper": p, "neg_i_p_lower": -p}
        return {name: alpha.clamp(min=0) for name, alpha in signed.items()}

    def forward(self, terms: dict[str, Tensor]) -> Tensor:
        """The primal objective f in nats, up to constants of the data; elementwise over a leading axis."""
        return sum((weight * terms[name] for name, weight in self.weights.items() if name in terms), 0 * self.alpha_q)


def on_simplex(v: Tensor) -> Tensor:
    """Project v, (…, m), onto the simplex {w ≥ 0, Σ w = 1}: w = max(v − τ, 0) with Σ w = 1 (Duchi et al., ICML 2008).

    Examples:
        >>> on_simplex(torch.tensor([2.0, 1.5, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    ordered = v.sort(-1, descending=True).values
    over = (ordered.cumsum(-1) - 1) / torch.arange(1, v.shape[-1] + 1, device=v.device)
    last = (ordered > over).sum(-1, keepdim=True) - 1
    return (v - over.gather(-1, last)).clamp(min=0)


class Lagrangian(nn.Module):
    """L(θ, λ) = f + Σ_i λ_i (D_i − bound_i) in nats, and the dual ascent of λ.

    The parameter `scaled` holds λ_i · scale_i / weight, (m,), always in fp32, so that a step of the dual optimizer has the same
    meaning for every constraint and every size of α, while L does not depend on the scales. The weight is max(|α_q|, |α_p|)
    where a multiplier is learned: −3 I_q under a bound is the problem of −I_q, with three times the multipliers. λ fluctuates
    with the batches; its running mean, with a time constant of `MEMORY` steps, is the estimate of λ* that summaries report.

    Args:
        preference: the primal objective f.
        constraints: the constraints, in the order of all vectors of shape (m,).
        simplex: project λ · scale onto the probability simplex instead of limiting it by `max_multiplier`. Without a preference
            θ then minimises max_i (D_i − bound_i) / scale_i, because max_i v_i = max_w Σ w_i v_i over the simplex. All
            multipliers must be learned, and start equal.

    Raises: SettingError for duplicate names, or a fixed multiplier with simplex=True.

    Examples:
        >>> from lagvae.divergences import NegElbo
        >>> from lagvae.log_ascent import LogAscent
        >>> lagrangian = Lagrangian(Preference(-1.0), [Constraint("neg_elbo", NegElbo(), bound=24.0, learned=True)])
        >>> values = Values({"rate": torch.tensor(12.0), "distortion": torch.tensor(13.0)}, torch.tensor([25.0]))
        >>> lagrangian(values)  # 13 + 1 · (25 − 24)
        tensor(14.)
        >>> dual = LogAscent([lagrangian.scaled], steps=100, maximize=True)
        >>> lagrangian.ascend(lagrangian.scaled_violation(values.divergences), dual)
        >>> bool(lagrangian.multiplier > 1)
        True
    """

    scale: Tensor
    bound: Tensor
    bounded: Tensor
    learned: Tensor
    max_multiplier: Tensor
    warm_up_steps: Tensor
    running: Tensor
    steps: Tensor
    weight: Tensor

    def __init__(self, preference: Preference, constraints: Sequence[Constraint], simplex: bool = False) -> None:
        super().__init__()
        self.simplex = simplex
        self.preference = preference
        self.constraints = tuple(constraints)
        names = self.names
        if len(set(names)) != len(names):
            raise SettingError(f"The names of constraints must be distinct, not {', '.join(names)}.")
        scale = torch.tensor([c.scale for c in self.constraints], dtype=torch.float32)
        start = torch.tensor([c.multiplier for c in self.constraints], dtype=torch.float32)
        size = max(abs(float(preference.alpha_q)), abs(float(preference.alpha_p)))
        weight = size if size > 0 and any(c.learned for c in self.constraints) else 1.0
        learned = torch.tensor([c.learned for c in self.constraints], dtype=torch.bool)
        scaled = torch.where(learned, start, start / weight) * scale
        if simplex:
            if not all(c.learned for c in self.constraints):
                raise SettingError("simplex=True needs learned multipliers for all constraints.")
            scaled = torch.full_like(scaled, 1 / max(len(scaled), 1))
        self.scaled = nn.Parameter(scaled, requires_grad=False)
        self.register_buffer("running", scaled.clone())
        self.register_buffer("steps", torch.zeros(()))
        for name, values in {
            "scale": scale,
            "bound": [0.0 if c.bound is None else c.bound for c in self.constraints],
            "bounded": [c.bound is not None for c in self.constraints],
            "learned": learned,
            "weight": weight,
            "max_multiplier": [c.max_multiplier for c in self.constraints],
            "warm_up_steps": torch.tensor([c.warm_up_steps for c in self.constraints], dtype=torch.long),
        }.items():
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    @property
    def configured(self) -> tuple[Constraint, ...]:
        """The constraints of the config. `constraints` of a front repeats that on −ELBO for each other slack."""
        return self.constraints

    @property
    def names(self) -> list[str]:
        """Names of the constraints, in order."""
        return [c.name for c in self.constraints]

    @property
    def required_noise(self) -> frozenset[str]:
        """Names of the noise that the objective needs (see `draw_noise`)."""
        return self.preference.required_noise.union(*(c.divergence.required_noise for c in self.constraints))

    @property
    def multiplier(self) -> Tensor:
        """λ, (m,), in nats per unit of each divergence."""
        return self._unscaled(self.scaled.detach())

    @property
    def mean_multiplier(self) -> Tensor:
        """The running mean of λ over about the last `MEMORY` steps, (m,), in nats per unit of each divergence."""
        return self._unscaled(self.running)

    def _unscaled(self, scaled: Tensor) -> Tensor:
        return scaled * self.weight.unsqueeze(-1) / self.scale

    def measure(self, samples: JointSamples) -> Values:
        """The terms and divergences of a batch. An ensemble maps this function over its members."""
        terms = self.preference.terms(samples)
        divergences = [c.divergence(samples) for c in self.constraints]
        return Values(terms, torch.stack(divergences) if divergences else self.scaled.new_zeros(0))

    def forward(self, values: Values) -> Tensor:
        """L in nats, of shape () or (K,), without a gradient in λ."""
        penalty = self.weight * (self.scaled.detach() * self.scaled_violation(values.divergences)).sum(-1)
        return self.preference(values.terms) + penalty

    def scaled_violation(self, divergences: Tensor) -> Tensor:
        """The violation (D − bound) / scale, (m,), positive where a constraint is violated."""
        return (divergences.float() - self.bound) / self.scale

    @torch.no_grad()
    def ascend(self, violation: Tensor, optimizer: Optimizer) -> None:
        """Take one step of dual ascent along the scaled violation, (m,), and update the running mean.

        The optimizer has maximize=True. Its parameter is `scaled`, (m,), or (K, m) in an ensemble, of λ_i ·
        scale_i / |α|, and its gradient the scaled violation, which is 0 for a fixed multiplier. It must treat each entry by
        itself, and every tensor of its state that is no scalar must have the shape of the parameter, so that an ensemble can
        take it apart. Learned multipliers are then projected to 0 ≤ scaled ≤ max_multiplier, or onto the simplex, and those in
        their warm-up do not rise. Fixed ones do not change.
        """
        before = self.scaled.clone()
        self.scaled.grad = torch.where(self.learned, violation.detach().float(), 0.0)
        optimizer.step()
        projected = on_simplex(self.scaled) if self.simplex else self.scaled.clamp(min=0).minimum(self.max_multiplier)
        warming_up = self.steps.unsqueeze(-1) < self.warm_up_steps
        projected = torch.where(warming_up, projected.minimum(before), projected)
        self.scaled.copy_(torch.where(self.learned, projected, before))
        self.steps += self.learned.any(-1)
        self.running.lerp_(self.scaled, (1 / self.steps.clamp(min=1)).clamp(min=1 / MEMORY).unsqueeze(-1))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Convert the module, but leave λ, its bounds and its scales in fp32 at every precision."""
        originals = {"scaled": self.scaled.data} | {
            n: getattr(self, n) for n in ("scale", "bound", "max_multiplier", "running", "steps", "weight")
        }
        super()._apply(fn, recurse)
        for name, original in originals.items():
            converted = getattr(self, name)
            if converted.dtype != torch.float32:
                converted.data = original.to(converted.device, torch.float32)
        return self


TOLERANCE = 0.1
"""A violation of at most this many of a constraint's scale counts as none: 0.1 nats for −ELBO.

The same number, in nats, is the largest change of the Lagrangian that counts as none."""
