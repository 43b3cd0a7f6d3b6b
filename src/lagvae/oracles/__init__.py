"""Models in which every quantity of the package is known exactly: linear-Gaussian models, discrete tables, convex programs.

They serve tests, benchmarks and `data=linear_gaussian`. Since they check the rest of the package, this package may import all
others, and no other package may import it.
"""

from lagvae.oracles.gaussian import LinearGaussian
from lagvae.oracles.rate_distortion import Optimum, WaterFilling
from lagvae.oracles.tabular import Tabular

__all__ = ["LinearGaussian", "Optimum", "Tabular", "WaterFilling"]
