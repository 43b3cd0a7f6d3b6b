"""Train a model of the family, or the runs of a sweep.

Usage: python src/train.py [GROUP=OPTION ...] [KEY=VALUE ...]
       python src/train.py -m sweep=NAME [KEY=VALUE,VALUE ...]
       python src/train.py resume=RUN

Examples:
  python src/train.py alpha=minimize constraints.neg_elbo.gamma=0.6
  python src/train.py family=beta_vae alpha.q=3 data=mnist
  python src/train.py -m sweep=pareto seed=0,1,2
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.cli.commands import train_command

        train_command(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program

    run_program(ROOT, main)
