"""Estimators: a number and its gradient from samples of the two joints."""

from lagvae.estimators.base import Divergence
from lagvae.estimators.critics import Critic, CriticDivergence
from lagvae.estimators.likelihood import Distortion, NegElbo, Rate, check_preference, i_p_upper, neg_i_p_lower
from lagvae.estimators.ratios import AdversarialNegElbo, AdversarialRate, LogRatio
from lagvae.estimators.two_samples import MMD, SlicedWasserstein
from lagvae.estimators.witnesses import Variational, Wasserstein
from lagvae.estimators.written import Written

__all__ = [
    "MMD",
    "AdversarialNegElbo",
    "AdversarialRate",
    "Critic",
    "CriticDivergence",
    "Distortion",
    "Divergence",
    "LogRatio",
    "NegElbo",
    "Rate",
    "SlicedWasserstein",
    "Variational",
    "Wasserstein",
    "Written",
    "check_preference",
    "i_p_upper",
    "neg_i_p_lower",
]
