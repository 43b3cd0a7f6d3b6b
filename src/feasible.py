"""Find what bounds a model can meet, before training: python src/feasible.py [family=…] [data=…] [model=…] [KEY=VALUE …]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="feasible")
def main(cfg: DictConfig) -> None:
    from lagvae.cli import guarded
    from lagvae.feasibility import feasible_and_tell

    guarded(feasible_and_tell, cfg)


if __name__ == "__main__":
    from lagvae.cli import entry
    from lagvae.schema import FeasibleConfig

    entry(ROOT, main, FeasibleConfig)
