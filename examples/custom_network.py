"""A network, an encoder, a prior and a decoder of your own. The last three need only return distributions of torch.

Usage: python examples/custom_network.py [STEPS]

In this folder the command line takes the same classes, here with the settings of the default run:

    python ../src/train.py model.encoder._target_=custom_network.ResidualNet +model.encoder.width=64
    python ../src/train.py model.posterior._target_=custom_network.FullGaussian model.prior._target_=custom_network.Mixture
"""

import sys
from functools import partial
from math import prod

import torch
from minimal import train
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from lagvae.data.sources import digits
from lagvae.distributions import JointModel
from lagvae.divergences import NegElbo
from lagvae.lagrangian import Constraint, Lagrangian, Preference


class ResidualNet(nn.Module):
    """A network: it is built from the shapes of one input and one output, and maps (B, *shape_in) to (B, *shape_out)."""

    def __init__(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...], width: int = 128) -> None:
        super().__init__()
        self.shape_out = tuple(shape_out)
        self.first, self.last = nn.Linear(prod(shape_in), width), nn.Linear(width, prod(shape_out))
        self.block = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        return self.last(h + self.block(h)).unflatten(1, self.shape_out)


class FullGaussian(nn.Module):
    """q(z|x) = N(μ(x), L(x) L(x)ᵀ) with a full covariance. The command line passes what a class asks for by these names."""

    def __init__(self, network: partial[nn.Module], shape: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.network = network(shape, (latent + 1, latent))

    def forward(self, x: Tensor) -> MultivariateNormal:
        out = self.network(x)
        loc, raw = out[:, 0], out[:, 1:]
        diagonal = nn.functional.softplus(raw.diagonal(dim1=-2, dim2=-1)) + 1e-3
        return MultivariateNormal(loc, scale_tril=raw.tril(-1) + diagonal.diag_embed())


class Mixture(nn.Module):
    """p(z) = 1/K Σ_k N(m_k, s_k²), all of it learned. KL(q(z|x)‖p(z)) has no closed form, so it is estimated from samples."""

    def __init__(self, latent: int, components: int = 10) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(components, latent))
        self.log_scale = nn.Parameter(torch.zeros(components, latent))

    def forward(self) -> MixtureSameFamily:
        components = Independent(Normal(self.loc, self.log_scale.exp()), 1)
        return MixtureSameFamily(Categorical(logits=torch.zeros_like(self.loc[:, 0])), components)


class Pixels(nn.Module):
    """p(x|z), independent pixels. Normal(…) in place of Bernoulli(…) would be one of continuous x."""

    def __init__(self, network: partial[nn.Module], shape: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.network = network((latent,), shape)

    def forward(self, z: Tensor) -> Bernoulli:
        return Bernoulli(logits=self.network(z))


def main(steps: int = 1000) -> None:
    torch.manual_seed(0)
    x, latent, network = digits().x, 8, partial(ResidualNet, width=128)
    shape = tuple(x.shape[1:])
    joint = JointModel(Mixture(latent), FullGaussian(network, shape, latent), Pixels(network, shape, latent))
    print(f"KL(q(z|x)‖p(z)) in closed form: {joint.rate_is_exact}")
    lagrangian = Lagrangian(Preference(alpha_q=1.0), [Constraint("neg_elbo", NegElbo(), bound=26.0, learned=True)])
    train(joint, lagrangian, x, steps)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
