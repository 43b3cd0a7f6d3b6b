"""Differentiable estimators of divergences between q and p, of rate and distortion, and of bounds on mutual information.

An estimator maps `JointSamples` to a scalar. The package imports `lagvae.algebra`, `lagvae.distributions`, `lagvae.networks`
and `lagvae.errors`.
"""

from lagvae.divergences.attribute import AttributeEntropy, AttributeInformation, entropy_of
from lagvae.divergences.base import Divergence
from lagvae.divergences.covariance import CovarianceDistance, covariance_distance
from lagvae.divergences.critic import Critic, CriticDivergence
from lagvae.divergences.density_ratio import AdversarialNegElbo, AdversarialRate, LogRatio
from lagvae.divergences.elbo import Distortion, NegElbo, Rate, check_preference, i_p_upper, neg_i_p_lower
from lagvae.divergences.f_divergence import (
    F_DIVERGENCES,
    KL,
    ChiSquared,
    FDivergence,
    Hellinger,
    JensenShannon,
    ReverseKL,
    TotalVariation,
    VariationalFDivergence,
)
from lagvae.divergences.mmd import (
    IMQ,
    MMD,
    RBF,
    STATISTICS,
    Kernel,
    MedianRBF,
    MixtureRBF,
    ReferenceRBF,
    mmd,
    squared_distances,
)
from lagvae.divergences.sliced_wasserstein import SlicedWasserstein, sliced_wasserstein, sorted_distance
from lagvae.divergences.symbolic import SymbolicObjective
from lagvae.divergences.total_correlation import AdversarialTotalCorrelation, TotalCorrelation, total_correlation
from lagvae.divergences.wasserstein import Wasserstein

__all__ = [
    "F_DIVERGENCES",
    "IMQ",
    "KL",
    "MMD",
    "RBF",
    "STATISTICS",
    "AdversarialNegElbo",
    "AdversarialRate",
    "AdversarialTotalCorrelation",
    "AttributeEntropy",
    "AttributeInformation",
    "ChiSquared",
    "CovarianceDistance",
    "Critic",
    "CriticDivergence",
    "Distortion",
    "Divergence",
    "FDivergence",
    "Hellinger",
    "JensenShannon",
    "Kernel",
    "LogRatio",
    "MedianRBF",
    "MixtureRBF",
    "NegElbo",
    "Rate",
    "ReferenceRBF",
    "ReverseKL",
    "SlicedWasserstein",
    "SymbolicObjective",
    "TotalCorrelation",
    "TotalVariation",
    "VariationalFDivergence",
    "Wasserstein",
    "check_preference",
    "covariance_distance",
    "entropy_of",
    "i_p_upper",
    "mmd",
    "neg_i_p_lower",
    "sliced_wasserstein",
    "sorted_distance",
    "squared_distances",
    "total_correlation",
]
