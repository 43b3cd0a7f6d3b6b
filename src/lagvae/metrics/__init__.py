"""What is measured of a model on a split: torchmetrics metrics over `JointSamples`."""

from lagvae.metrics.agreement import ClassifierScore, CodeAgreement, PairingAccuracy
from lagvae.metrics.base import Known, Measure, mean_and_stderr
from lagvae.metrics.information import Information, PosteriorSamples, tightest
from lagvae.metrics.likelihood import InformationOfModel, MarginalLikelihood
from lagvae.metrics.terms import ActiveUnits, Divergences, Reconstruction, Terms
from lagvae.metrics.two_sample import TwoSampleTest, permutation_p_value

__all__ = [
    "ActiveUnits",
    "ClassifierScore",
    "CodeAgreement",
    "Divergences",
    "Information",
    "InformationOfModel",
    "Known",
    "MarginalLikelihood",
    "Measure",
    "PairingAccuracy",
    "PosteriorSamples",
    "Reconstruction",
    "Terms",
    "TwoSampleTest",
    "mean_and_stderr",
    "permutation_p_value",
    "tightest",
]
