"""Look at data before training: python src/data.py --help."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("data", Path(__file__).resolve().parents[1])
