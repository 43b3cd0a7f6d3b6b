"""Explain the objective that settings give, or one that is written out: python src/explain.py --help."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("explain", Path(__file__).resolve().parents[1])
