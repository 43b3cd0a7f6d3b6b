"""I_q(x;z) as an interval, from samples of q(z|x)."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log1p, pi

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import GaussianEncoder, JointModel, JointSamples
from lagvae.errors import SettingError
from lagvae.information import aggregate, equal_mixture, gaussian_log_density, kde_information
from lagvae.metrics.base import EvaluationData, LatentMetric, mean_and_stderr
from lagvae.metrics.images import IMAGES, Redraw, between, within
from lagvae.noise import Noise

FITTED, KDE = 5_000, 10_000
"""Samples that a Gaussian mixture is fitted to, and that a kernel density estimate is made of, at most."""

EVALUATED = 256
"""Samples that are judged by all K draws, at least."""

TIMES = 32
"""Draws of an image that the law of z over it is fitted to, at most."""

NEAR = 1.0
"""Nats below log K from which on log K is the limit of the inclusive bound."""

LOWER, UPPER = ("inclusive", "nested"), ("rate", "leave_one_out", "density", "images", "mixed", "whole")


class PosteriorSamples(LatentMetric):
    """Base of what needs z, and q(z|x) at each, all at once."""

    z: list[Tensor]
    loc: list[Tensor]
    scale: list[Tensor]
    index: list[Tensor]

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._held = 0
        for name in ("z", "loc", "scale", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        return isinstance(joint.encoder, GaussianEncoder) and joint.has_rate

    def update(self, samples: JointSamples, index: Tensor) -> None:
        room = self.most - self._held
        if room <= 0:
            return
        base = samples.q_z_given_x.base_dist
        self.z.append(samples.z_q[:room])
        self.loc.append(base.loc[:room])
        self.scale.append(base.scale[:room])
        self.index.append(index[:room].to(samples.z_q.device))
        self._held += len(samples.z_q[:room])

    def reset(self) -> None:
        super().reset()
        self._held = 0

    def _all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return dim_zero_cat(self.z), dim_zero_cat(self.loc), dim_zero_cat(self.scale), dim_zero_cat(self.index)


class Information(PosteriorSamples):
    """I_q(x;z) as an interval, in nats: the tightest of bounds that hold, each named.

    What q(x) is: on the training split its images, each as likely as another, observed anew every time; elsewhere images are
    draws of a population, so a sample is judged without all draws of its own image. A lower bound there may use several draws
    of an image: 1/K Σ_j q(z|x_j) has the mean q(z) for any draws that are each of the law q(x).

    i_q_lower: the largest of `i_q_lower_inclusive`, the aggregate posterior of K draws of x, own one included (at most log K),
        and `i_q_lower_nested`, I(m;z) + I(x;z|m) for images m (see `lagvae.information.images`), where log K is the limit.
    i_q_upper: the smallest of `i_q_upper_rate` (r is the prior), `_leave_one_out` (the aggregate posterior without the own
        draw or image), `_density` (a Gaussian mixture, fitted on one half of the samples and judged on the other), `_images` (a
        Gaussian for each image), `_mixed` (an equal mixture of these but the prior), and `_whole`: where x is one of N samples
        that are all there and never change, the inclusive bound is I itself.
    i_q: the middle of the interval. i_q_stderr: the larger standard error of the two ends. i_q_lower_limit: log K, or of the
        nested bound what it is at most.
    i_q_kde: the paper's eq. 21; with `i_q_kde_breaks_bound` = 1 where it exceeds the upper bound by more than two
        standard errors, or falls as far below the lower one.

    Args:
        samples: K; None: `most`, or what is there where x does not change.
        most: the largest K where no number is asked for.
        components: of the Gaussian mixture; 0 leaves it out.
        kde: whether to make the kernel density estimate.
        images: whether to observe images anew where they are binarised: for K draws in all, and for bounds image by image (2 to
            `TIMES` further draws of each; 5 K in all where log K is the limit).
        pairs: of a sample and a draw that are looked at, about; fewer samples are judged where K is large.
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
        self.asked, self.components, self.kde, self.images = samples, components, kde, images
        self.pairs, self.seed = pairs, seed
        self._everything: int | None = None
        self._size = 0
        self._redrawn = True
        self._redraw: Redraw | None = None

    def check(self, data: EvaluationData, key: str) -> None:
        there = max(data.size(split) for split in ("train", "val", "test"))
        if self.asked is not None and self.asked > there and not (self.images and data.is_stochastic):
            more = f"set {key}.images=true" if data.is_stochastic else "the same x again would say nothing new"
            raise SettingError(
                f"{key}.samples={self.asked} is more than the {there} samples that there are of x ({more}); lower it, or set "
                f"{key}.samples=null to take what is there."
            )

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        if not super().is_applicable(joint, data, split):
            return False
        self._size = data.size(split)
        self._everything = self._size if split == "train" else None
        self._redrawn = data.is_stochastic
        self._redraw = Redraw(data, split, joint.encoder) if self.images and data.is_stochastic else None
        return True

    def compute(self) -> dict[str, Tensor]:
        z, loc, scale, index = self._draws()
        k, everything = len(z), self._everything
        evaluated = (
            Noise(self.seed, "judged").permutation("judged", 0, k)[: max(EVALUATED, self.pairs // k)].sort()[0].to(z.device)
        )
        own, inclusive, others = aggregate(z[evaluated], loc, scale, evaluated, index if everything is None else None)
        # Of all images alike, others than the own are not quite draws of q(x): at most K/(K − 1) of its density.
        fitted = {"leave_one_out": others if everything is None else others + log1p(-1 / k)}
        if self.components:
            fitted["density"] = self._density(z, index, evaluated)
        rate = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1).double()

        def mean(values: Tensor) -> tuple[Tensor, Tensor]:
            """Of the judged samples, with what is known of all draws without sampling z: E log q(z|x) and E log p(z)."""
            if len(evaluated) < k:
                entropy = 0.5 * z.shape[1] * (1 + log(2 * pi)) + scale.double().log().sum(-1)
                log_p = gaussian_log_density(z[evaluated].double(), torch.zeros_like(z[0]), torch.ones_like(z[0]))
                known = torch.stack([-entropy, -entropy - rate], -1).mean(0)
                values = controlled(values, torch.stack([own, log_p], -1) - known)
            return mean_and_stderr(values, index[evaluated])

        lowers, limit = {"inclusive": mean(own - inclusive)}, log(k)
        if self._redraw is not None:
            held = index.unique()
            times = min(max(2, -(-k // len(held))), TIMES)
            which, fitted["images"] = between(z[evaluated], index[evaluated], held, self._redraw, times, everything)
            if log(k) - float(lowers["inclusive"][0]) < NEAR:
                each = max(2, 5 * k // IMAGES)
                inside = within(held, self._redraw, each, self.seed)
                lowers["nested"] = add(mean_and_stderr(which, index[evaluated]), mean_and_stderr(inside))
                if lowers["nested"][0] > lowers["inclusive"][0]:
                    limit = log(len(held)) + log(each)
        if len(fitted) > 1:
            fitted["mixed"] = equal_mixture(*fitted.values())
        uppers = {name: mean(own - log_r) for name, log_r in fitted.items()}
        uppers["rate"] = mean_and_stderr(rate, index)
        if not self._redrawn and k == everything:
            uppers["whole"] = lowers["inclusive"]
        lower, upper = max(lowers.values(), key=lambda v: float(v[0])), min(uppers.values(), key=lambda v: float(v[0]))
        result = {"i_q_lower": lower[0], "i_q_lower_stderr": lower[1], "i_q_upper": upper[0], "i_q_upper_stderr": upper[1]}
        result |= {f"i_q_lower_{name}": value for name, (value, _) in lowers.items()}
        result |= {f"i_q_upper_{name}": value for name, (value, _) in uppers.items()}
        result["i_q"], result["i_q_stderr"] = (lower[0] + upper[0]) / 2, torch.maximum(lower[1], upper[1])
        result["i_q_lower_limit"] = torch.tensor(limit, dtype=torch.float64)
        return result | (self._kde(z, loc, scale, index, result) if self.kde else {})

    def _draws(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, loc, scale and image of K draws of x: those of the evaluation, and as many more of every image as it takes."""
        z, loc, scale, index = self._all()
        if not self._redrawn:  # the same x again says nothing new
            first = earlier(index) == 0
            return z[first], loc[first], scale[first], index[first]
        if self._redraw is None or len(z) >= self.most:
            return z, loc, scale, index
        images = torch.arange(self._size, device=z.device)
        times = -(-(self.most - len(z)) // self._size)
        more_loc, more_scale = (each.flatten(0, 1) for each in self._redraw(images, times))
        noise = Noise(self.seed, "more draws").normal("z", 0, tuple(more_loc.shape), z.device)
        parts = ((z, more_loc + more_scale * noise), (loc, more_loc), (scale, more_scale), (index, images.repeat(times)))
        z, loc, scale, index = (torch.cat(part)[: self.most] for part in parts)
        return z, loc, scale, index

    def _kde(self, z: Tensor, loc: Tensor, scale: Tensor, index: Tensor, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The kernel density estimate, of single draws of images where these are draws of a population."""
        some = torch.arange(len(z), device=z.device) if self._everything is not None else (earlier(index) == 0).nonzero()[:, 0]
        some = thinned(some, KDE)
        value, stderr = mean_and_stderr(kde_information(z[some], loc[some], scale[some]), index[some])
        excess = torch.maximum(value - found["i_q_upper"], found["i_q_lower"] - value)
        breaks = excess > 2 * torch.maximum(stderr, found["i_q_stderr"])
        return {"i_q_kde": value, "i_q_kde_stderr": stderr, "i_q_kde_breaks_bound": breaks.double()}

    def _density(self, z: Tensor, index: Tensor, evaluated: Tensor) -> Tensor:
        """log r(z) of the judged samples, each half under a Gaussian mixture fitted on the other.

        Halves are of images, and of the draws of each where these are all images that there are.
        """
        import warnings

        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        half = (index + (earlier(index) if self._everything is not None else 0)) % 2
        log_r = torch.empty(len(evaluated), dtype=torch.float64, device=z.device)
        for fit in (0, 1):
            training = z[thinned((half == fit).nonzero()[:, 0], FITTED)].double().cpu().numpy()
            other = half[evaluated] != fit
            components = max(1, min(self.components, len(training) // (2 * z.shape[1] + 2)))
            mixture = GaussianMixture(components, reg_covar=1e-4, random_state=self.seed, max_iter=50)
            # As many threads as torch was given: more would wait for each other where several runs share a machine.
            with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
                warnings.simplefilter("ignore")  # a mixture that has not converged is still a density
                mixture.fit(training)
                scores = mixture.score_samples(z[evaluated][other].double().cpu().numpy())
            log_r[other] = torch.from_numpy(scores).to(z.device)
        return log_r


def earlier(index: Tensor) -> Tensor:
    """How many draws of the same image came before each."""
    order = index.argsort(stable=True)
    _, counts = index[order].unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    found = torch.empty_like(order)
    found[order] = torch.arange(len(index), device=index.device) - first
    return found


def thinned(some: Tensor, most: int) -> Tensor:
    """Every second, third … of them, so that at most `most` are left."""
    return some[:: max(1, -(-len(some) // most))]


def controlled(values: Tensor, controls: Tensor) -> Tensor:
    """Values (n,) of the same mean and less spread, by regression on controls (n, c) whose mean is known to be 0.

    What the coefficients' own error adds is of the order 1/n.

    Reference: Glasserman, Monte Carlo Methods in Financial Engineering, 2003.
    """
    centred = controls - controls.mean(0)
    slope = torch.linalg.lstsq(centred, (values - values.mean()).unsqueeze(-1)).solution
    return values - (controls @ slope).squeeze(-1)


def add(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of two independent estimates, each with its standard error."""
    return a[0] + b[0], (a[1].square() + b[1].square()).sqrt()


def tightest(values: Mapping[str, float]) -> dict[str, str]:
    """Which bounds the ends of the interval are, by name: i_q_lower_by, i_q_upper_by; {} where there is no interval."""
    ends = {"lower": (LOWER, max), "upper": (UPPER, min)}
    found = {}
    for end, (names, best) in ends.items():
        there = [name for name in names if f"i_q_{end}_{name}" in values]
        if there:
            found[f"i_q_{end}_by"] = best(there, key=lambda name: values[f"i_q_{end}_{name}"])
    return found
