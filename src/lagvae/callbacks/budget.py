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
from lagvae.introspection import evaluating
from lagvae.metrics.base import LatentMetric, Sizes, share_of
from lagvae.noise import Noise

DRAWS = "data.draws"
"""The setting of the draws of a split, which every metric uses."""

LEAST = 256
"""Smallest number of draws of a split to which the budget reduces an evaluation."""

FREE = 2e11
"""An evaluation of no more multiply-adds than this, about twice those of the digits with all draws, is never cut."""

SMALL = 0.05
"""What costs no more than this share of what is allowed keeps all of its draws."""

READING = 5e8
"""Reading an image from its file takes about as long as this many multiply-adds. Streamed samples are read at every use."""

PASSES = 3
"""A step of training costs this many evaluations of the networks: the one, and about two for its gradient."""


@dataclass
class Plan:
    """How a model is measured.

    Attributes:
        cut: setting → (asked for, used), where fewer draws are used.
        batch_costs: split → the cost of its batches, and metric_costs: split → name → cost, in multiply-adds.
    """

    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    batch_costs: dict[str, float] = field(default_factory=dict)
    metric_costs: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The cost of the whole evaluation."""
        return sum(self.batch_costs.values()) + sum(sum(costs.values()) for costs in self.metric_costs.values())


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
    """Limit an evaluation to a budget, or to `FREE` where that is more: draws are halved until the whole costs no more, or
    each setting is at its least.

    Args:
        metrics: split → name → metric. They are limited, and so are the draws of the data.
        budget: share of the cost of training; None for no limit. steps: the length of training.
    """
    encode, decode = costs_of_networks(joint, data)
    x = data.first_samples("train", 1)[0].numel()
    reading = READING if data.streams else 0.0
    training = steps * data.batch * (PASSES * (encode + decode) + reading)
    allowed = float("inf") if budget is None else max(FREE, budget * training)
    data.most_draws = None
    cut: dict[str, tuple[int, int]] = {}
    while True:
        plan = Plan(cut={key: (asked, used) for key, (asked, used) in cut.items() if used < asked})
        sizes = {s: Sizes(encode, decode, x, joint.latent, data.size(s), data.draws_of(s)) for s in metrics}
        for split, of_split in metrics.items():
            passes = 2 if any(metric.uses_model for metric in of_split.values()) else 1
            plan.batch_costs[split] = passes * sizes[split].draws * (encode + decode + reading)
            plan.metric_costs[split] = {name: metric.cost(sizes[split]) for name, metric in of_split.items()}
        if plan.total <= allowed:
            return plan
        before = dict(cut)
        names = {name: None for of_split in metrics.values() for name in of_split}
        costs = {name: sum(of_split.get(name, 0.0) for of_split in plan.metric_costs.values()) for name in names}
        if sum(plan.batch_costs.values()) > SMALL * allowed:
            data.most_draws = share_of(data.most_draws or data.draws, 0.5, max(LEAST, 2 * data.batch))
            cut[DRAWS] = (data.draws, data.most_draws)
        for name in (name for name, cost in costs.items() if cost > SMALL * allowed):
            for metric in (of_split[name] for of_split in metrics.values() if name in of_split):
                for key, (asked, used) in metric.limit(0.5).items():
                    cut[f"{name}.{key}"] = (before.get(f"{name}.{key}", (asked, used))[0], used)
        if cut == before:
            return plan
