"""The default optimizer of Lagrange multipliers: ascent of log λ with a step that shrinks to zero over the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import cos, log, pi
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lagvae.errors import SettingError

EPS = 1e-12
"""Added to the root mean square of the violation, so that one which is always zero moves nothing."""


class LogAscent(Optimizer):
    """Ascent of log λ along a running mean of the violation e, which is divided by its root mean square.

        m_t = β m_{t−1} + (1 − β) e_t        v_t = β v_{t−1} + (1 − β) e_t²        m̂, v̂ = m, v / (1 − β^t)
        log λ_{t+1} = log λ_t + π/2 · cos(π/2 · t / T) · reach / T · u_t / √v̂_t
        u_t = m̂_t where m̂_t ≤ 0 or t ≥ T / 2, else the violation that is expected at the end, between 0 and m̂_t:
        u_t = min(max(m̂_t + 2 ln(T / t) (m̂_t − s_t), 0), m̂_t),        s_t = Σ_k k e_k / Σ_k k,  k = 1 … t

    In ln(T / t), t is at least 1 / (1 − β).

    The factors of a run of T steps add up to `reach`: a violation that is large against its noise moves λ by at most exp(reach)
    up or down. A violation that is mostly noise moves it little, and less and less until the end, so that θ is trained at
    nearly constant weights. Near the end the steps shrink in proportion to the time that is left, and a learning rate of θ on a
    full cosine shrinks with its square: when the noise of θ goes, D falls, and λ can still follow. A step multiplies λ, so it
    means the same whatever the size of λ is.

    Where a bound can be met only after long training, e > 0 for most of the run, and an ascent along e itself would wind up: λ
    would end far above the value that meets the bound in the end. D falls about linearly in ln t, and the mean s lags by
    half a unit of ln t, so 2 (m̂ − s) estimates de / d ln t. In the first half of the run λ rises only for the violation that
    would be left at T; in the second it is λ that makes D fall, and the trend says nothing more.

    A small λ at the start, which may not rise at first (`lagvae.lagrangian.Constraint`), acts as a warm-up of the weight of the
    rate, where information is maximised: the model has the time to use more latent units than the bound allows in the end, and
    gives up the least useful as λ rises.

    Args:
        params: the multipliers λ > 0. An entry below `floor` counts as `floor`, from which it can rise again.
        steps: T, the length of the run in steps; after it λ stays where it is.
        reach: the largest change of log λ over the run, > 0.
        beta: decay rate β of the running means, in [0, 1).
        floor: the smallest λ, > 0, in the unit of the multipliers that it is given: `Lagrangian` gives it λ · scale / |α|.
        maximize: whether to ascend the gradient instead of descending it.

    Raises: SettingError for a setting outside its range.

    Reference: exponentiated gradient, Kivinen & Warmuth, Information and Computation 132 (1997); moments as in Adam, Kingma &
        Ba, ICLR 2015; warm-up, Sønderby et al., Ladder Variational Autoencoders, NeurIPS 2016.

    Examples:
        >>> multiplier = torch.ones(1)
        >>> optimizer = LogAscent([multiplier], steps=100, reach=2.0, maximize=True)
        >>> for _ in range(100):
        ...     multiplier.grad = torch.tensor([0.3])  # a violation that stays
        ...     optimizer.step()
        >>> multiplier.log().round(decimals=1)  # the reach
        tensor([2.])
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        steps: int,
        reach: float = 12.0,
        beta: float = 0.99,
        floor: float = 1e-3,
        maximize: bool = False,
    ) -> None:
        if steps < 1:
            raise SettingError(f"LogAscent steps={steps} must be at least 1.")
        if not reach > 0 or not floor > 0:
            raise SettingError(f"LogAscent reach={reach} and floor={floor} must be positive.")
        if not 0 <= beta < 1:
            raise SettingError(f"LogAscent beta={beta} must be at least 0 and below 1.")
        defaults = {"steps": steps, "reach": reach, "beta": beta, "floor": floor, "maximize": maximize, "step": 0}
        # "lr" is the rate of the latest step, which callbacks that monitor learning rates expect of every optimizer.
        super().__init__(params, defaults | {"lr": pi / 2 * reach / steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta, steps, t = group["beta"], group["steps"], group["step"]
            group["step"] += 1  # a number of the group, not a tensor of the state, so that no step waits for the device
            correction = 1 - beta ** (t + 1)
            # ln(T / t); in the first steps, in which the mean still holds the start, and in short runs no trend is known.
            left = max(log(steps / max(t + 1, 1 / (1 - beta))), 0.0) if t < steps / 2 else 0.0
            rate = group["lr"] = pi / 2 * cos(pi / 2 * min(t / steps, 1.0)) * group["reach"] / steps
            for p in group["params"]:
                if p.grad is None:
                    continue
                violation = p.grad if group["maximize"] else -p.grad
                state = self.state[p]
                if "earlier" not in state:  # also where an earlier version saved the state, without a trend
                    state |= {name: torch.zeros_like(p) for name in ("mean", "square", "earlier") if name not in state}
                state["mean"].lerp_(violation, 1 - beta)
                state["square"].lerp_(violation.square(), 1 - beta)
                state["earlier"].lerp_(violation, 2 / (t + 2))
                mean = state["mean"] / correction
                expected = mean + 2 * left * (mean - state["earlier"])
                rise = torch.where(mean > 0, expected.clamp(min=0).minimum(mean), mean)
                p.copy_(p.clamp(min=group["floor"]) * (rate * rise / ((state["square"] / correction).sqrt() + EPS)).exp())
