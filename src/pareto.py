"""Compare finished runs: python src/pareto.py RUNS [RUNS …] [--out FOLDER] [--information interval] [--z 2]."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    from lagvae.cli.compare import main

    main(ROOT)
