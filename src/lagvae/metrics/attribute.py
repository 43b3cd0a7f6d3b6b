"""Bounds on I(z;u), what the codes tell about an attribute u, measured on a trained model."""

from __future__ import annotations

import copy
from functools import lru_cache
from math import inf, log
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import JointModel, JointSamples, draw_noise
from lagvae.errors import SettingError
from lagvae.information import Mixture
from lagvae.introspection import device_of
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
    rises, and mixed with `SMOOTHING` of the shares of u. Values that occur once or never have their share
    alone; ½ is added to the counts that the shares are of.

    Args:
        z, u: codes, (N, d), in random order, and values of u, (N,), whole numbers below `values`.

    Examples:
        >>> u = torch.arange(400) % 2
        >>> z = u.unsqueeze(1) + 0.1 * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
        >>> [round(p, 1) for p in attribute_posterior(z, u, 2, torch.tensor([[0.0], [1.0]]))[:, 1].tolist()]
        [0.0, 1.0]
    """
    classifier = trained_classifier_of_u(z.double().numpy().tobytes(), u.numpy().tobytes(), z.shape[1])
    posterior = (u.bincount(minlength=values).double() + 0.5).repeat(len(at), 1) / (len(u) + 0.5 * values)
    if classifier is not None:
        posterior *= SMOOTHING
        found = torch.from_numpy(classifier.predict_proba(at.double().numpy()))
        posterior[:, np.asarray(classifier.classes_)] += (1 - SMOOTHING) * found
    return posterior / posterior.sum(1, keepdim=True)


@lru_cache(maxsize=2)
def trained_classifier_of_u(z: bytes, u: bytes, width: int) -> Any:
    """The classifier of `attribute_posterior`, or None for too few codes. It is cached because all splits have the same one."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    codes, values = np.frombuffer(z).reshape(-1, width), np.frombuffer(u, dtype=np.int64)
    known = np.flatnonzero(np.bincount(values) >= 2)
    chosen = np.isin(values, known)
    codes, values = codes[chosen], values[chosen]
    held_out = int(len(values) * HELD_OUT)
    if len(known) < 2 or not held_out:
        return None
    scaler = StandardScaler().fit(codes)
    codes, true = scaler.transform(codes), np.searchsorted(known, values)
    network, least, waited, best = MLPClassifier(HIDDEN, random_state=0), inf, 0, None
    with threadpool_limits(torch.get_num_threads()):
        for _ in range(EPOCHS):
            network.partial_fit(codes[held_out:], values[held_out:], classes=known)
            predicted = network.predict_proba(codes[:held_out])[np.arange(held_out), true[:held_out]]
            loss = float(-np.log(predicted + EPS).mean())
            waited += 1
            if best is None or loss < least:
                least, waited, best = loss, 0, copy.deepcopy(network)
            if waited == PATIENCE:
                break
    return make_pipeline(scaler, best)


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

    Both are for the shares of u among the images that are measured.

    i_zu_lower: E log r(u|z) / p(u), a lower bound by a classifier r that is trained anew, on codes of training images, and
        judged on others (Barber & Agakov, NeurIPS 2003). It is negative where r is worse than the shares of u.
    i_zu_upper: E log q(z|u) − log q(z), with the mixtures of the q(z|x) of the images that are measured. It is I(z;u) of these
        images; for given shares of u its mean over draws of them is above that of the population, because I is convex in
        q(z|u). Where q(z|x) is so narrow that each code tells its image, it comes near H(u). Only for a Gaussian q(z|x).
    attribute_accuracy: the accuracy of r, and attribute_chance: the share of the most frequent u.

    r is trained on every second training image, at most `samples` of them. On the training split the others are measured, on
    other splits all, again at most `samples`.

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
        self._source = joint, data, split  # in a tuple, so that the model is no part of this module
        return True

    @property
    def trained(self) -> int:
        """The number of training images whose codes train the classifier."""
        _, data, _ = self._source
        return max(1, min(self.samples, data.size("train") // 2))

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked, self.samples = self.samples, share_of(self.samples, share, LEAST)
        return {"samples": (asked, self.samples)}

    def cost(self, sizes: Sizes) -> float:
        n = min(self.samples, sizes.images)
        weights = sizes.z * HIDDEN[0] + HIDDEN[0] * HIDDEN[1]
        return n * n * (2 * sizes.z + KERNEL) + self.trained * (3 * EPOCHS * weights + sizes.encode)

    def update(self, samples: JointSamples, index: Tensor) -> None:
        assert samples.u is not None
        joint, _, split = self._source
        if not self.z:
            self._new = FirstOccurrences(self.samples)
        trains = (index % 2 == 1) & (index < 2 * self.trained) if split == "train" else index < 0
        others = (~trains).nonzero().flatten()
        rows = others[self._new(index[others].tolist())]
        self.z.append(samples.z_q[rows].cpu())
        self.u.append(samples.u[rows].cpu())
        if joint.has_gaussian_posterior:
            base = samples.q_z_given_x.base_dist
            self.loc.append(base.loc[rows].cpu())
            self.scale.append(base.scale[rows].cpu())

    def training_codes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Codes z ∼ q(z|x) of training images, (N, d), and their u, (N,)."""
        joint, data, _ = self._source
        u = data.attribute("train")
        assert u is not None
        x = data.first_samples("train", 2 * self.trained)[1::2]
        codes = []
        for step, part in enumerate(x.split(AT_ONCE)):
            part = part.to(device)
            noise = draw_noise(frozenset({"z_q"}), joint, Noise(0, "attribute"), step, part)
            codes.append(JointSamples(joint, part, noise).z_q.cpu())
        return torch.cat(codes), u[: 2 * self.trained][1::2].contiguous()

    def compute(self) -> dict[str, Tensor]:
        joint, data, _ = self._source
        z, u = dim_zero_cat(self.z), dim_zero_cat(self.u)
        values = len(data.attribute_shares or ())
        posterior = attribute_posterior(*self.training_codes(device_of(joint)), values, z)
        shares = u.bincount(minlength=values).double() / len(u)
        result = {"attribute_chance": shares.max()}
        result["i_zu_lower"], result["i_zu_lower_stderr"] = mean_and_stderr(
            posterior[torch.arange(len(u)), u].log() - shares[u].log()
        )
        if self.loc:
            loc, scale = (dim_zero_cat(state).double() for state in (self.loc, self.scale))
            result["i_zu_upper"], result["i_zu_upper_stderr"] = mean_and_stderr(mixture_log_ratio(z.double(), u, loc, scale))
        result["attribute_accuracy"], result["attribute_accuracy_stderr"] = mean_and_stderr(posterior.argmax(1) == u)
        return result
