"""Find the values of the divergences that a model can reach, which bounds are then set from.

Usage: python src/calibrate.py [GROUP=OPTION ...] [KEY=VALUE ...]

Examples:
  python src/calibrate.py
  python src/calibrate.py data=mnist model=conv
  python src/calibrate.py family=infovae calibration.steps=10000
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.cli.commands import calibrate_command

        calibrate_command(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program

    run_program(ROOT, main)
