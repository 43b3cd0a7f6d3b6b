"""Compare finished runs: python src/pareto.py RUNS [RUNS …] [--out FOLDER] [--information interval] [--z 2]."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("pareto", Path(__file__).resolve().parents[1])
