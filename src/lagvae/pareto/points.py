"""Finds finished runs in folders, reads them as points (information, −ELBO), and checks that they are comparable."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lagvae.errors import CheckpointError, ComparisonError, LagvaeError, SettingError
from lagvae.experiment.settings import ComparedSettings, disagreements, select
from lagvae.pareto.fronts import MAXIMISE, MINIMISE, Estimate, Point
from lagvae.runs.layout import SWEEP_FILE, RunFolder, runs_below
from lagvae.terminal import command

SPLITS = ("train", "test")
"""The splits that are compared: the data on which the constraints are imposed, and held-out data."""

DATA = {"train": "training data", "test": "test data"}
"""Split → its name."""

INFORMATION = {
    "interval": "the interval that I_q lies in, each end with its standard error",
    "i_q_lower": "the lower end of the interval that I_q lies in",
    "i_q_upper": "the upper end of the interval that I_q lies in",
    "rate": "the rate E KL(q(z|x)‖p(z)), an upper bound on I_q",
    "i_q_kde": "the kernel density estimate of I_q (the paper's eq. 21), which may break the bounds on I_q",
}
"""Estimator → its description; all are in nats and have standard errors."""

METHOD_TITLES = {"lagvae": "LagVAE", "infovae": "InfoVAE", "beta_vae": "β-VAE", "vae": "VAE"}


def method_title(family: str) -> str:
    """The name of a method as the literature writes it.

    Examples:
        >>> method_title("beta_vae")
        'β-VAE'
    """
    return METHOD_TITLES.get(family, family)


class UnusableRun(LagvaeError):
    """A run folder is damaged or lacks values that the comparison needs."""


@dataclass(frozen=True)
class RunPoint:
    """A finished run.

    Attributes:
        gamma: the slack γ₁ of −ELBO (nats), if its bound came from a calibration. bound: on −ELBO (nats), if any.
        multipliers: the fixed λ, constraint → nats per unit of D. points: split → the estimates.
        breaks_bound: whether its estimate of information violates the bounds on information.
        stored_name: its name in config.yaml. match: the stored name of the run that it is matched with, if any.
        steps: of training. seconds: of its training; of the time of an ensemble, an equal share. None where they are unknown.
        folder: of the run.
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
    stored_name: str = ""
    match: str | None = None
    steps: int | None = None
    seconds: float | None = None
    settings: ComparedSettings = field(default_factory=ComparedSettings, compare=False, repr=False)
    folder: Path | None = field(default=None, compare=False, repr=False)

    @property
    def sign(self) -> int:
        """The sign of α; a run with α < 0 maximises information."""
        return MAXIMISE if self.alpha < 0 else MINIMISE

    @property
    def setting(self) -> str:
        """The setting that a sweep varies, in the paper's notation."""
        if self.gamma is not None:
            return f"γ₁ = {self.gamma:g}"
        if self.bound is not None:
            return f"ε₁ = {self.bound:g}"
        return "λ = " + ", ".join(f"{value:g}" for value in self.multipliers.values()) if self.multipliers else ""


def read_point(run: RunFolder, name: str, information: str) -> RunPoint:
    """Read a finished run, with the named estimate of information.

    Raises: UnusableRun where its files are damaged or incomplete; CheckpointError where summary.json cannot be read.
    """
    summary, config = run.read_summary(), _config(run)
    if config.get("debug"):
        raise UnusableRun(f"it is a debug run, debug={config['debug']}")
    for key in ("family", "seed", "alpha.q", "alpha.p"):
        in_summary, in_config = select(summary, key), select(config, key)
        if in_summary is None or in_summary != in_config:
            raise UnusableRun(f"{key} is {in_summary} in summary.json and {in_config} in config.yaml")
    for key in ("data", "model", "training.steps", "training.start"):
        if select(config, key) is None:
            raise UnusableRun(f"config.yaml has no {key}")
    constraints = config["constraints"]
    names = sorted(constraints, key=lambda name: name != "neg_elbo")  # λ₁ belongs to −ELBO
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
            if select(config, f"constraints.{c}.multiplier") is not None
            else 1.0
            for c in penalties
            if not constraints[c].get("learned")
        },
        verdict=str(summary.get("verdict")),
        points={split: _point(summary, split, information) for split in SPLITS},
        breaks_bound=any(select(summary, f"splits.{split}.{information}_breaks_bound") == 1 for split in SPLITS),
        stored_name=str(config.get("name")),
        match=config.get("match"),
        steps=summary.get("steps"),
        seconds=_training_seconds(summary),
        settings=ComparedSettings.of(config, {c: value for c, value in calibrated.items() if value is not None}),
        folder=run.path,
    )


def _config(run: RunFolder) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(run.config))
    except Exception as error:  # YAML and OmegaConf raise many kinds of errors
        raise UnusableRun(f"config.yaml is damaged: {(str(error).splitlines() or [repr(error)])[0]}") from error
    if not isinstance(config, dict):
        raise UnusableRun("config.yaml holds no settings")
    constraints = config.get("constraints")
    if not isinstance(constraints, dict) or not all(isinstance(c, dict) for c in constraints.values()):
        raise UnusableRun("config.yaml has no constraints with their settings")
    return {str(key): value for key, value in config.items()}


def _number(content: Mapping[str, Any], key: str, file: str = "summary.json") -> float:
    value = select(content, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UnusableRun(f"{file} has no number at {key}")
    return float(value)


def _point(summary: Mapping[str, Any], split: str, information: str) -> Point:
    ends = ("i_q_lower", "i_q_upper") if information == "interval" else (information, information)
    lower, upper, neg_elbo = (_estimate(summary, f"splits.{split}.{name}") for name in (*ends, "neg_elbo"))
    try:
        return Point(lower, upper, neg_elbo, _estimate(summary, f"constraints.mmd.{split}"))
    except UnusableRun:  # there is no such constraint, or a single batch, which has no standard error
        return Point(lower, upper, neg_elbo)


def _estimate(summary: Mapping[str, Any], key: str) -> Estimate:
    return Estimate(_number(summary, key), _number(summary, f"{key}_stderr"))


def _training_seconds(summary: Mapping[str, Any]) -> float | None:
    """The seconds of training of a run, or its equal share of those of its ensemble. None where they were not recorded."""
    if (ensemble := summary.get("ensemble")) is not None:
        return float(ensemble["seconds"]) / int(ensemble["runs"])
    seconds = select(summary, "seconds.training")
    return None if seconds is None else float(seconds)


def _bound(config: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[float, float | None]:
    """The bound on −ELBO and, if it was calibrated, its slack γ₁ = bound − ε̂ (nats).

    γ₁ is taken from the settings if they state it in nats, so that it is the same number for every seed.
    """
    key = "constraints.neg_elbo"
    bound, setting = _number(summary, f"{key}.bound"), select(config, key)
    if select(config, "epsilon.source") != "calibrated" or setting.get("epsilon") is not None:
        return bound, None
    if setting.get("gamma_relative"):
        return bound, round(bound - _number(summary, f"{key}.calibrated"), 6)
    return bound, _number(config, f"{key}.gamma", "config.yaml")


@dataclass
class Collection:
    """The runs below some folders: those that are compared, and the names of all others.

    Attributes:
        runs: the compared runs. unfinished: names of runs without a summary. skipped: name → why a run cannot be used.
        left_out: name → why a usable run does not take part.
    """

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


def collect(folders: Sequence[Path], information: str = "interval") -> Collection:
    """Read all runs in some folders and below them.

    Args:
        information: the estimate of I to compare, a key of `INFORMATION`.

    Raises:
        SettingError: a folder cannot be read, or the estimate is unknown.
        ComparisonError: no run can be used, or the usable runs are not comparable.
    """
    if information not in INFORMATION:
        raise SettingError(f"information={information} is unknown; choose one of {', '.join(INFORMATION)}.")
    for folder in folders:
        if not folder.is_dir():
            raise SettingError(f"{folder} is not a folder. Name one that holds run folders, such as runs/pareto.")
    collection = Collection(list(folders), information)
    roots, seen, found = [folder.resolve() for folder in folders], set[Path](), list[Path]()
    common = os.path.commonpath(roots)
    for run_folder in (run_folder for root in roots for run_folder in runs_below(root, seen)):
        found.append(run_folder.path)
        name = os.path.relpath(run_folder.path, common)
        name = run_folder.path.name if name == "." else name
        if not run_folder.summary.is_file():
            collection.unfinished.append(f"{name} (it failed)" if run_folder.failure.is_file() else name)
            continue
        try:
            run = read_point(run_folder, name, information)
        except (CheckpointError, UnusableRun) as error:
            collection.skipped[name] = str(error)
            continue
        if run.alpha == 0:
            collection.left_out[name] = "α = 0: it prefers neither more nor less information"
        elif run.settings.varied["alpha.p"] != 0:
            alpha_p = run.settings.varied["alpha.p"]
            collection.left_out[name] = f"alpha.p = {alpha_p:g}: its preference does not concern I_q alone"
        else:
            collection.runs.append(run)
    below = (path.parent for path in found if any(root in path.parents for root in roots))
    for folder in dict.fromkeys([*roots, *below]):
        missing = missing_runs(folder, found)
        collection.unfinished += [f"{os.path.relpath(path, common)} ({why})" for path, why in missing.items()]
    _drop_duplicates(collection)
    _check(collection)
    return collection


def missing_runs(folder: Path, found: Iterable[Path]) -> dict[Path, str]:
    """The folder of each run that the sweep.json of a folder names and that is not there → why: it failed or has not begun.

    Args:
        found: the folders of runs that are there, in which a run may have been moved.
    """
    try:
        states = dict(json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))["runs"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # no sweep, or one whose file is damaged
    there = {path.name for path in found}
    names = {Path(str(name)).name: state for name, state in states.items()}
    reasons = {"unfinished": "it has not begun", "failed": "it failed"}
    return {folder / name: reasons[state] for name, state in names.items() if state in reasons and name not in there}


def _drop_duplicates(collection: Collection) -> None:
    """Of runs with the same settings and seed keep only the first one."""
    first: dict[str, str] = {}
    for run in list(collection.runs):
        key = repr((run.family, run.seed, run.settings.shared, run.settings.own, run.settings.varied))
        if key in first:
            collection.runs.remove(run)
            collection.skipped[run.name] = f"it has the settings and the seed of {first[key]}, which is counted"
        first.setdefault(key, run.name)


def _check(collection: Collection) -> None:
    """Raise ComparisonError if no run is left to compare, or if the runs are not comparable."""
    where = ", ".join(str(folder) for folder in collection.folders)
    if not collection.runs:
        groups = {"unfinished": collection.unfinished, "skipped": collection.skipped, "left out": collection.left_out}
        counts = "; ".join(f"{len(names)} {word}, such as {next(iter(names))}" for word, names in groups.items() if names)
        reason = next((f" ({why})" for why in (collection.skipped | collection.left_out).values()), "")
        raise ComparisonError(
            f"There is no run to compare below {where}: "
            + (f"{counts}{reason}. Finish or repair them, or name another folder." if counts else "it holds no run folder.")
            + f" A sweep makes runs: {command('train')} -m sweep=NAME."
        )
    differences = disagreements({run.name: run.settings.shared for run in collection.runs})
    for family in collection.families:
        own = {run.name: run.settings.own for run in collection.runs if run.family == family}
        differences += [f"{difference} (both {method_title(family)})" for difference in disagreements(own)]
    if differences:
        more = f"\n  and {len(differences) - 5} more settings differ" if len(differences) > 5 else ""
        raise ComparisonError(
            f"The runs below {where} do not belong together:\n  " + ";\n  ".join(differences[:5]) + more + ".\n"
            "Name the folder of one sweep, or only folders of runs that share these settings."
        )
