"""A trained model as plain data: its weights as safetensors beside a description in JSON, which `lagvae.load` reads back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lagvae.errors import CheckpointError, SettingError
from lagvae.experiment.settings import BUILT
from lagvae.io import write_atomically, write_json
from lagvae.model import LatentVariableModel

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"

CURE = "Name another folder."


def export(model: LatentVariableModel, folder: str | os.PathLike[str]) -> None:
    """Write a model to a folder: model.safetensors, its weights, and model.json, what it is built from.

    The description holds the settings that decide about the model, the shape of x, the bounds and the version. Both files are
    plain data, which other programs read too. `lagvae.load(folder)` gives the same model again.

    Args:
        model: one that `lagvae.load` returned, or that was trained from settings.
        folder: it is made where there is none; an earlier export in it is replaced.

    Raises: SettingError for a model that was built in Python, which no settings describe, and for a folder that cannot be
        written.

    Examples:
        >>> import torch, lagvae
        >>> model = lagvae.load("latest")
        >>> lagvae.export(model, "exported")
        >>> x = model.sample(5, seed=0)
        >>> torch.equal(lagvae.load("exported").encode(x), model.encode(x))
        True
    """
    from safetensors.torch import save_file

    if model.origin is None:
        raise SettingError(
            "This model was built in Python, so that no settings describe it. Keep its code, and save its state_dict() with "
            "safetensors.torch.save_file or torch.save."
        )
    # Each tensor is written by itself: safetensors refuses tensors that share memory or are not contiguous.
    weights = {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    description = model.origin | {"config": {key: model.origin["config"][key] for key in BUILT}}
    target = Path(folder).expanduser()
    write_atomically(target / WEIGHTS, lambda part: save_file(weights, part, {"format": "pt"}), CURE)
    write_json(target / DESCRIPTION, description)


def read_export(folder: Path) -> dict[str, Any]:
    """What a checkpoint of an exported model would hold. Raises CheckpointError where a file is missing or damaged."""
    from safetensors.torch import load_file

    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return {"lagvae": description, "state_dict": load_file(folder / WEIGHTS)}
    except Exception as error:  # safetensors has errors of its own
        raise CheckpointError(
            f"{folder} needs {DESCRIPTION} and {WEIGHTS}, and one of them is missing or damaged ({error}). Export it again."
        ) from error
