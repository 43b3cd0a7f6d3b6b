"""Find what divergences a model can reach: python src/calibrate.py [data=…] [model=…] [KEY=VALUE …]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    from lagvae.cli import guarded
    from lagvae.experiment import calibrate_and_tell

    guarded(calibrate_and_tell, cfg)


if __name__ == "__main__":
    from lagvae.cli import entry

    entry(ROOT, main)
