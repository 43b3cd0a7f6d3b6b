"""What --version prints."""

from __future__ import annotations

import platform
from importlib.metadata import version

from lagvae import __version__


def describe_version() -> str:
    """The versions of lagvae, and of what affects its results, found without importing any of it."""
    others = ", ".join(f"{name} {version(name)}" for name in ("torch", "pytorch-lightning", "hydra-core"))
    return f"lagvae {__version__} (Python {platform.python_version()}, {others})"
