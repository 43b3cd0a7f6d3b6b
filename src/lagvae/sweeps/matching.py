"""Matched runs: for each finished run of InfoVAE a run of LagVAE whose bounds are the −ELBO and the MMD that it reached.

Such a run has the data, model, start, length, seed and α of the run that it is matched with, so that the two differ only in how
their multipliers come about, and neither −ELBO nor MMD can explain a difference in information.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lagvae.errors import SettingError
from lagvae.experiment.own_code import trusted_names
from lagvae.experiment.run import read_config, read_trusted_config
from lagvae.experiment.settings import find_rule
from lagvae.runs.layout import RunFolder, find_runs, runs_below
from lagvae.sweeps.grid import Grid, expand
from lagvae.terminal import command

MATCHED = "infovae"
"""The family of the runs that are matched."""

COPIED_NODES = ("seed", "alpha", "data", "model", "kernel", "critic", "training", "calibration", "callbacks", "constraints")
"""The nodes of the config that a matched run takes from the run that it is matched with."""

KEPT = ("training.threads", "data.workers", "callbacks.figures")
"""Settings below these nodes that stay as they are, because they affect no number."""

FREE = ("match", "sweep", "seed", "alpha.q", "multiplier", "constraints.*.multiplier")
"""What a command may set beyond settings that affect no number; alpha.q and seed select among the runs."""

NOISE = 2.0
"""The bound on a squared divergence is at least this many standard errors, because its estimate may be negative."""


def matched_overrides(folder: str, runs: Path, grids: Sequence[Grid], words: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a matched sweep: its grids for every finished run of InfoVAE in a folder.

    Args:
        folder: a path or a name under `runs`. words: the overrides on the command line.

    Raises: SettingError if there is no such folder, it has no run of InfoVAE or unfinished ones, or a word sets what a matched
        run takes from the run that it is matched with.
    """
    root = find_runs(runs, folder).resolve()
    configs = [(run, read_config(run)) for run in runs_below(root, set())]
    found = [(run, cfg) for run, cfg in configs if cfg.get("family") == MATCHED and not cfg.get("debug")]
    if not found:
        raise SettingError(
            f"match={folder}: there is no run of family={MATCHED} in {root}. Name a folder that has some, such as that of "
            f"{command('train')} -m sweep=pareto."
        )
    if unfinished := [os.path.relpath(run.path, root) for run, _ in found if not run.finished]:
        more = f" and {len(unfinished) - 5} more" if len(unfinished) > 5 else ""
        raise SettingError(
            f"match={folder}: {len(unfinished)} of the {len(found)} runs of family={MATCHED} are not finished: "
            f"{', '.join(unfinished[:5])}{more}. Run the command that started them again, or remove their folders."
        )
    rest = [word for word in words if not word.startswith("match=")]
    for word, override in zip(rest, OverridesParser.create().parse_overrides(rest), strict=True):
        if not _is_free(override.get_key_element()):
            raise SettingError(f"{word}: a matched run takes this from the run that it is matched with; leave it out.")
    pairs = []
    for run, cfg in found:
        name = os.path.relpath(run.path, root).replace(os.sep, "_") if run.path != root else root.name
        own = {
            "name": _quoted(f"${{folder}}/${{family}}-at-{name}${{label}}"),
            "match": _quoted(str(run.path)),
            "alpha.q": cfg.alpha.q,
            "seed": cfg.seed,
        }
        pairs += [{**grid, **own} for grid in grids or [{}]]
    return expand(pairs, rest)


def _is_free(key: str) -> bool:
    parts = key.lstrip("+~").split(".")
    rule = find_rule(".".join(parts))
    patterns = (parts, [*parts[:1], "*", *parts[2:]])
    return (rule is not None and rule.machine) or any(".".join(p[:n]) in FREE for p in patterns for n in range(1, len(p) + 1))


def _quoted(text: str) -> str:
    """A text as a quoted string of Hydra's command line."""
    escaped = text.replace("\\", "\\\\").replace("'", r"\'")
    return f"'{escaped}'"


def match_config(cfg: DictConfig) -> DictConfig:
    """The config of the run that is matched with the finished run cfg.match.

    Args:
        cfg: a composed config, not resolved, of the family, the optimizer of λ, and where the run is stored and computed.

    Returns: that config with the data, model, training, α and seed of cfg.match, and with bounds that are the values of the
        divergences of cfg.match on the training split. `match` becomes the name of that run.
    """
    cfg = _plain(cfg)
    folder = RunFolder.find(Path(cfg.paths.runs), cfg.match)
    other, summary = read_trusted_config(folder, trusted_names(cfg.trust)), folder.read_summary()
    kept = {key: OmegaConf.select(cfg, key) for key in KEPT}
    learned = cfg.multiplier.learned
    starts = {name: (c.multiplier, c.warm_up) for name, c in cfg.constraints.items()}
    for key in COPIED_NODES:
        cfg[key] = other[key]
    for key, value in kept.items():
        OmegaConf.update(cfg, key, value)
    cfg.trainer.precision = other.trainer.precision
    for name, c in cfg.constraints.items():
        c.epsilon = _bound(summary["constraints"][str(name)])
        c.learned, (c.multiplier, c.warm_up) = learned, starts.get(name, (c.multiplier, 0.0))
    cfg.epsilon = {"source": "explicit", "calibration": other.epsilon.calibration}  # a named calibration is where both start
    cfg.match = other.name
    return cfg


def _plain(cfg: DictConfig) -> DictConfig:
    """A copy of a config without types, whose nodes can be replaced; interpolations stay."""
    copy = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    assert isinstance(copy, DictConfig)
    return copy


def _bound(constraint: Mapping[str, float]) -> float:
    """D of a finished run on its training data; what is not in nats is a square, and bounded away from its noise around 0."""
    value = float(constraint["train"])
    return value if constraint["nats"] else max(value, NOISE * (constraint["train_stderr"] or 0.0))
