"""The content of summary.json: the settings of the problem, the results, and the verdict on each constraint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lagvae.data import SPLITS
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.diagnostics import (
    assess_constraint,
    explain_critic,
    explain_violation,
    overall_verdict,
    regime,
    sensitivity,
)
from lagvae.experiment.factory import instantiate
from lagvae.lagrangian import Lagrangian
from lagvae.metrics import tightest
from lagvae.model import LatentVariableModel
from lagvae.runs.metrics_table import read_series


def summarise(
    cfg: DictConfig,
    model: LatentVariableModel,
    calibration: Calibration | None,
    splits: Mapping[str, Mapping[str, float]],
    best: Mapping[str, float],
) -> dict[str, Any]:
    """Summarise a run.

    Args:
        splits: split → metric → value, of the full evaluation. best: constraint → the smallest divergence in training.
    """
    lagrangian = model.lagrangian
    multiplier = lagrangian.mean_multiplier.tolist()
    constraints, results, messages = {}, [], []
    for i, c in enumerate(lagrangian.constraints):
        key = f"constraint/{c.name}"
        result = assess_constraint(
            c,
            splits["train"][key],
            splits["train"][f"{key}_stderr"],
            multiplier[i],
            max(abs(cfg.alpha.q), abs(cfg.alpha.p)),
            best.get(c.name, float("inf")),
        )
        calibrated = None if calibration is None else calibration.calibrated.get(c.name)
        results.append(result)
        message = explain_violation(result, calibrated, " nats" if c.divergence.nats else "")
        messages += [message] if message else []
        constraints[c.name] = {
            "estimator": repr(c.divergence),
            "nats": c.divergence.nats,
            "calibrated": calibrated,
            "learned": c.learned,
            "scale": c.scale,
            "sensitivity": sensitivity(result, c.scale, cfg.alpha.q, cfg.alpha.p) if c.learned else None,
            **{split: splits[split][key] for split in SPLITS},
            **{f"{split}_stderr": splits[split][f"{key}_stderr"] for split in SPLITS},
            **result.as_dict(),
        }
    return {
        "family": cfg.family,
        "alpha": {"q": cfg.alpha.q, "p": cfg.alpha.p},
        "data": cfg.data.name,
        "model": cfg.model.name,
        "mmd_estimator": f"{instantiate(cfg.callbacks.final.mmd)().divergences['mmd']!r}, batches of {cfg.data.batch}"
        if "mmd" in cfg.callbacks.final
        else None,
        "constraints": constraints,
        "splits": {
            split: {k: v for k, v in values.items() if not k.startswith("constraint/")} | tightest(values)
            for split, values in splits.items()
        },
        "verdict": overall_verdict(results),
        "regime": regime(lagrangian.constraints, results, cfg.alpha.q, cfg.alpha.p),
        "messages": messages,
    }


def critic_messages(lagrangian: Lagrangian, metrics: Path) -> list[str]:
    """A message for each critic whose divergence was saturated for most of the second half of training."""
    critics = {c.name: c.divergence for c in lagrangian.constraints if c.divergence.critic is not None}
    series = read_series(metrics, "train", critics) if critics and metrics.is_file() else {}
    messages = [
        explain_critic(name, series[name][1], divergence.largest) for name, divergence in critics.items() if name in series
    ]
    return [message for message in messages if message is not None]
