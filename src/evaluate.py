"""Evaluate a run again from a checkpoint, and draw its figures.

Usage: python src/evaluate.py [run=RUN] [checkpoint=last|best|FILE]

Examples:
  python src/evaluate.py
  python src/evaluate.py run=first
  python src/evaluate.py run=first checkpoint=best
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.cli.commands import evaluate_command

        evaluate_command(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program

    run_program(ROOT, main)
