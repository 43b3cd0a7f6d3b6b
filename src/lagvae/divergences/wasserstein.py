"""The Wasserstein-1 distance, a supremum over 1-Lipschitz critics."""

from __future__ import annotations

import torch
from torch import Tensor

from lagvae.distributions import JointSamples
from lagvae.divergences.critic import CriticDivergence
from lagvae.errors import SettingError
from lagvae.networks import Network


class Wasserstein(CriticDivergence):
    """W₁(q, p) = sup_v E_q v − E_p v over 1-Lipschitz functions v (Kantorovich–Rubinstein duality), in the unit of the samples.

    Args:
        penalty: weight ≥ 0 of the one-sided gradient penalty E max(0, ‖∇v‖ − 1)² at random points between samples of q and p. A
            two-sided penalty would keep a critic of the wrong sign from passing through v = 0. With 0 only spectral
            normalisation bounds the slope, which underestimates the distance.
        network, over, r1, spectral: see `CriticDivergence`.

    Raises: SettingError for a negative penalty, or penalty=0 without spectral normalisation.

    Reference: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017; Petzka, Fischer, Lukovnikov, On the
    Regularization of Wasserstein GANs, ICLR 2018 (one-sided).

    Examples:
        >>> from lagvae.networks import MLP
        >>> Wasserstein(MLP, over="x")
        W1(q(x)‖p(x)) by a critic
    """

    nats = False
    smallest = 0.0

    def __init__(
        self, network: Network, over: str = "z", penalty: float = 10.0, r1: float = 0.0, spectral: bool = False
    ) -> None:
        super().__init__(network, over, r1, spectral)
        if penalty < 0 or (penalty == 0 and not spectral):
            raise SettingError(
                f"divergence.penalty={penalty}: nothing bounds the critic's slope; set penalty > 0 or spectral=true."
            )
        self.penalty = penalty
        self.required_noise = self.required_noise | ({"mix"} if penalty else frozenset())
        self.symbol = f"W1({self.q_symbol}||{self.p_symbol})"

    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return v_q.mean() - v_p.mean()

    def regularisation(self, samples: JointSamples, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor | float:
        if not self.penalty:
            return 0.0
        share = samples.noise["mix"]
        between = []
        for a, b in zip(q, p, strict=True):
            s = share.view(-1, *[1] * (a.dim() - 1))
            between.append((s * a + (1 - s) * b).detach().requires_grad_())
        gradients = torch.autograd.grad(self.critic(*between).sum(), between, create_graph=True)
        slope = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).add(1e-12).sqrt()
        return self.penalty * (slope - 1).clamp(min=0).square().mean()

    def __call__(self, samples: JointSamples) -> Tensor:
        return self.critic_objective(*self.scores(samples))

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} by a critic"
