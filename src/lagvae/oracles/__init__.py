"""Worlds in which every quantity is known exactly."""

from lagvae.oracles.gaussian import LinearGaussian
from lagvae.oracles.tabular import Tabular

__all__ = ["LinearGaussian", "Tabular"]
