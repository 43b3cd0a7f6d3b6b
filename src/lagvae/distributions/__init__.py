"""Priors p(z), decoders p(x|z) and encoders q(z|x) as modules that return distributions, and samples of both joints.

The package imports `lagvae.networks`, `lagvae.noise` and `lagvae.errors` only.
"""

from lagvae.distributions.adapters import TorchDecoder, TorchEncoder, TorchPrior
from lagvae.distributions.decoders import (
    BernoulliDecoder,
    DiscretizedLogistic,
    DiscretizedLogisticDecoder,
    Generator,
    LaplaceDecoder,
    NormalDecoder,
    RowDecoder,
    RowDistribution,
)
from lagvae.distributions.encoders import (
    CodesEncoder,
    CodesPosterior,
    GaussianEncoder,
    ImplicitEncoder,
    LaplaceEncoder,
    NormalEncoder,
    Pushforward,
    make_encoder,
)
from lagvae.distributions.joint import (
    JointModel,
    JointSamples,
    NoiseOnDemand,
    draw_noise,
    has_weights,
    log_weights,
    mean_of,
    part_name,
    with_gaps_of,
)
from lagvae.distributions.priors import CodesPrior, EmpiricalPrior, StandardNormalPrior

__all__ = [
    "BernoulliDecoder",
    "CodesEncoder",
    "CodesPosterior",
    "CodesPrior",
    "DiscretizedLogistic",
    "DiscretizedLogisticDecoder",
    "EmpiricalPrior",
    "GaussianEncoder",
    "Generator",
    "ImplicitEncoder",
    "JointModel",
    "JointSamples",
    "LaplaceDecoder",
    "LaplaceEncoder",
    "NoiseOnDemand",
    "NormalDecoder",
    "NormalEncoder",
    "Pushforward",
    "RowDecoder",
    "RowDistribution",
    "StandardNormalPrior",
    "TorchDecoder",
    "TorchEncoder",
    "TorchPrior",
    "draw_noise",
    "has_weights",
    "log_weights",
    "make_encoder",
    "mean_of",
    "part_name",
    "with_gaps_of",
]
