"""python -m lagvae: the same as the command `lagvae`."""

from lagvae.cli.programs import run_command

if __name__ == "__main__":
    run_command()
