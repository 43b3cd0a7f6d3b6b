"""Agreement of a model with labels, true pairs and classes, which are used for evaluation only."""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lagvae.distributions import CodesEncoder, EmpiricalPrior, JointModel, JointSamples
from lagvae.divergences import squared_distances
from lagvae.metrics.base import EvaluationData, LatentMetric, Sizes, mean_and_stderr, share_of
from lagvae.noise import Noise


class CodeAgreement(LatentMetric):
    """Agreement of the first categorical code q(c|x) with the labels, which the model never saw.

    code_accuracy: the share of images whose most probable code is assigned to their label, under the best one-to-one assignment
        of codes to labels (chance is slightly above 1/K). code_nmi: normalised mutual information, in [0, 1].
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

        code, label, index = (dim_zero_cat(state).cpu() for state in (self.code, self.label, self.index))
        label_id, code_id = (values.unique(return_inverse=True)[1] for values in (label, code))
        assigned = torch.full((int(code_id.max()) + 1,), -1)
        rows, columns = linear_sum_assignment(contingency_matrix(label_id, code_id), maximize=True)
        assigned[columns] = torch.from_numpy(rows)
        accuracy, stderr = mean_and_stderr(assigned[code_id] == label_id, index)
        nmi = torch.tensor(float(normalized_mutual_info_score(label, code)), dtype=torch.float64)
        return {"code_accuracy": accuracy, "code_accuracy_stderr": stderr, "code_nmi": nmi}


class PairingAccuracy(LatentMetric):
    """Whether a translation between two domains finds the true partner, on held-out pairs.

    pairing_z: the share of x whose translation E[z|x] is nearer to the true partner than to any other partner of the split
        (squared distance). pairing_x: the share of partners z whose translation E[x|z] is nearest to the true x.
    pairing_chance: the value of both by chance, 1/n.
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
        x, z, to_x, to_z = (dim_zero_cat(state) for state in (self.x, self.z, self.to_x, self.to_z))
        index = torch.arange(len(x), device=x.device)
        result = {"pairing_chance": torch.tensor(1 / len(x), dtype=torch.float64)}
        for name, translated, candidates in (("pairing_z", to_z, z), ("pairing_x", to_x, x)):
            correct = squared_distances(translated.double(), candidates.double()).argmin(1) == index
            result[name], result[f"{name}_stderr"] = mean_and_stderr(correct, index)
        return result


ITERATIONS = 200
"""Number of iterations that the fit of a classifier is taken to need; what its cost is estimated from."""

LEAST = 256
"""Smallest number of images to which the evaluation's budget reduces the training of the classifier."""

AT_ONCE = 4096
"""Largest number of images that are classified at once."""

COVERED = 0.02
"""The smallest share of samples at which a class counts as covered: a fifth of the share of each of ten equal classes."""


@lru_cache(maxsize=2)
def trained_classifier(x: bytes, y: bytes, width: int) -> Any:
    """A multinomial logistic regression of labels on images; it is cached because all splits of a run use the same one."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads()):
        images = np.frombuffer(x, dtype=np.float32).reshape(-1, width)
        return LogisticRegression(max_iter=2000).fit(images, np.frombuffer(y, dtype=np.int64))


class ClassifierScore(LatentMetric):
    """Predictions for samples x ∼ p of a classifier that was trained on real training images.

    class_confidence: mean probability of the most probable class. Its reference values are class_confidence_pixels, for images
        in which every pixel is taken from another image of the split, and class_confidence_real, for the images of the split.
    class_coverage: the share of classes with at least `COVERED` of the samples.
    class_entropy: entropy of the predicted classes divided by that of the uniform distribution, in [0, 1].
    class_accuracy: accuracy of the classifier on the images of the split.

    A linear classifier can be confident about images that resemble no data at all. `TwoSampleTest` measures whether samples
    resemble the data; these values tell which classes they are closest to.

    Args:
        training: the largest number of images on which the classifier, a multinomial logistic regression, is trained.
    """

    uses_model = True
    count_images_once = True
    fake: list[Tensor]
    real: list[Tensor]
    label: list[Tensor]

    def __init__(self, training: int = 5000) -> None:
        super().__init__()
        self.training_images = training
        self._classifier: Any = None
        for name in ("fake", "real", "label"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def is_applicable(self, joint: JointModel, data: EvaluationData, split: str) -> bool:
        labels, self._labels = data.labels("train"), data.labels(split)
        if labels is None or self._labels is None or len((labels := labels[: self.training_images]).unique()) < 2:
            return False
        self._data, self._training_labels = data, labels
        return True

    def limit(self, share: float) -> dict[str, tuple[int, int]]:
        asked, fewer = self.training_images, share_of(self.training_images, share, LEAST)
        if len(self._training_labels[:fewer].unique()) > 1:
            self.training_images = fewer
        return {"training": (asked, self.training_images)}

    def cost(self, sizes: Sizes) -> float:
        classes = len(self._training_labels.unique())
        trained = min(self.training_images, len(self._training_labels))
        return (2 * ITERATIONS * trained + 3 * sizes.draws) * classes * sizes.x

    def update(self, samples: JointSamples, index: Tensor) -> None:
        assert self._labels is not None
        self.fake.append(self.probabilities(samples.x_p))
        real = samples.x_q.flatten(1).cpu()
        self.real.append(real.bool() if self._data.is_stochastic else real)  # binarised images take a quarter of the memory
        self.label.append(self._labels[index.cpu()].to(samples.x_q.device))

    def probabilities(self, images: Tensor) -> Tensor:
        """The predicted probabilities of the classes, (N, classes)."""
        if self._classifier is None:
            y = self._training_labels[: self.training_images]
            x = self._data.first_samples("train", len(y)).flatten(1)
            self._classifier = trained_classifier(x.cpu().numpy().tobytes(), y.numpy().tobytes(), x.shape[1])
        parts = images.flatten(1).cpu().split(AT_ONCE)
        return torch.cat([torch.from_numpy(self._classifier.predict_proba(part.float().numpy())) for part in parts])

    def joined_images(self) -> Tensor:
        """The images of all batches, (N, pixels). Each batch is let go once it is copied."""
        joined, start = self.real[0].new_empty(sum(len(part) for part in self.real), *self.real[0].shape[1:]), 0
        while self.real:
            part = self.real.pop(0)
            joined[start : (start := start + len(part))] = part
        self.real.append(joined)
        return joined

    def compute(self) -> dict[str, Tensor]:
        images = self.joined_images()
        real = self.probabilities(images).numpy()
        order = Noise(0, "classifier")
        for k in range(images.shape[1]):  # in place: a second copy may take hundreds of megabytes
            images[:, k] = images[order.permutation("pixel", k, len(images)), k]
        pixels = self.probabilities(images).numpy()
        for k in range(images.shape[1]):
            images[order.permutation("pixel", k, len(images)), k] = images[:, k].clone()
        fake = dim_zero_cat(self.fake).numpy()
        share = torch.from_numpy(fake.argmax(1)).bincount(minlength=fake.shape[1]).double() / len(fake)
        entropy = -torch.xlogy(share, share).sum() / log(len(share))
        labels = dim_zero_cat(self.label).cpu().numpy()
        values = {
            "class_confidence": fake.max(1).mean(),
            "class_confidence_real": real.max(1).mean(),
            "class_confidence_pixels": pixels.max(1).mean(),
            "class_coverage": (share >= COVERED).double().mean(),
            "class_entropy": entropy,
            "class_accuracy": (self._classifier.classes_[real.argmax(1)] == labels).mean(),
        }
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in values.items()}
