"""Which settings of two runs must agree before their numbers may stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SECTIONS = ("data", "model", "calibration", "training.steps", "training.start", "training.gradient_clip")
MEASURES = ("callbacks.final.terms", "callbacks.final.information", "trainer.precision")
FREE = ("data.seed", "data.workers", "data.source.root")
"""Of those sections: `data.seed` follows `seed`; workers and the place of a download decide about no number."""
SWEPT = ("epsilon", "gamma", "relative", "multiplier", "learned")
"""What tells the cells of a sweep apart, of each constraint."""


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as dotted key → value; lists are values."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{key}.{name}" if key else str(name)).items()}


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


@dataclass(frozen=True)
class Settings:
    """The settings of a run, flat, by who must share them.

    shared: all runs of a comparison. own: beyond that, the runs of one method. varied: nobody; they tell its cells apart.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], calibrated: Mapping[str, float]) -> Settings:
        """Sort a resolved config; `calibrated` is constraint → ε̂, the same for all runs of one calibration."""
        constraints: Mapping[str, Mapping[str, Any]] = config["constraints"]
        shared: dict[str, Any] = {}
        for key in (*SECTIONS, *MEASURES):
            shared |= flat(select(config, key), key)
        for name, constraint in constraints.items():
            shared |= flat({k: v for k, v in constraint.items() if k not in SWEPT}, f"constraints.{name}")
        shared |= {f"ε̂ of {name} (its calibration)": value for name, value in calibrated.items()}
        return cls(
            shared={key: value for key, value in shared.items() if key not in FREE},
            own=flat(select(config, "multiplier.optimizer"), "multiplier.optimizer") | {"divergence": sorted(constraints)},
            varied=flat({"alpha": config["alpha"], **{n: {k: c.get(k) for k in SWEPT} for n, c in constraints.items()}}),
        )


def disagreements(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In words, every key that has several values among some runs, with two of them and who has them.

    A run without a constraint has nothing to say about it; any other key that a run lacks is "none" there.

    Args:
        settings: run → key → value.
    """
    found = []
    for key in dict.fromkeys(k for values in settings.values() for k in values):
        optional = key.startswith(("constraints.", "ε̂"))
        runs: dict[str, list[str]] = {}
        for name, values in settings.items():
            if key in values or not optional:
                runs.setdefault(_text(values.get(key)), []).append(name)
        if len(runs) > 1:
            (a, at_a), (b, at_b) = list(runs.items())[:2]
            others = f", among {len(runs)} values" if len(runs) > 2 else ""
            found.append(f"{key} is {a} in {_such_as(at_a)} and {b} in {_such_as(at_b)}{others}")
    return found


def _text(value: Any) -> str:
    """A value as it is compared and shown; 1 and 1.0 are the same."""
    whole = isinstance(value, float) and value.is_integer()
    return "none" if value is None else str(int(value) if whole else value)


def _such_as(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs such as {names[0]}"
