"""summary.json: what was asked, what was reached, and the verdict on each constraint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lagvae.data import SPLITS
from lagvae.experiment.calibration import Calibration
from lagvae.experiment.diagnostics import explain_critic, explain_violation, judge, overall, regime, sensitivity
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
    """What was asked, what was reached, and the verdict on each constraint."""
    lagrangian = model.lagrangian
    multiplier = lagrangian.mean_multiplier.tolist()
    constraints, findings, messages = {}, [], []
    for i, c in enumerate(lagrangian.constraints):
        key = f"constraint/{c.name}"
        finding = judge(
            c,
            splits["train"][key],
            splits["train"][f"{key}_stderr"],
            multiplier[i],
            max(abs(cfg.alpha.q), abs(cfg.alpha.p)),
            best.get(c.name, float("inf")),
        )
        calibrated = None if calibration is None else calibration.calibrated.get(c.name)
        findings.append(finding)
        message = explain_violation(finding, calibrated, " nats" if c.divergence.nats else "")
        messages += [message] if message else []
        constraints[c.name] = {
            "estimator": repr(c.divergence),
            "nats": c.divergence.nats,
            "calibrated": calibrated,
            "learned": c.learned,
            "scale": c.scale,
            "sensitivity": sensitivity(finding, c.scale, cfg.alpha.q, cfg.alpha.p) if c.learned else None,
            **{split: splits[split][key] for split in SPLITS},
            **{f"{split}_stderr": splits[split][f"{key}_stderr"] for split in SPLITS},
            **finding.as_dict(),
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
        "verdict": overall(findings),
        "regime": regime(lagrangian.constraints, findings, cfg.alpha.q, cfg.alpha.p),
        "messages": messages,
    }


def critic_messages(lagrangian: Lagrangian, metrics: Path) -> list[str]:
    """What to tell of critics that stood at an end of their scale for most of the second half of training."""
    critics = {c.name: c.divergence for c in lagrangian.constraints if c.divergence.critic is not None}
    series = read_series(metrics, "train", critics) if critics and metrics.is_file() else {}
    found = [
        explain_critic(name, series[name][1], divergence.largest) for name, divergence in critics.items() if name in series
    ]
    return [message for message in found if message is not None]
