"""Terms of the objective, divergences by their own estimators, active units, and reconstruction errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import EmpiricalPrior, JointModel, JointSamples, NormalDecoder, mean_of
from lagvae.divergences import Divergence
from lagvae.metrics.base import EvaluationData, LatentMetric, mean_and_stderr


class Terms(LatentMetric):
    """rate, distortion and neg_elbo (nats), as far as the joint model defines them, each a mean with a standard error.

    Also neg_elbo_per_dim, −ELBO divided by the number of coordinates of x, where p(x|z) is a density (`NormalDecoder`).
    """

    index: list[Tensor]
    rate: list[Tensor]
    distortion: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = 0  # of x; 0 for a p(x|z) that is not a density
        for name in ("index", "rate", "distortion"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: JointSamples, index: Tensor) -> None:
        self.index.append(index.to(samples.x_q.device))
        if samples.joint.has_rate:
            self.rate.append(samples.rate)
        if samples.joint.has_distortion:
            self.distortion.append(samples.distortion)
        if isinstance(samples.joint.decoder, NormalDecoder):
            self.coordinates = samples.x_q[0].numel()

    def compute(self) -> dict[str, Tensor]:
        terms = {name: dim_zero_cat(state) for name in ("rate", "distortion") if len(state := getattr(self, name))}
        if len(terms) == 2:
            terms = {"neg_elbo": terms["rate"] + terms["distortion"], **terms}
            if self.coordinates:
                terms["neg_elbo_per_dim"] = terms["neg_elbo"] / self.coordinates
        result = {}
        for name, values in terms.items():
            result[name], result[f"{name}_stderr"] = mean_and_stderr(values, dim_zero_cat(self.index))
        return result


class DivergenceValues(LatentMetric):
    """Divergences by their own estimators: the mean over batches, weighted by size, and its standard error over batches.

    Args:
        divergences: name → estimator. The mean of a U-statistic does not depend on the batch size, but that of a V-statistic
            does; batches are therefore as large as in training.
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


class ActiveUnits(LatentMetric):
    """The number of latent coordinates whose posterior mean varies over the data: Var_x E[z_k|x] > `threshold`.

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

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        return bool(joint.prior.has_density)

    def update(self, samples: JointSamples, index: Tensor) -> None:
        mean = mean_of(samples.q_z_given_x).double()
        self.total += mean.sum(0)
        self.square += mean.square().sum(0)
        self.count += len(mean)

    def compute(self) -> dict[str, Tensor]:
        variance = self.square / self.count - (self.total / self.count).square()
        return {"active_units": (variance > self.threshold).sum().double()}


class ReconstructionError(LatentMetric):
    """reconstruction = E_q (x − E[x|z])² with z ∼ q(z|x), the mean over coordinates, with its standard error over images.

    If z is a second domain of data (`EmpiricalPrior`), also reconstruction_z = E_p (z − E[z|x])² with x ∼ p(x|z), with its
    standard error over the rows of the prior.
    """

    index: list[Tensor]
    value: list[Tensor]
    row: list[Tensor]
    backward: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "value", "row", "backward"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: JointSamples, index: Tensor) -> None:
        self.index.append(index.to(samples.x_q.device))
        self.value.append((samples.x_q - mean_of(samples.p_x_given_z_q)).flatten(1).square().mean(1))
        if isinstance(prior := samples.joint.prior, EmpiricalPrior):
            self.row.append(prior.row(samples.noise["z_p"]))
            self.backward.append((samples.z_p - mean_of(samples.q_z_given_x_p)).square().mean(1))

    def compute(self) -> dict[str, Tensor]:
        result = {}
        for name, value, index in (("reconstruction", self.value, self.index), ("reconstruction_z", self.backward, self.row)):
            if len(value):
                result[name], result[f"{name}_stderr"] = mean_and_stderr(dim_zero_cat(value), dim_zero_cat(index))
        return result
