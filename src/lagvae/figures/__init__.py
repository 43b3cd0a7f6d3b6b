"""Pictures: of a run, and of many runs compared."""

from lagvae.figures.pareto import draw_pareto
from lagvae.figures.run import draw_run
from lagvae.figures.style import STYLE

__all__ = ["STYLE", "draw_pareto", "draw_run"]
