"""Estimates of mutual information from samples: lower and upper bounds, and the paper's kernel density estimate.

All functions take and return tensors. The package imports `lagvae.errors` only.
"""

from lagvae.information.bounds import Aggregate, aggregate, aggregate_bounds, equal_mixture, kde_information, marginal_bounds
from lagvae.information.gaussians import Mixture, gaussian_log_density, kde_log_density
from lagvae.information.images import ImageDistributions, image_bounds, image_distributions

__all__ = [
    "Aggregate",
    "ImageDistributions",
    "Mixture",
    "aggregate",
    "aggregate_bounds",
    "equal_mixture",
    "gaussian_log_density",
    "image_bounds",
    "image_distributions",
    "kde_information",
    "kde_log_density",
    "marginal_bounds",
]
