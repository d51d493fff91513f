"""A run's teacher put on disk and taken from there: what must match, how it is written and read."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill.config.schema import Config
from jaxdistill.config.training import ParallelConfig
from jaxdistill.data.batching.batch_source import eval_batches
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import take_examples
from jaxdistill.distill import models as build
from jaxdistill.engine.telemetry import say
from jaxdistill.errors import Preempted
from jaxdistill.models.frozen import keep_frozen
from jaxdistill.models.outputs import Head
from jaxdistill.models.registry import Model
from jaxdistill.parallel import compilation as parallel
from jaxdistill.parallel import sharding
from jaxdistill.parallel.host_memory import in_host_memory
from jaxdistill.parallel.mesh import TENSOR, batch_parts, check_heads, make_mesh
from jaxdistill.runtime import group, preemption
from jaxdistill.setup.codec import check_objective
from jaxdistill.setup.facts import facts_of
from jaxdistill.setup.resolve import stored_shapes
from jaxdistill.teachers import targets
from jaxdistill.teachers.cache.reader import Cache, inspect, open_cache
from jaxdistill.teachers.cache.writer import CacheWriter
from jaxdistill.teachers.identity import example_keys, teacher_hash, tokenizer_hash
from jaxdistill.teachers.live import with_state
from jaxdistill.types import Json, Tree


def identity(config: Config, dataset: Dataset, finetuned: Path | None) -> Json:
    """Return what decides a teacher's outputs, as plain values by name.

    Args:
      finetuned: folder of the teacher as it teaches; None where it is taken as it is.

    Returns:
      `teacher` is None where its weights are not at hand.
    """
    folder = dataset.tokenizer or build.tokenizer_folder(config)
    return {
        "teacher": teacher_hash(finetuned or config.teacher.model or {}, config.seeds[0]),
        "tokenizer": None
        if folder is None or not dataset.train.inputs.tokenized
        else tokenizer_hash(folder),
        "data": dataset.train.fingerprint,
        "labels": None if dataset.labels is None else list(dataset.labels),
        "pooling": config.teacher.pooling,
        "dtype": config.teacher.dtype,
    }


def write(config: Config, dataset: Dataset, teacher: Model, path: Path, of: Json) -> Json:
    """Store the teacher's outputs for every training example; return an inspection.

    What an earlier, killed run left whole is kept. Every process writes a different share.

    Args:
      of: the identity of the teacher and the data.

    Raises:
      CacheError: the folder holds another cache.
      Preempted: the process was asked to stop; what was computed is on disk.
    """
    split = dataset.train
    keys = example_keys(split)
    _, first = np.unique(keys, return_index=True)
    own = np.sort(first)[jax.process_index() :: jax.process_count()]
    stored = stored_shapes(config, teacher, facts_of(config, dataset))
    mesh = _own_mesh(config.parallel)
    check_heads("teacher", teacher.config, mesh.shape[TENSOR])
    speak, params, head = _speaker(teacher, dataset, mesh)
    stopped = ""
    # Every process has another number of batches, so each looks for itself whether to stop.
    try:
        with CacheWriter(path, stored.codec, of, head=head) as writer:
            left = own[~writer.has(keys[own])]
            if left.size < own.size:
                say(f"cache  {own.size - left.size:,} of {own.size:,} examples are there already")
            written = time.monotonic()
            for index, batch in _batches(config, dataset, left, batch_parts(mesh)):
                if preemption.asked():
                    raise Preempted(
                        "stopped while writing the cache; run the same command to go on"
                    )
                real = index >= 0
                said = np.asarray(speak(params, parallel.place_batch(batch, mesh)))[real]
                tokens = None if head is None else batch["attention_mask"][real] > 0
                writer.write(keys[index[real]], said, where=tokens)
                if time.monotonic() - written > config.checkpoint.every_seconds:
                    writer.flush()
                    written = time.monotonic()
    except Preempted as stop:
        stopped = str(stop)
    if reason := next(filter(None, group.everyone("cache", stopped)), None):
        raise Preempted(reason)
    return inspect(path)


def _own_mesh(parallel: ParallelConfig) -> Mesh:
    """Lay this process's devices out as the run is: with as much of its `tensor` and `fsdp`."""
    local = jax.local_devices()

    def most(size: int, room: int) -> int:
        return room if size == -1 else math.gcd(size, room)

    tensor = most(parallel.tensor, len(local))
    room = len(local) // tensor
    fsdp = {"wide": room, "whole": 1}.get(parallel.teacher, most(parallel.fsdp, room))
    return make_mesh(fsdp=fsdp, tensor=tensor, devices=local)


def _speaker(
    teacher: Model, dataset: Dataset, mesh: Mesh
) -> tuple[Callable[..., jax.Array | None], Tree, Head | None]:
    """Return what gives logits `[B, C]`, or of a language model hidden states and its head."""
    with in_host_memory():
        apply, params = with_state(keep_frozen(teacher))
    axes = teacher.axes if teacher.model_state is None else None
    placed = sharding.place(params, sharding.parameter_shardings(params, axes, mesh))

    compiled = functools.partial(parallel.compile_evaluation, mesh=mesh, whole=False)
    if teacher.options is None or teacher.options.head != "lm":
        return compiled(lambda params, batch: apply(params, batch).logits), placed, None

    @jax.jit
    def last_head(params: Tree) -> Head:
        ids = jnp.zeros((1, 2), jnp.int32)
        batch = {"input_ids": ids, "attention_mask": jnp.ones_like(ids)}
        return apply(params, batch).head()

    with in_host_memory():
        head = last_head(with_state(teacher)[1])
    head = targets.token_head(head, dataset.vocabulary)
    return compiled(lambda params, batch: apply(params, batch).hidden), placed, head


def _batches(config: Config, dataset: Dataset, rows: np.ndarray, shards: int) -> Any:
    """Yield which example each row is of, -1 where it only fills, and the batch."""
    if not rows.size:
        return
    source = eval_batches(
        take_examples(dataset.train, rows),
        batch_size=config.data.eval_batch_size,
        config=config.data,
        shards=shards,
    )
    for step in range(len(source)):
        index = source.info(step).index
        yield np.where(index >= 0, rows[index], -1), source[step]


def read(config: Config, dataset: Dataset, path: Path, of: Json) -> Cache:
    """Open a cache after checking that it is of this run's teacher, tokenizer and data.

    Raises:
      CacheError: it is incomplete or damaged, or fields do not match: all of them are listed.
      ConfigError: the objective needs more of the teacher than it holds.
    """
    # A cache of more data than is trained on will do: its examples are looked up one by one.
    expected = {name: value for name, value in of.items() if name != "data"}
    if of["teacher"] is None:
        expected.pop("teacher")
        say(f"cache  the teacher's weights are not at hand to compare with those of {path}")
    cache = open_cache(path, expected)
    check_objective(config, cache.codec)
    targets.from_cache(cache, dataset.train)
    return cache


def describe(found: Json) -> str:
    """Lay an inspection out as lines of text."""
    codec = " ".join(f"{name}={value}" for name, value in found["codec"].items() if name != "name")
    kl, rate = found["reconstruction_kl"], found["tokens_per_second"]
    per_token = found["bytes_per_token"]
    lines = {
        "codec": f"{found['codec']['name']} {codec}",
        "holds": f"{found['examples']:,} examples, {found['tokens']:,} tokens, "
        f"{found['width']:,} wide, in {found['shards']:,} shards",
        "size": f"{found['bytes']:,} bytes"
        + ("" if per_token is None else f", {per_token:.1f} bytes per token"),
        "reconstruction": "not measured"
        if kl is None
        else f"{kl:.3g} nats over {found['tokens_compared']:,} tokens, "
        f"{found['reconstruction_kl_meaning']}",
        "throughput": "not measured" if rate is None else f"{rate:,.0f} tokens per second",
        **{f"of {name}": value for name, value in found["identity"].items() if value is not None},
    }
    return "\n".join(f"{name:15} {value}" for name, value in lines.items())
