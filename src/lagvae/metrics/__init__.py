"""Metrics that evaluate a model on a split: torchmetrics metrics over `JointSamples`.

This package may import the divergences, the bounds on information, the distributions and those below. It knows the data
only through the protocol `EvaluationData`, and knows nothing of training or configs.
"""

from lagvae.metrics.agreement import ClassifierScore, CodeAgreement, PairingAccuracy
from lagvae.metrics.attribute import AttributeScores
from lagvae.metrics.base import EvaluationData, LatentMetric, OwnMetric, as_latent_metric, mean_and_stderr
from lagvae.metrics.decomposition import RateDecomposition
from lagvae.metrics.factors import FactorScores, dci_scores, mutual_information_gap
from lagvae.metrics.information import Information, PosteriorSamples, tightest
from lagvae.metrics.likelihood import InformationOfModel, MarginalLikelihood
from lagvae.metrics.terms import ActiveUnits, DivergenceValues, ReconstructionError, Terms
from lagvae.metrics.two_sample import TwoSampleTest, permutation_p_value

__all__ = [
    "ActiveUnits",
    "AttributeScores",
    "ClassifierScore",
    "CodeAgreement",
    "DivergenceValues",
    "EvaluationData",
    "FactorScores",
    "Information",
    "InformationOfModel",
    "LatentMetric",
    "MarginalLikelihood",
    "OwnMetric",
    "PairingAccuracy",
    "PosteriorSamples",
    "RateDecomposition",
    "ReconstructionError",
    "Terms",
    "TwoSampleTest",
    "as_latent_metric",
    "dci_scores",
    "mean_and_stderr",
    "mutual_information_gap",
    "permutation_p_value",
    "tightest",
]
