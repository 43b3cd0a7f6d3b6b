"""Around the entry points: Hydra, and errors as one paragraph."""

import sys
from importlib.util import find_spec

if find_spec("omegaconf") is None or find_spec("filelock") is None:
    sys.exit(
        f"What lagvae needs is not installed for {sys.executable}. In a clone, make setup installs it into .venv; then type "
        "source .venv/bin/activate, or .venv/bin/python in place of python."
    )
