"""The errors that a person can put right; the command line shows them as one sentence."""

from __future__ import annotations


class TinySSDError(Exception):
    """Base of the errors below."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker passes an exception on as a text that holds the whole traceback; the message ends it.
        super().__init__(message.rpartition(f"\n{type(self).__module__}.{type(self).__name__}: ")[2].rstrip())


class DataError(TinySSDError):
    """A picture, a label file or a data set cannot be used; the message names the file and the line."""


class CheckpointError(TinySSDError):
    """A checkpoint or a run folder cannot be used."""


class TrainingError(TinySSDError):
    """A training cannot go on."""


class BackboneError(TinySSDError):
    """A backbone or its weights cannot be had."""


class ConfigError(TinySSDError, ValueError):
    """A setting has a value that makes no sense."""
