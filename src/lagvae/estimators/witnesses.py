"""Divergences that are a supremum over critics: f-divergences, and Wasserstein-1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lagvae.divergences import F_DIVERGENCES
from lagvae.errors import SettingError
from lagvae.estimators.critics import CriticDivergence, Network
from lagvae.laws import JointSamples

SYMBOLS = {"kl": "KL", "reverse_kl": "KL", "js": "JS", "hellinger": "Hellinger", "chi2": "ChiSquared", "tv": "TV"}
GRADIENTS = ("value", "non_saturating")


class Variational(CriticDivergence):
    """D_f(q‖p) ≥ E_q T − E_p f*(T): a lower bound by the critic, as tight as the critic is good.

    Args:
        f: "js", "kl", "reverse_kl", "hellinger", "chi2" or "tv" (see `lagvae.divergences.variational`).
        gradient: what θ descends. "value": the bound itself. "non_saturating", for "js" alone: ½ E_q softplus(v) +
            ½ E_p softplus(−v), which has the same fixed point and does not vanish where the critic is sure
            (Goodfellow et al., NeurIPS 2014). The value is the bound either way: constraints are on it.
        network, over, r1, spectral: of the critic, see `CriticDivergence`.

    In nats where f has a logarithm.
    """

    def __init__(
        self, network: Network, f: str = "js", over: str = "z", gradient: str = "value", r1: float = 0.0, spectral: bool = False
    ) -> None:
        super().__init__(network, over, r1, spectral)
        if f not in F_DIVERGENCES:
            raise SettingError(f"divergence.f={f!r} is unknown; choose one of {', '.join(F_DIVERGENCES)}.")
        if gradient not in GRADIENTS or (gradient != "value" and f != "js"):
            raise SettingError(f"divergence.gradient={gradient!r} with f={f}: use value, or non_saturating with f=js.")
        self.name, self.f, self.gradient = f, F_DIVERGENCES[f](), gradient
        self.nats, self.largest = self.f.nats, self.f.largest
        laws = (self.p_law, self.q_law) if f == "reverse_kl" else (self.q_law, self.p_law)
        self.symbol = f"{SYMBOLS[f]}({laws[0]}||{laws[1]})"

    def gap(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return self.f.lower(v_q, v_p)

    def __call__(self, samples: JointSamples) -> Tensor:
        v_q, v_p = self.numbers(samples)
        value = self.f.lower(v_q, v_p)
        if self.gradient == "value":
            return value
        surrogate = 0.5 * (softplus(v_q).mean() + softplus(-v_p).mean())
        return value.detach() + surrogate - surrogate.detach()

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} by a critic"


class Wasserstein(CriticDivergence):
    """W₁(q, p) = sup E_q v − E_p v over functions of slope at most 1 (Kantorovich and Rubinstein).

    Args:
        penalty: weight of E max(0, ‖∇v‖ − 1)², at random points between samples of q and p (Gulrajani et al., NeurIPS 2017;
            one-sided as in Petzka et al., ICLR 2018: a penalty on slopes below 1 holds a critic at the wrong sign); with 0
            the slope is held by spectral normalisation alone, which reads low.
        network, over, r1, spectral: of the critic, see `CriticDivergence`.

    Without unit in nats: a distance in the units of the samples.
    """

    nats = False

    def __init__(
        self, network: Network, over: str = "z", penalty: float = 10.0, r1: float = 0.0, spectral: bool = False
    ) -> None:
        super().__init__(network, over, r1, spectral)
        if penalty < 0 or (penalty == 0 and not spectral):
            raise SettingError(
                f"divergence.penalty={penalty}: the critic's slope is not held; give penalty > 0 or spectral=true."
            )
        self.penalty = penalty
        self.needs = self.needs | ({"mix"} if penalty else frozenset())
        self.symbol = f"W1({self.q_law}||{self.p_law})"

    def gap(self, v_q: Tensor, v_p: Tensor) -> Tensor:
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
        return self.gap(*self.numbers(samples))

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} by a critic"
