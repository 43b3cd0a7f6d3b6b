"""Evaluate a run again from a checkpoint, and draw its figures: python src/evaluate.py --help."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("evaluate", Path(__file__).resolve().parents[1])
