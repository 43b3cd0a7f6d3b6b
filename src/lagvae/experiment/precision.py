"""With how many bits a run computes products of matrices, where that is left to the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pydoc import locate
from typing import Any

import torch

from lagvae.experiment.settings import select
from lagvae.introspection import full_name
from lagvae.networks import MLP

BY_MACHINE = "auto"
"""The value of trainer.precision that leaves the precision to the machine and the size of the networks."""

BF16, FP32 = "bf16-mixed", "32-true"

WIDE, ROWS = 512, 128
"""The narrowest hidden layer, and the smallest batch, with which products of matrices in bf16 save more than the casts cost."""


def choose_precision(settings: Mapping[str, Any]) -> Any:
    """The precision of a run: `trainer.precision`, or where that is "auto" bf16 or fp32.

    It is bf16 for networks whose time goes into products of matrices, on a processor or GPU that is fast at them: perceptrons
    of this package with wide layers only, large batches and no critic. Small models stay in fp32. The choice follows from the
    settings and the machine alone, and from no timing.

    Args:
        settings: a config, or all settings as plain dicts.
    """
    precision = select(settings, "trainer.precision")
    if precision != BY_MACHINE:
        return precision
    return BF16 if has_wide_layers(settings) and has_fast_bf16(str(select(settings, "trainer.accelerator"))) else FP32


def has_wide_layers(settings: Mapping[str, Any]) -> bool:
    """Whether products of large matrices decide how long a step takes. Invalid settings are left to validation."""
    batch = select(settings, "data.batch")
    if not isinstance(batch, int) or batch < ROWS:
        return False
    for part in ("encoder", "decoder"):
        hidden = select(settings, f"model.{part}.hidden")
        if select(settings, f"model.{part}._target_") != full_name(MLP) or not isinstance(hidden, Sequence) or not hidden:
            return False
        if any(not isinstance(width, int) or width < WIDE for width in hidden):
            return False
    constraints = select(settings, "constraints") or {}
    return not any(getattr(locate(str(select(c, "divergence._target_"))), "uses_critic", False) for c in constraints.values())


def has_fast_bf16(accelerator: str) -> bool:
    """Whether this machine multiplies matrices in bf16 much faster than in fp32: a GPU or a processor with bf16 instructions.

    Those of a processor are AMX's, or AVX-512's.

    Args:
        accelerator: that of Lightning's trainer, such as cpu, gpu or auto.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("amx_tile", "avx512_bf16"))
    return is_processor(accelerator) and torch.backends.mkldnn.is_available() and any(check() for check in checks)


def is_processor(accelerator: str) -> bool:
    """Whether the accelerator of Lightning's trainer is the processor of this machine: cpu, or auto where there is no other."""
    others = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not others)
