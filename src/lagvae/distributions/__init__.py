"""p(z), p(x|z) and q(z|x), and samples of the two joints."""

from lagvae.distributions.decoders import BernoulliDecoder, Generator, LaplaceDecoder, NormalDecoder
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
from lagvae.distributions.joint import JointModel, JointSamples, draw_noise, mean_of
from lagvae.distributions.priors import CodesPrior, EmpiricalPrior, StandardNormalPrior

__all__ = [
    "BernoulliDecoder",
    "CodesEncoder",
    "CodesPosterior",
    "CodesPrior",
    "EmpiricalPrior",
    "GaussianEncoder",
    "Generator",
    "ImplicitEncoder",
    "JointModel",
    "JointSamples",
    "LaplaceDecoder",
    "LaplaceEncoder",
    "NormalDecoder",
    "NormalEncoder",
    "Pushforward",
    "StandardNormalPrior",
    "draw_noise",
    "make_encoder",
    "mean_of",
]
