"""Run folders as a sweep writes them, with numbers that a test chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

STDERR = 0.05


def write_run(
    folder: Path,
    family: str,
    alpha: float,
    train: tuple[float, float],
    *,
    test: tuple[float, float] | None = None,
    seed: int = 0,
    gamma: float | None = None,
    multipliers: tuple[float, float] = (1.0, 1000.0),
    stderr: float = STDERR,
    width: float = 0.0,
    mmd: float = 1e-3,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write the config.yaml and summary.json of a run.

    Args:
        train, test: (I, −ELBO) in nats; `test` is equal to `train` by default.
        gamma: the slack of −ELBO above ε̂ = 22 nats, which makes the run a constrained one; by default `multipliers` are fixed.
        stderr: the standard error of each estimate in nats. width: of the interval for I around the given value.
        mmd: MMD on both splits, with a standard error of 1e-4.
        settings: dotted key → value, which override those of config.yaml.
    """
    bounded = gamma is not None
    config: dict[str, Any] = {
        "family": family,
        "name": folder.name,
        "seed": seed,
        "alpha": {"q": alpha, "p": 0.0},
        "epsilon": {"source": "calibrated" if bounded else "none", "calibration": None},
        "multiplier": {"learned": bounded, "optimizer": {"_target_": "torch.optim.RMSprop"} if bounded else None},
        "constraints": {
            name: {
                "divergence": {"_target_": f"lagvae.divergences.{name}"},
                "epsilon": None,
                "gamma": gamma if bounded and name == "neg_elbo" else 0.5,
                "gamma_relative": name == "mmd",
                "multiplier": multiplier,
                "learned": bounded,
                "scale": 1.0,
            }
            for name, multiplier in zip(("neg_elbo", "mmd"), multipliers, strict=True)
        },
        "training": {"steps": 40, "interval": 20, "start": "calibrated", "gradient_clip": None},
        "calibration": {"steps": 20, "seed": 0, "split": "val"},
        "data": {"name": "digits", "batch": 128, "seed": seed, "split_seed": 0, "workers": 2},
        "model": {"name": "mlp", "latent": 16},
        "callbacks": {"final": {"information": {"samples": 1000}}},
        "trainer": {"precision": "32-true"},
    }
    for key, value in (settings or {}).items():
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node[name]
        node[last] = value
    summary = {
        "family": config["family"],
        "alpha": config["alpha"],
        "seed": config["seed"],
        "constraints": {
            "neg_elbo": {"calibrated": 22.0, "bound": 22.0 + gamma if gamma is not None else None},
            "mmd": {
                **{"calibrated": 1e-3, "bound": 1.5e-3 if bounded else None, "train": mmd, "test": mmd},
                **{"train_stderr": 1e-4, "test_stderr": 1e-4},
            },
        },
        "splits": {
            split: {
                **dict.fromkeys(("rate", "i_q_kde"), information),
                **{"i_q_lower": information - width / 2, "i_q_upper": information + width / 2},
                **{f"{name}_stderr": stderr for name in ("rate", "i_q_lower", "i_q_upper", "i_q_kde", "neg_elbo")},
                "neg_elbo": neg_elbo,
            }
            for split, (information, neg_elbo) in {"train": train, "test": test or train}.items()
        },
        "verdict": "met" if bounded else "unconstrained",
        "steps": 40,
        "seconds": {"training": 2.0, "all": 3.0},
    }
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def change(file: Path, key: str, value: Any) -> None:
    """Set a dotted key of a JSON file; `...` removes it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    *path, last = key.split(".")
    node = content
    for name in path:
        node = node[name]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    content.pop("digest", None)  # by which a change would count as damage
    file.write_text(json.dumps(content), encoding="utf-8")
