"""Calibration (paper, eq. 19–20): what the divergences can be, ε̂ = D(θ*), θ* = argmin λᵀD with α = 0.

A calibration is a folder `calibrations/<name>-<hash>/` with calibration.json and theta.pt. The hash is of the settings
that matter: a run with other settings has another hash, so that the wrong calibration is never taken in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lagvae.errors import CalibrationError
from lagvae.runs import write_atomically, write_json


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for the settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Keys whose values differ, as "key: a → b", where a branch that one of them lacks is "none"."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [*a, *(k for k in b if k not in a)]
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{at}.{k}" if at else str(k))]
    return [] if a == b else [f"{at}: {_short(a)} → {_short(b)}"]


def _short(value: Any) -> str:
    return "none" if value is None else "given" if isinstance(value, Mapping) else str(value)


@dataclass
class Calibration:
    """What calibration found.

    epsilon: constraint → ε̂, on the split `split`, with stderr: constraint → standard error.
    splits: split → name → value, the full evaluation. settings: what the hash is of.
    """

    epsilon: dict[str, float]
    stderr: dict[str, float]
    split: str
    splits: dict[str, dict[str, float]]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    seconds: float = 0.0

    @property
    def hash(self) -> str:
        """Hash of the settings that matter."""
        return fingerprint(self.settings)

    def save(self, folder: Path, theta: Mapping[str, Tensor]) -> None:
        """Write theta.pt, then calibration.json: the latter's presence says that both are whole."""
        write_atomically(folder / "theta.pt", lambda part: torch.save(dict(theta), part))
        write_json(folder / "calibration.json", asdict(self) | {"hash": self.hash})

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read a calibration. CalibrationError where it is missing or damaged."""
        file = folder / "calibration.json"
        if not file.is_file():
            raise CalibrationError(
                f"{folder} holds no calibration. Make one with python src/calibrate.py and the same settings."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            written = content.pop("hash")
            found = cls(**content)
            found.epsilon = {name: float(value) for name, value in found.epsilon.items()}
            found.stderr = {name: nan if found.stderr[name] is None else float(found.stderr[name]) for name in found.epsilon}
            if found.hash != written:
                raise ValueError("its settings are not those that it was written with")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = error if isinstance(error, OSError | ValueError) else "it does not hold what a calibration holds"
            raise CalibrationError(f"{file} is damaged ({reason}). Remove {folder} and calibrate again.") from error
        return found

    @staticmethod
    def theta(folder: Path) -> dict[str, Tensor]:
        """θ*, the state of the laws and of the critics that know them."""
        try:
            state = dict(torch.load(folder / "theta.pt", map_location="cpu", weights_only=True))
        except Exception as error:  # unpickling fails in many ways
            raise CalibrationError(
                f"{folder / 'theta.pt'} is missing or damaged. Remove {folder} and calibrate again."
            ) from error
        return state

    def check(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Raise CalibrationError, with the settings that differ, where this calibration is of another problem."""
        found = differences(self.settings, json.loads(json.dumps(settings, default=str)))
        if found:
            raise CalibrationError(
                f"The calibration in {folder} was made with other settings (there → here: {'; '.join(found[:5])}). Leave "
                "epsilon.calibration out to use or make the one that fits, or give the settings it was made with."
            )

    def bound(self, name: str, gamma: float, relative: bool) -> float:
        """ε̂ + γ, or ε̂ + γ · ε̂ where relative (γ₂ = 0.5 ε̂₂ in the paper).

        A relative slack is of max(ε̂, its standard error, 0): an unbiased estimate of a divergence may fall below zero.
        """
        if name not in self.epsilon:
            raise CalibrationError(
                f"The calibration has no ε̂ for constraint {name!r}, only for {', '.join(self.epsilon) or 'none'}. "
                f"Give constraints.{name}.epsilon=NUMBER."
            )
        epsilon = self.epsilon[name]
        stderr = self.stderr[name]
        slack = gamma * max(epsilon, 0.0 if isnan(stderr) else stderr, 0.0) if relative else gamma
        return epsilon + slack
