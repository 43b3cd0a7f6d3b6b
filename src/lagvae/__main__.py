"""python -m lagvae: the same as the command `lagvae`."""

from lagvae.cli.programs import main

if __name__ == "__main__":
    main()
