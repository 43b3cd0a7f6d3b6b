"""What is known of data beside the samples, and how far a model agrees with it: labels of codes, true partners, classes."""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import CodesEncoder, EmpiricalPrior, JointModel, JointSamples
from lagvae.divergences import squared_distances
from lagvae.metrics.base import EvaluationData, LatentMetric, mean_and_stderr
from lagvae.noise import Noise


class CodeAgreement(LatentMetric):
    """How far the first categorical code q(c|x) tells the label that no model saw.

    code_accuracy: the share of images whose most probable code stands for their label, under the best one-to-one assignment
        of codes to labels (chance is a little above 1/K). code_nmi: normalised mutual information, in [0, 1].
    """

    count_images_once = True
    code: list[Tensor]
    label: list[Tensor]
    index: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("code", "label", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        self._labels = data.labels(split)
        return isinstance(joint.encoder, CodesEncoder) and bool(joint.prior.categorical) and self._labels is not None

    def update(self, samples: JointSamples, index: Tensor) -> None:
        assert self._labels is not None
        self.code.append(samples.q_z_given_x.code_logits.argmax(-1))
        self.label.append(self._labels[index.cpu()].to(samples.x_q.device))
        self.index.append(index.to(samples.x_q.device))

    def compute(self) -> dict[str, Tensor]:
        from scipy.optimize import linear_sum_assignment
        from sklearn.metrics import normalized_mutual_info_score
        from sklearn.metrics.cluster import contingency_matrix

        code, label, index = (dim_zero_cat(each).cpu() for each in (self.code, self.label, self.index))
        of_label, of_code = (each.unique(return_inverse=True)[1] for each in (label, code))
        assigned = torch.full((int(of_code.max()) + 1,), -1)
        rows, columns = linear_sum_assignment(contingency_matrix(of_label, of_code), maximize=True)
        assigned[columns] = torch.from_numpy(rows)
        accuracy, stderr = mean_and_stderr(assigned[of_code] == of_label, index)
        nmi = torch.tensor(float(normalized_mutual_info_score(label, code)), dtype=torch.float64)
        return {"code_accuracy": accuracy, "code_accuracy_stderr": stderr, "code_nmi": nmi}


class PairingAccuracy(LatentMetric):
    """Whether a translation between two domains finds the true partner, on held-out pairs.

    pairing_z: the share of x whose translation E[z|x] is nearest to the own partner among all partners of the split (squared
        distance); pairing_x: the share of partners z whose translation E[x|z] is nearest to the own x. Chance is 1/n.
    """

    count_images_once = True
    x: list[Tensor]
    z: list[Tensor]
    to_x: list[Tensor]
    to_z: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("x", "z", "to_x", "to_z"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        self._partners = data.second(split) if split != "train" else None
        return isinstance(joint.prior, EmpiricalPrior) and self._partners is not None

    def update(self, samples: JointSamples, index: Tensor) -> None:
        assert self._partners is not None
        partner = self._partners[index.cpu()].to(samples.x_q.device).flatten(1)
        self.x.append(samples.x_q.flatten(1))
        self.z.append(partner)
        self.to_z.append(samples.q_z_given_x.mean)
        self.to_x.append(samples.joint.decoder(partner).mean.flatten(1))

    def compute(self) -> dict[str, Tensor]:
        x, z, to_x, to_z = (dim_zero_cat(each) for each in (self.x, self.z, self.to_x, self.to_z))
        own = torch.arange(len(x), device=x.device)
        result = {"pairing_chance": torch.tensor(1 / len(x), dtype=torch.float64)}
        for name, translated, candidates in (("pairing_z", to_z, z), ("pairing_x", to_x, x)):
            found = squared_distances(translated.double(), candidates.double()).argmin(1) == own
            result[name], result[f"{name}_stderr"] = mean_and_stderr(found, own)
        return result


COVERED = 0.02
"""The share of samples from which on a class counts as covered: a fifth of its due with ten classes."""


@lru_cache(maxsize=2)
def trained_classifier(x: bytes, y: bytes, width: int) -> Any:
    """A multinomial logistic regression of labels on images, kept: all splits of a run ask for the same one."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads()):
        images = np.frombuffer(x, dtype=np.float32).reshape(-1, width)
        return LogisticRegression(max_iter=2000).fit(images, np.frombuffer(y, dtype=np.int64))


class ClassifierScore(LatentMetric):
    """Whether samples x ∼ p pass for data: what a classifier that learned from real training images says of them.

    class_confidence: mean probability of the most probable class, to be read between class_confidence_pixels, of images whose
    every pixel is that of another image of the split, and class_confidence_real, of the split's images themselves.
    class_coverage: share of classes with at least `COVERED` of the samples. class_entropy: entropy of the predicted classes
    over that of a uniform choice, in [0, 1]; neither says that the samples look like their class.
    class_accuracy: of the classifier on the split's images. A linear classifier can be sure of what is like no data at all:
    `TwoSampleTest` says whether samples are like data, this which classes they would be.

    Args:
        training: images that the classifier (a multinomial logistic regression) learns from, at most.
    """

    count_images_once = True
    fake: list[Tensor]
    real: list[Tensor]
    label: list[Tensor]

    def __init__(self, training: int = 5000) -> None:
        super().__init__()
        self.training_images = training
        for name in ("fake", "real", "label"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        labels, self._labels = data.labels("train"), data.labels(split)
        if labels is None or self._labels is None or len((labels := labels[: self.training_images]).unique()) < 2:
            return False
        self._learned_from = data.probe("train", len(labels)).flatten(1), labels
        return True

    def update(self, samples: JointSamples, index: Tensor) -> None:
        assert self._labels is not None
        self.fake.append(samples.x_p.flatten(1))
        self.real.append(samples.x_q.flatten(1))
        self.label.append(self._labels[index.cpu()].to(samples.x_q.device))

    def compute(self) -> dict[str, Tensor]:
        x, y = self._learned_from
        classifier = trained_classifier(x.cpu().numpy().tobytes(), y.numpy().tobytes(), x.shape[1])
        images = dim_zero_cat(self.real).cpu()
        noise, n = Noise(0, "classifier"), len(images)
        order = torch.stack([noise.permutation("pixel", k, n) for k in range(images.shape[1])], 1)
        judged = (dim_zero_cat(self.fake).cpu(), images, images.gather(0, order))
        fake, real, pixels = (classifier.predict_proba(each.numpy()) for each in judged)
        share = torch.from_numpy(fake.argmax(1)).bincount(minlength=fake.shape[1]).double() / len(fake)
        entropy = -torch.xlogy(share, share).sum() / log(len(share))
        labels = dim_zero_cat(self.label).cpu().numpy()
        found = {
            "class_confidence": fake.max(1).mean(),
            "class_confidence_real": real.max(1).mean(),
            "class_confidence_pixels": pixels.max(1).mean(),
            "class_coverage": (share >= COVERED).double().mean(),
            "class_entropy": entropy,
            "class_accuracy": (classifier.classes_[real.argmax(1)] == labels).mean(),
        }
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in found.items()}
