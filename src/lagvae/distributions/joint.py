"""The two joints p(x,z) = p(z) p(x|z) and q(x,z) = q(x) q(z|x), and lazily computed samples of both.

Priors, encoders and decoders do not draw random numbers: a sample is a deterministic function of the distribution and of noise
that it receives. Each is a module that has

    forward       () for a prior, (x) for an encoder, (z) for a decoder → a distribution: `mean`, and `log_prob` with a density
    has_density   whether the distribution has a density
    noise_kind    "normal" or "uniform": the noise of one sample
    noise_shape   the shape of that noise
    sample        (distribution, noise) → samples; for a prior (noise) → samples

A prior also has `latent`, the dimension of z, and a decoder `differentiable_samples`; a decoder may have `start_scale(x)`,
which sets a learned scale from data. A module without `noise_kind`, which only returns a distribution of torch, is wrapped in
an adapter that has all this. An encoder of one's own is best such a module: terms with log q(z|x), such as the rate, are only
computed for `GaussianEncoder`, its subclasses and adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.distributions import Independent, TransformedDistribution, kl_divergence

from lagvae.distributions.adapters import ROWS, TorchDecoder, TorchEncoder, TorchPart, TorchPrior, is_implemented
from lagvae.distributions.decoders import RowDecoder
from lagvae.distributions.encoders import GaussianEncoder
from lagvae.errors import SettingError
from lagvae.introspection import device_of, evaluating
from lagvae.noise import Noise


class JointModel(nn.Module):
    """The two joints p(x,z) = p(z) p(x|z) and q(x,z) = q(x) q(z|x), where q(x) is the distribution of the data.

    Args:
        prior, encoder, decoder: those of this package; or any modules whose forward(), forward(x) and forward(z) return a
            `torch.distributions.Distribution`. Their coordinates are independent where its event shape does not say otherwise.
        shape: of one x, where it is known, which the distribution of a user-defined decoder is checked against.

    Attributes:
        rate_is_exact: whether torch knows KL(q(z|x)‖p(z)) in closed form; otherwise it is log q(z|x) − log p(z) at z ∼ q(z|x).

    Raises: SettingError for a user-defined module that fails, returns no distribution, or one of the wrong shape.

    Examples:
        >>> from functools import partial
        >>> from lagvae.distributions import BernoulliDecoder, GaussianEncoder, StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> network, shape = partial(MLP, hidden=[32]), (1, 8, 8)
        >>> joint = JointModel(StandardNormalPrior(4), GaussianEncoder(network, shape, 4), BernoulliDecoder(network, shape, 4))
        >>> joint.has_rate, joint.has_distortion
        (True, True)
        >>> joint.encoder(torch.zeros(2, 1, 8, 8)).mean.shape
        torch.Size([2, 4])
    """

    prior: Any
    encoder: Any
    decoder: Any

    def __init__(self, prior: nn.Module, encoder: nn.Module, decoder: nn.Module, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.rate_is_exact = True
        parts = {"prior": prior, "encoder": encoder, "decoder": decoder}
        own = {name: part for name, part in parts.items() if not hasattr(part, "noise_kind")}
        for name, part in own.items():
            if not isinstance(part, nn.Module):
                raise SettingError(
                    f"The {name} must be a torch.nn.Module whose forward returns a distribution, not a {type(part).__name__}."
                )
        self.prior = TorchPrior(prior) if "prior" in own else prior
        self.encoder, self.decoder = encoder, decoder
        if not own and not isinstance(prior, TorchPart):
            return
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(ROWS, self.latent, generator=generator).to(device_of(decoder))
        if "decoder" in own:
            self.decoder = TorchDecoder(decoder, z, shape)
        with evaluating(self):
            x = torch.rand(mean_of(self.decoder(z)).shape, generator=generator).to(device_of(encoder))
            if "encoder" in own:
                self.encoder = TorchEncoder(encoder, x, self.latent)
            if self.has_rate:
                self.rate_is_exact = is_implemented(lambda: kl_divergence(self.encoder(x), self.prior()))

    @property
    def latent(self) -> int:
        """Dimension of z."""
        latent: int = self.prior.latent
        return latent

    @property
    def has_rate(self) -> bool:
        """Whether KL(q(z|x)‖p(z)) can be evaluated: z is drawn from a density q(z|x), and p(z) has one."""
        return self.has_posterior_density and bool(getattr(self.prior, "has_density", False))

    @property
    def has_posterior_density(self) -> bool:
        """Whether z is drawn from a density q(z|x)."""
        return isinstance(self.encoder, GaussianEncoder | TorchEncoder) and bool(self.encoder.has_density)

    @property
    def has_gaussian_posterior(self) -> bool:
        """Whether q(z|x) is a diagonal Gaussian from which z is drawn."""
        return isinstance(self.encoder, GaussianEncoder) or bool(getattr(self.encoder, "is_gaussian", False))

    @property
    def has_distortion(self) -> bool:
        """Whether p(x|z) has a density."""
        has: bool = self.decoder.has_density
        return has


def mean_of(distribution: Any) -> Tensor:
    """The mean of a distribution, (*batch, *event), which figures show.

    Where torch does not know it, it is the transformed mean of the base, which is no expectation but the value at noise 0.

    Examples:
        >>> from torch.distributions import Normal, SigmoidTransform
        >>> mean_of(TransformedDistribution(Normal(torch.zeros(2), 1.0), [SigmoidTransform()]))  # sigmoid(0)
        tensor([0.5000, 0.5000])
    """
    if isinstance(distribution, Independent):
        return mean_of(distribution.base_dist)
    if isinstance(distribution, TransformedDistribution) and not is_implemented(lambda: distribution.mean):
        value = mean_of(distribution.base_dist)
        for transform in distribution.transforms:
            value = transform(value)
        return value
    mean: Tensor = distribution.mean
    return mean


def with_gaps_of(data: Tensor, x: Tensor, joint: JointModel) -> Tensor:
    """Samples or means x of p(x|z), with the values of the rows of `data` (both (B, *shape)) where these are missing.

    Examples:
        >>> from lagvae.distributions import StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> decoder = RowDecoder(MLP, (2,), 2, numbers=1, missing=1, categories=[])
        >>> joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (2,), 2), decoder)
        >>> with_gaps_of(torch.tensor([[0.0, 0.0], [5.0, 1.0]]), torch.ones(2, 2), joint).tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """
    return joint.decoder.with_gaps(x, data) if isinstance(joint.decoder, RowDecoder) else x


def part_name(part: nn.Module) -> str:
    """The name of the class of a prior, encoder or decoder, which an adapter may hold."""
    return type(part.module if isinstance(part, TorchPart) else part).__name__


T = TypeVar("T")


class Lazy(Generic[T]):
    """A property that is computed once: functools.cached_property without its lock, which torch.compile cannot trace."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    @overload
    def __get__(self, owner: None, cls: type) -> Lazy[T]: ...
    @overload
    def __get__(self, owner: object, cls: type) -> T: ...
    def __get__(self, owner: object | None, cls: type) -> Lazy[T] | T:
        if owner is None:
            return self
        value = self.compute(owner)
        owner.__dict__[self.name] = value
        return value


def draw_noise(names: frozenset[str], joint: JointModel, noise: Noise, step: int, x: Tensor) -> dict[str, Tensor]:
    """Draw named noise for one batch.

    Names are "z_q", "z_p" and "x_p" for the noise of the encoder, the prior and the decoder; "z_q*8" for eight further draws
    per sample, (B, 8, …); "slices_x", "slices_z" and "slices_xz" for one standard normal direction per sample in the space of
    the variable; and "mix" for one uniform number per sample, (B,). Every name is a random stream of its own, so that adding
    a name does not change the numbers of the others.

    Args:
        names: the noise to draw.
        joint: the joint model, whose parts determine kinds and shapes.
        noise: the source of random numbers.
        step: the step to draw for.
        x: a batch of data, (B, *shape), which determines batch size, type and device.

    Returns: name → tensor, with B as its first axis.

    Examples:
        >>> from functools import partial
        >>> from lagvae.distributions import GaussianEncoder, NormalDecoder, StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), NormalDecoder(MLP, (3,), 2))
        >>> noise = draw_noise(frozenset({"z_q", "x_p"}), joint, Noise(seed=0, purpose="example"), 0, torch.zeros(5, 3))
        >>> {name: tuple(value.shape) for name, value in sorted(noise.items())}
        {'x_p': (5, 3), 'z_q': (5, 2)}
    """
    n, sizes = x.shape[0], {"x": x[0].numel(), "z": joint.latent, "xz": x[0].numel() + joint.latent}
    noise_takers: dict[str, Any] = {"z_q": joint.encoder, "z_p": joint.prior, "x_p": joint.decoder}
    drawn: dict[str, Tensor] = {}
    for name in sorted(names):
        one, _, times = name.partition("*")
        if (distribution := noise_takers.get(one)) is not None:
            kind, shape = distribution.noise_kind, (*((int(times),) if times else ()), *distribution.noise_shape)
        else:
            kind, shape = ("uniform", ()) if name == "mix" else ("normal", (sizes[name.removeprefix("slices_")],))
        draw = noise.normal if kind == "normal" else noise.uniform
        drawn[name] = draw(name, step, (n, *shape), x.device).to(x.dtype)
    return drawn


class NoiseOnDemand(dict[str, Tensor]):
    """The noise of one batch: that of `names` at once, and any other when it is first looked up. See `draw_noise`.

    Examples:
        >>> from lagvae.distributions import GaussianEncoder, NormalDecoder, StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), NormalDecoder(MLP, (3,), 2))
        >>> noise = NoiseOnDemand(frozenset({"z_q"}), joint, Noise(seed=0, purpose="example"), 0, torch.zeros(5, 3))
        >>> noise["z_p"].shape
        torch.Size([5, 2])
    """

    def __init__(self, names: frozenset[str], joint: JointModel, noise: Noise, step: int, x: Tensor) -> None:
        super().__init__(draw_noise(names, joint, noise, step, x))
        self._draw = partial(draw_noise, joint=joint, noise=noise, step=step, x=x)

    def __missing__(self, name: str) -> Tensor:
        self[name] = drawn = self._draw(frozenset({name}))[name]
        return drawn


class JointSamples:
    """A batch of samples (x, z) ∼ q(x,z) and (x, z) ∼ p(x,z). Every attribute is computed when it is first accessed.

    Distributions without a density (see `Pushforward`) only have samples and means.

    Args:
        joint: the joint model.
        x: a batch of data, (B, *shape).
        noise: name → tensor, as returned by `draw_noise`.
        gather: concatenates the batches of all ranks along axis 0, with gradient; the identity for a single process.
        u: an attribute of x, whole numbers from 0, (B,); None where no divergence needs it.

    Shapes: x_q, x_p (B, *shape); z_q, z_p (B, d).

    Examples:
        >>> from lagvae.distributions import GaussianEncoder, NormalDecoder, StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> joint = JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), NormalDecoder(MLP, (3,), 2))
        >>> x = torch.randn(5, 3)
        >>> samples = JointSamples(joint, x, draw_noise(frozenset({"z_q"}), joint, Noise(0, "example"), 0, x))
        >>> samples.z_q.shape, samples.rate.shape, bool((samples.rate > 0).all())
        (torch.Size([5, 2]), torch.Size([5]), True)
    """

    def __init__(
        self,
        joint: JointModel,
        x: Tensor,
        noise: Mapping[str, Tensor],
        gather: Callable[[Tensor], Tensor] = lambda t: t,
        u: Tensor | None = None,
    ) -> None:
        self.joint = joint
        self.x_q = x
        self.u = u
        self.noise = noise
        self.gather = gather

    @Lazy
    def q_z_given_x(self) -> Any:
        """q(z|x_q)."""
        return self.joint.encoder(self.x_q)

    @Lazy
    def z_q(self) -> Tensor:
        """z ∼ q(z|x_q)."""
        return self.joint.encoder.sample(self.q_z_given_x, self.noise["z_q"])

    @Lazy
    def p_x_given_z_q(self) -> Any:
        """p(x|z_q), the reconstruction of x_q."""
        return self.joint.decoder(self.z_q)

    @Lazy
    def distortion(self) -> Tensor:
        """−log p(x_q|z_q) in nats, (B,)."""
        return -self.p_x_given_z_q.log_prob(self.x_q)

    @Lazy
    def rate(self) -> Tensor:
        """KL(q(z|x_q) ‖ p(z)) in nats, (B,), in closed form or by Monte Carlo (see `JointModel`)."""
        if self.joint.rate_is_exact:
            return kl_divergence(self.q_z_given_x, self.p_z)
        difference: Tensor = self.q_z_given_x.log_prob(self.z_q) - self.p_z.log_prob(self.z_q)
        return difference

    @Lazy
    def p_z(self) -> Any:
        """p(z)."""
        return self.joint.prior()

    @Lazy
    def z_p(self) -> Tensor:
        """z ∼ p(z)."""
        return self.joint.prior.sample(self.noise["z_p"])

    @Lazy
    def p_x_given_z_p(self) -> Any:
        """p(x|z_p)."""
        return self.joint.decoder(self.z_p)

    @Lazy
    def x_p(self) -> Tensor:
        """x ∼ p(x|z_p)."""
        return self.joint.decoder.sample(self.p_x_given_z_p, self.noise["x_p"])

    @Lazy
    def q_z_given_x_p(self) -> Any:
        """q(z|x_p), the encoder applied to samples of the decoder."""
        return self.joint.encoder(self.x_p)


AT_ONCE, COORDINATES = 4096, 2**22
"""Largest numbers of pairs (x, z), and of coordinates of their x, that are decoded at once."""


def log_weights(joint: JointModel, x: Tensor, draws: int, noise: Noise, step: int) -> Tensor:
    """log p(z) + log p(x|z) − log q(z|x) in nats at `draws` z ∼ q(z|x) for each x (B, *shape): (draws, B), double precision.

    The three densities must be there (`has_weights`).

    Examples:
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> log_weights(joint, torch.zeros(1, 2), draws=3, noise=Noise(0, "example"), step=0).tolist()  # log p(x) = −log 2π
        [[-1.8378...], [-1.8378...], [-1.8378...]]
    """
    posterior, prior = joint.encoder(x), joint.prior()
    weights = []
    normal = noise.normal("z", step, (draws, len(x), *joint.encoder.noise_shape), x.device).to(x.dtype)
    for chunk in normal.split(max(1, min(AT_ONCE, COORDINATES // x[0].numel()) // len(x))):
        z = joint.encoder.sample(posterior, chunk)
        log_p = joint.decoder(z.flatten(0, 1)).log_prob(x.expand(len(z), *x.shape).flatten(0, 1)).unflatten(0, z.shape[:2])
        weights.append((prior.log_prob(z) + log_p - posterior.log_prob(z)).double())
    return torch.cat(weights)


def has_weights(joint: JointModel) -> bool:
    """Whether the importance weights are defined: all three densities can be evaluated.

    Examples:
        >>> from lagvae.distributions import GaussianEncoder, Generator, StandardNormalPrior
        >>> from lagvae.networks import MLP
        >>> has_weights(JointModel(StandardNormalPrior(2), GaussianEncoder(MLP, (3,), 2), Generator(MLP, (3,), 2)))
        False
    """
    return joint.has_rate and joint.has_distortion
