"""Configs small enough for a test."""

from __future__ import annotations

from copy import deepcopy
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
    return deepcopy(_compose(tuple(overrides), schema, name))


@cache
def _compose(words: tuple[str, ...], schema: Any, name: str) -> Any:
    """What the groups choose is composed once; on a copy of it the other words are set, as Hydra itself would do next."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    groups = tuple(word for word in words if (ROOT / "conf" / word.partition("=")[0].lstrip("+~")).is_dir())
    values = OverridesParser.create().parse_overrides([word for word in words if word not in groups])
    if any(value.is_sweep_override() or value.is_hydra_override() or value.key_or_group == "sweep" for value in values):
        return _chosen(words, schema, name)
    cfg = deepcopy(_chosen(groups, schema, name))
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    return cfg


@cache
def _chosen(overrides: tuple[str, ...], schema: Any, name: str) -> Any:
    from hydra import compose, initialize_config_dir

    from lagvae.cli.entry import register
    from lagvae.experiment.schema import Config

    register(ROOT, schema or Config)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))
