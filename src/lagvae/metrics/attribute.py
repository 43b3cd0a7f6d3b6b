"""Bounds on I(z;u), what the codes tell about an attribute u, measured on a trained model."""

from __future__ import annotations

from math import inf, log
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import JointModel, JointSamples, draw_noise
from lagvae.divergences import entropy_of
from lagvae.errors import SettingError
from lagvae.information import Mixture
from lagvae.metrics.base import KERNEL, EvaluationData, LatentMetric, Sizes, mean_and_stderr, share_of
from lagvae.metrics.two_sample import FirstOccurrences
from lagvae.noise import Noise

LEAST = 500
"""Smallest number of samples to which a budget reduces the scores."""

HIDDEN, EPOCHS = (64, 64), 200
"""Layers of the classifier, and the number of passes over its training codes after which its training ends at the latest."""

PATIENCE, EPS = 20, 1e-6
"""Passes without a better likelihood after which the training ends, and the least probability in that likelihood."""

HELD_OUT = 0.1
"""The share of the training codes that decides when the training of the classifier ends."""

SMOOTHING = 0.01
"""Weight of the shares of u in r(u|z), so that a single code on which the classifier is sure and wrong does not decide."""

AT_ONCE = 500
"""Number of training images that are encoded at once."""


def attribute_posterior(z: Tensor, u: Tensor, values: int, at: Tensor) -> Tensor:
    """r(u|z) at codes `at`, (n, values), double precision, from a classifier that is trained on other codes.

    It is a multilayer perceptron on standardised codes, trained until its likelihood of a held-out tenth of them no longer
    rises, and mixed with `SMOOTHING` of the shares of u. Values that occur only once have their share alone.

    Args:
        z, u: codes, (N, d), in random order, and values of u, (N,), whole numbers below `values`.

    Examples:
        >>> u = torch.arange(400) % 2
        >>> z = u.unsqueeze(1) + 0.1 * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
        >>> [round(p, 1) for p in attribute_posterior(z, u, 2, torch.tensor([[0.0], [1.0]]))[:, 1].tolist()]
        [0.0, 1.0]
    """
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    count = u.bincount(minlength=values)
    shares = count.double() / len(u)
    posterior = shares.repeat(len(at), 1)
    chosen = (count >= 2)[u]
    z, u, known = z[chosen].double(), u[chosen], (count >= 2).nonzero().flatten().numpy()
    held_out = int(len(u) * HELD_OUT)
    if len(known) < 2 or not held_out:
        return posterior
    mean, deviation = z.mean(0), z.std(0).clamp(min=1e-12)
    z, at = (z - mean) / deviation, (at.double() - mean) / deviation
    network, best, waited, found = MLPClassifier(HIDDEN, random_state=0), inf, 0, None
    with threadpool_limits(torch.get_num_threads()):
        for _ in range(EPOCHS):
            network.partial_fit(z[held_out:].numpy(), u[held_out:].numpy(), classes=known)
            predicted = network.predict_proba(z[:held_out].numpy())
            true = np.searchsorted(known, u[:held_out].numpy())
            loss = float(-np.log(predicted[np.arange(held_out), true] + EPS).mean())
            waited += 1
            if loss < best:
                best, waited, found = loss, 0, network.predict_proba(at.numpy())
            if waited == PATIENCE:
                break
    assert found is not None
    posterior *= SMOOTHING
    posterior[:, known] += (1 - SMOOTHING) * torch.from_numpy(found)
    return posterior / posterior.sum(1, keepdim=True)


def mixture_log_ratio(z: Tensor, u: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log q(z_i|u_i) − log q(z_i) in nats, (n,): q(z) is the mean of the q(z|x_j), and q(z|u) that over the x_j with this u.

    The mean over z_i ∼ q(z|x_i) is I(z;u) of these x.

    Args:
        z: z_i ∼ q(z|x_i), (n, d). u: the attribute of x_i, (n,). loc, scale: those of the Gaussians q(z|x_i), (n, d).

    Examples:
        >>> u = torch.tensor([0, 0, 1, 1])
        >>> loc = u.double().unsqueeze(1)
        >>> mixture_log_ratio(loc, u, loc, torch.full((4, 1), 0.1).double())  # each code tells u: log 2
        tensor([0.6931, 0.6931, 0.6931, 0.6931], dtype=torch.float64)
    """
    ratio = log(len(u)) - Mixture(loc, scale)(z)
    for value in u.unique():
        own = u == value
        ratio[own] += Mixture(loc[own], scale[own])(z[own]) - log(int(own.sum()))
    return ratio


class AttributeScores(LatentMetric):
    """Both sides of I(z;u), the information of the codes z ∼ q(z|x) about the attribute u of an objective, in nats.

    i_zu_lower: H(u) + E log r(u|z), a lower bound by a classifier r that is trained anew, on codes of training images, and
        judged on others (Barber & Agakov, NeurIPS 2003). It is negative where r is worse than the shares of u.
    i_zu_upper: E log q(z|u) − log q(z), with the mixtures of the q(z|x) of the images that are measured. It is I(z;u) of these
        images, whose mean over draws of them is above that of the population, because I is convex in q(z|u). Where q(z|x) is so
        narrow that each code tells its image, it comes near H(u). Only for a Gaussian q(z|x).
    attribute_accuracy: the accuracy of r, and attribute_chance: the share of the most frequent u.

    r is trained on the first half of the training images, at most `samples` of them. On the training split the others are
    measured, on other splits all, again at most `samples`.

    Args:
        samples: the largest number of images.

    Raises: SettingError for a number that is too small.
    """

    z: list[Tensor]
    loc: list[Tensor]
    scale: list[Tensor]
    u: list[Tensor]

    def __init__(self, samples: int = 5000) -> None:
        super().__init__()
        if samples < 2:
            raise SettingError(f"callbacks.final.attribute.samples={samples} must be at least 2.")
        self.samples = samples
        for name in ("z", "loc", "scale", "u"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        if data.attribute(split) is None:
            return False
        self._joint: Any = joint
        self._data, self._split = data, split
        return True

    @property
    def trained(self) -> int:
        """The number of training images whose codes train the classifier."""
        return max(1, min(self.samples, self._data.size("train") // 2))

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked, self.samples = self.samples, share_of(self.samples, share, LEAST)
        return {"samples": (asked, self.samples)}

    def cost(self, sizes: Sizes) -> float:
        n = min(self.samples, sizes.images)
        weights = sizes.z * HIDDEN[0] + HIDDEN[0] * HIDDEN[1]
        return n * n * (2 * sizes.z + KERNEL) + self.trained * (3 * EPOCHS * weights + sizes.encode)

    def update(self, samples: JointSamples, index: Tensor) -> None:
        assert samples.u is not None
        if not self.z:
            self._new = FirstOccurrences(self.samples)
        others = (index >= self.trained if self._split == "train" else index >= 0).nonzero().flatten()
        rows = others[self._new(index[others].tolist())]
        self.z.append(samples.z_q[rows].cpu())
        self.u.append(samples.u[rows].cpu())
        if self._joint.has_gaussian_posterior:
            base = samples.q_z_given_x.base_dist
            self.loc.append(base.loc[rows].cpu())
            self.scale.append(base.scale[rows].cpu())

    def training_codes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Codes z ∼ q(z|x) of training images, (N, d), and their u, (N,)."""
        u = self._data.attribute("train")
        assert u is not None
        x = self._data.first_samples("train", self.trained)
        codes = []
        for step, part in enumerate(x.split(AT_ONCE)):
            part = part.to(device)
            noise = draw_noise(frozenset({"z_q"}), self._joint, Noise(0, "attribute"), step, part)
            codes.append(JointSamples(self._joint, part, noise).z_q.cpu())
        return torch.cat(codes), u[: self.trained]

    def compute(self) -> dict[str, Tensor]:
        z, u = dim_zero_cat(self.z), dim_zero_cat(self.u)
        values = len(self._data.attribute_shares or ())
        posterior = attribute_posterior(*self.training_codes(next(self._joint.parameters()).device), values, z)
        shares = u.bincount(minlength=values).double() / len(u)
        lower, stderr = mean_and_stderr(posterior[torch.arange(len(u)), u].log())
        accuracy, accuracy_stderr = mean_and_stderr(posterior.argmax(1) == u)
        result = {"i_zu_lower": entropy_of(shares) + lower, "i_zu_lower_stderr": stderr}
        if self.loc:
            loc, scale = (dim_zero_cat(state).double() for state in (self.loc, self.scale))
            result["i_zu_upper"], result["i_zu_upper_stderr"] = mean_and_stderr(mixture_log_ratio(z.double(), u, loc, scale))
        return result | {
            "attribute_accuracy": accuracy,
            "attribute_accuracy_stderr": accuracy_stderr,
            "attribute_chance": shares.max(),
        }
