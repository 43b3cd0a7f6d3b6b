"""Encoders q(z|x)."""

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
from lagvae.networks import Network, build_network

BEND = 2.0
"""The largest shift of an implicit encoder's mean, in units of its scale σ."""


class GaussianEncoder(nn.Module):
    """q(z|x) = N(z; μ(x), diag σ(x)²) with σ = softplus(·) + `tiny`.

    Args:
        network: builds the network of μ and σ from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        tiny: lower limit of σ.

    Shapes: x (B, *shape) → distribution with batch shape (B,) and event shape (d,); its log density is in nats.

    Reference: Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014.

    Examples:
        >>> from lagvae.networks import MLP
        >>> encoder = GaussianEncoder(MLP, shape=(3,), latent=2)
        >>> q = encoder(torch.randn(5, 3))
        >>> z = encoder.sample(q, torch.randn(5, 2))
        >>> q.log_prob(z).shape
        torch.Size([5])
    """

    has_density = True
    noise_kind = "normal"

    def __init__(self, network: Network, shape: Sequence[int], latent: int, tiny: float = 1e-4) -> None:
        super().__init__()
        self.network = build_network(network, shape, (2, latent), "model.encoder")
        self.noise_shape = (latent,)
        self.tiny = tiny

    def forward(self, x: Tensor) -> Independent:
        loc, raw = self.network(x).float().unbind(1)
        return gaussian(loc, F.softplus(raw) + self.tiny, 1)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """z = μ + σ · noise for standard normal noise, (B, d) → (B, d)."""
        base = distribution.base_dist
        return torch.addcmul(base.loc, base.scale, noise)


class Pushforward:
    """The distribution of f(noise), which has samples but no density.

    `mean` is f(0), the value that figures show. It is not the expectation unless f is deterministic or affine.

    Args:
        at: f, a function of the noise (B, …), where None stands for noise 0.

    Examples:
        >>> cube = Pushforward(lambda noise: torch.zeros(2, 1) if noise is None else noise**3)
        >>> cube.mean, cube.sample(torch.full((2, 1), 2.0))
        (tensor([[0.],
                [0.]]), tensor([[8.],
                [8.]]))
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
    """An implicit encoder z = f(x, noise), which has samples but no density; deterministic for noise=0.

    For noise (ε, e) ∼ N(0, I),  z = μ(x) + σ(x) · (ε + 2 tanh g(h(x), e)), a semi-implicit distribution: a Gaussian whose mean
    a network g shifts as a function of further noise e. The last layer of g starts at zero, so the initial q(z|x) is Gaussian,
    and the shift never exceeds 2σ. Without these two restrictions samples of f soon concentrate near a
    lower-dimensional surface, and a critic cannot follow the density ratio.

    Args:
        network: builds the network of μ, σ and h from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        noise: dimension of e; 0 for a deterministic encoder.
        tiny: lower limit of σ.

    Shapes: x (B, *shape), noise (B, d + noise), or (B, 0) if deterministic → z (B, d).

    Raises: SettingError for a negative noise dimension.

    Reference: Mescheder, Nowozin, Geiger, Adversarial Variational Bayes, ICML 2017; Yin & Zhou, Semi-Implicit Variational
    Inference, ICML 2018; Tolstikhin et al., Wasserstein Auto-Encoders, ICLR 2018 (deterministic).

    Examples:
        >>> from lagvae.networks import MLP
        >>> encoder = ImplicitEncoder(MLP, shape=(3,), latent=2, noise=4)
        >>> encoder.sample(encoder(torch.randn(5, 3)), torch.randn(5, *encoder.noise_shape)).shape
        torch.Size([5, 2])
    """

    has_density = False
    noise_kind = "normal"

    def __init__(self, network: Network, shape: Sequence[int], latent: int, noise: int = 0, tiny: float = 1e-3) -> None:
        super().__init__()
        if noise < 0:
            raise SettingError(f"model.posterior.noise={noise} must be at least 0.")
        self.latent, self.tiny = latent, tiny
        self.noise_shape = (latent + noise if noise else 0,)
        self.network = build_network(network, shape, (4, latent) if noise else (latent,), "model.encoder")
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
            shift: Tensor = self.bend(torch.cat([hidden, noise[:, self.latent :]], -1))
            return loc + scale * (noise[:, : self.latent] + BEND * shift.tanh())

        return Pushforward(at)

    def log_density(self, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """log 1/K Σ_k N(z; μ + 2 σ tanh g(h, e_k), σ²) in nats, (B,), which converges to log q(z|x) as K grows.

        If e_1 is the noise that generated z, it is an upper bound on log q(z|x) in expectation, otherwise a lower bound.

        Args:
            x: (B, *shape).
            z: (B, d).
            noise: e_1, …, e_K, (K, B, noise).
        """
        out = self.network(x).float()
        loc, scale, hidden = out[:, 0], F.softplus(out[:, 1]) + self.tiny, out[:, 2:].flatten(1)
        means = torch.stack([loc + BEND * scale * self.bend(torch.cat([hidden, e], -1)).tanh() for e in noise])
        log_densities = gaussian(means, scale.expand_as(means), 1).log_prob(z)
        return log_densities.logsumexp(0) - log(len(noise))

    @staticmethod
    def sample(distribution: Pushforward, noise: Tensor) -> Tensor:
        """z = f(x, noise), (B, d)."""
        return distribution.sample(noise)


class LaplaceEncoder(nn.Module):
    """q(z|x) = ∏_k Laplace(z_k; μ_k(x), s), so that −log q(z|x) = ‖z − μ(x)‖₁ / s + const.

    Samples are z = μ(x) without noise, as those of a network that translates images are. The density only measures the
    reconstruction error of z.

    Args:
        network: builds the network of μ from (shape_in, shape_out).
        shape: shape of one x.
        latent: dimension d of z.
        scale: s > 0.
        unit: whether a sigmoid maps μ to [0, 1], the range of pixels.

    Shapes: x (B, *shape) → distribution with batch shape (B,) and event shape (d,); its log density is in nats.

    Raises: SettingError for a scale that is not positive.

    Reference: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.

    Examples:
        >>> from lagvae.networks import MLP
        >>> q = LaplaceEncoder(MLP, shape=(3,), latent=2, scale=0.5)(torch.zeros(1, 3))
        >>> q.log_prob(q.mean + 1).round(decimals=4).tolist()  # −‖1‖₁ / s − 2 log 2s
        [-4.0]
    """

    has_density = True
    noise_kind = "normal"
    noise_shape = (0,)
    base: Any = Laplace

    def __init__(self, network: Network, shape: Sequence[int], latent: int, scale: float = 1.0, unit: bool = True) -> None:
        super().__init__()
        if not scale > 0:
            raise SettingError(f"model.posterior.scale={scale} must be positive.")
        self.network = build_network(network, shape, (latent,), "model.encoder")
        self.scale, self.unit = scale, unit

    def forward(self, x: Tensor) -> Independent:
        loc = self.network(x).float()
        loc = loc.sigmoid() if self.unit else loc
        return Independent(self.base(loc, torch.full_like(loc, self.scale), validate_args=False), 1, validate_args=False)

    @staticmethod
    def sample(distribution: Independent, noise: Tensor) -> Tensor:
        """z = μ(x), (B, d); the noise (B, 0) is empty."""
        mean: Tensor = distribution.mean
        return mean


class NormalEncoder(LaplaceEncoder):
    """q(z|x) = ∏_k N(z_k; μ_k(x), s²), so that −log q(z|x) = ‖z − μ(x)‖² / (2 s²) + const. Otherwise as `LaplaceEncoder`.

    Its samples are z = μ(x), without noise. The encoder of a VAE, with a σ(x) that is learned, is `GaussianEncoder`.

    Reference: Kim et al., Learning to Discover Cross-Domain Relations with Generative Adversarial Networks, ICML 2017.

    Examples:
        >>> from lagvae.networks import MLP
        >>> q = NormalEncoder(MLP, shape=(3,), latent=2)(torch.zeros(1, 3))
        >>> (q.log_prob(q.mean + 1) - q.log_prob(q.mean)).round(decimals=4).tolist()  # −‖1‖² / 2
        [-1.0]
    """

    base = Normal


class CodesPosterior:
    """q(c, u|x) over the codes of a `CodesPrior`: categorical for c and Gaussian for u. It leaves the noise e out.

    Args:
        prior: the prior of the codes.
        logits: the concatenated logits of all categorical codes, (B, Σ K).
        loc, scale: means (B, U) and standard deviations (U,) of the uniform codes.

    Examples:
        >>> prior = CodesPrior(latent=10, categorical=(10,))
        >>> q = CodesPosterior(prior, logits=torch.zeros(1, 10), loc=torch.zeros(1, 0), scale=torch.ones(0))
        >>> q.log_prob(one_hot(torch.tensor([3]), 10))  # −log 10
        tensor([-2.3026])
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
        """E z, (B, d): the probabilities of c, the means of u, and 0 for the noise e."""
        free = self.loc.new_zeros(*self.loc.shape[:-1], self.prior.free)
        return torch.cat([*(part.softmax(-1) for part in self._parts), self.loc, free], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(c, u|x) in nats, (B,)."""
        k, u = self.logits.shape[-1], self.prior.uniform
        log_c = (torch.cat([part.log_softmax(-1) for part in self._parts], -1) * z[..., :k]).sum(-1)
        error = (z[..., k : k + u] - self.loc) / self.scale
        return log_c - 0.5 * (error.square() + 2 * self.scale.log() + log(2 * pi)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """z, (B, d), from uniform noise of the shape that the prior takes: codes c and u from q, the noise e from the prior."""
        n, u = len(self.prior.categorical), self.prior.uniform
        ones = []
        for i, part in enumerate(self._parts):
            below = part.softmax(-1).cumsum(-1)[..., :-1] <= noise[..., i : i + 1]
            ones.append(one_hot(below.sum(-1), part.shape[-1]))
        uniform = self.loc + self.scale * normal_from(noise[..., n : n + u])
        return torch.cat([*ones, uniform, normal_from(noise[..., n + u :])], -1)


class CodesEncoder(nn.Module):
    """q(c, u|x): a softmax for each categorical code, and a Gaussian with a learned standard deviation for each uniform code.

    Args:
        network: builds the network of logits and means from (shape_in, shape_out).
        shape: shape of one x.
        prior: the prior of the codes.
        tiny: lower limit of the standard deviations.

    Shapes: x (B, *shape) → `CodesPosterior`; its log density is in nats.

    Reference: Chen et al., InfoGAN, NeurIPS 2016.

    Examples:
        >>> from lagvae.networks import MLP
        >>> encoder = CodesEncoder(MLP, shape=(3,), prior=CodesPrior(latent=14, categorical=(10,), uniform=2))
        >>> q = encoder(torch.randn(5, 3))
        >>> q.code_logits.shape, q.mean.shape
        (torch.Size([5, 10]), torch.Size([5, 14]))
    """

    has_density = True
    noise_kind = "uniform"

    def __init__(self, network: Network, shape: Sequence[int], prior: CodesPrior, tiny: float = 1e-2) -> None:
        super().__init__()
        object.__setattr__(self, "prior", prior)  # not registered as a submodule: it belongs to the joint model
        self.values = sum(prior.categorical)
        self.network = build_network(network, shape, (self.values + prior.uniform,), "model.encoder")
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
        """z, (B, d), from uniform noise of the shape that the prior takes."""
        return distribution.sample(noise)


def make_encoder(kind: Any, network: Network, shape: Sequence[int], prior: Prior) -> nn.Module:
    """Build an encoder for a prior: a module that maps x (B, *shape) to q(z|x), with the dimension of the prior.

    Args:
        kind: an encoder class, or a partial of one.
        network: builds a network from (shape_in, shape_out).
        shape: shape of one x.
        prior: the prior p(z), which determines the dimension of z.

    Raises: SettingError for a `CodesEncoder` with a prior other than a `CodesPrior`.

    Examples:
        >>> from lagvae.distributions import StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> make_encoder(GaussianEncoder, MLP, (3,), StandardNormalPrior(2))(torch.zeros(5, 3)).mean.shape
        torch.Size([5, 2])
        >>> make_encoder(CodesEncoder, MLP, (3,), StandardNormalPrior(2))
        Traceback (most recent call last):
        lagvae.errors.SettingError: posterior=codes infers codes, which StandardNormalPrior does not have; add prior=codes.
    """
    cls = getattr(kind, "func", kind)
    if cls is CodesEncoder:
        if not isinstance(prior, CodesPrior):
            raise SettingError(f"posterior=codes infers codes, which {type(prior).__name__} does not have; add prior=codes.")
        encoder: nn.Module = kind(network, shape, prior)
    else:
        encoder = kind(network, shape, prior.latent)
    return encoder
