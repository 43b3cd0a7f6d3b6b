"""Divergences as pure mathematics: kernels and MMD, f-divergences by their variational form, transport distances."""

from lagvae.divergences.kernels import (
    IMQ,
    RBF,
    STATISTICS,
    Kernel,
    MedianRBF,
    MixtureRBF,
    ReferenceRBF,
    mmd,
    squared_distances,
)
from lagvae.divergences.transport import sliced_wasserstein, sorted_distance
from lagvae.divergences.variational import (
    F_DIVERGENCES,
    KL,
    ChiSquared,
    FDivergence,
    Hellinger,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)

__all__ = [
    "F_DIVERGENCES",
    "IMQ",
    "KL",
    "RBF",
    "STATISTICS",
    "ChiSquared",
    "FDivergence",
    "Hellinger",
    "JensenShannon",
    "Kernel",
    "MedianRBF",
    "MixtureRBF",
    "ReferenceRBF",
    "ReverseKL",
    "TotalVariation",
    "mmd",
    "sliced_wasserstein",
    "sorted_distance",
    "squared_distances",
]
