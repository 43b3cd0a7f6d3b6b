"""Critics ψ that discriminate between samples of q and of p, and the base class of divergences that are estimated with one.

The critic is trained by its own optimizer steps on detached samples, before each step of θ. Its score v(·) is large for
samples of q.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences.base import Divergence, require
from lagvae.errors import SettingError
from lagvae.networks import MLP, Network, build_network

OVER = {
    "x": ("q(x)", "p(x)", frozenset({"z_q", "z_p", "x_p"})),
    "z": ("q(z)", "p(z)", frozenset({"z_q", "z_p"})),
    "xz": ("q(x,z)", "p(x,z)", frozenset({"z_q", "z_p", "x_p"})),
}
"""Variables of a divergence → the two distributions, and the noise that their samples need."""

WIDTH = 64
"""Dimension of the embedding of x in a critic of (x, z)."""


class Critic(nn.Module):
    """A critic with the score v(x), v(z) or v(x, z). For a pair, x is embedded first and then concatenated with z.

    Args:
        network: builds a network from (shape_in, shape_out): the critic itself, or the embedding of x.
        shapes: shapes of the variables, without the batch axis.
        spectral: whether to divide the weights of every layer by their largest singular value, so that the spectral norm of
            each is 1 (Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018).

    Shapes: one tensor (B, *shape) per variable → (B,).

    Examples:
        >>> critic = Critic(MLP, shapes=[(1, 8, 8), (2,)])  # v(x, z)
        >>> critic(torch.zeros(5, 1, 8, 8), torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, network: Network, shapes: Sequence[Sequence[int]], spectral: bool = False) -> None:
        super().__init__()
        first, *rest = (tuple(shape) for shape in shapes)
        if rest:
            self.embed = build_network(network, first, (WIDTH,), "critic.network")
            joined = WIDTH + sum(torch.Size(shape).numel() for shape in rest)
            self.head: nn.Module = MLP((joined,), (1,), [4 * WIDTH, 4 * WIDTH], "leaky_relu")
        else:
            self.head = build_network(network, first, (1,), "critic.network")
        self.joins = bool(rest)
        if spectral:
            for layer in list(self.modules()):
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """The scores v, (B, …) → (B,)."""
        joined = torch.cat([self.embed(first), *(r.flatten(1) for r in rest)], -1) if self.joins else first
        out: Tensor = self.head(joined)
        return out.float().squeeze(-1)


class CriticDivergence(Divergence):
    """Base class of divergences between q and p that are estimated with a critic of x, z or (x, z).

    Args:
        network: builds the critic's network from (shape_in, shape_out).
        over: "x", "z" or "xz".
        r1: weight γ ≥ 0 of the gradient penalty ½ γ · ½ (E_q ‖∇v‖² + E_p ‖∇v‖²) on the critic (Mescheder, Geiger, Nowozin,
            Which Training Methods for GANs do actually Converge?, ICML 2018).
        spectral: whether every layer of the critic has spectral norm 1.

    Raises: SettingError for an unknown `over` or a negative `r1`; in `prepare`, if the divergence is over x and samples of
        p(x|z) have no gradient.
    """

    critic: Any = None
    uses_critic = True

    def __init__(self, network: Network, over: str = "z", r1: float = 0.0, spectral: bool = False) -> None:
        if over not in OVER:
            raise SettingError(f"divergence.over={over!r} is unknown; choose one of {', '.join(OVER)}.")
        if r1 < 0:
            raise SettingError(f"divergence.r1={r1} must be at least 0.")
        self.network, self.over, self.r1, self.spectral = network, over, r1, spectral
        self.q_symbol, self.p_symbol, self.required_noise = OVER[over]

    def prepare(self, name: str, joint: JointModel, shape: Sequence[int]) -> None:
        if "x" in self.over:
            require(
                bool(joint.decoder.differentiable_samples), name, "samples of p(x|z) with a gradient", joint.decoder,
                "set likelihood=normal, likelihood=laplace or likelihood=generator",
            )  # fmt: skip
        shapes: dict[str, list[Sequence[int]]] = {"x": [shape], "z": [(joint.latent,)], "xz": [shape, (joint.latent,)]}
        self.critic = Critic(self.network, shapes[self.over], self.spectral)

    def critic_inputs(self, samples: JointSamples) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Samples of q and of p, each a tuple with one tensor (B, …) per variable."""
        names = {"x": ("x",), "z": ("z",), "xz": ("x", "z")}[self.over]
        q, p = ({n: getattr(samples, f"{n}_{side}") for n in names} for side in "qp")
        return tuple(q.values()), tuple(p.values())

    def scores(self, samples: JointSamples) -> tuple[Tensor, Tensor]:
        """The scores v of samples of q and of p, each (B,)."""
        q, p = self.critic_inputs(samples)
        return self.critic(*q), self.critic(*p)

    def critic_loss(self, samples: JointSamples) -> Tensor:
        """The loss of the critic ψ on detached samples: minus `critic_objective` plus the regularisation, ()."""
        q, p = (tuple(detach(v, self.r1 > 0) for v in side) for side in self.critic_inputs(samples))
        v_q, v_p = self.critic(*q), self.critic(*p)
        loss = self.critic_objective(v_q, v_p).neg()
        if self.r1:
            loss = loss + 0.25 * self.r1 * (mean_squared_gradient(v_q, q) + mean_squared_gradient(v_p, p))
        return loss + self.regularisation(samples, q, p)

    @abstractmethod
    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        """The objective that the critic maximises, as a function of its scores on samples of q and of p, (B,), (B,) → ()."""

    def regularisation(self, samples: JointSamples, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor | float:
        """Further regularisation of the critic, (), which its loss adds."""
        return 0.0


def detach(t: Tensor, differentiable: bool) -> Tensor:
    """Detach a sample from the graph of θ; with `differentiable`, as a leaf in which the critic can be differentiated."""
    t = t.detach()
    return t.requires_grad_() if differentiable else t


def mean_squared_gradient(v: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """The mean of ‖∇v‖² over a batch, (), differentiable in ψ.

    Args:
        v: scores, (B,).
        inputs: the inputs of the critic that they were computed from, each (B, …).
    """
    gradients: Any = torch.autograd.grad(v.sum(), list(inputs), create_graph=True)
    total: Tensor = sum(g.flatten(1).square().sum(1) for g in gradients)
    return total.mean()
