"""A view and a report of runs on W&B: python src/dashboard.py PROJECT."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("dashboard", Path(__file__).resolve().parents[1])
