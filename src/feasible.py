"""Find the bounds that a model can meet, before training it.

Usage: python src/feasible.py [GROUP=OPTION ...] [KEY=VALUE ...] [feasible.rate=RATE]

Examples:
  python src/feasible.py
  python src/feasible.py data=mnist model=conv
  python src/feasible.py family=infovae constraints.mmd.epsilon=1e-3
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="feasible")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.cli.commands import feasible_command

        feasible_command(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program
    from lagvae.experiment.schema import FeasibleConfig

    run_program(ROOT, main, FeasibleConfig)
