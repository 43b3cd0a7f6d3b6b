"""p(z), p(x|z) and q(z|x), and samples of the two joints."""

from lagvae.laws.decoders import BernoulliDecoder, Generator, LaplaceDecoder, NormalDecoder
from lagvae.laws.encoders import (
    CodesEncoder,
    CodesPosterior,
    GaussianEncoder,
    ImplicitEncoder,
    LaplaceEncoder,
    NormalEncoder,
    Pushforward,
    encoder,
)
from lagvae.laws.joint import JointSamples, draw_noise
from lagvae.laws.laws import Laws, mean_of
from lagvae.laws.networks import MLP, ConvDecoder, ConvEncoder, SquareMotion
from lagvae.laws.priors import CodesPrior, EmpiricalPrior, StandardNormalPrior

__all__ = [
    "MLP",
    "BernoulliDecoder",
    "CodesEncoder",
    "CodesPosterior",
    "CodesPrior",
    "ConvDecoder",
    "ConvEncoder",
    "EmpiricalPrior",
    "GaussianEncoder",
    "Generator",
    "ImplicitEncoder",
    "JointSamples",
    "LaplaceDecoder",
    "LaplaceEncoder",
    "Laws",
    "NormalDecoder",
    "NormalEncoder",
    "Pushforward",
    "SquareMotion",
    "StandardNormalPrior",
    "draw_noise",
    "encoder",
    "mean_of",
]
