"""I_q(x;z) as an interval between a lower and an upper bound, from samples of q(z|x)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log, log1p, pi
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import JointModel, JointSamples, StandardNormalPrior
from lagvae.errors import SettingError
from lagvae.information import aggregate, equal_mixture, gaussian_log_density, kde_information
from lagvae.metrics.base import KERNEL, EvaluationData, LatentMetric, Sizes, mean_and_stderr, share_of
from lagvae.metrics.images import EVALUATED as WITHIN
from lagvae.metrics.images import IMAGES, Reobserver, between_images, within_images
from lagvae.noise import Noise

FITTED, KDE = 5_000, 10_000
"""Largest numbers of samples that a Gaussian mixture is fitted to and that a kernel density estimate uses."""

ITERATIONS = 50
"""Largest number of iterations in which the Gaussian mixture is fitted."""

EVALUATED = 256
"""Smallest number of samples at which the mixture of all K draws is evaluated."""

TIMES = 32
"""Largest number of observations of an image to which its Gaussian distribution of z is fitted."""

NEAR = 1.0
"""If the inclusive bound is less than this many nats below log K, it is limited by log K."""

LEAST = 128
"""Smallest K to which the evaluation's budget reduces the number of draws."""

LOWER, UPPER = ("inclusive", "nested"), ("rate", "leave_one_out", "density", "images", "mixed", "whole")


class PosteriorSamples(LatentMetric):
    """Base of metrics that need all z, and q(z|x) at each, at the same time.

    Args:
        most: the largest number of samples that are stored.
    """

    z: list[Tensor]
    loc: list[Tensor]
    scale: list[Tensor]
    index: list[Tensor]

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._stored = 0
        for name in ("z", "loc", "scale", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        return joint.has_gaussian_posterior and joint.has_rate

    def update(self, samples: JointSamples, index: Tensor) -> None:
        room = self.most - self._stored
        if room <= 0:
            return
        base = samples.q_z_given_x.base_dist
        self.z.append(samples.z_q[:room])
        self.loc.append(base.loc[:room])
        self.scale.append(base.scale[:room])
        self.index.append(index[:room].to(samples.z_q.device))
        self._stored += len(samples.z_q[:room])

    def reset(self) -> None:
        super().reset()
        self._stored = 0

    def _all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return dim_zero_cat(self.z), dim_zero_cat(self.loc), dim_zero_cat(self.scale), dim_zero_cat(self.index)


class Information(PosteriorSamples):
    """I_q(x;z) as an interval, in nats: the tightest of several valid bounds, each of which is reported.

    On the training split q(x) is the uniform distribution over its images, each observed with new noise every time. On the
    other splits the images are draws of a population, so that an upper bound at a sample must not use draws of its own image.
    A lower bound may use several draws of an image even there: 1/K Σ_j q(z|x_j) has the mean q(z) if each x_j ∼ q(x).

    i_q_lower: the larger of `i_q_lower_inclusive`, with the aggregate posterior of K draws of x including the sample's own (at
        most log K), and `i_q_lower_nested`, I(m;z) + I(x;z|m) for images m (see `lagvae.information.images`), which is computed
        where log K limits the former.
    i_q_upper: the smallest of the upper bounds E log q(z|x) − log r(z) with these r(z): `i_q_upper_rate`, the prior;
        `_leave_one_out`, the aggregate posterior without the sample's own draw or image; `_density`, a Gaussian mixture that is
        fitted on one half of the samples and evaluated on the other; `_images`, a Gaussian for each image; `_mixed`, an equal
        mixture of all of these except the prior. `_whole`: if x is one of N fixed samples, all of which are used, the inclusive
        bound equals I.
    i_q: the middle of the interval. i_q_stderr: the larger standard error of the two ends.
    i_q_lower_limit: the largest value that the lower bound can take, log K for the inclusive one.
    i_q_kde: the paper's eq. 21. `i_q_kde_breaks_bound` is 1 where it is more than two standard errors above the upper bound or
        below the lower bound.

    Args:
        samples: K; None for `most`, or for all samples of the split if x is observed without noise.
        most: the largest K where `samples` is None.
        components: number of components of the Gaussian mixture; 0 leaves it out.
        kde: whether to compute the kernel density estimate.
        images: whether to observe images again where they are binarised: to obtain K draws, and for the bounds with a
            distribution for each image (2 to `TIMES` further draws of each; 5 K in total where log K is the limit).
        pairs: approximate number of pairs of a sample and a draw that are evaluated; a large K leaves fewer samples.

    Examples:
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> from types import SimpleNamespace
        >>> class Channel(nn.Module):  # q(z|x) = N(x, 1), p(x|z) = N(z, 1)
        ...     def forward(self, given):
        ...         return Normal(given, 1.0)
        >>> class Wide(nn.Module):  # p(z) = N(0, 2²)
        ...     def forward(self):
        ...         return Normal(torch.zeros(1), 2.0)
        >>> x, noise = torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0))
        >>> samples = JointSamples(JointModel(Wide(), Channel(), Channel()), 3**0.5 * x, {"z_q": noise})
        >>> information = Information()
        >>> data = SimpleNamespace(size=lambda split: 1000, is_stochastic=False)
        >>> information.is_applicable(samples.joint, data, "test")
        True
        >>> information.update(samples, torch.arange(1000))
        >>> value = information.compute()
        >>> bool(value["i_q_lower"] - 0.1 < 0.69 < value["i_q_upper"] + 0.1)  # I = ½ log (1 + 3) for x ∼ N(0, 3)
        True
    """

    def __init__(
        self,
        samples: int | None = None,
        components: int = 0,
        kde: bool = False,
        images: bool = False,
        pairs: int = 100_000_000,
        seed: int = 0,
        most: int = 60_000,
    ) -> None:
        if min(most, most if samples is None else samples) < 4:
            raise SettingError(f"The information interval needs at least 4 samples, not samples={samples}, most={most}.")
        if components < 0 or pairs < 1:
            raise SettingError(f"components={components} must be at least 0, and pairs={pairs} at least 1.")
        super().__init__(samples or most)
        self.requested, self.components, self.kde, self.images = samples, components, kde, images
        self.pairs, self.seed = pairs, seed
        self._total: int | None = None
        self._size = 0
        self._stochastic = True
        self._reobserve: Reobserver | None = None
        self._p_z: Callable[[], Any] | None = None  # returns p(z) where it is not standard normal

    def check(self, data: EvaluationData, key: str) -> None:
        available = max(data.size(split) for split in ("train", "val", "test"))
        if self.requested is not None and self.requested > available and not (self.images and data.is_stochastic):
            hint = f"or set {key}.images=true" if data.is_stochastic else "and repeating the same x adds no information"
            raise SettingError(
                f"{key}.samples={self.requested} is more than the {available} samples of x that there are, {hint}; "
                f"lower it, or set {key}.samples=null to use all of them."
            )

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        if not super().is_applicable(joint, data, split):
            return False
        self._size = data.size(split)
        self._total = self._size if split == "train" else None
        self._stochastic = data.is_stochastic
        self._p_z = None if isinstance(joint.prior, StandardNormalPrior) else joint.prior.__call__
        self._reobserve = Reobserver(data, split, joint.encoder) if self.images and data.is_stochastic else None
        return True

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked = {"pairs": self.pairs, "samples" if self.requested else "most": self.most}
        self.pairs, self.most = share_of(self.pairs, share, EVALUATED * LEAST), share_of(self.most, share, LEAST)
        return {name: (number, self.pairs if name == "pairs" else self.most) for name, number in asked.items()}

    def cost(self, sizes: Sizes) -> float:
        again = self._reobserve is not None
        k = min(self.most, sizes.draws if not again or sizes.draws >= self.most else self.most)
        k = k if self._stochastic else min(k, sizes.images)
        images, pair = min(sizes.images, k), 2 * sizes.z + KERNEL
        total = max(EVALUATED, self.pairs // k) * (k + (2 * images if again else 0)) * pair
        total += 2 * self.components * ITERATIONS * min(FITTED, k // 2) * sizes.z * (sizes.z + KERNEL)
        total += (min(KDE, k) ** 2 // 2 * pair) if self.kde else 0
        if again:
            each = max(2, 5 * k // IMAGES)
            total += IMAGES * each * WITHIN * pair
            encoded = max(0, k - sizes.draws) + images * min(max(2, -(-k // images)), TIMES) + IMAGES * each
            return total + encoded * sizes.encode
        return total

    def compute(self) -> dict[str, Tensor]:
        z, loc, scale, index = self._draws()
        k, total = len(z), self._total
        evaluated = (
            Noise(self.seed, "judged").permutation("judged", 0, k)[: max(EVALUATED, self.pairs // k)].sort()[0].to(z.device)
        )
        own, inclusive, others = aggregate(z[evaluated], loc, scale, evaluated, index if total is None else None)
        # If q(x) is uniform over the images, the other images are not draws of q(x): the density of their aggregate may exceed
        # q(z) by the factor K/(K − 1), which is taken off.
        fitted = {"leave_one_out": others if total is None else others + log1p(-1 / k)}
        if self.components and (density := self._density(z, index, evaluated)) is not None:
            fitted["density"] = density
        if self._p_z is None:
            rate = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1).double()
        else:
            with torch.no_grad():
                rate = (gaussian_log_density(z, loc, scale) - self._p_z().log_prob(z)).double()

        def mean(values: Tensor) -> tuple[Tensor, Tensor]:
            """The mean over the evaluated samples, with E log q(z|x) and E log p(z) over all draws as control variates.

            E log p(z) is known only for a standard normal p(z); for any other only the first control variate is used.
            """
            if len(evaluated) < k:
                entropy = 0.5 * z.shape[1] * (1 + log(2 * pi)) + scale.double().log().sum(-1)
                log_p = gaussian_log_density(z[evaluated].double(), torch.zeros_like(z[0]), torch.ones_like(z[0]))
                known = torch.stack([-entropy, -entropy - rate], -1).mean(0)
                controls = torch.stack([own, log_p], -1) - known
                values = apply_control_variates(values, controls if self._p_z is None else controls[:, :1])
            return mean_and_stderr(values, index[evaluated])

        lowers, limit = {"inclusive": mean(own - inclusive)}, log(k)
        if self._reobserve is not None:
            images = index.unique()
            times = min(max(2, -(-k // len(images))), TIMES)
            between, fitted["images"] = between_images(z[evaluated], index[evaluated], images, self._reobserve, times, total)
            if log(k) - float(lowers["inclusive"][0]) < NEAR:
                each = max(2, 5 * k // IMAGES)
                within = within_images(images, self._reobserve, each, self.seed)
                lowers["nested"] = add_estimates(mean_and_stderr(between, index[evaluated]), mean_and_stderr(within))
                if lowers["nested"][0] > lowers["inclusive"][0]:
                    limit = log(len(images)) + log(each)
        if len(fitted) > 1:
            fitted["mixed"] = equal_mixture(*fitted.values())
        uppers = {name: mean(own - log_r) for name, log_r in fitted.items()}
        uppers["rate"] = mean_and_stderr(rate, index)
        if not self._stochastic and k == total:
            uppers["whole"] = lowers["inclusive"]
        lower, upper = max(lowers.values(), key=lambda v: float(v[0])), min(uppers.values(), key=lambda v: float(v[0]))
        result = {"i_q_lower": lower[0], "i_q_lower_stderr": lower[1], "i_q_upper": upper[0], "i_q_upper_stderr": upper[1]}
        result |= {f"i_q_lower_{name}": value for name, (value, _) in lowers.items()}
        result |= {f"i_q_upper_{name}": value for name, (value, _) in uppers.items()}
        result["i_q"], result["i_q_stderr"] = (lower[0] + upper[0]) / 2, torch.maximum(lower[1], upper[1])
        result["i_q_lower_limit"] = torch.tensor(limit, dtype=torch.float64)
        return result | (self._kde(z, loc, scale, index, result) if self.kde else {})

    def _draws(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, loc, scale and image of K draws of x: those of the evaluation, and as many further observations as needed."""
        z, loc, scale, index = self._all()
        if not self._stochastic:  # repeating the same x adds no information
            first = count_earlier_draws(index) == 0
            return z[first], loc[first], scale[first], index[first]
        if self._reobserve is None or len(z) >= self.most:
            return z, loc, scale, index
        images = torch.arange(min(self._size, self.most - len(z)), device=z.device)
        times = -(-(self.most - len(z)) // self._size)
        more_loc, more_scale = (each.flatten(0, 1) for each in self._reobserve(images, times))
        noise = Noise(self.seed, "more draws").normal("z", 0, tuple(more_loc.shape), z.device)
        parts = ((z, more_loc + more_scale * noise), (loc, more_loc), (scale, more_scale), (index, images.repeat(times)))
        z, loc, scale, index = (torch.cat(part)[: self.most] for part in parts)
        return z, loc, scale, index

    def _kde(self, z: Tensor, loc: Tensor, scale: Tensor, index: Tensor, interval: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The kernel density estimate; if images are draws of a population it uses a single draw of each."""
        used = torch.arange(len(z), device=z.device)
        if self._total is None:
            used = (count_earlier_draws(index) == 0).nonzero()[:, 0]
        used = thinned(used, KDE)
        value, stderr = mean_and_stderr(kde_information(z[used], loc[used], scale[used]), index[used])
        excess = torch.maximum(value - interval["i_q_upper"], interval["i_q_lower"] - value)
        breaks = excess > 2 * torch.maximum(stderr, interval["i_q_stderr"])
        return {"i_q_kde": value, "i_q_kde_stderr": stderr, "i_q_kde_breaks_bound": breaks.double()}

    def _density(self, z: Tensor, index: Tensor, evaluated: Tensor) -> Tensor | None:
        """log r(z) at the evaluated samples, where each half uses a Gaussian mixture fitted on the other half.

        The halves are disjoint sets of images; if q(x) is uniform over the images, the draws of each image are also divided.
        It is None where z is spread over so many orders of magnitude that no covariance can be inverted.
        """
        import warnings

        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        half = (index + (count_earlier_draws(index) if self._total is not None else 0)) % 2
        log_r = torch.empty(len(evaluated), dtype=torch.float64, device=z.device)
        for fit in (0, 1):
            training = z[thinned((half == fit).nonzero()[:, 0], FITTED)].double().cpu().numpy()
            other = half[evaluated] != fit
            components = max(1, min(self.components, len(training) // (2 * z.shape[1] + 2)))
            mixture = GaussianMixture(components, reg_covar=1e-4, random_state=self.seed, max_iter=ITERATIONS)
            # Use as many threads as torch; more would slow each other down where several runs share a machine.
            with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
                warnings.simplefilter("ignore")  # a mixture that has not converged is still a density
                try:
                    mixture.fit(training)
                except ValueError:
                    if not z.isfinite().all():
                        raise
                    return None
                scores = mixture.score_samples(z[evaluated][other].double().cpu().numpy())
            log_r[other] = torch.from_numpy(scores).to(z.device)
        return log_r


def count_earlier_draws(index: Tensor) -> Tensor:
    """For each draw the number of draws of the same image before it."""
    order = index.argsort(stable=True)
    _, counts = index[order].unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    earlier = torch.empty_like(order)
    earlier[order] = torch.arange(len(index), device=index.device) - first
    return earlier


def thinned(values: Tensor, most: int) -> Tensor:
    """Every k-th of the values, with the smallest k that leaves at most `most`.

    Examples:
        >>> thinned(torch.arange(10), most=4).tolist()
        [0, 3, 6, 9]
    """
    return values[:: max(1, -(-len(values) // most))]


def apply_control_variates(values: Tensor, controls: Tensor) -> Tensor:
    """Values (n,) with the same mean and a smaller variance, by regression on controls (n, c) of expectation 0.

    The estimation of the regression coefficients adds a bias of order 1/n.

    Reference: Glasserman, Monte Carlo Methods in Financial Engineering, 2003.
    """
    centred = controls - controls.mean(0)
    slope = torch.linalg.lstsq(centred, (values - values.mean()).unsqueeze(-1)).solution
    return values - (controls @ slope).squeeze(-1)


def add_estimates(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of two independent estimates, each with its standard error."""
    return a[0] + b[0], (a[1].square() + b[1].square()).sqrt()


def tightest(values: Mapping[str, float]) -> dict[str, str]:
    """The names of the tightest bounds as i_q_lower_by and i_q_upper_by; {} where there is no interval.

    Args:
        values: of `Information`, name → nats.

    Examples:
        >>> tightest({"i_q_lower_inclusive": 2.0, "i_q_upper_rate": 3.0, "i_q_upper_leave_one_out": 2.5})
        {'i_q_lower_by': 'inclusive', 'i_q_upper_by': 'leave_one_out'}
    """
    ends = {"lower": (LOWER, max), "upper": (UPPER, min)}
    names_of_ends = {}
    for end, (names, best) in ends.items():
        available = [name for name in names if f"i_q_{end}_{name}" in values]
        if available:
            names_of_ends[f"i_q_{end}_by"] = best(available, key=lambda name: values[f"i_q_{end}_{name}"])
    return names_of_ends
