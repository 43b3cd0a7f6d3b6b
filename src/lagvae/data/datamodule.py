"""The LightningDataModule: splits, batches by step, and the observation of stored samples."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lagvae.data.batches import Batch, EvalLoader, SplitOrder, StepDataset, StepLoader, Store, TrainOrder
from lagvae.data.conversion import (
    ALLOWED,
    FULL,
    LAYOUTS,
    Standardization,
    arranged,
    as_float,
    check_numbers,
    divisor,
    largest,
    layout_words,
    stored,
    type_name,
    value_words,
)
from lagvae.data.sources import Arrays, ImageFiles
from lagvae.errors import DataError, LagvaeError, SettingError
from lagvae.introspection import first_line, full_name, is_of_lagvae
from lagvae.io import file_digest
from lagvae.noise import Noise

SPLITS = ("train", "val", "test")

LIKELIHOODS = ("bernoulli", "normal", "table")

SAMPLES_WHILE_TRAINING = 2000
"""Largest number of samples of a split that are evaluated after each interval of training."""

MIN_SPLIT = 4
"""Smallest number of samples of a split, which the bounds on information need."""

LARGE_SPREAD = 10.0
"""Standard deviation of a column above which the values are probably not on the scale that a Normal p(x|z) is made for."""

MOST_VALUES = 100
"""Largest number of values of an attribute. One with more is rather an amount, of which log r(u|z) says little."""

IMAGE_SIDE = 16
"""Floats (N, H, W) that are not square may be images where both sides are at least this long."""

OTHER_SCALE = 20.0
"""A test set whose largest value is this many times that of x, or the reverse, is probably on another scale."""

UNUSED_LEVELS = 8
"""Levels whose largest value is this many times smaller than their type allows are probably counts, or have fewer bits."""


def observe(x: Tensor, likelihood: str, uniform: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
    """The observation x of stored samples: their `as_float`, for "bernoulli" binarised to 1 where it exceeds uniform noise."""
    x = as_float(x)
    return (x > uniform(tuple(x.shape))).to(x.dtype) if likelihood == "bernoulli" else x


class DataModule(pl.LightningDataModule):
    """Data in the three splits "train", "val" and "test".

    Args:
        source: returns the arrays, or the tensor x alone, or raises a DataError.
        name: the name of the data.
        likelihood: "bernoulli" binarises every batch with new noise (pixel > uniform noise); "normal" uses values as they are;
            "table" is for rows of named columns.
        batch: size of a global training batch.
        seed: of the order of batches and of the binarisation.
        split_seed: of the split, which does not depend on `seed`.
        val, test: shares of the samples; `test` is used only if the source has no test set of its own.
        draws: the final evaluation passes over a split until it has at least this many samples.
        workers: number of processes that load in advance, for a source that streams files.
        layout: of the source's arrays, one of `LAYOUTS`.
        allow: what is not refused, of `ALLOWED`.
        standardize: whether numbers become standard deviations from their mean in the training rows, column by column.

    Attributes:
        conversions: what was done to the source's arrays, and hints: what in them is unusual; in words, once they are loaded.
        levels: what levels were divided by, 1 for numbers. value_range: least and largest value of x. kind: the type that the
            source's array had. standardization: the means and deviations of the training rows; None where there is none.
        column_names: of the values of x, where x is a table.
        uses_attribute: whether batches have the attribute u, which a run sets if its objective needs it.

    Examples:
        >>> from lagvae.data.sources import digits
        >>> data = DataModule(digits, "digits", "bernoulli", batch=128)
        >>> data.setup("fit")
        >>> data.shape
        (1, 8, 8)
    """

    def __init__(
        self,
        source: Callable[[], Arrays],
        name: str,
        likelihood: str,
        batch: int,
        seed: int = 0,
        split_seed: int = 0,
        val: float = 0.1,
        test: float = 0.1,
        draws: int = 40_000,
        workers: int = 2,
        layout: str = "auto",
        allow: Sequence[str] = (),
        standardize: bool = False,
    ) -> None:
        super().__init__()
        if unknown := [what for what in allow if what not in ALLOWED]:
            raise SettingError(f"data.allow={unknown[0]!r} is unknown; it is a list of {', '.join(ALLOWED)}.")
        if layout not in LAYOUTS:
            raise SettingError(f"data.layout={layout!r} is unknown; choose one of {', '.join(LAYOUTS)}.")
        if likelihood not in LIKELIHOODS:
            raise SettingError(f"data.likelihood={likelihood!r} is unknown; choose one of {', '.join(LIKELIHOODS)}.")
        for key, count, least in (("batch", batch, 1), ("draws", draws, 1), ("workers", workers, 0)):
            if count < least:
                raise SettingError(f"data.{key}={count} must be at least {least}.")
        for key, share in (("val", val), ("test", test)):
            if not 0 < share < 1:
                raise SettingError(f"data.{key}={share} must be a share between 0 and 1.")
        if val + test >= 1:
            raise SettingError(f"data.val={val} and data.test={test} leave nothing to train on.")
        self.source, self.name, self.likelihood = source, name, likelihood
        self.batch, self.seed, self.split_seed = batch, seed, split_seed
        self.val_share, self.test_share = val, test
        self.draws, self.workers, self.layout, self.allow = draws, workers, layout, tuple(allow)
        self.standardize = standardize
        self.standardization: Standardization | None = None
        self.column_names: list[str] | None = None
        self.uses_attribute = False
        self.conversions: list[str] = []
        self.hints: list[str] = []
        self.levels, self.value_range, self.kind = 255, (0.0, 1.0), ""
        self._high = 0.0  # the largest value of the source's array
        # (steps of an interval, last step), set by a run, in which one epoch of Lightning is one interval: evaluation and
        # checkpoints follow each. None: an epoch is one pass over the data, and the trainer decides when training ends.
        self.interval: tuple[int, int] | None = None
        # The number of draws of a split in the final evaluation, where it is less than `draws`; set by a run.
        self.most_draws: int | None = None
        self._on_device: dict[torch.device, dict[str, Store]] = {}
        self._noises: dict[tuple[str, int, int], Noise] = {}

    def check(self, look: bool = False) -> None:
        """Load and split the data; DataError or SettingError where that is impossible, or no batch can be had of them.

        Args:
            look: whether nothing is to be trained, so that no batch is needed.
        """
        smallest = min(self.split, key=lambda name: len(self.split[name]))
        if len(self.split[smallest]) < MIN_SPLIT:
            raise DataError(
                f"data={self.name} is too small: its {smallest} split has {len(self.split[smallest])} samples and needs "
                f"{MIN_SPLIT}; give more data, or a larger share with data.val and data.test, such as data.val=0.2."
            )
        n = len(self.split["train"])
        if self.batch > n and not look:
            raise SettingError(
                f"data.batch={self.batch} is larger than the {n} training samples of {self.name}; lower it, such as "
                f"data.batch={max(1, n // 2)}."
            )

    @cached_property
    def arrays(self) -> Arrays:
        """The arrays of the source, after a check of their values and shapes."""
        try:
            arrays: Any = self.source()
        except LagvaeError:
            raise
        except Exception as error:
            if is_of_lagvae(self.source):
                raise
            raise DataError(f"data={self.name}: {full_name(self.source)} fails: {first_line(error)}.") from error
        if isinstance(arrays, Tensor):
            arrays = Arrays(arrays)
        if not isinstance(arrays, Arrays) or not isinstance(arrays.x, Tensor | ImageFiles):
            found = arrays.x if isinstance(arrays, Arrays) else arrays
            raise DataError(
                f"data={self.name}: its source returns a {type(found).__name__}; it must return a lagvae.data.Arrays, or a "
                "torch tensor of shape (N, …)."
            )
        return self._converted(arrays)

    def _converted(self, arrays: Arrays) -> Arrays:
        """The arrays as samples are kept, by the rule of `lagvae.data.conversion`, after a check of their values."""
        named, x, test, second = f"data={self.name}", arrays.x, arrays.test, arrays.second
        kind = x.dtype if isinstance(x, Tensor) else torch.uint8
        self.conversions, self.hints = list(arrays.conversions), []
        self.kind = type_name(x) if isinstance(x, Tensor) else "image files"
        self._check_labels(arrays)
        for part in (x, test, second):
            if isinstance(part, Tensor) and not (part.ndim and part.numel()):
                raise DataError(f"{named} is empty: an array of shape {tuple(part.shape)}.")
        self._check_columns(arrays)
        if isinstance(x, Tensor):
            # x and the test set are of one kind, so that zeros and ones in one of them alone are levels like the others.
            alike = [x] if test is None or test.dtype != kind else [x, test]
            self.levels, self._high = divisor(*alike), largest(x)
            by = self.levels
            self._describe(x, by, max(map(largest, alike)))
            x = self._arranged(x, f"{named}: x")
            x, test = self._fit_columns(arrays, x, test)
            x = self._checked(x, by, arrays.name_of("x"), self.likelihood)
            self.value_range = (float(as_float(x).min()), float(as_float(x).max())) if x.is_floating_point() else (0.0, 1.0)
        else:
            self.levels = 1 if x.binary else self.levels
            if not x.fine:
                self._describe(torch.empty(0, dtype=kind), self.levels, self.levels)
        if test is not None:
            test = self._arranged(test, f"{named}: test")
            by = self.levels if test.dtype == kind else divisor(test)
            self._check_scales(x, test, by)
            test = self._checked(test, by, arrays.name_of("test"), self.likelihood)
        if second is not None:
            layout = self.layout if isinstance(x, Tensor) and second.ndim == x.ndim else "auto"
            second = arranged(second, layout, f"{named}: second")
            second = self._checked(second, divisor(second), arrays.name_of("second"), "normal")
        if isinstance(x, Tensor) and test is not None and test.shape[1:] != x.shape[1:]:
            raise DataError(
                f"{named}: test samples have shape {tuple(test.shape[1:])}, the others {tuple(x.shape[1:])}; they must be "
                "alike."
            )
        return replace(arrays, x=x, test=test, second=second)

    def _check_scales(self, x: Tensor | ImageFiles, test: Tensor, by: int) -> None:
        """Raise DataError where x, as it is kept, and a test set that is divided by `by` cannot be on one scale."""
        if not isinstance(x, Tensor):
            return
        named, scales = f"data={self.name}", (self.levels, by)
        high, high_test = self._high, largest(test)
        if (self.levels == 1) != (by == 1) and max(h for h, by in zip((high, high_test), scales, strict=True) if by == 1) > 1:
            raise DataError(
                f"{named} has x of type {self.kind} and a test set of type {type_name(test)}, of which only one is divided by "
                f"{max(scales)}: x has values up to {high:g}, and the test set up to {high_test:g}. Save both as one type."
            )
        apart = high / self.levels, high_test / by
        if min(apart) > 0 and max(apart) > OTHER_SCALE * min(apart):
            self.hints.append(
                f"{named}: x has values up to {apart[0]:g}, and the test set up to {apart[1]:g}. Put both on one scale."
            )

    def _check_columns(self, arrays: Arrays) -> None:
        """Raise SettingError for a likelihood or a standardisation that is not for these data."""
        x, table = arrays.x, arrays.table
        self.column_names = None if table is None else table.names
        if table is None and self.likelihood == "table":
            raise SettingError(
                f"data.likelihood=table is for data=table, and data={self.name} has no named columns; use normal or bernoulli."
            )
        if table is not None and self.likelihood != "table" and not (self.likelihood == "normal" and table.plain):
            raise SettingError(
                f"data.likelihood={self.likelihood} does not fit data={self.name}, {table.describe()}; leave it out, so that "
                "it is table."
            )
        if not self.standardize:
            return
        if not isinstance(x, Tensor) or x.dtype in FULL or self.likelihood == "bernoulli":
            raise SettingError(f"data.standardize=true is for numbers, which data={self.name} does not have; leave it out.")
        if arrays.partner is not None or arrays.second is not None:
            raise SettingError(f"data.standardize=true is for data of one domain, and data={self.name} has two; leave it out.")

    def _fit_columns(self, arrays: Arrays, x: Tensor, test: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Find the means and deviations of the training rows, and fill in what is missing in a table."""
        table, train = arrays.table, self._split_of(arrays)["train"]
        if table is not None:
            self.hints += [*table.notes, *table.check_training(x, train, arrays.file or f"data={self.name}")]
        if self.standardize:
            self.standardization = Standardization.of(x[train], None if table is None else table.numbers)
        if table is None:
            return x, test
        mean = None if self.standardization is None else self.standardization.mean
        return table.filled(x, mean), None if test is None else table.filled(test, mean)

    def _describe(self, x: Tensor, by: int, high: float) -> None:
        """Note what becomes of the values of x."""
        named, kind = f"data={self.name}", type_name(x)
        if (said := value_words(x, by)) is not None:
            self.conversions.append(said)
        if by > 1 and high * UNUSED_LEVELS <= by:
            self.hints.append(
                f"{named}: the largest value is {high:g}, and {kind} is divided by {by}, so that x is at most {high / by:.2g}. "
                "Counts, or levels of fewer bits, are saved as float32 on the scale that you want."
            )

    def _arranged(self, x: Tensor, named: str) -> Tensor:
        """x, or the test set, in the layout that the networks take."""
        found = arranged(x, self.layout, named)
        if (words := layout_words(x, found)) is not None:
            said = f"{words} (data.layout=as_is: as it is)"
            if said not in self.conversions:
                self.conversions.append(said)
        elif self.layout == "auto" and x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]:
            shape = ", ".join(map(str, ("N", *x.shape[1:])))
            self.hints.append(
                f"{named} of shape ({shape}) is used as it is, which for images means {x.shape[1]} channels. If the channels "
                "come last, set data.layout=channels_last."
            )
        elif self.layout == "auto" and x.ndim == 3 and min(x.shape[1:]) >= IMAGE_SIDE:
            said = (
                f"data={self.name} of shape (N, {x.shape[1]}, {x.shape[2]}) is taken for series. If it is grey images, set "
                "data.layout=grey; data.layout=as_is says that it is not."
            )
            if said not in self.hints:
                self.hints.append(said)
        return found

    def _check_labels(self, arrays: Arrays) -> None:
        for part, samples, *given in (
            ("", arrays.x, arrays.labels, arrays.factors, arrays.attribute),
            ("test ", arrays.test, arrays.test_labels, arrays.test_factors, arrays.test_attribute),
        ):
            for kind, values in zip(("labels", "factors", "values of the attribute"), given, strict=True):
                if samples is not None and values is not None and len(values) != len(samples):
                    raise DataError(
                        f"data={self.name} has {len(values)} {part}{kind} for {len(samples)} {part}samples; there must be one "
                        "for each."
                    )
                if kind.endswith("attribute") and values is not None and (values.ndim != 1 or values.is_floating_point()):
                    raise DataError(f"data={self.name}: the {part}attribute must be whole numbers of shape (N,).")

    def _checked(self, given: Tensor, by: int, part: str, likelihood: str) -> Tensor:
        """Samples, divided by `by`, as they are kept; DataError for values that cannot be used."""
        x = stored(given, by)
        if not x.is_floating_point():
            return x
        units = self.standardization
        allow = self.allow if units is None else (*self.allow, "rounding")
        check_numbers(x, given, f"data={self.name}: {part}", allow, self.column_names)
        if units is not None and given.shape[1:] == units.mean.shape:
            x = units.apply(given)
        low, high = float(x.min()), float(x.max())
        if likelihood == "bernoulli" and not 0 <= low <= high <= 1:
            raise DataError(
                f"data={self.name} has values from {low:g} to {high:g}, but data.likelihood=bernoulli needs them in [0, 1]; "
                "rescale them, save grey levels 0 … 255 as uint8, or set data.likelihood=normal."
            )
        if max(-low, high) > LARGE_SPREAD and (spread := float(x.std(0).max())) > LARGE_SPREAD:
            self.hints.append(
                f"data={self.name} has values from {low:g} to {high:g}, with a standard deviation of up to {spread:.2g}; a "
                "Normal p(x|z) is made for values of size 1. Standardise the columns of a table with data.standardize=true; "
                "save grey levels 0 … 255 as uint8, which is divided by 255."
            )
        return x

    @cached_property
    def split(self) -> dict[str, Tensor]:
        """Split → positions in the store; the same for every `seed`."""
        return {name: self._positions[name] for name in SPLITS}

    @cached_property
    def _positions(self) -> dict[str, Tensor]:
        """The splits, and "second": the training samples that are used only for the second domain."""
        return self._split_of(self.arrays)

    def _split_of(self, arrays: Arrays) -> dict[str, Tensor]:
        n = len(arrays.x)
        generator = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(n, generator=generator)
        n_val = round(n * self.val_share)
        n_test = 0 if arrays.test is not None else round(n * self.test_share)
        rest = order[n_val + n_test :]
        n_train = len(rest) // 2 if arrays.partner is not None and arrays.second is None else len(rest)
        # A test set of its own is often sorted, and its first samples must be like all of them.
        test = order[n_val:][:n_test] if arrays.test is None else torch.randperm(len(arrays.test), generator=generator)
        return {"val": order[:n_val], "test": test, "train": rest[:n_train], "second": rest[n_train:]}

    def labels(self, split: str) -> Tensor | None:
        """The labels of a split in its order, or None if the data have none; for evaluation, and `attribute`."""
        return self._of_split(split, self.arrays.labels, self.arrays.test_labels)

    def factors(self, split: str) -> Tensor | None:
        """The factors that the samples of a split were made from, (n, F), or None if unknown; only evaluation uses them."""
        return self._of_split(split, self.arrays.factors, self.arrays.test_factors)

    def _of_split(self, split: str, values: Tensor | None, of_test_set: Tensor | None) -> Tensor | None:
        """The values of the samples of a split in its order, from those of all samples and those of the test set."""
        own = of_test_set if split == "test" and self.arrays.test is not None else values
        return None if own is None else own[self.split[split]]

    def use_attribute(self) -> None:
        """Give batches the attribute u.

        Raises: SettingError where the data have none, DataError for one with too few or too many values.
        """
        self.uses_attribute, arrays = True, self.arrays
        u = None if arrays.table is not None and arrays.attribute is None else self.attribute("train")
        if u is None:
            raise SettingError(
                f"data={self.name} has no attribute u, which a divergence needs. Of a table, name a column with "
                "data.source.attribute=COLUMN; of other data u is the labels, or Arrays.attribute."
            )
        if self.attribute("test") is None:
            raise DataError(f"data={self.name} has an attribute for x, but none for its test set; give it as test_attribute.")
        source = "labels" if arrays.attribute is None else "attribute"
        count = len(u.unique())
        if count < 2 or count > MOST_VALUES:
            raise DataError(
                f"data={self.name}: its {source} {'has' if source == 'attribute' else 'have'} {count} "
                f"value{'s' if count > 1 else ''} in the training split; I(z;u) needs between 2 and {MOST_VALUES}. Give "
                "classes: of an amount, divide its range into a few."
            )
        for split in ("val", "test"):
            if len(other := self.attribute(split).unique()) and int(other.max()) >= len(self.attribute_values):  # type: ignore[union-attr]
                raise DataError(f"data={self.name}: the {split} split has a value of the {source} that no training sample has.")
        if arrays.attribute is None:
            self.conversions.append(f"u, the attribute of which codes may tell little or much, is the labels: {count} values")

    @cached_property
    def attribute_values(self) -> Tensor:
        """The values of the attribute, or of the labels, in ascending order; the place of a value is u."""
        arrays = self.arrays
        values: Any = arrays.labels if arrays.attribute is None else arrays.attribute
        return values[self.split["train"]].unique()  # type: ignore[no-any-return]

    @property
    def attribute_shares(self) -> list[float] | None:
        """The share of each u in the training split; None where batches have no attribute."""
        u = self.attribute("train")
        return None if u is None else (u.bincount(minlength=len(self.attribute_values)) / len(u)).tolist()

    def attribute(self, split: str) -> Tensor | None:
        """The attribute u of the samples of a split in its order, whole numbers from 0; None where batches have none.

        A value that no training sample has is the number of those that there are.
        """
        arrays = self.arrays
        from_labels = arrays.attribute is None
        values = (arrays.labels, arrays.test_labels) if from_labels else (arrays.attribute, arrays.test_attribute)
        if not self.uses_attribute or (found := self._of_split(split, *values)) is None:
            return None
        place = torch.searchsorted(self.attribute_values, found.contiguous())
        known = self.attribute_values[place.clamp(max=len(self.attribute_values) - 1)] == found
        return place.where(known, torch.tensor(len(self.attribute_values)))

    def second(self, split: str) -> Tensor | None:
        """The second domain: unpaired samples for "train", else the true partners of a split in its order; None if unknown."""
        arrays = self.arrays
        if split == "train" and arrays.second is not None:
            return as_float(arrays.second)
        if arrays.partner is None:
            return None
        x = self._stores(torch.device("cpu"))[split][self._positions["second" if split == "train" else split]]
        return arrays.partner(as_float(x))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.arrays.x[torch.tensor([0])].shape[1:])

    @property
    def streams(self) -> bool:
        """Whether samples are read from files while training."""
        return not isinstance(self.arrays.x, Tensor)

    @property
    def per_epoch(self) -> int:
        """Number of training batches in an epoch."""
        return len(self.split["train"]) // self.batch

    def passes(self, split: str) -> int:
        """Number of passes over a split that give at least `draws` samples, or `most_draws`."""
        return max(1, -(-(self.most_draws or self.draws) // len(self.split[split])))

    def draws_of(self, split: str) -> int:
        """Number of samples of a split in the final evaluation: whole passes, unless `most_draws` is less than one."""
        size = len(self.split[split])
        return self.passes(split) * min(size, self.most_draws or size)

    def batches_per_pass(self, split: str) -> int:
        """Number of evaluation batches in one pass over a split."""
        return -(-len(self.split[split]) // self.batch)

    def first_batch(self, n: int, split: str = "train") -> Batch:
        """A batch of the first n samples of a split, as step 0."""
        x, u = self.first_samples(split, n), self.attribute(split)
        return Batch(x, torch.arange(len(x)), 0, None if u is None else u[: len(x)])

    def first_samples(self, split: str, n: int, device: torch.device | str = "cpu") -> Tensor:
        """The first n samples of a split, always with the same observation noise; for figures and classifiers."""
        store = self._stores(torch.device("cpu"))[split]
        x = store[self.split[split][:n]].to(device)
        return observe(x, self.likelihood, lambda shape: self.noise("probe").uniform("observe", 0, shape, device))

    def size(self, split: str) -> int:
        """Number of samples of a split. On the training split q(x) is the uniform distribution over them."""
        return len(self.split[split])

    @property
    def is_stochastic(self) -> bool:
        """Whether an observation of a stored sample is random, which it is if samples are binarised."""
        return self.likelihood == "bernoulli"

    def reobserve(self, split: str, index: Tensor, times: int, step: int, device: torch.device | str = "cpu") -> Tensor:
        """Observe stored samples of a split `times` times each, with the noise of a step: (times, B, *shape)."""
        x = self._stores(torch.device(device))[split][self.split[split][index.cpu()]].to(device)
        noise = self.noise("again")
        return observe(
            x.expand(times, *x.shape), self.likelihood, lambda shape: noise.uniform("observe", step, shape, x.device)
        )

    def reseeded(self, seed: int) -> DataModule:
        """A copy with the same data and splits, and the batch order and noise of another seed."""
        other = copy.copy(self)
        other.seed, other.trainer, other.most_draws, other._noises = seed, None, None, {}
        return other

    def noise(self, purpose: str, shared: bool = False) -> Noise:
        """The noise stream of a purpose; where all ranks share a batch, the part of this one."""
        rank, world = (0, 1) if self.trainer is None or not shared else (self.trainer.global_rank, self.trainer.world_size)
        return self._noises.setdefault((purpose, rank, world), Noise(self.seed, purpose, rank, world))

    def _stores(self, device: torch.device) -> dict[str, Store]:
        if device not in self._on_device:
            x, test = self.arrays.x, self.arrays.test
            x = x.to(device) if isinstance(x, Tensor) else x
            self._on_device[device] = {"train": x, "val": x, "test": x if test is None else test.to(device)}
        return self._on_device[device]

    def train_loader(self, first: Callable[[], int], device: torch.device) -> StepLoader:
        """Loads the steps from first() to the end of its interval of `interval[0]` steps, and none from step `interval[1]` on.

        Without an interval it loads an epoch.
        """
        noise = self.noise("train", shared=True)
        if self.batch % (world := noise.world):
            raise SettingError(f"data.batch={self.batch} cannot be shared by {world} processes; make it a multiple of {world}.")
        length, last = self.interval or (self.per_epoch, None)
        place = torch.device("cpu") if self.streams else device
        order = TrainOrder(len(self.split["train"]), self.batch, noise, place)
        u = self.attribute("train")
        subset = self.split["train"].to(place)
        dataset = StepDataset(self._stores(device)["train"], subset, order, None if u is None else u.to(place))

        def steps() -> range:
            start = first()
            end = start - start % length + length
            return range(start, end if last is None else min(end, last))

        return StepLoader(dataset, steps, self.workers if self.streams else 0)

    def eval_loader(self, split: str, device: torch.device, passes: int = 1, most: int | None = None) -> EvalLoader:
        """A loader of a split in its own order, `passes` times, whole on every rank; `most` limits it to the first samples."""
        subset = self.split[split][:most]
        order = SplitOrder(len(subset), self.batch)
        steps = range(order.per_pass * passes)
        dataset = StepDataset(self._stores(device)[split], subset, order, self.attribute(split))
        return EvalLoader(dataset, lambda: steps, self.workers if self.streams else 0)

    # Lightning's hooks

    def train_dataloader(self) -> StepLoader:
        trainer = self._trainer
        return self.train_loader(lambda: trainer.global_step, trainer.strategy.root_device)

    def val_dataloader(self) -> list[EvalLoader]:
        """The loaders for evaluation while training: the first samples of the training and of the validation split."""
        device = self._trainer.strategy.root_device
        return [self.eval_loader(split, device, most=SAMPLES_WHILE_TRAINING) for split in ("train", "val")]

    def test_dataloader(self) -> list[EvalLoader]:
        """The loaders of the final evaluation: every split, until it has `draws` samples."""
        device = self._trainer.strategy.root_device
        return [self.eval_loader(split, device, self.passes(split), self.most_draws) for split in SPLITS]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch with its stored samples on the device, which Lightning would look for part by part."""
        moved = [None if t is None else t.to(device, non_blocking=True) for t in (batch.x, batch.index, batch.u)]
        return Batch(moved[0], moved[1], batch.step, moved[2])  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Replace stored samples by observed ones, on the device."""
        trainer = self._trainer
        purpose = "train" if trainer.training else eval_splits(trainer)[dataloader_idx]
        return self.observed(batch, self.noise(purpose, shared=trainer.training))

    def observed(self, batch: Batch, noise: Noise) -> Batch:
        """A stored batch as it is observed with the noise of its step."""
        x = observe(batch.x, self.likelihood, lambda shape: noise.uniform("observe", batch.step, shape, batch.x.device))
        return batch._replace(x=x)

    @property
    def _trainer(self) -> Any:
        return self.trainer


def eval_splits(trainer: Any) -> tuple[str, ...]:
    """The splits of an evaluation in the order of its loaders: all in the final one, two while training."""
    return SPLITS if trainer.testing else ("train", "val")


def content_digest(data: DataModule, test: bool = True) -> str:
    """A hash of the samples, which does not change if a file is renamed, but does if its content changes.

    Args:
        test: whether a test set of its own counts.
    """
    arrays = data.arrays
    if arrays.digest is None:
        arrays.digest = _content_digest(arrays.x, arrays.second, None if arrays.table is None else arrays.table.text)
    digest = arrays.digest if arrays.test is None or not test else _content_digest(arrays.digest, arrays.test)
    splits = SPLITS if test else SPLITS[:2]
    return _content_digest(digest, *map(data.attribute, splits)) if data.uses_attribute else digest


def _content_digest(*parts: Tensor | ImageFiles | str | None) -> str:
    content = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            content.update(str((tuple(part.shape), part.dtype)).encode())
            content.update(part.contiguous().numpy().tobytes())
        elif isinstance(part, str):
            content.update(part.encode())
        elif part is not None:
            for digest in part.digests or map(file_digest, part.files):
                content.update(digest.encode())
    return content.hexdigest()[:16]
