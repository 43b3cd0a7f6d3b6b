"""Errors that a user can act on. Each message names the setting, its value and a remedy."""

from __future__ import annotations


class LagvaeError(Exception):
    """Base class of all errors that an entry point prints as one line instead of a traceback."""


class SettingError(LagvaeError, ValueError):
    """A setting has an invalid value, or two settings are incompatible."""


class DataError(LagvaeError, ValueError):
    """The data cannot be read, or are incompatible with the model."""


class CalibrationError(LagvaeError):
    """No calibration matches the config, or the one given in it does not."""


class CheckpointError(LagvaeError):
    """A checkpoint or a run folder is damaged, or belongs to another model."""


class ComparisonError(LagvaeError, ValueError):
    """There are no runs to compare, or the runs are not comparable."""


class DivergedError(LagvaeError, ArithmeticError):
    """A term of the objective is no longer a finite number."""


class OwnedError(LagvaeError):
    """Another process trains or measures in a folder now."""


class FailedRunsError(LagvaeError):
    """Some runs of a sweep failed, while the others finished."""


class RankError(LagvaeError):
    """Another of the processes that share a run has ended, so this one cannot go on."""


class Stopped(LagvaeError):
    """The user interrupted a run. It can be resumed."""


class SolverError(LagvaeError):
    """A solver is not installed, or ended without an optimum, so that its result cannot be used."""
