"""One model for all slacks γ of a range: the whole front of information over −ELBO from one run.

    min over θ   E_γ f(θ; γ)      subject to   −ELBO(θ; γ) ≤ ε̂ + γ      for every γ of the range

The networks are conditioned on γ, λ is a decreasing function of γ, and every row of a batch has a γ of its own. The Lagrangian
is that of `lagvae.lagrangian`, with one constraint for each knot of λ(γ).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from math import exp, isfinite, log
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lagvae.data import Batch
from lagvae.distributions import JointModel, JointSamples
from lagvae.divergences import NegElbo
from lagvae.errors import LagvaeError, SettingError
from lagvae.introspection import class_of, full_name
from lagvae.lagrangian import Constraint, Lagrangian, Values
from lagvae.model import LatentVariableModel
from lagvae.noise import Noise

KNOTS = 13
"""Number of knots of λ(γ) over the range of slacks, in equal steps of log γ, besides the γ of the constraint itself."""

DEGREE = 5
"""Degree of the polynomials in log γ by which the networks depend on γ."""

FLOOR = 1e-3
"""The smallest λ · scale / |α| whose logarithm is taken, that of `lagvae.log_ascent.LogAscent`."""

LINEAR, CONVOLUTIONS, TRANSPOSED = (
    (nn.Linear,),
    (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


class Slacks(nn.Module):
    """The range of slacks γ > 0 of a front, the knots of λ(γ), and the γ at which its networks act.

    Args:
        low, high: the range, in nats.
        own: the γ in the range at which the model acts where no other is asked for; one of the knots.

    Raises: SettingError unless 0 < low ≤ own ≤ high < ∞ and low < high.

    Examples:
        >>> slacks = Slacks(0.1, 4.0, own=1.5)
        >>> slacks.weights(torch.tensor([0.1, 4.0])).argmax(1).tolist(), len(slacks.knots)
        ([0, 13], 14)
    """

    log_knots: Tensor

    def __init__(self, low: float, high: float, own: float) -> None:
        super().__init__()
        if not (0 < low < high and isfinite(high)):
            raise SettingError(
                f"training.slacks=[{low:g},{high:g}] must be a range of slacks in nats, [LOW,HIGH] with 0 < LOW < HIGH."
            )
        self.low, self.high, self.own = float(low), float(high), float(own)
        self.check(own, "constraints.neg_elbo.gamma")
        step = (log(high) - log(low)) / (KNOTS - 1)
        inner = [exp(log(low) + k * step) for k in range(1, KNOTS - 1)]
        self.knots = sorted({self.low, *inner, self.high, self.own})
        self.register_buffer("log_knots", torch.tensor(self.knots).log(), persistent=False)
        self.rows: Tensor | None = None
        self._features: Tensor | None = None

    def check(self, gamma: float, name: str = "gamma") -> None:
        """Raise SettingError for a γ outside the range."""
        if not self.low * (1 - 1e-6) <= gamma <= self.high * (1 + 1e-6):
            raise SettingError(
                f"{name}={gamma:g} is outside the slacks that this model is trained on, {self.low:g} to {self.high:g} nats; "
                "choose one of these, or train with another training.slacks=[LOW,HIGH]."
            )

    @contextmanager
    def at(self, gamma: float | Tensor) -> Iterator[None]:
        """A context in which the networks act at one γ, or each row at its own, (B,)."""
        before = self.rows, self._features
        self.rows = gamma if isinstance(gamma, Tensor) else self.log_knots.new_tensor([gamma])
        self._features = None
        try:
            yield
        finally:
            self.rows, self._features = before

    def sample(self, uniform: Tensor) -> Tensor:
        """γ for every row, stratified over the range in log γ, from uniform numbers (B, 2)."""
        rank = uniform[:, 0].argsort().argsort()
        place = (rank + uniform[:, 1]) / len(uniform)
        first, last = self.log_knots[0], self.log_knots[-1]
        return (first + place * (last - first)).exp()

    def weights(self, gamma: Tensor) -> Tensor:
        """The weights w ≥ 0, Σ w = 1, by which values at the knots are interpolated at γ, linearly in log γ: (B,) → (B, K)."""
        place = gamma.log().clamp(self.log_knots[0], self.log_knots[-1])[:, None]
        k, widths = self.log_knots, self.log_knots.diff()
        rising = (place - k[:-1]) / widths  # (B, K − 1): from 0 to 1 over the interval
        inside = rising.clamp(0, 1)
        one = torch.ones_like(place)
        return torch.cat([one, inside], 1) - torch.cat([inside, torch.zeros_like(place)], 1)

    @property
    def share(self) -> Tensor:
        """The mean of `weights` over the range, (K,)."""
        widths = self.log_knots.diff() / (self.log_knots[-1] - self.log_knots[0]) / 2
        zero = widths.new_zeros(1)
        return torch.cat([widths, zero]) + torch.cat([zero, widths])

    def features(self) -> Tensor:
        """Chebyshev polynomials of log γ, scaled to [−1, 1], at the current γ: (1, P) or (B, P)."""
        if self._features is None:
            if self.rows is None:
                return self.polynomials(self.log_knots.new_tensor([log(self.own)]))
            self._features = self.polynomials(self.rows.log())  # every layer of both networks asks for them
        return self._features

    def polynomials(self, log_gamma: Tensor) -> Tensor:
        """The Chebyshev polynomials at log γ, (N,) → (N, P)."""
        first, last = self.log_knots[0], self.log_knots[-1]
        place = 2 * (log_gamma - first) / (last - first) - 1
        found = [torch.ones_like(place), place]
        for _ in range(DEGREE - 1):
            found.append(2 * place * found[-1] - found[-2])
        return torch.stack(found, -1)


class Modulated(nn.Module):
    """A linear or convolutional layer whose inputs and outputs are scaled, and whose outputs are shifted, as γ says.

        h ↦ (1 + a(γ)) ⊙ layer((1 + c(γ)) ⊙ h) + b(γ)

    a, b and c are polynomials in log γ for every channel, and start at 0, where the layer is what it was. At a given γ it is a
    layer of the same kind (`at_current`).

    Reference: Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018; Bae et al., Multi-Rate VAE,
        ICLR 2023.

    Examples:
        >>> slacks, layer = Slacks(0.1, 4.0, own=1.0), nn.Linear(3, 2)
        >>> x = torch.randn(5, 3)
        >>> bool((Modulated(layer, slacks)(x) == layer(x)).all())
        True
    """

    def __init__(self, layer: Any, slacks: Slacks) -> None:
        super().__init__()
        self.layer, self.slacks = layer, slacks
        weight = layer.weight
        self.turned = isinstance(layer, TRANSPOSED)  # whose weight has the axis of inputs first
        out, inputs = (weight.shape[1], weight.shape[0]) if self.turned else (weight.shape[0], weight.shape[1])
        self.sizes = (out, out, inputs)
        self.spatial = weight.dim() - 2
        self.change = nn.Parameter(weight.new_zeros(sum(self.sizes), DEGREE + 1))

    def _changes(self) -> list[Tensor]:
        """1 + a, b and 1 + c, each (1 or B, channels)."""
        scale, shift, inputs = (self.slacks.features().to(self.change.dtype) @ self.change.mT).split(self.sizes, -1)
        return [1 + scale, shift, 1 + inputs]

    def forward(self, h: Tensor) -> Tensor:
        scale, shift, inputs = (c.reshape(*c.shape, *[1] * self.spatial) for c in self._changes())
        out: Tensor = scale * self.layer(inputs * h)
        return out if self.layer.bias is None else out + shift

    @torch.no_grad()
    def at_current(self) -> Any:
        """The layer at the current γ: one of the same kind, with weights of its own."""
        scale, shift, inputs = (change[0] for change in self._changes())
        layer = copy.deepcopy(self.layer)
        first, second = (inputs, scale) if self.turned else (scale, inputs)
        layer.weight.mul_(first.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.weight.mul_(second.reshape(-1, *[1] * self.spatial))
        if layer.bias is not None:
            layer.bias.mul_(scale).add_(shift)
        return layer


class ScaleShift(nn.Module):
    """A shift of the learned log scale of p(x|z), as γ says; it starts at 0."""

    def __init__(self, log_scale: Tensor, slacks: Slacks) -> None:
        super().__init__()
        self.slacks = slacks
        self.change = nn.Parameter(log_scale.detach().new_zeros(log_scale.numel(), DEGREE + 1))

    def forward(self) -> Tensor:
        """(1 or B, number of scales)."""
        return self.slacks.features().to(self.change.dtype) @ self.change.mT


def condition(joint: JointModel, slacks: Slacks) -> None:
    """Let the networks of q(z|x) and p(x|z) depend on γ, in place. What they compute does not change yet.

    Raises: SettingError for a network without a linear or convolutional layer.
    """
    for name, part in (("posterior", joint.encoder), ("likelihood", joint.decoder)):
        for module in list(part.modules()):
            for child, layer in list(module.named_children()):
                if can_be_modulated(layer):
                    setattr(module, child, Modulated(layer, slacks))
        if not any(isinstance(module, Modulated) for module in part.modules()):
            raise SettingError(
                f"training.slacks conditions linear and convolutional layers, and model.{name} ({full_name(class_of(part))}) "
                "has none; leave training.slacks out, or use another network."
            )
    if isinstance(getattr(joint.decoder, "log_scale", None), nn.Parameter):
        joint.decoder.log_scale_shift = ScaleShift(joint.decoder.log_scale, slacks)


def can_be_modulated(layer: nn.Module) -> bool:
    """Whether a layer is linear or a convolution of all its channels; subclasses may be used in other ways than by a call."""
    return type(layer) in (*LINEAR, *CONVOLUTIONS, *TRANSPOSED) and getattr(layer, "groups", 1) == 1


def unconditioned(joint: JointModel) -> JointModel:
    """A copy of a conditioned joint model at its current γ, of the parts that it had before `condition`."""
    plain = copy.deepcopy(joint)
    for module in list(plain.modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, Modulated):
                setattr(module, child, layer.at_current())
    if isinstance(shift := getattr(plain.decoder, "log_scale_shift", None), ScaleShift):
        with torch.no_grad():
            plain.decoder.log_scale.add_(shift()[0].reshape(plain.decoder.log_scale.shape))
        del plain.decoder.log_scale_shift
    return plain


class NegElboNear(NegElbo):
    """−ELBO at the k-th knot of a front.

    In training it is estimated from the rows whose γ is near the knot, as the mean of −ELBO − (γ − γ_k) with the weights of the
    interpolation; otherwise from all rows, at γ_k itself.
    """

    def __init__(self, slacks: Slacks, k: int) -> None:
        self.slacks, self.k = slacks, k

    def __call__(self, samples: JointSamples) -> Tensor:
        slacks, own = self.slacks, samples.__dict__
        if slacks.rows is not None and len(slacks.rows) > 1:
            if "excess_at_knots" not in own:
                w = slacks.weights(slacks.rows)
                own["excess_at_knots"] = (samples.rate + samples.distortion - slacks.rows) @ w / w.sum(0).clamp(min=1e-6)
            near: Tensor = own["excess_at_knots"][self.k] + self.gamma
            return near
        with slacks.at(self.gamma):
            there = JointSamples(samples.joint, samples.x_q, samples.noise, samples.gather)
            return (there.rate + there.distortion).mean()

    @property
    def gamma(self) -> float:
        """γ_k in nats."""
        return self.slacks.knots[self.k]

    def __repr__(self) -> str:
        return "NegElbo"


def at_every_knot(constraints: Sequence[Constraint], slacks: Slacks) -> tuple[list[Constraint], slice]:
    """The constraints with that on −ELBO at every knot in place of the one, which keeps its name at its own γ.

    Returns: the constraints, and where those of the knots are.

    Raises: SettingError where there is no constraint neg_elbo with a learned multiplier.
    """
    names = [c.name for c in constraints]
    own = next((c for c in constraints if c.name == "neg_elbo"), None)
    if own is None or type(own.divergence) is not NegElbo or not own.learned or own.bound is None:
        raise SettingError(
            f"training.slacks needs −ELBO ≤ ε with a learned λ as the constraint neg_elbo, and there is {', '.join(names)}; "
            "use divergence=[neg_elbo,…] multiplier=learned, or leave training.slacks out."
        )
    knots = [
        replace(
            own,
            name="neg_elbo" if gamma == slacks.own else f"neg_elbo@{gamma:.3g}",
            divergence=NegElboNear(slacks, k),
            bound=own.bound + gamma - slacks.own,
        )
        for k, gamma in enumerate(slacks.knots)
    ]
    at = names.index("neg_elbo")
    return [*constraints[:at], *knots, *constraints[at + 1 :]], slice(at, at + len(knots))


class FrontLagrangian(Lagrangian):
    """The Lagrangian of a front, E_γ [f + λ(γ) (−ELBO − ε̂ − γ)] and the other constraints, which hold for all γ together.

    λ(γ) decreases, and log λ is a polynomial of the degree by which the networks depend on γ: after every step λ is projected
    so. What networks cannot answer to, such as a λ that goes up and down from knot to knot, would otherwise never settle.
    Between the knots λ is linear in log γ.

    Args:
        preference, constraints: as for `Lagrangian`; the constraint neg_elbo is that at the γ of `slacks.own`.
        slacks: the range of γ.
    """

    share: Tensor
    smooth: Tensor

    def __init__(self, preference: Any, constraints: Sequence[Constraint], slacks: Slacks) -> None:
        expanded, at_knots = at_every_knot(constraints, slacks)
        super().__init__(preference, expanded)
        self._stated, self.at_knots, self.slacks = tuple(constraints), at_knots, slacks
        share = torch.ones(len(expanded))
        share[self.at_knots] = slacks.share
        self.register_buffer("share", share, persistent=False)
        basis = slacks.polynomials(slacks.log_knots).double()
        weighted = basis * slacks.share.double()[:, None]
        self.register_buffer("smooth", (basis @ torch.linalg.solve(weighted.mT @ basis, weighted.mT)).float(), persistent=False)

    @property
    def configured(self) -> tuple[Constraint, ...]:
        return self._stated

    def forward(self, values: Values) -> Tensor:
        """L in nats, (), without a gradient in λ: knots count by their share of the range."""
        weighted = self.share * self.scaled.detach() * self.scaled_violation(values.divergences)
        return self.preference(values.terms) + self.weight * weighted.sum(-1)

    @torch.no_grad()
    def ascend(self, violation: Tensor, optimizer: Optimizer) -> None:
        """`Lagrangian.ascend`, and the projection to a λ that decreases in γ."""
        super().ascend(violation, optimizer)
        for values in (self.scaled, self.running):
            smooth = (self.smooth @ values[self.at_knots].clamp(min=FLOOR).log()).exp()
            values[self.at_knots] = decreasing(smooth).minimum(self.max_multiplier[self.at_knots])


def decreasing(values: Tensor) -> Tensor:
    """The mean of the least decreasing sequence above, and of the largest below, values (K,); itself where they decrease.

    Examples:
        >>> decreasing(torch.tensor([3.0, 1.0, 2.0, 0.0])).tolist()
        [3.0, 1.5, 1.5, 0.0]
    """
    return (values.flip(0).cummax(0).values.flip(0) + values.cummin(0).values) / 2


class Front(LatentVariableModel):
    """A model for every slack γ of a range. As it is, it acts at the γ of its constraint on −ELBO; `at` gives the others.

    Args:
        joint: p(z), p(x|z), q(z|x), whose networks are conditioned on γ here. lagrangian: with the slacks.
        others: as for `LatentVariableModel`.

    Raises: SettingError for networks that cannot be conditioned.

    Examples:
        >>> from functools import partial
        >>> from lagvae.distributions import BernoulliDecoder, GaussianEncoder, StandardNormalPrior
        >>> from lagvae.lagrangian import Preference
        >>> from lagvae.log_ascent import LogAscent
        >>> from lagvae.networks import MLP
        >>> network, shape = partial(MLP, hidden=[32]), (1, 8, 8)
        >>> joint = JointModel(StandardNormalPrior(4), GaussianEncoder(network, shape, 4), BernoulliDecoder(network, shape, 4))
        >>> at_own = Constraint("neg_elbo", NegElbo(), bound=24.5, learned=True)  # ε̂ + γ at γ = 1.5
        >>> lagrangian = FrontLagrangian(Preference(-1.0), [at_own], Slacks(0.1, 4.0, own=1.5))
        >>> dual = partial(LogAscent, steps=1000, maximize=True)
        >>> front = Front(joint, lagrangian, primal=torch.optim.Adam, dual=dual)
        >>> front.bound(0.5), front.at(0.5).encode(torch.zeros(5, 1, 8, 8)).shape
        (23.5, torch.Size([5, 4]))
    """

    lagrangian: FrontLagrangian

    def __init__(self, joint: JointModel, lagrangian: FrontLagrangian, **others: Any) -> None:
        condition(joint, lagrangian.slacks)
        super().__init__(joint, lagrangian, **others)
        self.others = others
        for module in self.averaged.modules() if self.averaged is not None else ():
            if isinstance(module, Modulated | ScaleShift):  # a copy, which must act at the same γ
                module.slacks = lagrangian.slacks

    @property
    def slacks(self) -> Slacks:
        """The range of γ."""
        return self.lagrangian.slacks

    # ---- training

    def measure(self, batch: Batch) -> Values:
        """`LatentVariableModel.measure`, with a γ of its own for every row."""
        if "slacks" not in self._noises:
            self._noises["slacks"] = Noise(self.seed, "slacks", self.global_rank, self.trainer.world_size)
        uniform = self._noises["slacks"].uniform("gamma", batch.step, (len(batch.x), 2), batch.x.device)
        with self.slacks.at(self.slacks.sample(uniform)):
            return super().measure(batch)

    def can_record(self) -> bool:
        """False: every step acts at slacks of its own, which are no noise of the samples."""
        return False

    def _named(self, values: Values, violation: Tensor, multiplier: Tensor | None = None) -> dict[str, Tensor]:
        """`LatentVariableModel._named`; of a training batch without the terms, which are means over all γ, not those at one."""
        named = super()._named(values, violation, multiplier)
        return named if multiplier is None else {n: v for n, v in named.items() if n not in (*values.terms, "objective")}

    def warm_start(self, state: Mapping[str, Tensor]) -> None:
        """Load the `warm_start_state` of an ordinary model, at every γ; RuntimeError if the shapes differ."""
        inner = {name for name, module in self.joint.named_modules() if isinstance(module, Modulated)}
        own = {name: value for name, value in self.joint.state_dict().items() if name.endswith("change")}

        def renamed(name: str) -> str:
            layer, _, leaf = name.rpartition(".")
            return f"{layer}.layer.{leaf}" if layer in inner else name

        super().warm_start(
            {name: torch.zeros_like(value) for name, value in own.items()} | {renamed(n): v for n, v in state.items()}
        )

    # ---- a trained front

    def at(self, gamma: float) -> LatentVariableModel:
        """The model at the slack γ: an ordinary one, with the bound ε̂ + γ and the multiplier λ(γ), and weights of its own.

        Raises: SettingError for a γ outside the range.
        """
        self.slacks.check(gamma)
        with self.slacks.at(gamma):
            joint = unconditioned(self.eval_model)
        constraints = [
            replace(c, bound=c.bound + gamma - self.slacks.own) if c.name == "neg_elbo" and c.bound is not None else c
            for c in self.lagrangian.configured
        ]
        preference = self.lagrangian.preference
        lagrangian = Lagrangian(type(preference)(float(preference.alpha_q), float(preference.alpha_p)), constraints)
        model = LatentVariableModel(joint, lagrangian, **self.others | {"average": None})
        for name in ("scaled", "running"):
            getattr(lagrangian, name).copy_(self._reduced(getattr(self.lagrangian, name).detach(), gamma))
        lagrangian.steps.copy_(self.lagrangian.steps)
        if self.origin is not None:
            model.origin = copy.deepcopy(self.origin)
            config = model.origin["config"]
            config["training"] |= {"slacks": None, "average": None}
            config["constraints"]["neg_elbo"]["gamma"] = float(gamma)
            model.origin["bounds"] = {c.name: c.bound for c in constraints}
            model.origin.pop("curve", None)
        return model.to(self.device).train(self.training)

    def _reduced(self, values: Tensor, gamma: float) -> Tensor:
        """Values of the constraints with all knots, (m,), with the value at γ in place of those at the knots."""
        at = self.lagrangian.at_knots
        own = self.slacks.weights(values.new_tensor([gamma])) @ values[at]
        return torch.cat([values[: at.start], own, values[at.stop :]])

    def multiplier(self, gamma: float) -> float:
        """λ(γ), in nats per nat: from its running mean, as summaries report it."""
        self.slacks.check(gamma)
        own = self.slacks.weights(self.lagrangian.scaled.new_tensor([gamma]))
        return float(own @ self.lagrangian.mean_multiplier[self.lagrangian.at_knots])

    def bound(self, gamma: float) -> float:
        """ε̂ + γ in nats."""
        own = next(c for c in self.lagrangian.configured if c.name == "neg_elbo")
        assert own.bound is not None
        return own.bound + gamma - self.slacks.own

    def curve(self) -> list[dict[str, float]]:
        """What the run measured of its training split at several γ: −ELBO, the interval of I_q, and λ, with their errors.

        Raises: LagvaeError for a front whose run has not finished.
        """
        curve: list[dict[str, float]] | None = (self.origin or {}).get("curve")
        if not curve:
            raise LagvaeError(
                "This front has no curve: it is measured when its run ends. Resume the run, or measure model.at(γ)."
            )
        return copy.deepcopy(curve)

    def pick(self, neg_elbo: float | None = None, information: float | None = None) -> float:
        """The γ in nats at which −ELBO, or the middle of the interval of I_q, has a given value in nats: the curve's inverse.

        Where a curve that has not converged has the value more than once, it is the least γ.

        Raises: SettingError unless one value is given, and for a value that the curve does not reach.
        """
        given = {"neg_elbo": neg_elbo, "information": information}
        wanted = {name: value for name, value in given.items() if value is not None}
        if len(wanted) != 1:
            raise SettingError("pick takes one of neg_elbo=NATS and information=NATS.")
        ((name, value),) = wanted.items()
        points = [(p["neg_elbo"] if name == "neg_elbo" else p["i_q"], log(p["gamma"])) for p in self.curve()]
        low, high = min(y for y, _ in points), max(y for y, _ in points)
        for (y0, g0), (y1, g1) in pairwise(points):
            if y0 != y1 and min(y0, y1) <= value <= max(y0, y1):
                return exp(g0 + (g1 - g0) * (value - y0) / (y1 - y0))
        raise SettingError(f"{name}={value:g} is not on this front, which reaches from {low:.2f} to {high:.2f} nats.")
