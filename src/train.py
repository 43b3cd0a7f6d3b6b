"""Train a member of the family: python src/train.py [family=…] [alpha=…] [data=…] [KEY=VALUE …]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    from lagvae.cli import guarded
    from lagvae.launch import start

    guarded(start, cfg)


if __name__ == "__main__":
    from lagvae.cli import entry

    entry(ROOT, main)
