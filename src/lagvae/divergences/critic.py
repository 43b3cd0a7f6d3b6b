"""Critics: networks ψ that tell samples of q from samples of p, and the divergences that are estimated with them.

A critic takes its own steps, on samples that are held fixed, before θ takes one through it. Its number v(·) is large where
samples come from q.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences.base import Divergence, require
from lagvae.errors import SettingError
from lagvae.networks import MLP

Network = Callable[..., nn.Module]  # (shape_in, shape_out) -> module

OVER = {
    "x": ("q(x)", "p(x)", frozenset({"z_q", "z_p", "x_p"})),
    "z": ("q(z)", "p(z)", frozenset({"z_q", "z_p"})),
    "xz": ("q(x,z)", "p(x,z)", frozenset({"z_q", "z_p", "x_p"})),
}
"""What a divergence may be over → the two laws, and the noise that their samples take."""

WIDTH = 64
"""Numbers that a critic of pairs makes of x before it looks at z."""


class Critic(nn.Module):
    """v(x), v(z) or v(x, z): a network to one number; of a pair, x is embedded first and then joined with z.

    Args:
        network: builds a module from (shape_in, shape_out).
        shapes: shapes of the variables.
        spectral: divide every weight by its largest singular value, so that no layer stretches distances
            (Miyato et al., ICLR 2018).
    """

    def __init__(self, network: Network, shapes: Sequence[Sequence[int]], spectral: bool = False) -> None:
        super().__init__()
        first, *rest = (tuple(shape) for shape in shapes)
        if rest:
            self.embed = network(first, (WIDTH,))
            joined = WIDTH + sum(torch.Size(shape).numel() for shape in rest)
            self.head: nn.Module = MLP((joined,), (1,), [4 * WIDTH, 4 * WIDTH], "leaky_relu")
        else:
            self.head = network(first, (1,))
        self.joins = bool(rest)
        if spectral:
            for layer in list(self.modules()):
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """(B, …) → (B,)."""
        joined = torch.cat([self.embed(first), *(r.flatten(1) for r in rest)], -1) if self.joins else first
        out: Tensor = self.head(joined)
        return out.float().squeeze(-1)


class CriticDivergence(Divergence):
    """Base of the divergences with a critic over x, z or (x, z).

    Args:
        network: builds the critic's network from (shape_in, shape_out).
        over: "x", "z" or "xz".
        r1: weight γ of the regularisation ½ γ E ‖∇v‖², the mean over samples of q and of p, which keeps a critic smooth
            (Mescheder, Geiger, Nowozin, ICML 2018).
        spectral: whether every layer of the critic has spectral norm 1.

    Raises: SettingError for an unknown `over`, a negative `r1`; in `prepare`, where samples of p(x|z) have no gradient.
    """

    critic: Any = None

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
        """Samples of the two laws, each a tuple of variables."""
        names = {"x": ("x",), "z": ("z",), "xz": ("x", "z")}[self.over]
        q, p = ({n: getattr(samples, f"{n}_{side}") for n in names} for side in "qp")
        return tuple(q.values()), tuple(p.values())

    def scores(self, samples: JointSamples) -> tuple[Tensor, Tensor]:
        """v on samples of q and of p, each (B,)."""
        q, p = self.critic_inputs(samples)
        return self.critic(*q), self.critic(*p)

    def critic_loss(self, samples: JointSamples) -> Tensor:
        """What ψ descends, with samples held fixed: minus the bound, plus regularisation; shape ()."""
        q, p = (tuple(detach(v, self.r1 > 0) for v in side) for side in self.critic_inputs(samples))
        v_q, v_p = self.critic(*q), self.critic(*p)
        loss = self.critic_objective(v_q, v_p).neg()
        if self.r1:
            loss = loss + 0.25 * self.r1 * (mean_squared_slope(v_q, q) + mean_squared_slope(v_p, p))
        return loss + self.regularisation(samples, q, p)

    @abstractmethod
    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        """What the critic maximises of its numbers, shape ()."""

    def regularisation(self, samples: JointSamples, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor | float:
        """What else the critic minimises."""
        return 0.0


def detach(t: Tensor, differentiable: bool) -> Tensor:
    """A sample held fixed; with a gradient of its own where the critic's slope is asked for."""
    t = t.detach()
    return t.requires_grad_() if differentiable else t


def mean_squared_slope(v: Tensor, at: Sequence[Tensor]) -> Tensor:
    """E ‖∇v‖² over samples, with a gradient to ψ."""
    gradients: Any = torch.autograd.grad(v.sum(), list(at), create_graph=True)
    total: Tensor = sum(g.flatten(1).square().sum(1) for g in gradients)
    return total.mean()
