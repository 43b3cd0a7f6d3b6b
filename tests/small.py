"""Configs small enough for a test."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FINAL = [
    *(f"callbacks.final.two_sample_{v}.{key}=30" for v in "xz" for key in ("samples", "permutations")),
    "callbacks.final.likelihood.draws=4",
    "callbacks.final.likelihood.samples=50",
    "callbacks.final.information_of_model.draws=4",
    "callbacks.final.classifier.training=100",
]
"""A final evaluation of a few draws."""
TINY = [
    *FINAL,
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


def compose(overrides: list[str], schema: Any = None, name: str = "config") -> Any:
    """A config as train.py would compose it, or another program by its schema and the name of its config."""
    return pickle.loads(_compose(tuple(overrides), schema, name))


@cache
def _compose(words: tuple[str, ...], schema: Any, name: str) -> bytes:
    return pickle.dumps(_composer(schema, name).compose(words))


@cache
def _composer(schema: Any, name: str) -> Any:
    from hydra import compose, initialize_config_dir

    from lagvae.cli.entry import register
    from lagvae.experiment.schema import Config
    from lagvae.sweeps.composer import Composer

    def load(overrides: list[str]) -> Any:
        register(ROOT, schema or Config)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(name, overrides=overrides)

    return Composer(load, lambda key: key == "sweep" or (ROOT / "conf" / key).is_dir())
