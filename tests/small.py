"""Configs small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "trainer=cpu",
    "training.threads=1",
    "training.steps=40",
    "training.interval=20",
    "calibration.steps=40",
    "model.encoder.hidden=[32]",
    "model.decoder.hidden=[32]",
    "model.latent=4",
    "data.draws=500",
    "callbacks.figures=false",
    "callbacks.final.information.samples=200",
    "callbacks.final.information.components=2",
]


def compose(overrides: list[str]) -> Any:
    """A config as train.py would compose it."""
    from hydra import compose, initialize_config_dir

    from lagvae.cli.entry import register

    register(ROOT)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=overrides)
