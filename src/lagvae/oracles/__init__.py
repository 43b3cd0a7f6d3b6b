"""Worlds in which every quantity is known exactly."""

from lagvae.oracles.gaussian import LinearGaussian

__all__ = ["LinearGaussian"]
