"""A live run or sweep, from another process than the one that trains: python src/watch.py RUN|SWEEP."""

from pathlib import Path

if __name__ == "__main__":
    from lagvae.cli.programs import run

    run("watch", Path(__file__).resolve().parents[1])
