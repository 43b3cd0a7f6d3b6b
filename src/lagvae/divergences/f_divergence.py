"""f-divergences by their variational form, a supremum over functions T of samples.

    D_f(q‖p) = E_p f(q/p) = sup_T E_q T − E_p f*(T),   attained by T = f'(q/p)

A critic gives a score v per sample, and T = `witness`(v) maps it to the domain of f*, so every critic gives a lower bound. The
value is in nats if f contains a logarithm, otherwise it has no unit.

Reference: Nguyen, Wainwright, Jordan, IEEE Trans. Inf. Theory 2010; Nowozin, Cseke, Tomioka, f-GAN, NeurIPS 2016.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf, log

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lagvae.distributions import JointSamples
from lagvae.divergences.critic import CriticDivergence
from lagvae.errors import SettingError
from lagvae.networks import Network


class FDivergence(ABC):
    """A convex f with its conjugate, and the map from a critic's score v to the witness T. All methods are elementwise."""

    largest: float = inf
    """The upper limit of D_f."""
    nats = True
    """Whether D_f is in nats."""

    @abstractmethod
    def f(self, u: Tensor) -> Tensor:
        """f(u), convex with f(1) = 0."""

    @abstractmethod
    def witness(self, v: Tensor) -> Tensor:
        """T as a function of the critic's score v."""

    @abstractmethod
    def conjugate(self, t: Tensor) -> Tensor:
        """f*(t) = sup_u u t − f(u)."""

    @abstractmethod
    def best(self, log_ratio: Tensor) -> Tensor:
        """The score v of the optimal critic, as a function of log q/p."""

    def lower(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        """The lower bound E_q T − E_p f*(T) from scores on samples of q and of p, (B,), (B,) → ()."""
        return self.witness(v_q).mean() - self.conjugate(self.witness(v_p)).mean()

    def __repr__(self) -> str:
        return type(self).__name__


class KL(FDivergence):
    """KL(q‖p): f(u) = u log u, T = v, f*(t) = exp(t − 1).

    Examples:
        >>> equal = KL().best(torch.zeros(5))  # the best scores where log q/p = 0
        >>> KL().lower(equal, equal)
        tensor(0.)
    """

    def f(self, u: Tensor) -> Tensor:
        return u * u.log()

    def witness(self, v: Tensor) -> Tensor:
        return v

    def conjugate(self, t: Tensor) -> Tensor:
        return (t - 1).exp()

    def best(self, log_ratio: Tensor) -> Tensor:
        return 1 + log_ratio


class ReverseKL(FDivergence):
    """KL(p‖q): f(u) = −log u, T = −exp(−v), f*(t) = −1 − log(−t).

    Examples:
        >>> q, p = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> (p * ReverseKL().f(q / p)).sum()  # ¼ log ½ + ¾ log 3/2
        tensor(0.1308)
    """

    def f(self, u: Tensor) -> Tensor:
        return -u.log()

    def witness(self, v: Tensor) -> Tensor:
        return -(-v).exp()

    def conjugate(self, t: Tensor) -> Tensor:
        return -1 - (-t).log()

    def best(self, log_ratio: Tensor) -> Tensor:
        return log_ratio


class JensenShannon(FDivergence):
    """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m), m = ½ (q + p), at most log 2: T = ½ log 2σ(v), f*(t) = −½ log(2 − exp 2t).

    v is the logit of a GAN discriminator for "sampled from q", and the bound is log 2 minus its mean logistic loss.

    Reference: Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014.

    Examples:
        >>> JensenShannon().lower(torch.full((5,), 20.0), torch.full((5,), -20.0))  # a critic that tells q from p: log 2
        tensor(0.6931)
    """

    largest = log(2)

    def f(self, u: Tensor) -> Tensor:
        return 0.5 * (u * u.log() - (1 + u) * ((1 + u) / 2).log())

    def witness(self, v: Tensor) -> Tensor:
        return 0.5 * (log(2) - softplus(-v))

    def conjugate(self, t: Tensor) -> Tensor:
        return -0.5 * (2 - (2 * t).exp()).log()

    def best(self, log_ratio: Tensor) -> Tensor:
        return log_ratio

    def lower(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        # Equal to the general formula, but without the logarithm of a difference.
        return log(2) - 0.5 * (softplus(-v_q).mean() + softplus(v_p).mean())


class Hellinger(FDivergence):
    """The squared Hellinger distance ∫ (√q − √p)², at most 2: f(u) = (√u − 1)², T = 1 − exp(−v), f*(t) = t / (1 − t).

    Examples:
        >>> q, p = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> (p * Hellinger().f(q / p)).sum()  # (√½ − ½)² + (√½ − √¾)²
        tensor(0.0681)
    """

    largest = 2.0
    nats = False

    def f(self, u: Tensor) -> Tensor:
        return (u.sqrt() - 1).square()

    def witness(self, v: Tensor) -> Tensor:
        return 1 - (-v).exp()

    def conjugate(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def best(self, log_ratio: Tensor) -> Tensor:
        return 0.5 * log_ratio


class ChiSquared(FDivergence):
    """Pearson's χ² = ∫ (q − p)² / p: f(u) = (u − 1)², T = v, f*(t) = t²/4 + t.

    Examples:
        >>> q, p = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> (p * ChiSquared().f(q / p)).sum()  # ¼² / ¼ + ¼² / ¾
        tensor(0.3333)
    """

    nats = False

    def f(self, u: Tensor) -> Tensor:
        return (u - 1).square()

    def witness(self, v: Tensor) -> Tensor:
        return v

    def conjugate(self, t: Tensor) -> Tensor:
        return t.square() / 4 + t

    def best(self, log_ratio: Tensor) -> Tensor:
        return 2 * (log_ratio.exp() - 1)


class TotalVariation(FDivergence):
    """½ ∫ |q − p|, at most 1: f(u) = ½ |u − 1|, T = ½ tanh v, f*(t) = t.

    The optimal critic is a step function, so a smooth critic underestimates the divergence.

    Examples:
        >>> q, p = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> (p * TotalVariation().f(q / p)).sum()  # ½ (¼ + ¼)
        tensor(0.2500)
    """

    largest = 1.0
    nats = False

    def f(self, u: Tensor) -> Tensor:
        return 0.5 * (u - 1).abs()

    def witness(self, v: Tensor) -> Tensor:
        return 0.5 * v.tanh()

    def conjugate(self, t: Tensor) -> Tensor:
        return t

    def best(self, log_ratio: Tensor) -> Tensor:
        return torch.sign(log_ratio) * 20


F_DIVERGENCES: dict[str, type[FDivergence]] = {
    "kl": KL,
    "reverse_kl": ReverseKL,
    "js": JensenShannon,
    "hellinger": Hellinger,
    "chi2": ChiSquared,
    "tv": TotalVariation,
}

SYMBOLS = {"kl": "KL", "reverse_kl": "KL", "js": "JS", "hellinger": "Hellinger", "chi2": "ChiSquared", "tv": "TV"}

GRADIENTS = ("value", "non_saturating")


class VariationalFDivergence(CriticDivergence):
    """The lower bound E_q T − E_p f*(T) ≤ D_f(q‖p) of a critic, in nats if f contains a logarithm.

    Args:
        f: "js", "kl", "reverse_kl", "hellinger", "chi2" or "tv" (see `lagvae.divergences.f_divergence`).
        gradient: the loss whose gradient θ descends. "value": the bound itself. "non_saturating", for "js" only:
            ½ E_q softplus(v) + ½ E_p softplus(−v), which has the same fixed point, but whose gradient does not vanish when the
            critic is confident (Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014). The value is the bound in
            both cases.
        network, over, r1, spectral: see `CriticDivergence`.

    Raises: SettingError for an unknown f or gradient, or as in `CriticDivergence`.

    Examples:
        >>> from lagvae.networks import MLP
        >>> VariationalFDivergence(MLP, f="js", over="z")
        JS(q(z)‖p(z)) by a critic
    """

    smallest = 0.0

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
        first, second = (self.p_symbol, self.q_symbol) if f == "reverse_kl" else (self.q_symbol, self.p_symbol)
        self.symbol = f"{SYMBOLS[f]}({first}||{second})"

    def critic_objective(self, v_q: Tensor, v_p: Tensor) -> Tensor:
        return self.f.lower(v_q, v_p)

    def __call__(self, samples: JointSamples) -> Tensor:
        v_q, v_p = self.scores(samples)
        value = self.f.lower(v_q, v_p)
        if self.gradient == "value":
            return value
        surrogate = 0.5 * (softplus(v_q).mean() + softplus(-v_p).mean())
        return value.detach() + surrogate - surrogate.detach()

    def __repr__(self) -> str:
        return f"{self.symbol.replace('||', '‖')} by a critic"
