"""Save a view and a report of runs on W&B: what `dashboard` does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lagvae.cli.compare import told
from lagvae.cli.version import describe_version
from lagvae.terminal import command, print_line


def save(words: Sequence[str] | None = None) -> None:
    """Read a command line, save, and print the addresses; what a user can act on is printed as one paragraph."""
    parser = argparse.ArgumentParser(
        prog=command("dashboard"),
        description="Save a view and a report of a W&B project: information against −ELBO, λ, violations, verdicts, pictures.",
    )
    parser.add_argument("project", metavar="PROJECT", help="project of logger=wandb, or ENTITY/PROJECT")
    parser.add_argument("--version", action="version", version=describe_version(), help="print versions and exit")
    options = parser.parse_args(words)
    with told():
        from lagvae.pareto.figures import screen_colours
        from lagvae.runs.wandb_view import save_dashboard  # imports Lightning

        view, report = save_dashboard(options.project, screen_colours)
        print_line(f"View: {view}\nReport: {report}")
