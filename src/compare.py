"""Finished runs side by side: python src/compare.py RUN RUN [RUN …] [--html FILE]."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("compare", Path(__file__).resolve().parents[1])
