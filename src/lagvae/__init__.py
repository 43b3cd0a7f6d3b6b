"""lagvae: the Information Autoencoding Family as constrained problems (Zhao, Song, Ermon, UAI 2018).

`lagvae.load(run)` returns a trained model, `lagvae.export(model, folder)` writes one as plain data, and `lagvae.sklearn.LagVAE`
is a scikit-learn estimator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lagvae.experiment.export import export
    from lagvae.experiment.loading import load

__all__ = ["__version__", "export", "load", "sklearn"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`export`, `load` and `sklearn`, imported when they are first used, because they import torch."""
    if name == "export":
        from lagvae.experiment.export import export

        return export
    if name == "load":
        from lagvae.experiment.loading import load

        return load
    if name == "sklearn":
        return import_module("lagvae.sklearn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
