"""Find what bounds a model can meet, before training: python src/feasible.py [family=…] [data=…] [model=…] [KEY=VALUE …]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="feasible")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.experiment.feasibility import feasible

        feasible(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program
    from lagvae.experiment.schema import FeasibleConfig

    run_program(ROOT, main, FeasibleConfig)
