"""Worlds in which every quantity is known exactly."""

from lagvae.oracles.gaussian import LinearGaussian
from lagvae.oracles.rate_distortion import Optimum, WaterFilling
from lagvae.oracles.tabular import Tabular

__all__ = ["LinearGaussian", "Optimum", "Tabular", "WaterFilling"]
