"""Measure and draw a run again: python src/evaluate.py [run=NAME] [checkpoint=last|best|FILE]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from lagvae.cli import guarded
    from lagvae.experiment import evaluate_and_tell

    guarded(evaluate_and_tell, cfg)


if __name__ == "__main__":
    from lagvae.cli import entry

    entry(ROOT, main)
