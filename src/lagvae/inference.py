"""What a trained model is used for: codes, reconstructions, samples, and the likelihood of data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lagvae.data.conversion import (
    FULL,
    Standardization,
    as_tensor,
    fitted,
    largest,
    layout_words,
    type_name,
    value_words,
)
from lagvae.data.tables import Table
from lagvae.distributions import (
    BernoulliDecoder,
    EmpiricalPrior,
    JointModel,
    JointSamples,
    draw_noise,
    has_weights,
    log_weights,
    mean_of,
    part_name,
)
from lagvae.errors import DataError, LagvaeError, SettingError
from lagvae.information import marginal_bounds
from lagvae.introspection import evaluating
from lagvae.noise import Noise

A = TypeVar("A", Tensor, np.ndarray)
"""A torch tensor or a numpy array; functions return what they are given."""

BATCH = 1024
"""Number of rows that a model takes at once, where nothing else is asked for."""

DARK = 8
"""Levels whose largest value is this many times smaller than that in training are warned of: they may have fewer bits."""

ARRAY = "a torch tensor or a numpy array of real numbers"
"""What the methods of a model take."""


class CommonNoise(Noise):
    """Noise (draws, N, d) that is the same for all N rows, and in every batch."""

    def normal(self, stream: str, step: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        draws, _, *rest = shape
        return super().normal(stream, 0, (draws, 1, *rest), device).expand(shape)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise SettingError for anything but a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}={value!r} must be a whole number of at least {least}.")


class Inference:
    """The methods of a trained model, all of which use its `eval_model` in eval mode, in batches and without gradients.

    x is an array (N, *shape) of real numbers; images may also have their channels last. Levels are divided as they were in
    training: uint8 by 255, uint16 by 65,535, and neither where they are zeros and ones. A Bernoulli p(x|z) needs values in
    [0, 1]. What was standardised in training is given, and comes back, in its own units; a model of a table (`table`) also
    takes data frames and mappings of names to columns. Results come back as tensors, or as numpy arrays where no tensor was
    given, on the device of the input. Random numbers are a function of `seed` and `batch_size`.

    Raises: DataError for arrays of another shape, type or range; SettingError for another argument that is out of range;
        LagvaeError where the model does not define the result.

    Examples:
        >>> import lagvae
        >>> model = lagvae.load("latest")  # of 8 × 8 digits, with 16 latent dimensions
        >>> x = model.sample(5, seed=0).numpy()
        >>> model.encode(x).shape
        (5, 16)
        >>> model.reconstruct(x).shape
        (5, 1, 8, 8)
        >>> model.posterior(x).stddev.shape
        torch.Size([5, 16])
    """

    on_batch: Callable[[int], None] | None = None
    """Called after each batch with the number of rows that are done, for a progress bar."""

    origin: dict[str, Any] | None
    """What a checkpoint says of the model and of its data; None for a model that no config describes."""

    @property
    def table(self) -> Table | None:
        """The columns of the table that the model was trained on, by which files become x; None for all other data.

        Examples:
            >>> import lagvae
            >>> lagvae.load("latest").table is None  # of digits
            True
        """
        plain = (self.origin or {}).get("table")
        return None if plain is None else Table.from_dict(plain)

    @property
    def standardization(self) -> Standardization | None:
        """How x is standardised, by the means and deviations of the training rows; None where it is not."""
        plain = (self.origin or {}).get("standardization")
        return None if plain is None else Standardization.from_dict(plain)

    @property
    def eval_model(self) -> JointModel:
        """The joint model that is used."""
        raise NotImplementedError

    def posterior(self, x: Tensor | np.ndarray) -> Any:
        """q(z|x) for all rows of x at once: a distribution with batch shape (N,) and event shape (d,)."""
        with evaluating(self.eval_model):
            return self.eval_model.encoder(self.observations(x).to(self._parameter))

    def encode(self, x: A, batch_size: int = BATCH) -> A:
        """The means of q(z|x), (N, d); of an implicit encoder its values at noise 0.

        Examples:
            >>> import lagvae
            >>> model = lagvae.load("latest")
            >>> x = model.sample(3)
            >>> torch.allclose(model.encode(x), model.posterior(x).mean)
            True
        """
        return self._in_batches(x, self.observations(x), lambda rows, _: mean_of(self.eval_model.encoder(rows)), batch_size)

    def decode(self, z: A, batch_size: int = BATCH) -> A:
        """The means of p(x|z), (N, *shape), for codes z (N, d).

        Examples:
            >>> import lagvae
            >>> model = lagvae.load("latest")
            >>> model.decode(torch.zeros(2, 16)).shape
            torch.Size([2, 1, 8, 8])
        """
        return self._in_batches(
            z, self._codes(z), lambda rows, _: self._in_units(mean_of(self.eval_model.decoder(rows))), batch_size
        )

    def reconstruct(self, x: A, batch_size: int = BATCH) -> A:
        """The means of p(x|z) at the means of q(z|x), (N, *shape)."""
        return self.decode(self.encode(x, batch_size), batch_size)

    def sample(self, n: int, seed: int = 0, means: bool = False, batch_size: int = BATCH) -> Tensor:
        """n samples x ∼ p(x), (n, *shape); with `means` the means of p(x|z) for z ∼ p(z), which images usually show.

        Examples:
            >>> import lagvae
            >>> model = lagvae.load("latest")
            >>> model.sample(3, seed=1).unique()  # pixels of a Bernoulli p(x|z)
            tensor([0., 1.])
            >>> torch.equal(model.sample(3, seed=1), model.sample(3, seed=1))
            True
        """
        check_whole("n", n)
        joint = self.eval_model
        if isinstance(joint.prior, EmpiricalPrior) and not len(joint.prior.rows):
            raise LagvaeError(
                "sample is not possible: p(z) is the second domain of the training data, which a checkpoint does not hold. "
                "Pass samples of it to decode."
            )
        noise, like = Noise(seed, "sample"), self._parameter.new_zeros(n, *self._shape)

        def draw(rows: Tensor, step: int) -> Tensor:
            samples = JointSamples(joint, rows, draw_noise(frozenset({"z_p", "x_p"}), joint, noise, step, rows))
            return self._in_units(mean_of(samples.p_x_given_z_p) if means else samples.x_p)

        return self._in_batches(like, like, draw, batch_size)

    def interpolate(self, a: A, b: A, steps: int, batch_size: int = BATCH) -> A:
        """The means of p(x|z) at equal steps from the code of each row of a to that of b, both included: (N, steps, *shape).

        Raises: SettingError for fewer than two steps.

        Examples:
            >>> import lagvae
            >>> model = lagvae.load("latest")
            >>> a, b = model.sample(2, seed=0), model.sample(2, seed=1)
            >>> model.interpolate(a, b, steps=5).shape
            torch.Size([2, 5, 1, 8, 8])
        """
        check_whole("steps", steps, 2)  # the two ends
        start, end = (self._tensor(self.encode(rows, batch_size), "z") for rows in (a, b))
        if start.shape != end.shape:
            raise DataError(f"interpolate takes as many rows to start from as to end at, not {len(start)} and {len(end)}.")
        weights = torch.linspace(0, 1, steps, device=start.device)[:, None]
        codes = torch.lerp(start[:, None], end.to(start.device)[:, None], weights).flatten(0, 1)
        shape = (len(start), steps, *self._shape)
        path = self._in_batches(a, codes, lambda rows, _: self._in_units(mean_of(self.eval_model.decoder(rows))), batch_size)
        return path.reshape(shape)

    def log_prob(self, x: A, draws: int = 64, seed: int = 0, batch_size: int = BATCH, common: bool = False) -> A:
        """log 1/S Σ_s p(x, z_s) / q(z_s|x) with z_s ∼ q(z|x), in nats, (N,).

        In expectation it is at most log p(x), which it approaches as S = `draws` grows. It is −inf for an x so far away that
        floats do not hold its density.

        For x in [0, 1] and a Bernoulli p(x|z) it bounds the mean of log p over pixels that are 1 with probability x.

        Args:
            common: whether all rows share the noise of their draws. The value of a row then does not depend on the others,
                and differences between rows are less noisy, but the noise of their mean does not shrink with their number.

        Raises: LagvaeError unless q(z|x), p(z) and p(x|z) have densities.

        Reference: Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016.

        Examples:
            >>> import lagvae
            >>> model = lagvae.load("latest")
            >>> x = model.sample(20)
            >>> bool(model.elbo(x, draws=16).mean() < model.log_prob(x, draws=256).mean())
            True
        """
        self._require_densities("log_prob", draws)
        joint, noise = self.eval_model, (CommonNoise if common else Noise)(seed, "log_prob")

        def bound(rows: Tensor, step: int) -> Tensor:
            return _below_floats(marginal_bounds(log_weights(joint, rows, draws, noise, step))[0].float())

        return self._in_batches(x, self.observations(x), bound, batch_size)

    def elbo(self, x: A, draws: int = 1, seed: int = 0, batch_size: int = BATCH) -> A:
        """E_q(z|x) log p(x|z) − KL(q(z|x)‖p(z)) in nats, (N,), ≤ log p(x): the mean over `draws` z.

        The KL term is exact where torch knows it.

        Raises: LagvaeError unless q(z|x), p(z) and p(x|z) have densities.
        """
        self._require_densities("elbo", draws)
        joint, noise = self.eval_model, Noise(seed, "elbo")

        def value(rows: Tensor, step: int) -> Tensor:
            names = frozenset({"z_q"})
            several = [JointSamples(joint, rows, draw_noise(names, joint, noise, step * draws + s, rows)) for s in range(draws)]
            rates = [samples.rate for samples in (several[:1] if joint.rate_is_exact else several)]
            return _below_floats(-torch.stack(rates).mean(0) - torch.stack([samples.distortion for samples in several]).mean(0))

        return self._in_batches(x, self.observations(x), value, batch_size)

    # ---- checks, and the way from an array to batches and back

    @property
    def _parameter(self) -> Tensor:
        """A tensor of the type and on the device of the parameters."""
        return next(self.eval_model.parameters())

    @property
    def _shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        joint = self.eval_model
        with evaluating(joint):
            return tuple(mean_of(joint.decoder(self._parameter.new_zeros(1, joint.latent))).shape[1:])

    def _in_batches(self, given: A, rows: Tensor, function: Callable[[Tensor, int], Tensor], batch_size: int) -> A:
        """`function` of each batch of rows and its number, concatenated, as the kind of array that was given."""
        check_whole("batch_size", batch_size)
        home = given.device if isinstance(given, Tensor) else "cpu"
        results = []
        with evaluating(self.eval_model):
            # Without a row to compute, the result has the shape of one row, less that row.
            for step, batch in enumerate(rows.split(batch_size) if len(rows) else [rows.new_zeros(1, *rows.shape[1:])]):
                results.append(function(batch.to(self._parameter), step)[: len(rows)].to(home))
                if self.on_batch is not None:
                    self.on_batch(step * batch_size + len(batch))
        result: Any = torch.cat(results)
        return result if isinstance(given, Tensor) else result.numpy()

    @staticmethod
    def _tensor(given: Any, name: str) -> Tensor:
        """An array as a tensor of floating point numbers."""
        return as_tensor(given, name, ARRAY).float()

    def _divisor(self, x: Tensor, values: bool) -> int:
        """What x is divided by, by the rule of the training data. Raises DataError where that is not known."""
        if x.is_floating_point():
            return 1
        of_data, full = self.origin or {}, FULL.get(x.dtype)
        trained, (_, high) = of_data.get("levels"), of_data.get("range") or (0.0, 1.0)
        most = largest(x) if values else 255.0
        if full is None and most > 1 and (trained or 1) > 1:
            raise DataError(
                f"x is {type_name(x)} with values up to {most:g}, and this model was trained on levels that were divided by "
                f"{trained}. Pass levels as uint8 or uint16, or numbers in [0, 1] as floats."
            )
        if full in (None, 1) or most == 0:
            return 1
        if most == 1 and trained is None:
            raise DataError(
                f"x is {type_name(x)} and holds only 0 and 1. Pass zeros and ones as bool or as floats, and levels that are "
                f"this dark as floats, divided by {full}."
            )
        if most == 1 and trained == 1:
            return 1
        if high > 1:
            raise DataError(
                f"x is {type_name(x)}, which would be divided by {full}, and this model was trained on numbers up to {high:g}. "
                "Pass them as floats, on the scale of the training data."
            )
        return int(full)

    def conversions(self, x: Any) -> list[str]:
        """What `observations` does to the type and to the axes of x, in words; nothing for floats of the model's own shape."""
        t = as_tensor(x, "x", ARRAY)
        found = (value_words(t, self._divisor(t, True)), layout_words(t, fitted(t, self._shape)))
        return [words for words in found if words is not None]

    def observations(self, x: Any, shape: tuple[int, ...] | None = None, values: bool = True) -> Tensor:
        """x as the model takes it. Raises DataError for another shape, type or range.

        Args:
            shape: of one x, where it is known. values: whether to look at the values as well.
        """
        table, units = self.table, self.standardization
        if table is not None and not isinstance(x, Tensor | np.ndarray):
            x = table.encode(x)
        t, shape = as_tensor(x, "x", ARRAY), self._shape if shape is None else shape
        t = fitted(t, shape)
        if table is not None and t.is_floating_point():
            t = table.filled(t, None if units is None else units.mean)
        by = self._divisor(t, values)
        self._check_rows(t, shape, "x", values)
        of_data = self.origin or {}  # a batch of dark levels is nothing unusual where training had levels too
        if values and by > 1 and of_data.get("levels") == 1 and 0 < (most := largest(t)) < by * of_data["range"][1] / DARK:
            warnings.warn(
                f"x is {type_name(t)} with values up to {most:g}, and levels are divided by {by}. If they are of fewer bits, "
                "pass them as floats on the scale of the training data.",
                stacklevel=3,
            )
        t = t.float() / by if by > 1 else t.float() if units is None else units.apply(t)
        if (
            values
            and isinstance(self.eval_model.decoder, BernoulliDecoder)
            and t.numel()
            and not 0 <= float(t.min()) <= float(t.max()) <= 1
        ):
            raise DataError(
                f"x has values from {float(t.min()):g} to {float(t.max()):g}, but the Bernoulli p(x|z) of this model needs "
                "them in [0, 1]; rescale them (divide by the largest level), or pass grey levels 0 … 255 as uint8."
            )
        return t

    def _in_units(self, x: Tensor) -> Tensor:
        """x of the model in the units of the data."""
        units = self.standardization
        return x if units is None else units.undo(x)

    def _codes(self, z: Any) -> Tensor:
        t = self._tensor(z, "z")
        self._check_rows(t, (self.eval_model.latent,), "z")
        return t

    @staticmethod
    def _check_rows(t: Tensor, shape: tuple[int, ...], name: str, values: bool = True) -> None:
        if not t.dim() or t.shape[1:] != shape:
            one = f", such as {name}[None]" if t.shape == shape else ""
            expected = ", ".join(map(str, ("N", *shape)))
            raise DataError(
                f"{name} has shape {tuple(t.shape)}; this model takes ({expected}), one row for each of N samples{one}."
            )
        if values and not t.isfinite().all():
            raise DataError(
                f"{name} has NaN or infinite values, {int((~t.isfinite()).sum())} of {t.numel()}; remove or replace them."
            )

    def _require_densities(self, method: str, draws: int) -> None:
        """Raise LagvaeError unless log p(x, z) − log q(z|x) can be evaluated at samples of q(z|x)."""
        check_whole("draws", draws)
        joint = self.eval_model
        if has_weights(joint):
            return
        prior, encoder, decoder = (part_name(part) for part in (joint.prior, joint.encoder, joint.decoder))
        if not joint.has_distortion:
            why = f"p(x|z) has no density: {decoder} only has samples"
        elif not joint.encoder.has_density:
            why = f"q(z|x) has no density: {encoder} only has samples"
        elif not joint.prior.has_density:
            why = f"p(z) has no density: {prior} only has samples"
        else:
            why = f"{encoder} does not draw z from its q(z|x)"
        raise LagvaeError(f"{method} is not defined for this model: {why}.")


def _below_floats(nats: Tensor) -> Tensor:
    """log densities (N,) with −inf for those that floats could not hold: inf − inf of networks whose input is far away."""
    return nats.where(~nats.isnan(), -torch.inf)
