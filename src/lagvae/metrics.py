"""What is measured of a model on a split: torchmetrics metrics over `JointSamples`.

`update(samples, index)` takes a batch and the positions of its samples in their split; `compute()` returns
name → value (0-dim tensors, information in nats) and for each estimate x its standard error as "x_stderr".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import log

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lagvae.errors import SettingError
from lagvae.estimators import Divergence
from lagvae.information import aggregate_bounds, density_upper, kde_information
from lagvae.laws import CodesPrior, EmpiricalPrior, GaussianEncoder, JointSamples, Laws, StandardNormalPrior


class Measure(Metric):
    """Base of the metrics here: samples in, named values out."""

    full_state_update = False
    each_image_once = False
    """Whether a held-out image may count only once (on the training split q(x) *is* its images, drawn anew)."""

    def defined(self, laws: Laws) -> bool:
        """Whether the laws have what is measured; what is not defined is not reported."""
        return True

    @abstractmethod
    def update(self, samples: JointSamples, index: Tensor) -> None: ...

    @abstractmethod
    def compute(self) -> dict[str, Tensor]: ...


def mean_and_stderr(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over samples, and its standard error with every *image* as one independent observation.

    An image that was drawn several times (new noise) counts once, with the mean of its values.
    """
    values = values.double()
    _, inverse = index.unique(return_inverse=True)
    n = int(inverse.max()) + 1
    count = torch.zeros(n, dtype=torch.float64, device=values.device).index_add_(0, inverse, torch.ones_like(values))
    by_image = torch.zeros_like(count).index_add_(0, inverse, values) / count
    stderr = by_image.std() / n**0.5 if n > 1 else by_image.new_tensor(float("nan"))
    return values.mean(), stderr


class Terms(Measure):
    """rate, distortion and neg_elbo (nats), as far as the laws have them, each a mean with a standard error."""

    index: list[Tensor]
    rate: list[Tensor]
    distortion: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "rate", "distortion"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: JointSamples, index: Tensor) -> None:
        self.index.append(index.to(samples.x_q.device))
        if samples.laws.has_rate:
            self.rate.append(samples.rate)
        if samples.laws.has_distortion:
            self.distortion.append(samples.distortion)

    def compute(self) -> dict[str, Tensor]:
        values = {name: dim_zero_cat(kept) for name in ("rate", "distortion") if len(kept := getattr(self, name))}
        if len(values) == 2:
            values = {"neg_elbo": values["rate"] + values["distortion"], **values}
        result = {}
        for name, each in values.items():
            result[name], result[f"{name}_stderr"] = mean_and_stderr(each, dim_zero_cat(self.index))
        return result


class InformationOfModel(Measure):
    """i_p_lower = E_p log q(z|x) + H_p(z) ≤ I_p(x;z) in nats, of the codes where the prior has codes (Barber & Agakov, 2003).

    i_p_share: its part of H_p, where z is discrete or bounded (`CodesPrior`).
    """

    value: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("value", [], dist_reduce_fx="cat")
        self.entropy, self.codes = 0.0, False

    def defined(self, laws: Laws) -> bool:
        self.entropy, self.codes = laws.prior.entropy, isinstance(laws.prior, CodesPrior)
        return bool(laws.encoder.has_density) and not isinstance(laws.prior, EmpiricalPrior)

    def update(self, samples: JointSamples, index: Tensor) -> None:
        self.value.append(samples.q_z_given_x_p.log_prob(samples.z_p).double())

    def compute(self) -> dict[str, Tensor]:
        value = dim_zero_cat(self.value)
        lower = value.mean() + self.entropy
        result = {"i_p_lower": lower, "i_p_lower_stderr": value.std() / len(value) ** 0.5}
        return result | ({"i_p_share": lower / self.entropy} if self.codes else {})


class Divergences(Measure):
    """Divergences by their own estimators: mean over batches weighted by size, standard error over batches.

    Args:
        divergences: name → estimator. A U-statistic has the same mean for every batch size; a V-statistic has not,
            so batches are as large as in training.
    """

    value: list[Tensor]
    size: list[Tensor]

    def __init__(self, divergences: Mapping[str, Divergence]) -> None:
        super().__init__()
        self.divergences = dict(divergences)
        for name in ("value", "size"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: JointSamples, index: Tensor) -> None:
        if len(index) < 2 or not self.divergences:
            return
        row = torch.stack([divergence(samples) for divergence in self.divergences.values()])
        self.value.append(row.double().unsqueeze(0))
        self.size.append(torch.full((1,), float(len(index)), dtype=torch.float64, device=row.device))

    def compute(self) -> dict[str, Tensor]:
        if len(self.value) == 0:
            return {key: torch.tensor(float("nan")) for name in self.divergences for key in (name, f"{name}_stderr")}
        value, size = dim_zero_cat(self.value), dim_zero_cat(self.size)
        n, weight = len(size), (size / size.sum()).unsqueeze(-1)
        mean = (weight * value).sum(0)
        if n > 1:
            variance = (weight * (value - mean).square()).sum(0) * n / (n - 1)
            stderr = variance.sqrt() * weight.square().sum().sqrt()
        else:
            stderr = torch.full_like(mean, float("nan"))
        pairs = zip(self.divergences, mean, stderr, strict=True)
        return {key: v for name, m, s in pairs for key, v in ((name, m), (f"{name}_stderr", s))}


class PosteriorSamples(Measure):
    """Base of what needs z, and q(z|x) at each, all at once."""

    each_image_once = True
    z: list[Tensor]
    loc: list[Tensor]
    scale: list[Tensor]

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._held = 0
        for name in ("z", "loc", "scale"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def defined(self, laws: Laws) -> bool:
        return isinstance(laws.encoder, GaussianEncoder) and laws.has_rate

    def update(self, samples: JointSamples, index: Tensor) -> None:
        room = self.most - self._held
        if room <= 0:
            return
        base = samples.q_z_given_x.base_dist
        self.z.append(samples.z_q[:room])
        self.loc.append(base.loc[:room])
        self.scale.append(base.scale[:room])
        self._held += len(samples.z_q[:room])

    def reset(self) -> None:
        super().reset()
        self._held = 0

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return dim_zero_cat(self.z), dim_zero_cat(self.loc), dim_zero_cat(self.scale)


class Information(PosteriorSamples):
    """I_q(x;z) as an interval, in nats, from up to `samples` draws.

    i_q_lower: inclusive aggregate posterior (at most log K).
    i_q_upper: the smallest of the valid upper bounds; `i_q_upper_rate`, `i_q_upper_leave_one_out`, and in the final
        evaluation `i_q_upper_density`, a Gaussian mixture fitted on one half of the samples and judged on the other.
    i_q: the middle of the interval. i_q_stderr: the larger standard error of the two ends.
    i_q_kde: the paper's eq. 21; with `i_q_kde_breaks_bound` = 1 where it exceeds the upper bound by more than two
        standard errors, or falls as far below the lower one.

    Args:
        samples: the largest K; time grows with K².
        components: of the Gaussian mixture; 0 leaves it out.
        kde: whether to make the kernel density estimate.
    """

    def __init__(self, samples: int = 1000, components: int = 0, kde: bool = False, seed: int = 0) -> None:
        if samples < 4:
            raise SettingError(f"The information interval needs at least 4 samples, not samples={samples}.")
        super().__init__(samples)
        self.components, self.kde, self.seed = components, kde, seed

    def compute(self) -> dict[str, Tensor]:
        z, loc, scale = self._all()
        k = len(z)
        lower, leave_one_out = aggregate_bounds(z, loc, scale)
        rate = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)
        uppers = {"rate": rate.double(), "leave_one_out": leave_one_out}
        if self.components:
            uppers["density"] = self._density(z, loc, scale)

        def stderr(values: Tensor) -> Tensor:
            return values.std() / len(values) ** 0.5

        tightest = min(uppers, key=lambda name: float(uppers[name].mean()))
        result = {"i_q_lower": lower.mean(), "i_q_upper": uppers[tightest].mean()}
        result |= {f"i_q_upper_{name}": values.mean() for name, values in uppers.items()}
        result["i_q"] = (result["i_q_lower"] + result["i_q_upper"]) / 2
        result["i_q_lower_stderr"], result["i_q_upper_stderr"] = stderr(lower), stderr(uppers[tightest])
        result["i_q_stderr"] = torch.maximum(result["i_q_lower_stderr"], result["i_q_upper_stderr"])
        result["i_q_lower_limit"] = torch.tensor(log(k), dtype=torch.float64)
        if self.kde:
            kde = kde_information(z, loc, scale)
            result["i_q_kde"], result["i_q_kde_stderr"] = kde.mean(), stderr(kde)
            excess = torch.maximum(result["i_q_kde"] - result["i_q_upper"], result["i_q_lower"] - result["i_q_kde"])
            breaks = excess > 2 * torch.maximum(result["i_q_kde_stderr"], result["i_q_stderr"])
            result["i_q_kde_breaks_bound"] = breaks.double()
        return result

    def _density(self, z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """log q(z|x) − log r(z), each half under a mixture fitted on the other."""
        import warnings

        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        points = z.double().cpu().numpy()
        half = len(points) // 2
        log_r = torch.empty(len(points), dtype=torch.float64)
        for fit, judge in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            training = points[fit][:5000]
            components = max(1, min(self.components, len(training) // (2 * points.shape[1] + 2)))
            mixture = GaussianMixture(components, reg_covar=1e-4, random_state=self.seed, max_iter=50)
            # As many threads as torch was given: more would wait for each other where several runs share a machine.
            with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
                warnings.simplefilter("ignore")  # a mixture that has not converged is still a density
                mixture.fit(training)
                log_r[judge] = torch.from_numpy(mixture.score_samples(points[judge]))
        return density_upper(z.cpu(), loc.cpu(), scale.cpu(), log_r).to(z.device)


class ActiveUnits(Measure):
    """Latent coordinates whose posterior mean varies over the data: Var_x E[z_k|x] > `threshold`.

    Reference: Burda, Grosse, Salakhutdinov, ICLR 2016 (threshold 0.01).
    """

    total: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, latent: int, threshold: float = 0.01) -> None:
        super().__init__()
        self.threshold = threshold
        for name in ("total", "square"):
            self.add_state(name, torch.zeros(latent, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def defined(self, laws: Laws) -> bool:
        return isinstance(laws.prior, StandardNormalPrior)

    def update(self, samples: JointSamples, index: Tensor) -> None:
        mean = samples.q_z_given_x.mean.double()
        self.total += mean.sum(0)
        self.square += mean.square().sum(0)
        self.count += len(mean)

    def compute(self) -> dict[str, Tensor]:
        variance = self.square / self.count - (self.total / self.count).square()
        return {"active_units": (variance > self.threshold).sum().double()}
