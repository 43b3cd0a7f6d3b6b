"""lagvae: the Information Autoencoding Family as constrained problems (Zhao, Song, Ermon, UAI 2018).

`lagvae.load(run)` returns a trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lagvae.experiment.loading import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, imported when it is first used, because it imports torch."""
    if name == "load":
        from lagvae.experiment.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
