"""Find the bounds that a model can meet, before training it: python src/feasible.py --help."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("feasible", Path(__file__).resolve().parents[1])
