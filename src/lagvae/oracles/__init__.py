"""Worlds in which every quantity is known exactly."""

from lagvae.oracles.gaussian import LinearGaussian
from lagvae.oracles.rate_distortion import Optimum, WaterFilling

__all__ = ["LinearGaussian", "Optimum", "WaterFilling"]
