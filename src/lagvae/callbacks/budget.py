"""The cost of measuring a model, in multiply-adds, and the numbers of draws with which it stays within a budget.

Costs are counted from shapes, not taken from a clock, so that a run is measured with the same draws on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lagvae.data import DataModule
from lagvae.distributions import JointModel, draw_noise
from lagvae.metrics.base import LatentMetric, Sizes
from lagvae.networks import evaluating
from lagvae.noise import Noise

HALVINGS = 12
"""The draws are halved at most this often."""

LEAST = 256
"""Smallest number of draws of a split to which the budget reduces an evaluation."""

FREE = 2e11
"""An evaluation that takes no more multiply-adds than this, about twice those of the digits with all draws, is never cut."""

PASSES = 3
"""A step of training costs this many evaluations of the networks: the one, and about two for its gradient."""


@dataclass
class Plan:
    """How a model is measured.

    Attributes:
        share: the share of the draws that is left, 1 where nothing is cut. cut: setting → (asked for, used).
        batches: split → the cost of its batches, and metrics: split → name → cost, in multiply-adds.
    """

    share: float = 1.0
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    batches: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The cost of the whole evaluation."""
        return sum(self.batches.values()) + sum(sum(costs.values()) for costs in self.metrics.values())


def multiply_adds(module: nn.Module, *given: Any) -> float:
    """The multiply-adds of a module for a batch: those of its linear and convolutional layers, else its number of parameters.

    Examples:
        >>> multiply_adds(nn.Linear(3, 5), torch.zeros(2, 3))
        30.0
        >>> multiply_adds(nn.Conv2d(1, 4, 3, padding=1), torch.zeros(1, 1, 8, 8))  # 9 products for each of 4 · 64 values
        2304.0
    """
    total = [0.0]

    def count(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, values = layer.weight.numel(), (inputs[0] if getattr(layer, "transposed", False) else output).numel()
        total[0] += values * weight / (layer.out_features if isinstance(layer, nn.Linear) else layer.weight.shape[0])

    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with evaluating(module):
            module(*given)
    finally:
        for hook in hooks:
            hook.remove()
    return total[0] or float(sum(p.numel() for p in module.parameters()))


def costs_of_networks(joint: JointModel, data: DataModule) -> tuple[float, float]:
    """Multiply-adds of encoding one sample, and of decoding one."""
    # Lightning moves a model to its device only while it trains or evaluates it.
    device = next((p.device for p in joint.parameters()), torch.device("cpu"))
    x = data.first_samples("train", 1, device)
    z = joint.prior.sample(draw_noise(frozenset({"z_p"}), joint, Noise(0, "budget"), 0, x)["z_p"])
    return multiply_adds(joint.encoder, x), multiply_adds(joint.decoder, z)


def plan_evaluation(
    metrics: Mapping[str, Mapping[str, LatentMetric]],
    joint: JointModel,
    data: DataModule,
    budget: float | None,
    steps: int,
) -> Plan:
    """Limit an evaluation, and the draws of the data, to a budget: all draws are halved until the whole costs no more, or at
    most `FREE`.

    Args:
        metrics: split → name → metric. They are limited.
        budget: share of the cost of training; None for no limit. steps: the length of training.
    """
    encode, decode = costs_of_networks(joint, data)
    training = steps * data.batch * PASSES * (encode + decode)
    allowed = float("inf") if budget is None else max(FREE, budget * training)
    before: dict[str, dict[str, tuple[int, int]]] = {}
    for halving in range(HALVINGS + 1):
        plan = Plan(share=0.5**halving)
        draws = {split: data.draws_of(split) for split in metrics}
        if halving:
            data.most_draws = max(LEAST, 2 * data.batch, int(plan.share * data.draws))
            draws = {split: min(n, data.draws_of(split)) for split, n in draws.items()}
        for split, of_split in metrics.items():
            sizes = Sizes(encode, decode, data.first_samples(split, 1)[0].numel(), joint.latent, data.size(split), draws[split])
            for name, metric in of_split.items():
                if halving:
                    for key, (asked, used) in metric.limit(0.5).items():
                        first = before.setdefault(name, {}).setdefault(key, (asked, used))[0]
                        before[name][key] = (first, used)
            passes = 2 if any(metric.uses_model for metric in of_split.values()) else 1
            plan.batches[split] = passes * draws[split] * (encode + decode)
            plan.metrics[split] = {name: metric.cost(sizes) for name, metric in of_split.items()}
        if plan.total <= allowed:
            break
    if data.most_draws is not None:
        plan.cut["data.draws"] = (data.draws, data.most_draws)
    plan.cut |= {f"{n}.{k}": pair for n, cuts in before.items() for k, pair in cuts.items()}
    plan.cut = {key: (asked, used) for key, (asked, used) in plan.cut.items() if used < asked}
    return plan
