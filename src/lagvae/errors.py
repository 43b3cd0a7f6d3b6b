"""Errors that a person can act on: each names the setting, the value and what to do."""

from __future__ import annotations


class LagvaeError(Exception):
    """Base of every error that an entry point prints as one line instead of a traceback."""


class SettingError(LagvaeError, ValueError):
    """A setting has a value that cannot work."""


class DataError(LagvaeError, ValueError):
    """The data cannot be read, or do not fit the model."""


class CalibrationError(LagvaeError):
    """No calibration fits, or the one that was named does not match."""


class CheckpointError(LagvaeError):
    """A checkpoint or a run folder is damaged, or belongs to another model."""


class ComparisonError(LagvaeError, ValueError):
    """There are no runs to compare, or they do not belong together."""


class DivergedError(LagvaeError, ArithmeticError):
    """A term of the objective stopped being a finite number."""


class FailedRunsError(LagvaeError):
    """Some runs of a sweep failed; the others finished."""


class Stopped(LagvaeError):
    """The user stopped a run that can be resumed."""


class SolverError(LagvaeError):
    """A solver is not installed, or ended without an optimum: its numbers are not read."""
