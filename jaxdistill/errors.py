"""Errors a user can cause: each names the thing, what was got, what was expected and the fix."""

import difflib
from collections.abc import Iterable

_LONGEST = 200


class JaxDistillError(ValueError):
    """Base of every error a user can cause; the command line prints it on one line."""

    exit_code = 2


class ConfigError(JaxDistillError):
    """A configuration value is unknown, mistyped, out of range or contradicts another."""


class DataError(JaxDistillError):
    """A data source is missing, empty, malformed or disagrees with the task."""


class ModelError(JaxDistillError):
    """A model folder, architecture or set of parameters cannot be used."""


class CheckpointError(JaxDistillError):
    """A checkpoint is missing, damaged or belongs to another run."""

    exit_code = 4


class CacheError(JaxDistillError):
    """A cache of teacher outputs is missing, incomplete, damaged or of something else."""


class ProcessError(JaxDistillError):
    """Another process of the run is missing, has failed or has died."""

    exit_code = 76


class Preempted(Exception):
    """The run was asked to stop and has saved its state; running the same command resumes it."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `name`, or nothing."""
    if len(name) > _LONGEST:  # comparing takes the square of the length, and nobody meant this
        return ""
    close = [other for other in known if len(other) <= 3 * len(name)]  # no other reaches the cutoff
    nearest = difflib.get_close_matches(name, close, n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
