"""User-defined modules that return a `torch.distributions.Distribution`, as priors, encoders and decoders.

`JointModel` wraps such a module. Its samples are functions of given noise, as all samples are: exactly where the distribution
can be written as one (Normal, MultivariateNormal, every distribution with an inverse cumulative distribution function, and
Independent, transformed and mixture distributions of these), otherwise by torch's own generator, seeded from the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    kl_divergence,
    register_kl,
)

from lagvae.distributions.priors import TINY, one_hot
from lagvae.errors import SettingError
from lagvae.introspection import device_of, evaluating, first_line, full_name
from lagvae.noise import generators_seeded

ROWS = 2
"""Number of rows of the batch that a module is tried on."""


# ---- samples as functions of noise


def noise_shape_of(distribution: Distribution) -> tuple[int, ...]:
    """The shape of the standard normal noise that `sample_from` takes for one sample of each distribution of the batch."""
    if isinstance(distribution, MixtureSameFamily):
        return (1 + distribution.event_shape.numel(),)
    if isinstance(distribution, Independent | TransformedDistribution):
        base = distribution.base_dist
        return (*base.batch_shape[len(distribution.batch_shape) :], *noise_shape_of(base))
    return tuple(distribution.event_shape)


def sample_from(distribution: Any, noise: Tensor) -> Tensor:
    """A sample as a function of standard normal noise, (…, *batch, *noise_shape) → (…, *batch, *event).

    It has the gradient of `rsample`. That of a mixture has none in the weights, nor that of a Bernoulli distribution any.

    Raises: NotImplementedError for a distribution that is not such a function.

    Examples:
        >>> sample_from(Normal(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])), torch.tensor([0.5, -0.5]))
        tensor([2., 4.])
    """
    if isinstance(distribution, Independent):
        return sample_from(distribution.base_dist, noise)
    if isinstance(distribution, Normal):
        return torch.addcmul(distribution.loc, distribution.scale, noise)
    if isinstance(distribution, MultivariateNormal):
        return distribution.loc + (distribution.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(distribution, TransformedDistribution):
        x = sample_from(distribution.base_dist, noise)
        for transform in distribution.transforms:
            x = transform(x)
        return x
    if isinstance(distribution, MixtureSameFamily):
        event = len(distribution.event_shape)
        rest = noise[..., 1:].reshape(*noise.shape[:-1], *distribution.event_shape).unsqueeze(-1 - event)
        components = sample_from(distribution.component_distribution, rest)
        probs: Any = distribution.mixture_distribution.probs  # type: ignore[union-attr]
        below = uniform_from(noise[..., :1]) >= probs.cumsum(-1)[..., :-1]
        chosen = one_hot(below.sum(-1), probs.shape[-1])
        mixed: Tensor = (chosen.reshape(*chosen.shape, *[1] * event) * components).sum(-1 - event)
        return mixed
    if isinstance(distribution, Bernoulli):
        return (uniform_from(noise) < distribution.probs).to(noise.dtype)
    value: Tensor = distribution.icdf(uniform_from(noise))
    return value


def uniform_from(normal: Tensor) -> Tensor:
    """Uniform numbers on (0, 1) of standard normal ones, elementwise."""
    return torch.special.ndtr(normal).clamp(TINY, 1 - TINY)


def with_covariance(distribution: Any) -> MultivariateNormal:
    """A diagonal Gaussian as a multivariate one; NotImplementedError for any other distribution of independent coordinates."""
    base = distribution.base_dist
    if type(base) is not Normal or distribution.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return MultivariateNormal(base.loc, scale_tril=base.scale.diag_embed(), validate_args=False)


@register_kl(Independent, MultivariateNormal)  # type: ignore[untyped-decorator]
def kl_of_diagonal(q: Independent, p: MultivariateNormal) -> Tensor:
    """KL(q‖p) in nats of a diagonal from a full Gaussian, which torch lacks."""
    return kl_divergence(with_covariance(q), p)


@register_kl(MultivariateNormal, Independent)  # type: ignore[untyped-decorator]
def kl_from_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    """KL(q‖p) in nats of a full from a diagonal Gaussian, which torch lacks."""
    return kl_divergence(q, with_covariance(p))


# ---- what a module returned


@contextmanager
def validation(on: bool) -> Iterator[None]:
    """A context in which new distributions validate their parameters, or do not, because that branches on values.

    Neither is certain without it: torch.compile turns validation off for the rest of a process.
    """
    before = Distribution._validate_args
    Distribution._validate_args = on
    try:
        yield
    finally:
        Distribution._validate_args = before


def stop_validating(distribution: Distribution) -> None:
    """Let a distribution, and those that it consists of, evaluate densities without a branch on a value."""
    distribution._validate_args = False
    for part in list(vars(distribution).values()):
        if isinstance(part, Distribution):
            stop_validating(part)


def with_event_dims(distribution: Distribution, dims: int) -> Distribution:
    """The distribution with the last `dims` axes as its event: Normal(loc, scale) is that of independent coordinates."""
    missing = min(dims - len(distribution.event_shape), len(distribution.batch_shape))
    return Independent(distribution, missing, validate_args=False) if missing > 0 else distribution


def full_shape(distribution: Distribution) -> tuple[int, ...]:
    """The shape of a sample of every distribution of the batch."""
    return (*distribution.batch_shape, *distribution.event_shape)


class TorchPart(nn.Module):
    """Base of the adapters.

    Args:
        module: user-defined. inputs: what it is tried on. dims: number of axes of the event; None for all but the first.

    Attributes:
        key: the setting that names such a module, for messages. has_density: whether log_prob is defined.
        is_pathwise: whether samples are functions of noise (`sample_from`). has_gradient: whether samples have a gradient.
        is_gaussian: whether it is a diagonal Gaussian.

    Raises: SettingError, with the name of the class, if `forward` fails, returns no distribution, or none of the right shape.
    """

    key: str
    noise_kind = "normal"

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], dims: int | None) -> None:
        super().__init__()
        self.module = module
        self.inputs = [tuple(each.shape) for each in inputs]
        found = self._try(inputs)
        self.tried = full_shape(found)
        self.dims = max(len(self.tried) - 1, 0) if dims is None else dims
        tried = with_event_dims(found, self.dims)
        self.noise_shape = noise_shape_of(tried)
        self.has_gradient = bool(tried.has_rsample)
        self.check()
        self.is_gaussian = isinstance(tried, Independent) and type(tried.base_dist) is Normal
        with torch.no_grad():
            noise = torch.zeros((*tried.batch_shape, *self.noise_shape), device=device_of(module))
            try:
                self.is_pathwise = is_implemented(lambda: sample_from(tried, noise))
                sample = self.sample_of(tried, noise)
                self.has_density = is_implemented(lambda: tried.log_prob(sample))
            except Exception as error:  # a user-defined distribution can raise anything
                raise SettingError(f"{self.name} returns a {tried!r} that fails: {first_line(error)}.") from error

    @property
    def name(self) -> str:
        """The setting and the class of the module."""
        return f"{self.key}: {full_name(self.module)}"

    @property
    def expected(self) -> str:
        """The shape that the distribution must have, in words."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise SettingError where the distribution does not fit."""

    def forward(self, *inputs: Tensor) -> Any:
        with validation(False):
            distribution = with_event_dims(self.module(*inputs), self.dims)
        stop_validating(distribution)
        return distribution

    def sample_of(self, distribution: Any, noise: Tensor) -> Tensor:
        """A sample of each distribution of the batch, a function of noise (…, *batch, *noise_shape)."""
        if self.is_pathwise:
            return sample_from(distribution, noise)
        own = noise.shape[: noise.dim() - len(distribution.batch_shape) - len(self.noise_shape)]
        bits = noise.detach().flatten()[:8].float().cpu().view(torch.int32).tolist()
        with generators_seeded(repr(bits), noise.device):
            drawn: Tensor = distribution.rsample(own) if self.has_gradient else distribution.sample(own)
        return drawn

    def _try(self, inputs: tuple[Tensor, ...]) -> Distribution:
        """What the module returns for `inputs`, in eval mode, with validated parameters."""
        of = self._given
        try:
            with evaluating(self.module), validation(True):
                found = self.module(*inputs)
        except Exception as error:  # user code can raise anything
            raise SettingError(
                f"{self.name}.forward fails{of}: {first_line(error)}. It must return {self.expected}."
            ) from error
        if not isinstance(found, Distribution):
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise SettingError(
                f"{self.name}.forward returns {what}{of}; it must return {self.expected}: a torch.distributions.Distribution, "
                "such as Normal(loc, scale)."
            )
        return found

    @property
    def _given(self) -> str:
        return f" for a batch of shape {self.inputs[0]}" if self.inputs else ""

    def _wrong_shape(self) -> SettingError:
        return SettingError(
            f"{self.name}.forward returns a distribution of shape {self.tried}{self._given}; it must return {self.expected}."
        )


def is_implemented(compute: Callable[[], Any]) -> bool:
    """Whether a method of a distribution is defined for it."""
    try:
        compute()
    except NotImplementedError:
        return False
    return True


class TorchPrior(TorchPart):
    """p(z) as a module whose forward() returns a distribution on R^d.

    Shapes: → distribution with event shape (d,).

    Raises: SettingError as `TorchPart`, or unless the distribution is one of vectors.

    Examples:
        >>> class Wide(nn.Module):  # N(0, 4 I)
        ...     def forward(self):
        ...         return Normal(torch.zeros(3), 2.0)
        >>> prior = TorchPrior(Wide())
        >>> prior.latent, prior.sample(torch.ones(1, 3))
        (3, tensor([[2., 2., 2.]]))
    """

    key = "model.prior"
    expected = "one distribution of vectors, of shape (latent,)"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, (), 1)
        self.latent = self.tried[0]

    def check(self) -> None:
        if len(self.tried) != 1:
            raise self._wrong_shape()

    @property
    def entropy(self) -> float | None:
        """H(z) in nats; None where torch does not know it."""
        distribution = self()
        return float(distribution.entropy().detach()) if is_implemented(distribution.entropy) else None

    def sample(self, noise: Tensor) -> Tensor:
        """z, (B, d), from noise (B, *noise_shape)."""
        return self.sample_of(self(), noise)


class TorchEncoder(TorchPart):
    """q(z|x) as a module whose forward(x) returns a distribution with rsample.

    Args:
        module: user-defined. x: a batch that it is tried on, (B, *shape). latent: dimension d of z.

    Shapes: x (B, *shape) → distribution with batch shape (B,) and event shape (d,).

    Raises: SettingError as `TorchPart`, or for another dimension of z, or samples without a gradient.

    Examples:
        >>> class Half(nn.Module):  # N(x / 2, I)
        ...     def forward(self, x):
        ...         return Normal(x / 2, 1.0)
        >>> encoder = TorchEncoder(Half(), torch.zeros(2, 3), latent=3)
        >>> encoder(torch.ones(1, 3)).mean
        tensor([[0.5000, 0.5000, 0.5000]])
        >>> TorchEncoder(Half(), torch.zeros(2, 3), latent=4)
        Traceback (most recent call last):
        lagvae.errors.SettingError: model.posterior: ...Half.forward returns a distribution of shape (2, 3) ... shape (2, 4)...
    """

    key = "model.posterior"

    def __init__(self, module: nn.Module, x: Tensor, latent: int) -> None:
        self.latent = latent
        super().__init__(module, (x,), 1)

    @property
    def expected(self) -> str:
        return f"a distribution of shape {(self.inputs[0][0], self.latent)}, one z for each x, as long as the z of p(z)"

    def check(self) -> None:
        if self.tried != (self.inputs[0][0], self.latent):
            raise self._wrong_shape()
        if not self.has_gradient:
            raise SettingError(
                f"{self.name}.forward returns a distribution without rsample, so that z has no gradient; return "
                "one that has it, such as Normal or RelaxedOneHotCategorical."
            )

    def sample(self, distribution: Any, noise: Tensor) -> Tensor:
        """z, (…, B, d), from noise (…, B, *noise_shape)."""
        return self.sample_of(distribution, noise)


class TorchDecoder(TorchPart):
    """p(x|z) as a module whose forward(z) returns a distribution; all axes after the batch are those of one x.

    Args:
        module: user-defined. z: a batch that it is tried on, (B, d). shape: of one x, where it is known.

    Shapes: z (B, d) → distribution with batch shape (B,) and the event shape of x.

    Raises: SettingError as `TorchPart`, or unless there is one distribution for each z, on x of that shape.

    Examples:
        >>> class Coin(nn.Module):
        ...     def forward(self, z):
        ...         return Bernoulli(logits=z)
        >>> decoder = TorchDecoder(Coin(), torch.zeros(2, 3))
        >>> decoder.differentiable_samples, decoder(torch.zeros(1, 3)).mean
        (False, tensor([[0.5000, 0.5000, 0.5000]]))
    """

    key = "model.likelihood"

    def __init__(self, module: nn.Module, z: Tensor, shape: Sequence[int] | None = None) -> None:
        self.shape = None if shape is None else tuple(shape)
        super().__init__(module, (z,), None)

    @property
    def expected(self) -> str:
        rows = self.inputs[0][0]
        return f"a distribution of shape {(rows, *self.shape) if self.shape else f'({rows}, *shape)'}, one x for each z"

    def check(self) -> None:
        if self.tried[:1] != (self.inputs[0][0],) or len(self.tried) < 2 or self.tried[1:] != (self.shape or self.tried[1:]):
            raise self._wrong_shape()

    @property
    def differentiable_samples(self) -> bool:
        """Whether samples have a gradient."""
        return self.has_gradient

    def sample(self, distribution: Any, noise: Tensor) -> Tensor:
        """x, (B, *shape), from noise (B, *noise_shape)."""
        return self.sample_of(distribution, noise)
