"""Explain an objective: python src/explain.py [family=…] [KEY=VALUE …], or objective="…", [within=likelihood|unary|binary]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="explain")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.explain.explain import explain

        explain(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program
    from lagvae.experiment.schema import ExplainConfig

    run_program(ROOT, main, ExplainConfig)
