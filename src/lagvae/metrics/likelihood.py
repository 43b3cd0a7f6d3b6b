"""Estimates by importance sampling with the proposal q(z|x): −log p(x) of the data, and bounds on I_p(x;z)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import CodesPrior, EmpiricalPrior, JointModel, JointSamples, has_weights, log_weights
from lagvae.errors import SettingError
from lagvae.information import marginal_bounds
from lagvae.metrics.base import EvaluationData, LatentMetric, Sizes, mean_and_stderr, share_of
from lagvae.metrics.two_sample import FirstOccurrences
from lagvae.noise import Noise

LEAST_DRAWS, LEAST_SAMPLES = 8, 32
"""Smallest numbers to which the evaluation's budget reduces the draws of q(z|x), and the samples x."""


class ImportanceSampling(LatentMetric):
    """Base of the metrics with importance weights, from `draws` values of z at each of `samples` values of x."""

    draws: int
    samples: int

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked = {"draws": self.draws, "samples": self.samples}
        self.draws = share_of(self.draws, share**0.5, LEAST_DRAWS)
        self.samples = share_of(self.samples, share**0.5, LEAST_SAMPLES)
        self.reset()
        return {name: (number, getattr(self, name)) for name, number in asked.items()}


class MarginalLikelihood(ImportanceSampling):
    """nll = −E log 1/S Σ_s p(x, z_s) / q(z_s|x), z_s ∼ q(z|x), in nats; its expectation is between −E log p(x) and −ELBO.

    Args:
        draws: S. samples: the largest number of samples of a split; they are evenly spaced over it and each is used once.

    Raises: SettingError for fewer than one draw or two samples.

    Reference: Burda, Grosse, Salakhutdinov, ICLR 2016.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> likelihood = MarginalLikelihood(draws=8)
        >>> likelihood.update(JointSamples(joint, torch.zeros(4, 2), {}), torch.arange(4))
        >>> round(float(likelihood.compute()["nll"]), 4)  # log 2π
        1.8379
    """

    value: list[Tensor]
    index: list[Tensor]

    def __init__(self, draws: int = 64, samples: int = 1000, seed: int = 0) -> None:
        if draws < 1 or samples < 2:
            raise SettingError(f"−log p(x) takes at least draws=1 and samples=2, not draws={draws}, samples={samples}.")
        super().__init__()
        self.draws, self.samples, self.noise = draws, samples, Noise(seed, "likelihood")
        self._step, self._once = 0, FirstOccurrences(samples)
        self._images: Callable[[], int] = lambda: 0  # the number of images that are evaluated, once that is decided
        for name in ("value", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        self._images = lambda: min(data.size(split), data.draws_of(split))
        return has_weights(joint)

    def cost(self, sizes: Sizes) -> float:
        return min(self.samples, sizes.images, sizes.draws) * self.draws * sizes.decode

    def update(self, samples: JointSamples, index: Tensor) -> None:
        self._step += 1
        every = max(1, -(-self._images() // self.samples))
        spaced = [i for i, image in enumerate(index.tolist()) if image % every == 0]
        new = self._once([int(index[i]) for i in spaced])
        if used := [spaced[i] for i in new]:
            weights = log_weights(samples.joint, samples.x_q[used], self.draws, self.noise, self._step)
            self.value.append(-marginal_bounds(weights)[0])
            self.index.append(index[used].to(samples.x_q.device))

    def reset(self) -> None:
        super().reset()
        self._once = FirstOccurrences(self.samples)

    def compute(self) -> dict[str, Tensor]:
        if not len(self.value):
            return {}
        value, stderr = mean_and_stderr(dim_zero_cat(self.value), dim_zero_cat(self.index))
        return {"nll": value, "nll_stderr": stderr}


class InformationOfModel(ImportanceSampling):
    """Bounds on I_p(x;z) in nats; where the prior has codes (`CodesPrior`), on the information about the codes.

    i_p_lower: E_p log q(z|x) + H_p(z) (Barber & Agakov, 2003). If x is sampled from the density p(x|z), the larger of that and
        of E_p log p(x|z) − log p̂(x), where p̂ is an importance sampling estimate from `draws` + 1 values of z, one of which is
        the z from which x was generated.
    i_p_upper: the latter estimate without that z. Both bounds hold in expectation for any number of draws, and become equal as
        q(z|x) → p(z|x).
    i_p_share: i_p_lower divided by H_p, where all codes are discrete (`CodesPrior`): a differential entropy is no upper limit.

    Args:
        draws: number of draws of q(z|x) for each x; 0 for the first bound alone.
        samples: the largest number of x ∼ p for which importance sampling is done.

    Raises: SettingError for a negative number of draws, or fewer than two samples.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from torch.distributions import Normal
        >>> class Standard(nn.Module):  # N(0, I) on R² for z, given x, and for x, given z
        ...     def forward(self, *given):
        ...         return Normal(torch.zeros(*(len(each) for each in given), 2), 1.0)
        >>> joint = JointModel(prior=Standard(), encoder=Standard(), decoder=Standard())
        >>> information = InformationOfModel()
        >>> information.is_applicable(joint, data=None, split="test")  # it also reads the entropy of p(z), log 2π + 1
        True
        >>> noise = {"z_p": torch.ones(4, 2), "x_p": torch.zeros(4, 2)}
        >>> information.update(JointSamples(joint, torch.zeros(4, 2), noise), torch.arange(4))
        >>> abs(round(float(information.compute()["i_p_lower"]), 4))  # x and z are independent; log q(z|x) = −log 2π − 1
        0.0
    """

    uses_model = True
    value: list[Tensor]
    below: list[Tensor]
    above: list[Tensor]

    def __init__(self, draws: int = 0, samples: int = 1000, seed: int = 0) -> None:
        if draws < 0 or samples < 2:
            raise SettingError(f"I_p takes draws ≥ 0 and samples ≥ 2, not draws={draws}, samples={samples}.")
        super().__init__()
        for name in ("value", "below", "above"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.draws, self.samples, self.noise = draws, samples, Noise(seed, "information of the model")
        self.entropy: float | None = 0.0
        self.discrete, self.weighs, self._weighted = False, False, 0

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        self.entropy = joint.prior.entropy
        self.discrete = isinstance(joint.prior, CodesPrior) and not joint.prior.uniform
        self.weighs = bool(self.draws) and has_weights(joint) and not getattr(joint.decoder, "means", False)
        known = self.entropy is not None or joint.prior.has_density
        return bool(joint.encoder.has_density) and not isinstance(joint.prior, EmpiricalPrior) and known

    def update(self, samples: JointSamples, index: Tensor) -> None:
        value = samples.q_z_given_x_p.log_prob(samples.z_p).double()
        # Where torch does not know H_p(z), −log p(z) at the same z has it as its mean.
        self.value.append(value if self.entropy is not None else value - samples.p_z.log_prob(samples.z_p).double())
        if not self.weighs or self._weighted >= self.samples:
            return
        n = min(len(index), self.samples - self._weighted)
        x, z, joint = samples.x_p[:n], samples.z_p[:n], samples.joint
        log_p = joint.decoder(z).log_prob(x).double()
        own = joint.prior().log_prob(z).double() + log_p - joint.encoder(x).log_prob(z).double()
        below, above = marginal_bounds(log_weights(joint, x, self.draws, self.noise, self._weighted), own)
        assert above is not None
        self.above.append(log_p - below)
        self.below.append(log_p - above)
        self._weighted += n

    def cost(self, sizes: Sizes) -> float:
        return min(self.samples, sizes.draws) * self.draws * sizes.decode if self.weighs else 0.0

    def reset(self) -> None:
        super().reset()
        self._weighted = 0

    def compute(self) -> dict[str, Tensor]:
        lower, error = mean_and_stderr(dim_zero_cat(self.value))
        lower, result = lower + (self.entropy or 0.0), {}
        if len(self.above):
            weighted, weighted_error = mean_and_stderr(dim_zero_cat(self.below))
            lower, error = (weighted, weighted_error) if weighted > lower else (lower, error)
            result["i_p_upper"], result["i_p_upper_stderr"] = mean_and_stderr(dim_zero_cat(self.above))
        result = {"i_p_lower": lower, "i_p_lower_stderr": error} | result
        return result | ({"i_p_share": lower / self.entropy} if self.discrete and self.entropy else {})
