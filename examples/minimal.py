"""Algorithm 1 of the paper with this library, in one screen: θ descends the Lagrangian, and λ ascends it.

Usage: python examples/minimal.py [STEPS]
"""

import sys
from functools import partial

import torch
from torch import Tensor

from lagvae.data.sources import digits
from lagvae.distributions import BernoulliDecoder, GaussianEncoder, JointModel, JointSamples, StandardNormalPrior, draw_noise
from lagvae.divergences import MMD, MixtureRBF, NegElbo
from lagvae.lagrangian import Constraint, Lagrangian, Preference
from lagvae.log_ascent import LogAscent
from lagvae.networks import MLP
from lagvae.noise import Noise


def train(joint: JointModel, lagrangian: Lagrangian, x: Tensor, steps: int, batch: int = 128) -> dict[str, float]:
    """Train on grey levels x in [0, 1], which every batch binarises anew; returns the last divergences and multipliers."""
    noise = Noise(seed=0)
    theta = torch.optim.Adam(joint.parameters(), lr=1e-3)
    dual = LogAscent([lagrangian.scaled], steps=steps, maximize=True)
    for step in range(steps):
        rows = x[torch.randint(len(x), (batch,), generator=noise.generator("rows", step))]
        binary = (rows > noise.uniform("pixels", step, tuple(rows.shape))).float()
        samples = JointSamples(joint, binary, draw_noise(lagrangian.required_noise, joint, noise, step, binary))
        values = lagrangian.measure(samples)
        theta.zero_grad()
        lagrangian(values).backward()
        theta.step()
        lagrangian.ascend(lagrangian.scaled_violation(values.divergences), dual)
        if (step + 1) % max(1, steps // 5) == 0:
            names = [*lagrangian.names, *(f"λ of {name}" for name in lagrangian.names)]
            last = dict(zip(names, [*values.divergences.tolist(), *lagrangian.multiplier.tolist()], strict=True))
            print(f"step {step + 1}: " + ", ".join(f"{name} {value:.3g}" for name, value in last.items()))
    return last


def main(steps: int = 2000) -> None:
    torch.manual_seed(0)
    x, network = digits().x, partial(MLP, hidden=[128, 128])
    joint = JointModel(
        StandardNormalPrior(16), GaussianEncoder(network, x.shape[1:], 16), BernoulliDecoder(network, x.shape[1:], 16)
    )
    lagrangian = Lagrangian(
        Preference(alpha_q=-1.0),  # as much information I_q(x;z) as the bounds allow
        [
            Constraint("neg_elbo", NegElbo(), bound=26.0, learned=True),  # nats
            Constraint("mmd", MMD(MixtureRBF()), bound=1e-3, scale=1e-3, learned=True),
        ],
    )
    train(joint, lagrangian, x, steps)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
