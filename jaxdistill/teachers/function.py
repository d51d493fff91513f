"""A teacher that is a plain function: it runs on the host, once over the examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdistill.config.plugins import function_of
from jaxdistill.config.schema import Config
from jaxdistill.config.teacher_functions import teacher_functions
from jaxdistill.data.batching.batch_source import eval_batches
from jaxdistill.data.split import Split
from jaxdistill.errors import DataError, Preempted
from jaxdistill.runtime import preemption

_UNREAD = ("labels", "weight")  # What a batch holds beside what models read.


def speak(config: Config, split: Split, outputs: int | None) -> np.ndarray:
    """Return the function's logits for every example, float32 `[N, C]`, in the split's order.

    Args:
      config: settings of the run; its `teacher.function` names the function and its options.
      split: examples to be read.
      outputs: number of classes; None where the data do not state it.

    Raises:
      DataError: it returns something else than finite numbers `[N, C]`.
      Preempted: the process was asked to stop.
    """
    name, function, options = _named(config)
    source = eval_batches(split, batch_size=config.data.eval_batch_size, config=config.data)
    said: np.ndarray | None = None
    for step in range(source.steps_per_epoch):
        if preemption.requested():
            raise Preempted("stopped while teacher.function ran; run the same command to go on")
        index = source.info(step).index
        real = index >= 0
        examples = {
            key: np.asarray(field)[real]
            for key, field in source[step].items()
            if key not in _UNREAD
        }
        logits = np.asarray(function(examples, **options), np.float32)
        shape = (int(real.sum()), logits.shape[-1] if outputs is None and logits.ndim else outputs)
        if logits.shape != shape:
            raise DataError(
                f"teacher.function: {name!r} returned {list(logits.shape)}, expected "
                f"{list(shape)}: a logit of each class for each example"
            )
        if not np.isfinite(logits).all():
            raise DataError(
                f"teacher.function: {name!r} returned numbers that are not finite, expected logits"
            )
        if said is None:
            outputs = logits.shape[1]
            said = np.zeros((len(split), outputs), np.float32)
        said[index[real]] = logits
    assert said is not None  # A split has examples.
    return said


def _named(config: Config) -> tuple[str, Callable[..., Any], Mapping[str, object]]:
    given = config.teacher.function
    assert isinstance(given, dict)  # as the config reads it
    name, values = given["name"], {key: item for key, item in given.items() if key != "name"}
    record = teacher_functions()[name]
    options = record.options.model_validate(values)
    return name, function_of(record.function), {key: getattr(options, key) for key in values}
