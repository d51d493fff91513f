"""All tasks by name: those of the package, and those that others registered."""

from __future__ import annotations

import functools
import importlib

from jaxdistill.config.plugins import load_plugins, refuse_taken
from jaxdistill.errors import ConfigError
from jaxdistill.tasks.task import Metric, Task

_OWN = ("classification", "multilabel", "regression", "language_model")
_REGISTERED: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Make a task known to configs, `jaxdistill methods` and plans under its name.

    Raises:
      ConfigError: another task has that name, or a metric means something else in another task.
    """
    refuse_taken("register_task", "task", task.name, task, _own(), _REGISTERED)
    known = _metrics({**_own(), **_REGISTERED})
    for metric in task.metrics:
        other = known.get(metric.name, metric)
        if other.form != metric.form:
            raise ConfigError(
                f"register_task: got {metric} for task {task.name!r}, but another task has one of "
                f"that name which is shown otherwise, {other}; choose another name"
            )
    _REGISTERED[task.name] = task
    return task


def tasks() -> dict[str, Task]:
    """Return every task by name, those of the package first."""
    load_plugins()
    return {**_own(), **_REGISTERED}


def task_named(name: str) -> Task:
    """Return a task.

    Raises:
      KeyError: no such task.
    """
    return tasks()[name]


def metric_named(name: str) -> Metric:
    """Return the metric of that name of the first task that has it.

    Raises:
      KeyError: no task has such a metric.
    """
    return _metrics(tasks())[name]


def agreement_is_share(metric: str) -> bool:
    """Return whether the agreement with the teacher is a share, for the task of a metric.

    Raises:
      KeyError: no task has such a metric.
    """
    owner = next(task for task in tasks().values() if metric in {m.name for m in task.metrics})
    return owner.agreement_is_share


def _metrics(known: dict[str, Task]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for task in known.values():
        found = {metric.name: metric for metric in task.metrics} | found
    return found


@functools.cache
def _own() -> dict[str, Task]:
    modules = [importlib.import_module(f"jaxdistill.tasks.{name}") for name in _OWN]
    return {task.name: task for module in modules for task in module.TASKS}
