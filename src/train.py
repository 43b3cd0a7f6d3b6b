"""Train a model of the family, or the runs of a sweep: python src/train.py --help."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("train", Path(__file__).resolve().parents[1])
