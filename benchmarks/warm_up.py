"""A fixed weight with a warm-up: the opponent of LagVAE in benchmarks/regret.py that also gives each weight time to grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class WarmUp(Optimizer):
    """λ_t = start^(1 − u) λ^u with u = min(2 t / T, 1): from `start` to λ over the first half of a run, then constant.

    It takes the place of an optimizer of λ (`multiplier.optimizer._target_=benchmarks.warm_up.WarmUp`), but never looks at the
    violation: λ is what the setting `constraints.NAME.multiplier` says.

    Args:
        params: the multipliers λ > 0, whose values are those of the second half.
        steps: T, the length of the run.
        start: λ in the first step, > 0.
        maximize: without effect; the module asks for it.

    Reference: Sønderby et al., Ladder Variational Autoencoders, NeurIPS 2016, with a straight line in place of the logarithm's.
    """

    def __init__(self, params: Iterable[Tensor], steps: int, start: float = 0.2, maximize: bool = True) -> None:
        super().__init__(params, {"steps": steps, "start": start, "maximize": maximize, "lr": 0.0, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] += 1
            u = min(2 * group["step"] / group["steps"], 1.0)
            for p in group["params"]:
                state = self.state[p]
                if "end" not in state:
                    state["end"] = p.clone()
                p.copy_(group["start"] ** (1 - u) * state["end"] ** u)
