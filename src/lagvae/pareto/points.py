"""Finished runs as points of the plane of information and −ELBO: found in run folders, read, and checked to belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lagvae.errors import CheckpointError, ComparisonError, LagvaeError, SettingError
from lagvae.experiment.settings import ComparedSettings, disagreements, select
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Point
from lagvae.runs.layout import LATEST, RunFolder

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
class RunPoint:
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
    settings: ComparedSettings = field(default_factory=ComparedSettings, compare=False, repr=False)

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


def read_point(run: RunFolder, name: str, information: str) -> RunPoint:
    """A finished run as a run, with the estimate of information that is meant.

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
    return RunPoint(
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
        settings=ComparedSettings.of(config, {c: value for c, value in calibrated.items() if value is not None}),
    )


def _config(run: RunFolder) -> dict[str, Any]:
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
    if setting.get("gamma_relative"):
        return bound, round(bound - _number(summary, f"{key}.calibrated"), 6)
    return bound, _number(config, f"{key}.gamma", "config.yaml")


ANALYSIS = "pareto-analysis"
"""The folder that the comparison is written to where no other is named."""


@dataclass
class Collection:
    """The runs below some folders: those that are compared, and by name those that are not, with the reason."""

    folders: list[Path]
    information: str
    runs: list[RunPoint] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def families(self) -> list[str]:
        """The methods, LagVAE first."""
        return sorted({run.family for run in self.runs}, key=lambda family: (family != "lagvae", family))


def collect(folders: Sequence[Path], information: str = "i_q") -> Collection:
    """Read all runs in some folders and below them.

    Args:
        information: which estimate of I is meant, a key of `INFORMATION`.

    Raises:
        SettingError: a folder cannot be read, or the estimate is unknown.
        ComparisonError: no run can be used, or those that can do not belong together.
    """
    if information not in INFORMATION:
        raise SettingError(f"information={information} is unknown; choose one of {', '.join(INFORMATION)}.")
    for folder in folders:
        if not folder.is_dir():
            raise SettingError(f"{folder} is no folder. Name one that holds run folders, such as runs/pareto.")
    found = Collection(list(folders), information)
    roots, seen = [folder.resolve() for folder in folders], set[Path]()
    for place in (place for root in roots for place in runs_below(root, seen)):
        name = os.path.relpath(place.path, os.path.commonpath(roots))
        name = place.path.name if name == "." else name
        if not place.finished:
            found.unfinished.append(f"{name} (it failed)" if place.failure.is_file() else name)
            continue
        try:
            run = read_point(place, name, information)
        except (CheckpointError, Unusable) as error:
            found.skipped[name] = str(error)
            continue
        if run.alpha == 0:
            found.left_out[name] = "α = 0: it prefers neither more nor less information"
        elif run.settings.varied["alpha.p"] != 0:
            found.left_out[name] = f"alpha.p = {run.settings.varied['alpha.p']:g}: its preference is not of I_q alone"
        else:
            found.runs.append(run)
    _drop_twins(found)
    _check(found)
    return found


def runs_below(folder: Path, seen: set[Path]) -> Iterator[RunFolder]:
    """The run folders at and below a folder that were not seen before; not what a run itself keeps in folders.

    Calibrations, `latest`, hidden folders and earlier comparisons are passed by. SettingError where a folder cannot be read.
    """
    if folder.resolve() in seen:
        return  # named twice, or a link that leads back
    seen.add(folder.resolve())
    run = RunFolder(folder)
    passed = {LATEST, ANALYSIS}
    if run.config.is_file():
        passed |= {"evaluation", run.checkpoints.name, run.figures.name}
        if not (folder / "calibration.json").exists():
            yield run
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise SettingError(f"{folder} cannot be read ({error.strerror}). Name folders that can.") from error
    for child in children:
        if child.name not in passed and not child.name.startswith("."):
            yield from runs_below(child, seen)


def _drop_twins(found: Collection) -> None:
    """Of runs with the same settings and seed only the first one counts."""
    first: dict[str, str] = {}
    for run in list(found.runs):
        mark = repr((run.family, run.seed, run.settings.shared, run.settings.own, run.settings.varied))
        if mark in first:
            found.runs.remove(run)
            found.skipped[run.name] = f"it has the settings and the seed of {first[mark]}, which is counted"
        first.setdefault(mark, run.name)


def _check(found: Collection) -> None:
    """Raise ComparisonError where nothing is left to compare, or what is left does not belong together."""
    where = ", ".join(str(folder) for folder in found.folders)
    if not found.runs:
        groups = {"unfinished": found.unfinished, "skipped": found.skipped, "left out": found.left_out}
        told = "; ".join(f"{len(names)} {word}, such as {next(iter(names))}" for word, names in groups.items() if names)
        why = next((f" ({reason})" for reason in (found.skipped | found.left_out).values()), "")
        raise ComparisonError(
            f"There is no run to compare below {where}: "
            + (f"{told}{why}. Finish or repair them, or name another folder." if told else "it holds no run folder.")
            + " A sweep makes runs: python src/train.py -m sweep=NAME."
        )
    differ = disagreements({run.name: run.settings.shared for run in found.runs})
    for family in found.families:
        own = {run.name: run.settings.own for run in found.runs if run.family == family}
        differ += [f"{told} (both {title(family)})" for told in disagreements(own)]
    if differ:
        more = f"\n  and {len(differ) - 5} more settings differ" if len(differ) > 5 else ""
        raise ComparisonError(
            f"The runs below {where} do not belong together:\n  " + ";\n  ".join(differ[:5]) + more + ".\n"
            "Name the folder of one sweep, or only folders of runs that share these settings."
        )
