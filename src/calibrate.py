"""Find the values of the divergences that a model can reach, which bounds are then set from: python src/calibrate.py --help."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("calibrate", Path(__file__).resolve().parents[1])
