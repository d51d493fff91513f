"""The programs of a run, lowered for a mesh from shapes alone."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from jaxdistill.config.generation import GenerateConfig, OnPolicyConfig
from jaxdistill.config.schema import Config, TrainConfig
from jaxdistill.distill.models import student_shapes, teacher_shapes
from jaxdistill.engine.objective import TEACHER
from jaxdistill.errors import ConfigError
from jaxdistill.generation import decode
from jaxdistill.generation.writing import Sampling
from jaxdistill.models.abstract import shapes_of
from jaxdistill.models.frozen import keep_frozen
from jaxdistill.models.registry import Model
from jaxdistill.parallel import sharding
from jaxdistill.parallel.mesh import (
    SEQUENCE,
    TENSOR,
    batch_parts,
    check_heads,
    check_length,
    check_rows,
)
from jaxdistill.planning import loss
from jaxdistill.planning.batches import Batch, batch_of, row_length, stored_fields
from jaxdistill.planning.flops import step_operations
from jaxdistill.setup.assembly import assemble
from jaxdistill.setup.facts import facts_without_data
from jaxdistill.setup.layout import Layout
from jaxdistill.setup.resolve import resolve, stored_shapes
from jaxdistill.types import Tree

PROGRAMS = ("joint", "cached", "finetune", "baseline", "generate", "loss")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and what it is given.

    Attributes:
      name: one of `PROGRAMS`.
      config: settings of the run.
      lower: makes the lowered program; nothing is compiled before.
      held: bytes per device of `parameters` (trained and frozen), `optimizer`, `teacher` and
        `batch`.
      tokens: tokens of a step over all devices; examples where there are no tokens.
      unit: `tokens` or `examples`.
      useful_flops: operations of a step over all devices, without what is computed twice; None
        where they do not follow from the models' shapes.
      run_flops: operations of a step with what is computed twice.
      turns: trip count of a loop that ends by its data.
      useful: `useful_flops` of `teacher` and `student`; empty where they are not known.
      arguments: shapes and layouts of a training step's state, frozen parameters and batch.
    """

    name: str
    config: Config
    lower: Callable[[], jax.stages.Lowered]
    held: dict[str, int]
    tokens: int
    unit: str
    useful_flops: float | None
    run_flops: float | None
    turns: int | None = None
    arguments: tuple[Tree, ...] = ()
    useful: dict[str, float] = dataclasses.field(default_factory=dict)


def make_program(config: Config, mesh: Mesh, name: str, *, apart: bool = False) -> Program:
    """Return a program of a run.

    Args:
      config: settings of the run.
      mesh: the devices.
      name: one of `PROGRAMS`.
      apart: whether layers run one by one where the config leaves it open, as on CPU.

    Raises:
      ConfigError: the batch, a row or heads do not divide over the mesh, or the config has no such
        program; before anything is compiled.
    """
    if name not in PROGRAMS:
        raise ConfigError(f"plan: got program {name!r}, expected one of {list(PROGRAMS)}")
    if name == "generate":
        return _generation(config, mesh)
    if name == "loss":
        return _loss(config, mesh)
    if name == "finetune":
        if config.finetune is None:
            raise ConfigError("finetune: got null, so that there is no fine-tune to plan")
        return _step(config, mesh, name, config.finetune, apart)
    return _step(config, mesh, name, config.train, apart)


def _step(config: Config, mesh: Mesh, name: str, train: TrainConfig, apart: bool) -> Program:
    layout = Layout(None, apart if train.unroll is None else train.unroll)
    facts = facts_without_data(config)
    tunes = name == "finetune"
    plain = teacher_shapes(config, facts, train) if tunes else student_shapes(config, facts)
    batch = batch_of(config, train, plain, facts)
    _check(mesh, plain, batch, "teacher" if tunes else "student", train.accumulate)
    student = layout.lay_out(plain)
    alone = tunes or name == "baseline"
    named = alone or config.teacher.function is not None
    live = None if named else teacher_shapes(config, facts)
    teacher: Any = None if live is None else layout.lay_out(live)
    if name == "cached":
        teacher = stored_shapes(config, live, facts)
        batch |= stored_fields(teacher, batch)
    elif live is None and not alone:
        raise ConfigError(
            f"plan: got program {name!r}, but teacher.function runs in no step; expected 'cached'"
        )
    setup = resolve(config, train, facts, student, teacher)
    assembly = assemble(setup, mesh)
    maps = shapes_of(setup.projections)
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    trained, frozen = assembly.split({"student": shapes_of(student.params), "projections": maps})
    state = jax.eval_shape(
        assembly.make_state, trained, student.model_state, assembly.method_state, key
    )
    state = with_shardings(state, assembly.state_sharding)
    teachers = {} if setup.teacher is None else {TEACHER: shapes_of(setup.teacher.params)}
    frozen = dataclasses.replace(frozen, teachers=teachers)
    frozen = with_shardings(frozen, assembly.frozen_sharding)
    given = with_shardings(batch, sharding.batch_shardings(batch, mesh))
    params = bytes_held(state.params) + bytes_held(state.model_state)
    kept = bytes_held((frozen.student, frozen.projections))
    useful, run = step_operations(
        config,
        train,
        plain,
        live if name == "joint" else None,
        batch,
        mesh,
        apart=layout.apart,
    )
    ids = batch.get("input_ids")
    compiled: Any = assembly.compiled()  # as jit returns it
    return Program(
        name,
        config,
        lambda: compiled.lower(state, frozen, given),
        {
            "parameters": params + kept,
            "optimizer": bytes_held(state) - params,
            "teacher": bytes_held(frozen.teachers),
            "batch": bytes_held(given),
        },
        train.batch_size if ids is None else math.prod(ids.shape),
        "examples" if ids is None else "tokens",
        sum(useful.values()) or None,
        run,
        _room(config.on_policy, row_length(config, plain)) if config.on_policy else None,
        (state, frozen, given),
        useful,
    )


def _check(mesh: Mesh, model: Model, batch: Batch, who: str, accumulate: int) -> None:
    """Refuse what cannot be laid over the mesh, with the values that can."""
    check_heads(who, model.config, mesh.shape[TENSOR])
    rows = batch["labels"].shape[0]
    check_rows("labels", rows, mesh)
    parts = batch_parts(mesh) * accumulate
    if rows % parts:
        lower = rows // parts * parts
        near = " or ".join(str(number) for number in (lower, lower + parts) if number)
        raise ConfigError(
            f"train.accumulate: got {accumulate} microbatches of {rows} rows over "
            f"{batch_parts(mesh)} devices, expected train.batch_size a multiple of {parts}, e.g. "
            f"{near}"
        )
    if "input_ids" in batch:
        check_length(batch["input_ids"].shape[1], mesh.shape[SEQUENCE])


def _room(wanted: GenerateConfig | OnPolicyConfig, length: int) -> int:
    room = length - wanted.prompt_tokens
    return min(room, wanted.max_new_tokens or room)


def _generation(config: Config, mesh: Mesh) -> Program:
    """The teacher's writing of a batch of texts, parameters and rows split as in a step."""
    if not config.task_record.writes:
        raise ConfigError(f"generate: got task {config.task!r}, expected 'language_model'")
    model, wanted = keep_frozen(teacher_shapes(config, facts_without_data(config))), config.generate
    decoder, options = decode.decoder_of(model)
    check_heads("teacher", model.config, mesh.shape[TENSOR])
    rows = wanted.batch_size
    check_rows("prompts", rows, mesh, setting="generate.batch_size")
    room = _room(wanted, row_length(config, model))
    params = with_shardings(
        model.params, sharding.parameter_shardings(model.params, model.axes, mesh)
    )
    over = sharding.batch_sharding(mesh)
    ids = jax.ShapeDtypeStruct((rows, wanted.prompt_tokens), jnp.int32, sharding=over)
    lengths = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=over)
    number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    factor: Any = jax.ShapeDtypeStruct((), jnp.float32)
    end: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    greedy = wanted.temperature == 0
    key = jax.eval_shape(functools.partial(jax.random.key, 0))

    write = functools.partial(
        decode.write,
        shape=decoder,
        options=options,
        room=room,
        top_k=None if greedy else wanted.top_k,
        vocabulary=None,
        mesh=mesh,
    )

    sampling = Sampling(
        None if greedy else key,
        None if greedy else factor,
        None if greedy or wanted.top_p is None else factor,
        end,
        number,
    )

    def lower() -> jax.stages.Lowered:
        return jax.jit(write).lower(params, ids, lengths, number, sampling)

    held = {
        "parameters": 0,
        "optimizer": 0,
        "teacher": bytes_held(params),
        "batch": bytes_held((ids, lengths)),
    }
    return Program("generate", config, lower, held, rows * room, "tokens", None, None, room)


def _loss(config: Config, mesh: Mesh) -> Program:
    """The loss alone, on one device's tokens."""
    if not config.task_record.over_vocabulary:
        raise ConfigError(f"loss: got task {config.task!r}, expected 'language_model'")
    facts = facts_without_data(config)
    student, teacher = student_shapes(config, facts), teacher_shapes(config, facts)
    batch = batch_of(config, config.train, student, facts)
    _check(mesh, student, batch, "student", 1)
    ours, theirs = student.sizes, teacher.sizes
    if ours.vocabulary != theirs.vocabulary:
        raise ConfigError("loss: got heads of two sizes, expected one to plan the loss alone")
    assert ours.width is not None  # what reads tokens has all of these
    assert theirs.width is not None
    assert ours.vocabulary is not None
    sizes = loss.Sizes(
        ours.width,
        theirs.width,
        ours.vocabulary,
        jnp.dtype(config.train.dtype),
    )
    tokens = math.prod(batch["input_ids"].shape) // batch_parts(mesh)
    given = loss.shapes(tokens, sizes, SingleDeviceSharding(mesh.devices.flat[0]))
    function = functools.partial(
        loss.fused if config.losses == "fused" else loss.dense, terms=loss.terms_of(config.terms)
    )
    held = {
        "parameters": bytes_held(given[1]),
        "optimizer": 0,
        "teacher": bytes_held(given[3]),
        "batch": bytes_held((given[0], given[2], given[4])),
    }
    useful = loss.useful_flops(tokens, sizes) * mesh.size
    return Program(
        "loss",
        config,
        lambda: loss.lowered(function, given),
        held,
        tokens * mesh.size,
        "tokens",
        useful,
        useful,
    )


def with_shardings(tree: Tree, shardings: Tree) -> Tree:
    """Return shapes that know how they are laid out."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        shardings,
    )


def bytes_held(tree: Tree) -> int:
    """Return the bytes of one device's part of shapes that know how they are laid out.

    What lies in the host's memory takes none.
    """
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if leaf.sharding.memory_kind != "pinned_host"
    )
