"""Members of the family as symbolic objectives, read from configs without data or training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lagvae.algebra import Class, Objective, Opaque, parse, preference, single, total
from lagvae.errors import LagvaeError, SettingError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_constraints, exact_fraction
from lagvae.lagrangian import Constraint

I_Q, I_P = parse("I_q"), parse("I_p")

RATE, DISTORTION = parse("E_q[log q(z|x) - log p(z)]"), parse("-E_q[log p(x|z)]")

NEG_I_P_LOWER = parse("-E_p[log q(z|x)]")

I_P_UPPER = single(Opaque("Ī_p", Class.LIKELIHOOD))
"""The leave-one-out upper bound on I_p. It needs only densities, but is not a sum of atoms of the algebra."""


@dataclass(frozen=True)
class Penalty:
    """λ D, the contribution of a constraint or penalty to the Lagrangian.

    Args:
        name: of the constraint.
        divergence: D.
        text: the formula of D as its estimator states it.
        multiplier: λ, fixed or its initial value.
        learned: whether λ is learned.
    """

    name: str
    divergence: Objective
    text: str
    multiplier: Fraction
    learned: bool


@dataclass(frozen=True)
class ObjectiveSpec:
    """One member of the family.

    Args:
        family: its name.
        alpha: (α₁, α₂) as configured.
        penalties: its constraints and penalties.
        about: the description in its preset.
    """

    family: str
    alpha: tuple[Fraction, Fraction]
    penalties: tuple[Penalty, ...]
    about: str = ""

    @property
    def stated(self) -> Objective:
        """α₁ I_q + α₂ I_p + Σ λ D, with the initial multipliers."""
        return self.alpha[0] * I_Q + self.alpha[1] * I_P + self.penalty()

    @property
    def bounds(self) -> Objective:
        """The preference as it is trained: an upper bound on information to minimise, or minus a lower bound to maximise."""
        (alpha_q, alpha_p), zero = self.alpha, Fraction(0)
        of_q = max(alpha_q, zero) * RATE + max(-alpha_q, zero) * DISTORTION
        return of_q + max(alpha_p, zero) * I_P_UPPER + max(-alpha_p, zero) * NEG_I_P_LOWER

    @property
    def trained(self) -> Objective:
        """The objective that is minimised: the bounds in place of the preference, and the penalties."""
        return self.bounds + self.penalty()

    def penalty(self, learned: bool = True) -> Objective:
        """Σ λ D, over all constraints or over those with fixed λ only."""
        return total((p.multiplier, p.divergence) for p in self.penalties if learned or not p.learned)

    @property
    def learns_preference(self) -> bool:
        """Whether a divergence with a learned λ carries information, so that λ decides about the preference."""
        return any(p.learned and any(preference(p.divergence.plain) or ()) for p in self.penalties)

    @property
    def source(self) -> str:
        """Authors and year from the description in the preset."""
        found = re.findall(r"\(([^()]*\b(?:19|20)\d\d)\)", self.about)
        return found[-1] if found else ""


def objective_spec(cfg: DictConfig) -> ObjectiveSpec:
    """The member that a config defines. Its bounds are placeholders, since no symbol depends on them."""
    zeros = {str(name): 0.0 for name in cfg.constraints}
    constraints = build_constraints(cfg, Calibration(zeros, zeros, cfg.calibration.split, {}, {}))
    alpha = (exact_fraction(cfg.alpha.q), exact_fraction(cfg.alpha.p))
    # A learned λ for which no start is stated counts as 1: where it starts says nothing about the objective.
    stated = [replace(c, multiplier=1.0) if cfg.constraints[c.name].multiplier is None else c for c in constraints]
    return ObjectiveSpec(cfg.family, alpha, tuple(map(penalty, stated)), preset_comment(cfg.family))


def penalty(constraint: Constraint) -> Penalty:
    """The penalty of a constraint; a divergence without a formula that can be parsed becomes an opaque symbol over x and z."""
    text = getattr(constraint.divergence, "symbol", "")
    try:
        divergence = parse(text)
    except SettingError:
        text = text or constraint.name
        divergence = single(Opaque(text))
    return Penalty(constraint.name, divergence, text, exact_fraction(constraint.multiplier), constraint.learned)


def preset_comment(family: str) -> str:
    """The first comment of a preset other than its package directive; empty if there is no such file."""
    for source in GlobalHydra.instance().config_loader().get_sources():
        file = Path(source.path) / "family" / f"{family}.yaml"
        if source.scheme() == "file" and file.is_file():
            lines = [line.removeprefix("#").strip() for line in file.read_text("utf-8").splitlines() if line.startswith("#")]
            return next((line for line in lines if not line.startswith("@package")), "")
    return ""


def presets(strict: bool = False) -> Iterator[ObjectiveSpec]:
    """The members in conf/family without further settings.

    Args:
        strict: whether a member that cannot be built raises its error; otherwise it is left out.
    """
    for family in sorted(GlobalHydra.instance().config_loader().get_group_options("family")):
        try:
            yield objective_spec(compose("config", overrides=[f"family={family}"]))
        except (LagvaeError, HydraException, OmegaConfBaseException):
            if strict:
                raise
