"""Batches on the device ahead of the step, and where a run stands in its data."""

from __future__ import annotations

from collections.abc import Callable, Generator

import grain
import jax

from jaxdistill.data.batching.batch_source import Batch, BatchInfo, BatchSource
from jaxdistill.errors import CheckpointError
from jaxdistill.types import Json, Tree

_NAMES = {
    "data": "the data (its files, columns, tokenizer or split)",
    "seed": "the seed",
    "batch_size": "the batch size",
    "buckets": "the buckets (rows and length of each)",
    "layout": "the layout",
    "shift": "the augmentation (data.shift)",
}


class _Steps:
    """The steps of a run as grain reads them, made and placed in its thread."""

    def __init__(
        self, source: BatchSource, start: int, stop: int, place: Callable[[Batch], Tree]
    ) -> None:
        self._source, self._start, self._stop, self._place = source, start, stop, place

    def __len__(self) -> int:
        return max(self._stop - self._start, 0)

    def __getitem__(self, index: int) -> tuple[Tree, BatchInfo]:
        step = self._start + index
        return self._place(self._source[step]), self._source.info(step)


def device_batches(
    source: BatchSource,
    start: int,
    stop: int,
    *,
    place: Callable[[Batch], Tree] = jax.device_put,
    prefetch: int = 2,
) -> Generator[tuple[dict[str, jax.Array], BatchInfo]]:
    """Yield the batches of steps `start … stop - 1`, made and placed `prefetch` steps ahead.

    Assembly and transfer run in another thread while the device computes. What goes wrong there is
    raised here. Closing the iterator, or leaving its loop, stops the thread.

    Args:
      source: batches by step.
      start: first step.
      stop: step to stop before.
      place: brings a batch of NumPy arrays to the devices; called from another thread, in order.
      prefetch: batches that wait on the device.
    """
    steps = _Steps(source, start, stop, place)
    if not len(steps):
        return
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    iterator = iter(grain.MapDataset.source(steps).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def position(source: BatchSource, step: int) -> Json:
    """Return what a checkpoint has to remember: the next step, and what its order depends on."""
    return {"step": step, "fingerprint": source.fingerprint, **source.identity}


def check_position(saved: Json, source: BatchSource) -> None:
    """Check that a saved position means the same batches in `source`.

    Raises:
      CheckpointError: naming what changed, such as the seed.
    """
    if saved.get("fingerprint") == source.fingerprint:
        return
    changed = [
        f"{_NAMES.get(key, key)}: was {saved.get(key)!r}, is {value!r}"
        for key, value in source.identity.items()
        if saved.get(key) != value
    ]
    raise CheckpointError(
        "checkpoint: its position belongs to other batches: "
        f"{'; '.join(changed) or 'it lacks a fingerprint'}; "
        "go back to the saved settings, or start again in another work directory"
    )
