"""Members of the family as objectives: a config read symbol by symbol, without data and without training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lagvae.algebra import Class, Objective, Opaque, parse, single, total
from lagvae.errors import LagvaeError, SettingError
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.factory import build_constraints, exact_fraction
from lagvae.lagrangian import Constraint

I_Q, I_P = parse("I_q"), parse("I_p")

RATE, DISTORTION = parse("E_q[log q(z|x) - log p(z)]"), parse("-E_q[log p(x|z)]")

NEG_I_P_LOWER = parse("-E_p[log q(z|x)]")

I_P_UPPER = single(Opaque("Ī_p", Class.LIKELIHOOD))
"""The leave-one-out bound needs only densities, but is no sum of atoms."""


@dataclass(frozen=True)
class Penalty:
    """λ D: a constraint, or a penalty.

    Args:
        name: of the constraint.
        divergence: D.
        text: D as its estimator states it.
        multiplier: λ: fixed, or where it starts.
        learned: whether λ ascends.
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
        penalties: its constraints.
        about: what its preset says of it.
    """

    family: str
    alpha: tuple[Fraction, Fraction]
    penalties: tuple[Penalty, ...]
    about: str = ""

    @property
    def stated(self) -> Objective:
        """α₁ I_q + α₂ I_p + Σ λ D, at the multipliers that it starts from."""
        return self.alpha[0] * I_Q + self.alpha[1] * I_P + self.penalty()

    @property
    def bounds(self) -> Objective:
        """The preference as it is trained: an upper bound where it minimises, minus a lower one where it maximises."""
        (alpha_q, alpha_p), zero = self.alpha, Fraction(0)
        of_q = max(alpha_q, zero) * RATE + max(-alpha_q, zero) * DISTORTION
        return of_q + max(alpha_p, zero) * I_P_UPPER + max(-alpha_p, zero) * NEG_I_P_LOWER

    @property
    def trained(self) -> Objective:
        """What is minimised: the preference by its bounds, and the penalties."""
        return self.bounds + self.penalty()

    def penalty(self, learned: bool = True) -> Objective:
        """Σ λ D, with or without those whose λ is learned."""
        return total((p.multiplier, p.divergence) for p in self.penalties if learned or not p.learned)

    @property
    def source(self) -> str:
        """Authors and year, as the preset names them."""
        found = re.findall(r"\(([^()]*\b(?:19|20)\d\d)\)", self.about)
        return found[-1] if found else ""


def objective_spec(cfg: DictConfig) -> ObjectiveSpec:
    """The member that a config states; bounds are made up, for no symbol depends on them."""
    zeros = {str(name): 0.0 for name in cfg.constraints}
    constraints = build_constraints(cfg, Calibration(zeros, zeros, cfg.calibration.split, {}, {}))
    alpha = (exact_fraction(cfg.alpha.q), exact_fraction(cfg.alpha.p))
    return ObjectiveSpec(cfg.family, alpha, tuple(map(penalty, constraints)), preset_comment(cfg.family))


def penalty(constraint: Constraint) -> Penalty:
    """What a constraint adds; a divergence without a symbol that can be read is one of its own, over x and z."""
    text = getattr(constraint.divergence, "symbol", "")
    try:
        divergence = parse(text)
    except SettingError:
        text = text or constraint.name
        divergence = single(Opaque(text))
    return Penalty(constraint.name, divergence, text, exact_fraction(constraint.multiplier), constraint.learned)


def preset_comment(family: str) -> str:
    """The first comment of a preset that says something; empty where there is no such file."""
    for source in GlobalHydra.instance().config_loader().get_sources():
        file = Path(source.path) / "family" / f"{family}.yaml"
        if source.scheme() == "file" and file.is_file():
            lines = [line.removeprefix("#").strip() for line in file.read_text("utf-8").splitlines() if line.startswith("#")]
            return next((line for line in lines if not line.startswith("@package")), "")
    return ""


def presets(all_of_them: bool = False) -> Iterator[ObjectiveSpec]:
    """The members that conf/family names, without further settings; one that cannot be built is left out, or raises."""
    for family in sorted(GlobalHydra.instance().config_loader().get_group_options("family")):
        try:
            yield objective_spec(compose("config", overrides=[f"family={family}"]))
        except (LagvaeError, HydraException, OmegaConfBaseException):
            if all_of_them:
                raise
