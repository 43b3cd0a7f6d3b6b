"""Find what divergences a model can reach: python src/calibrate.py [data=…] [model=…] [KEY=VALUE …]."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    from lagvae.cli.entry import guarded

    with guarded():
        from lagvae.experiment.run import calibrate_command

        calibrate_command(cfg)


if __name__ == "__main__":
    from lagvae.cli.entry import run_program

    run_program(ROOT, main)
