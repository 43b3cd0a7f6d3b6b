"""Explain an objective: python src/explain.py [family=…] [KEY=VALUE …], or objective="…", [within=likelihood|unary|binary]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="explain")
def main(cfg: DictConfig) -> None:
    from lagvae.cli import guarded
    from lagvae.explanation import explain

    guarded(explain, cfg)


if __name__ == "__main__":
    from lagvae.cli import entry
    from lagvae.schema import ExplainConfig

    entry(ROOT, main, ExplainConfig)
