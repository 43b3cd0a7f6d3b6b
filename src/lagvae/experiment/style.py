"""How figures look: the style of matplotlib, colours, and images as pictures."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor

STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}

BLUE, ORANGE, GREY, RED, GREEN = "#2b6cb0", "#dd6b20", "#718096", "#c53030", "#2c7a4b"

SERIES = ("#006ba4", "#ff800e", "#595959", "#5f9ed1", "#c85200", "#a2c8ec")
"""Colours of curves in one panel, told apart also by who does not see red or green (of Tableau's Color Blind 10)."""

LINE = 0.4
"""Grey level of the lines between images, which stand out from dark ones and from light ones."""


def as_picture(image: Tensor) -> Tensor:
    """An image (C, H, W) as matplotlib takes it, cut to [0, 1]."""
    pixels = image.detach().cpu().clamp(0, 1)
    return pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)


def tile(pictures: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Arrange images (N, C, H, W) in a grid as one image, separated by grey lines."""
    n, c, h, w = pictures.shape
    rows = ceil(n / columns)
    canvas = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), LINE, device=pictures.device)
    for i in range(n):
        r, k = divmod(i, columns)
        canvas[:, r * (h + gap) : r * (h + gap) + h, k * (w + gap) : k * (w + gap) + w] = pictures[i]
    return canvas
