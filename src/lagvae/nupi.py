"""The νPI optimizer for Lagrange multipliers, which torch.optim does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lagvae.errors import SettingError


class NuPI(Optimizer):
    """νPI control of multipliers: an integral of the violation e plus a proportional term on its moving average ξ.

        ξ_t = ν ξ_{t−1} + (1 − ν) e_t
        λ_{t+1} = λ_t ± [ lr · e_t + kp · (ξ_t − ξ_{t−1}) ],   with + if maximize=True

    The integral term is gradient ascent; the proportional term damps its oscillation and windup. ν = 0 gives PI control, and
    kp = 0 gives gradient ascent. The moving average starts at the first violation, ξ_0 = e_0. The violation e is the
    gradient of the parameter.

    Args:
        params: the multipliers λ.
        lr: gain κ_i ≥ 0 of the integral term, per unit of violation and step.
        kp: gain κ_p ≥ 0 of the proportional term, per unit of violation.
        nu: decay rate ν of the moving average, in [0, 1).
        maximize: whether to ascend the gradient instead of descending it.

    Raises: SettingError for a negative gain, or ν outside [0, 1).

    Reference: Sohrabi et al., On PI Controllers for Updating Lagrange Multipliers in Constrained Optimization, ICML 2024.

    Examples:
        >>> multiplier = torch.zeros(1)
        >>> optimizer = NuPI([multiplier], lr=0.1, kp=1.0, nu=0.0, maximize=True)
        >>> for violation in (1.0, 0.5):  # 0.1 · 1, then 0.1 · 0.5 + 1 · (0.5 − 1)
        ...     multiplier.grad = torch.tensor([violation])
        ...     optimizer.step()
        >>> multiplier.round(decimals=4)
        tensor([-0.3500])
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        kp: float = 1.0,
        nu: float = 0.95,
        maximize: bool = False,
    ) -> None:
        if not lr >= 0 or not kp >= 0:
            raise SettingError(f"NuPI gains must not be negative: lr={lr}, kp={kp}.")
        if not 0 <= nu < 1:
            raise SettingError(f"NuPI nu={nu} must be at least 0 and below 1.")
        super().__init__(params, {"lr": lr, "kp": kp, "nu": nu, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            sign = 1.0 if group["maximize"] else -1.0
            for p in group["params"]:
                if p.grad is None:
                    continue
                error = p.grad
                state = self.state[p]
                if not state:
                    # Starting the average at the first violation avoids a jump when a run starts far from its bound.
                    state["average"] = error.clone()
                average = state["average"]
                change = (1 - group["nu"]) * (error - average)
                average.add_(change)
                p.add_(group["lr"] * error + group["kp"] * change, alpha=sign)
