"""A finished run as a point of the plane, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from omegaconf import OmegaConf

from lagvae.errors import LagvaeError
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Point
from lagvae.pareto.settings import Settings, select
from lagvae.runs import Run

SPLITS = ("train", "test")
"""What is compared: the data that the constraints are on, and data that were not seen."""

INFORMATION = {
    "i_q": "the middle of the interval that I_q lies in; its standard error is the larger one of the two ends",
    "i_q_lower": "the lower end of the interval that I_q lies in",
    "i_q_upper": "the upper end of the interval that I_q lies in",
    "rate": "the rate E KL(q(z|x)‖p(z)), an upper bound on I_q",
    "i_q_kde": "the kernel density estimate of I_q (the paper's eq. 21), which may break the bounds on I_q",
}
"""Estimator → what it is; all in nats, with a standard error beside each."""

NAMES = {"lagvae": "LagVAE", "infovae": "InfoVAE", "beta_vae": "β-VAE", "vae": "VAE"}


def title(family: str) -> str:
    """A method as the literature writes it."""
    return NAMES.get(family, family)


class Unusable(LagvaeError):
    """A run folder is damaged or lacks what the comparison needs."""


@dataclass(frozen=True)
class Cell:
    """A finished run.

    gamma: the slack γ₁ of −ELBO (nats) where its bound came from a calibration. bound: on −ELBO (nats), if any.
    multipliers: the fixed λ, constraint → nats per unit of D. points: split → what was measured.
    breaks_bound: whether its estimate of information lies outside of the bounds that information must obey.
    """

    name: str
    family: str
    alpha: float
    seed: int
    gamma: float | None
    bound: float | None
    multipliers: Mapping[str, float]
    verdict: str
    points: Mapping[str, Point]
    breaks_bound: bool = False
    settings: Settings = field(default_factory=Settings, compare=False, repr=False)

    @property
    def sign(self) -> int:
        """Of α: below zero a run maximises information."""
        return MAXIMISE if self.alpha < 0 else MINIMISE

    @property
    def setting(self) -> str:
        """What a sweep varies, in the paper's words."""
        if self.gamma is not None:
            return f"γ₁ = {self.gamma:g}"
        if self.bound is not None:
            return f"ε₁ = {self.bound:g}"
        return "λ = " + ", ".join(f"{value:g}" for value in self.multipliers.values()) if self.multipliers else ""


def read(run: Run, name: str, information: str) -> Cell:
    """A finished run as a cell, with the estimate of information that is meant.

    Raises: Unusable where its files are damaged or lack something; CheckpointError where summary.json cannot be read.
    """
    summary, config = run.read_summary(), _config(run)
    if not isinstance(summary, Mapping):
        raise Unusable("summary.json holds no summary")
    for key in ("family", "seed", "alpha.q", "alpha.p"):
        told, asked = select(summary, key), select(config, key)
        if told is None or told != asked:
            raise Unusable(f"{key} is {told} in summary.json and {asked} in config.yaml")
    for key in ("data", "model", "training.steps", "training.start"):
        if select(config, key) is None:
            raise Unusable(f"config.yaml has no {key}")
    constraints = config["constraints"]
    names = sorted(constraints, key=lambda name: name != "neg_elbo")  # λ₁ is of −ELBO
    penalties = [c for c in names if select(summary, f"constraints.{c}.bound") is None]
    calibrated = {c: select(summary, f"constraints.{c}.calibrated") for c in constraints}
    bounded = "neg_elbo" in constraints and "neg_elbo" not in penalties
    bound, gamma = _bound(config, summary) if bounded else (None, None)
    return Cell(
        name=name,
        family=str(summary["family"]),
        alpha=_number(summary, "alpha.q"),
        seed=int(_number(summary, "seed")),
        gamma=gamma,
        bound=bound,
        multipliers={
            c: _number(config, f"constraints.{c}.multiplier", "config.yaml")
            for c in penalties
            if not constraints[c].get("learned")
        },
        verdict=str(summary.get("verdict")),
        points={split: _point(summary, split, information) for split in SPLITS},
        breaks_bound=any(select(summary, f"splits.{split}.{information}_breaks_bound") == 1 for split in SPLITS),
        settings=Settings.of(config, {c: value for c, value in calibrated.items() if value is not None}),
    )


def _config(run: Run) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(run.config), resolve=True)
    except Exception as error:  # YAML and OmegaConf fail in many ways
        raise Unusable(f"config.yaml is damaged: {(str(error).splitlines() or [repr(error)])[0]}") from error
    if not isinstance(config, dict):
        raise Unusable("config.yaml holds no settings")
    constraints = config.get("constraints")
    if not isinstance(constraints, dict) or not all(isinstance(c, dict) for c in constraints.values()):
        raise Unusable("config.yaml has no constraints with their settings")
    return {str(key): value for key, value in config.items()}


def _number(content: Mapping[str, Any], key: str, file: str = "summary.json") -> float:
    value = select(content, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise Unusable(f"{file} has no number at {key}")
    return float(value)


def _point(summary: Mapping[str, Any], split: str, information: str) -> Point:
    names = (information, f"{information}_stderr", "neg_elbo", "neg_elbo_stderr")
    return Point(*(_number(summary, f"splits.{split}.{name}") for name in names))


def _bound(config: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[float, float | None]:
    """The bound on −ELBO and, where it was calibrated, the slack γ₁ = bound − ε̂ in it (nats).

    γ₁ is taken from the settings where they give it in nats, so that it is the same number for every seed.
    """
    key = "constraints.neg_elbo"
    bound, setting = _number(summary, f"{key}.bound"), select(config, key)
    if select(config, "epsilon.source") != "calibrated" or setting.get("epsilon") is not None:
        return bound, None
    if setting.get("relative"):
        return bound, round(bound - _number(summary, f"{key}.calibrated"), 6)
    return bound, _number(config, f"{key}.gamma", "config.yaml")
