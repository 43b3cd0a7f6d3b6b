"""A divergence of your own, as a constraint beside −ELBO.

Usage: python examples/custom_divergence.py [STEPS]

In this folder the command line takes the same class, as a new constraint or in place of another one:

    python ../src/train.py +constraints.moments.divergence._target_=custom_divergence.MomentMismatch \
        constraints.moments.gamma=0.1
"""

import sys
from functools import partial

import torch
from minimal import train
from torch import Tensor

from lagvae.data.sources import digits
from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, JointSamples, StandardNormalPrior
from lagvae.divergences import Divergence, NegElbo
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.networks import MLP


class MomentMismatch(Divergence):
    """Σ_{i≠j} C_ij² + Σ_i (C_ii − 1)² with C the covariance of the means of q(z|x) over a batch; it has no unit.

    It draws codes towards independent coordinates of variance 1. Where a bound on it is learned, λ is the price of that.

    Reference: Kumar, Sattigeri, Balakrishnan, Variational Inference of Disentangled Latent Concepts, ICLR 2018 (DIP-VAE-I).
    """

    nats = False  # how reports format it
    smallest = 0.0  # it is never negative
    required_noise = frozenset({"z_q"})  # what the samples must be drawn for; also "z_p" for z ∼ p(z), "x_p" for x ∼ p(x|z)

    def __call__(self, samples: JointSamples) -> Tensor:
        mean = samples.q_z_given_x.mean
        centred = mean - mean.mean(0)
        covariance = centred.mT @ centred / (len(mean) - 1)
        return (covariance - torch.eye(mean.shape[1], device=mean.device)).square().sum()


def main(steps: int = 2000) -> None:
    torch.manual_seed(0)
    x, network = digits().x, partial(MLP, hidden=[128, 128])
    joint = JointModel(
        StandardNormalPrior(8), GaussianEncoder(network, x.shape[1:], 8), BernoulliDecoder(network, x.shape[1:], 8)
    )
    lagrangian = Lagrangian(
        Preference(alpha_q=-1.0),
        [
            Constraint("neg_elbo", NegElbo(), bound=27.0, learned=True),
            Constraint("moments", MomentMismatch(), bound=1.0, multiplier=0.1, learned=True),
        ],
    )
    train(joint, lagrangian, x, steps)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
