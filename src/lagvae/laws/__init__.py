"""p(z), p(x|z) and q(z|x), and samples of the two joints."""

from lagvae.laws.joint import JointSamples, draw_noise
from lagvae.laws.laws import BernoulliDecoder, GaussianEncoder, Laws, NormalDecoder, StandardNormalPrior, mean_of
from lagvae.laws.networks import MLP, ConvDecoder, ConvEncoder

__all__ = [
    "MLP",
    "BernoulliDecoder",
    "ConvDecoder",
    "ConvEncoder",
    "GaussianEncoder",
    "JointSamples",
    "Laws",
    "NormalDecoder",
    "StandardNormalPrior",
    "draw_noise",
    "mean_of",
]
