"""Terms of the objective, divergences by their own estimators, active units, and reconstruction errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import EmpiricalPrior, JointModel, JointSamples, NormalDecoder, mean_of, with_gaps_of
from lagvae.divergences import Divergence
from lagvae.metrics.base import EvaluationData, LatentMetric, mean_and_stderr


class Terms(LatentMetric):
    """rate, distortion and neg_elbo (nats), as far as the joint model defines them, each a mean with a standard error.

    Also neg_elbo_per_dim, −ELBO divided by the number of coordinates of x, where p(x|z) is a density or a
    probability of levels (`NormalDecoder` and its subclasses).

    Examples:
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> terms = Terms()
        >>> terms.update(JointSamples(joint, torch.zeros(4, 2), {"z_q": torch.zeros(4, 2)}), torch.arange(4))
        >>> {name: round(float(value), 2) for name, value in terms.compute().items()}  # −log p(x) = log 2π at x = 0
        {'neg_elbo': 1.84, 'neg_elbo_stderr': 0.0, 'rate': 0.0, 'rate_stderr': 0.0, 'distortion': 1.84,
        'distortion_stderr': 0.0}
    """

    index: list[Tensor]
    rate: list[Tensor]
    distortion: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = 0  # of x; 0 for another p(x|z)
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

    Examples:
        >>> from lagvae.divergences import MMD, RBF
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> values, x = DivergenceValues({"mmd": MMD(RBF(1.0))}), torch.zeros(4, 2)
        >>> for z in (torch.zeros(4, 2), torch.full((4, 2), 10.0)):  # one batch of z equals that of the prior, one is far away
        ...     values.update(JointSamples(joint, x, {"z_q": z, "z_p": torch.zeros(4, 2)}), torch.arange(4))
        >>> round(float(values.compute()["mmd"]), 3)  # the mean of 0 and of 1 + 1
        1.0
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

    Args:
        latent: dimension of z. threshold: in the unit of z squared.

    Reference: Burda, Grosse, Salakhutdinov, ICLR 2016 (threshold 0.01).

    Examples:
        >>> from torch.distributions import Normal
        >>> from types import SimpleNamespace
        >>> units = ActiveUnits(latent=2)
        >>> units.update(SimpleNamespace(q_z_given_x=Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 1.0)), torch.arange(2))
        >>> float(units.compute()["active_units"])  # the second mean is the same for both x
        1.0
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

    What is missing of a row of a table has no error.

    If z is a second domain of data (`EmpiricalPrior`), also reconstruction_z = E_p (z − E[z|x])² with x ∼ p(x|z), with its
    standard error over the rows of the prior.

    Examples:
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> error = ReconstructionError()
        >>> error.update(JointSamples(joint, torch.tensor([[1.0, 3.0]]), {"z_q": torch.zeros(1, 2)}), torch.arange(1))
        >>> float(error.compute()["reconstruction"])  # (1² + 3²) / 2
        5.0
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
        means = with_gaps_of(samples.x_q, mean_of(samples.p_x_given_z_q), samples.joint)
        self.value.append((samples.x_q - means).flatten(1).square().mean(1))
        if isinstance(prior := samples.joint.prior, EmpiricalPrior):
            self.row.append(prior.row(samples.noise["z_p"]))
            self.backward.append((samples.z_p - mean_of(samples.q_z_given_x_p)).square().mean(1))

    def compute(self) -> dict[str, Tensor]:
        result = {}
        for name, value, index in (("reconstruction", self.value, self.index), ("reconstruction_z", self.backward, self.row)):
            if len(value):
                result[name], result[f"{name}_stderr"] = mean_and_stderr(dim_zero_cat(value), dim_zero_cat(index))
        return result
