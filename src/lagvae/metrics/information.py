"""I_q(x;z) as an interval, from samples of q(z|x)."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.errors import SettingError
from lagvae.information import aggregate_bounds, density_upper, kde_information
from lagvae.laws import GaussianEncoder, JointSamples, Laws
from lagvae.metrics.base import Known, Measure


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

    def defined(self, laws: Laws, data: Known, split: str) -> bool:
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
