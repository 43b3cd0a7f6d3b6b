"""Samples of both joints, drawn lazily from noise that is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, overload

from torch import Tensor
from torch.distributions import Independent, kl_divergence

from lagvae.laws.laws import Laws
from lagvae.noise import Noise

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


def draw_noise(names: frozenset[str], laws: Laws, noise: Noise, step: int, x: Tensor) -> dict[str, Tensor]:
    """Draw the noise that `names` ask for: "z_q", "z_p" (normal, (B, d)) and "x_p" (as the decoder takes it).

    The streams are independent of each other, so adding one leaves the others as they were.
    """
    shape = (x.shape[0], laws.latent)
    drawn: dict[str, Tensor] = {name: noise.normal(name, step, shape, x.device) for name in ("z_q", "z_p") if name in names}
    if "x_p" in names:
        draw = noise.normal if getattr(laws.decoder, "differentiable_samples", False) else noise.uniform
        drawn["x_p"] = draw("x_p", step, tuple(x.shape), x.device)
    return drawn


class JointSamples:
    """A batch of (x, z) ∼ q and of (x, z) ∼ p; nothing is computed before it is asked for.

    Args:
        laws: the laws of both joints.
        x: a batch of data, (B, *shape).
        noise: name → tensor, as `draw_noise` returns it.
        gather: joins the batches of all ranks along axis 0, with gradient; the identity on one.

    Shapes: x_q, x_p (B, *shape); z_q, z_p (B, d).
    """

    def __init__(
        self,
        laws: Laws,
        x: Tensor,
        noise: Mapping[str, Tensor],
        gather: Callable[[Tensor], Tensor] = lambda t: t,
    ) -> None:
        self.laws = laws
        self.x_q = x
        self.noise = noise
        self.gather = gather

    @Lazy
    def q_z_given_x(self) -> Independent:
        """q(z|x_q)."""
        return self.laws.encoder(self.x_q)

    @Lazy
    def z_q(self) -> Tensor:
        """z ∼ q(z|x_q)."""
        return self.laws.encoder.sample(self.q_z_given_x, self.noise["z_q"])

    @Lazy
    def p_x_given_z_q(self) -> Independent:
        """p(x|z_q), the reconstruction."""
        return self.laws.decoder(self.z_q)

    @Lazy
    def distortion(self) -> Tensor:
        """−log p(x_q|z_q) in nats, (B,)."""
        return -self.p_x_given_z_q.log_prob(self.x_q)

    @Lazy
    def rate(self) -> Tensor:
        """KL(q(z|x_q) ‖ p(z)) in nats, (B,)."""
        return kl_divergence(self.q_z_given_x, self.p_z)

    @Lazy
    def p_z(self) -> Independent:
        """p(z)."""
        return self.laws.prior()

    @Lazy
    def z_p(self) -> Tensor:
        """z ∼ p(z)."""
        return self.laws.prior.sample(self.noise["z_p"])

    @Lazy
    def p_x_given_z_p(self) -> Independent:
        """p(x|z_p)."""
        return self.laws.decoder(self.z_p)

    @Lazy
    def x_p(self) -> Tensor:
        """x ∼ p(x|z_p)."""
        return self.laws.decoder.sample(self.p_x_given_z_p, self.noise["x_p"])

    @Lazy
    def q_z_given_x_p(self) -> Independent:
        """q(z|x_p), the encoder on the model's own samples."""
        return self.laws.encoder(self.x_p)
