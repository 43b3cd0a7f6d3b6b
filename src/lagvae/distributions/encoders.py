"""q(z|x): what the encoder says of z."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, Normal
from torch.nn import functional as F

from lagvae.distributions.priors import CodesPrior, Prior, gaussian, normal_from, one_hot
from lagvae.errors import SettingError

BEND = 2.0
"""By how many of its scales the mean of an implicit encoder's Gaussian may be moved."""

Network = Callable[..., nn.Module]  # (shape_in, shape_out) -> module


class GaussianEncoder(nn.Module):
    """q(z|x) = N(μ(x), diag σ(x)²) with σ = softplus(·) + `tiny`.

    Args:
        network: builds a module from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        tiny: smallest scale, a numerical floor.

    Shapes: x (B, *shape) → distribution with batch shape (B,) and event shape (d,).
    """

    has_density = True
    noise_kind = "normal"

    def __init__(self, network: Network, shape: Sequence[int], latent: int, tiny: float = 1e-4) -> None:
        super().__init__()
        self.network = network(tuple(shape), (2, latent))
        self.noise_shape = (latent,)
        self.tiny = tiny

    def forward(self, x: Tensor) -> Independent:
        loc, raw = self.network(x).float().unbind(1)
        return gaussian(loc, F.softplus(raw) + self.tiny, 1)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """z = μ + σ · noise with standard normal noise, (B, d) → (B, d)."""
        base = distribution.base_dist
        return torch.addcmul(base.loc, base.scale, noise)


class Pushforward:
    """The law of f(noise): it can be sampled from, and has no density.

    `mean` is f at noise 0, the point that a picture shows; of a deterministic law it is the point itself.
    """

    def __init__(self, at: Callable[[Tensor | None], Tensor]) -> None:
        self.at = at

    @property
    def mean(self) -> Tensor:
        """f(0)."""
        return self.at(None)

    def sample(self, noise: Tensor) -> Tensor:
        """f(noise)."""
        return self.at(noise)


class ImplicitEncoder(nn.Module):
    """z = f(x, noise): a law that can be sampled from and has no density; deterministic with noise=0.

    With noise (ε, e) ∼ N(0, I):  z = μ(x) + σ(x) · (ε + 2 tanh g(h(x), e)), a Gaussian whose mean is moved by a network of
    further noise (semi-implicit, Yin & Zhou, ICML 2018). g starts at zero, so training starts from a Gaussian and bends it, by
    at most two of its scales: an f that may be a thin sheet soon is one, whose density ratio no critic learns in time.

    Args:
        network: builds a module from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        noise: numbers e that go through the network; 0: no noise at all.
        tiny: smallest scale, a numerical floor.

    Shapes: x (B, *shape), noise (B, d + noise), or (B, 0) → z (B, d).

    Reference: Mescheder, Nowozin, Geiger, ICML 2017 (AVB); Tolstikhin et al., ICLR 2018 (deterministic, WAE).
    """

    has_density = False
    noise_kind = "normal"

    def __init__(self, network: Network, shape: Sequence[int], latent: int, noise: int = 0, tiny: float = 1e-3) -> None:
        super().__init__()
        if noise < 0:
            raise SettingError(f"model.posterior.noise={noise} must be at least 0 numbers.")
        self.latent, self.tiny = latent, tiny
        self.noise_shape = (latent + noise if noise else 0,)
        self.network = network(tuple(shape), (4, latent) if noise else (latent,))
        if noise:
            self.bend = nn.Sequential(nn.Linear(2 * latent + noise, 8 * latent), nn.GELU(), nn.Linear(8 * latent, latent))
            nn.init.zeros_(self.bend[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.bend[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Pushforward:
        out = self.network(x).float()
        if self.noise_shape == (0,):
            return Pushforward(lambda noise: out)
        loc, scale, hidden = out[:, 0], F.softplus(out[:, 1]) + self.tiny, out[:, 2:].flatten(1)

        def at(noise: Tensor | None) -> Tensor:
            if noise is None:
                noise = loc.new_zeros(len(loc), *self.noise_shape)
            bent: Tensor = self.bend(torch.cat([hidden, noise[:, self.latent :]], -1))
            return loc + scale * (noise[:, : self.latent] + BEND * bent.tanh())

        return Pushforward(at)

    def log_density(self, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """log 1/K Σ_k N(z; μ + 2 σ tanh g(h, e_k), σ²) in nats, (B,): log q(z|x) as K grows, to judge estimates of it by.

        Args:
            noise: e, (K, B, noise). Where the first is the one that made z it is an upper bound in expectation, else a lower.
        """
        out = self.network(x).float()
        loc, scale, hidden = out[:, 0], F.softplus(out[:, 1]) + self.tiny, out[:, 2:].flatten(1)
        means = torch.stack([loc + BEND * scale * self.bend(torch.cat([hidden, e], -1)).tanh() for e in noise])
        each = gaussian(means, scale.expand_as(means), 1).log_prob(z)
        return each.logsumexp(0) - log(len(noise))

    @staticmethod
    def sample(distribution: Pushforward, noise: Tensor) -> Tensor:
        """z = f(x, noise)."""
        return distribution.sample(noise)


class LaplaceEncoder(nn.Module):
    """q(z|x) = ∏ Laplace(z_k; μ_k(x), s): −log q(z|x) is the L1 distance over s, up to a constant.

    Samples are the medians μ(x), as where a network translates images (the limit of small s): the density measures
    how far z is off, no noise is added to it.

    Args:
        network: builds a module from (shape_in, shape_out).
        shape: shape of one x. latent: dimension of z.
        scale: s > 0.
        unit: whether z is in [0, 1], as pixels are.

    Reference: Zhu et al., CycleGAN, ICCV 2017.
    """

    has_density = True
    noise_kind = "normal"
    noise_shape = (0,)
    base: Any = Laplace

    def __init__(self, network: Network, shape: Sequence[int], latent: int, scale: float = 1.0, unit: bool = True) -> None:
        super().__init__()
        if not scale > 0:
            raise SettingError(f"model.posterior.scale={scale} must be positive.")
        self.network = network(tuple(shape), (latent,))
        self.scale, self.unit = scale, unit

    def forward(self, x: Tensor) -> Independent:
        loc = self.network(x).float()
        loc = loc.sigmoid() if self.unit else loc
        return Independent(self.base(loc, torch.full_like(loc, self.scale), validate_args=False), 1, validate_args=False)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """z = μ(x)."""
        mean: Tensor = distribution.mean
        return mean


class NormalEncoder(LaplaceEncoder):
    """q(z|x) = ∏ N(z_k; μ_k(x), s²): −log q(z|x) is the squared distance over 2 s², up to a constant; else as `LaplaceEncoder`.

    Reference: Kim et al., DiscoGAN, ICML 2017.
    """

    base = Normal


class CodesPosterior:
    """q(c, u|x) of the codes of a `CodesPrior`; nothing is said of its incompressible noise.

    logits: of all categorical codes, one after another, (B, Σ K). loc: (B, U), scale: (U,) of the uniform codes, as Gaussians.
    """

    def __init__(self, prior: CodesPrior, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.prior, self.logits, self.loc, self.scale = prior, logits, loc, scale

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.logits.split(self.prior.categorical, -1)

    @property
    def code_logits(self) -> Tensor:
        """Logits of the first categorical code, (B, K)."""
        return self._parts[0]

    @property
    def mean(self) -> Tensor:
        """E z: probabilities, means, and 0 for the noise, (B, d)."""
        free = self.loc.new_zeros(*self.loc.shape[:-1], self.prior.free)
        return torch.cat([*(part.softmax(-1) for part in self._parts), self.loc, free], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(c, u|x) in nats, (B,)."""
        k, u = self.logits.shape[-1], self.prior.uniform
        log_c = (torch.cat([part.log_softmax(-1) for part in self._parts], -1) * z[..., :k]).sum(-1)
        error = (z[..., k : k + u] - self.loc) / self.scale
        return log_c - 0.5 * (error.square() + 2 * self.scale.log() + log(2 * pi)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """z from uniform noise as the prior takes it: codes from q, the incompressible noise from the prior."""
        n, u = len(self.prior.categorical), self.prior.uniform
        ones = []
        for i, part in enumerate(self._parts):
            below = part.softmax(-1).cumsum(-1)[..., :-1] <= noise[..., i : i + 1]
            ones.append(one_hot(below.sum(-1), part.shape[-1]))
        uniform = self.loc + self.scale * normal_from(noise[..., n : n + u])
        return torch.cat([*ones, uniform, normal_from(noise[..., n + u :])], -1)


class CodesEncoder(nn.Module):
    """q(c, u|x): a softmax for each categorical code, a Gaussian of learned scale for each uniform one.

    Args:
        network: builds a module from (shape_in, shape_out). shape: shape of one x.
        prior: the law of the codes.

    Reference: Chen et al., InfoGAN, NeurIPS 2016.
    """

    has_density = True
    noise_kind = "uniform"

    def __init__(self, network: Network, shape: Sequence[int], prior: CodesPrior, tiny: float = 1e-2) -> None:
        super().__init__()
        object.__setattr__(self, "prior", prior)  # known, not owned: the laws hold it
        self.values = sum(prior.categorical)
        self.network = network(tuple(shape), (self.values + prior.uniform,))
        self.raw_scale = nn.Parameter(torch.full((prior.uniform,), 0.54))  # softplus(0.54) ≈ 1
        self.tiny = tiny
        self.noise_shape = prior.noise_shape

    prior: CodesPrior

    def forward(self, x: Tensor) -> CodesPosterior:
        out = self.network(x).float()
        logits, loc = out[..., : self.values], out[..., self.values :]
        return CodesPosterior(self.prior, logits, loc, F.softplus(self.raw_scale) + self.tiny)

    @staticmethod
    def sample(distribution: CodesPosterior, noise: Tensor) -> Tensor:
        """z from uniform noise."""
        return distribution.sample(noise)


def make_encoder(kind: Any, network: Network, shape: Sequence[int], prior: Prior) -> nn.Module:
    """The encoder that `kind` makes for a prior; SettingError where the two do not fit.

    Args:
        kind: an encoder class, or a partial of one.
    """
    cls = getattr(kind, "func", kind)
    if cls is CodesEncoder:
        if not isinstance(prior, CodesPrior):
            raise SettingError(f"posterior=codes tells codes, which {type(prior).__name__} has not; add prior=codes.")
        made: nn.Module = kind(network, shape, prior)
    else:
        made = kind(network, shape, prior.latent)
    return made
