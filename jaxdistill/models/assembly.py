"""A model on its family's module: traced for its shapes, drawn anew, and put together of arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxdistill.errors import ModelError
from jaxdistill.models.family import Apply, Family, FamilyConfig, Model, Options
from jaxdistill.models.hub.rules import flatten, unflatten
from jaxdistill.models.outputs import Outputs
from jaxdistill.types import Tree

FEW = 8


@dataclasses.dataclass(frozen=True)
class _Sketch:
    """What a traced model depends on; a config is known by what it prints, extra fields and all."""

    build: Callable[..., nnx.Module]
    options: Options
    written: str
    config: FamilyConfig = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=32)
def _traced(sketch: _Sketch) -> tuple[nnx.GraphDef, Tree, Tree]:
    module = nnx.eval_shape(lambda: sketch.build(sketch.config, sketch.options, nnx.Rngs(0)))
    graph, params, state = nnx.split(module, nnx.Param, nnx.BatchStat)
    return graph, params, state


def abstract(
    family: Family, config: FamilyConfig, options: Options
) -> tuple[nnx.GraphDef, Tree, Tree, Tree]:
    """Trace a model without computing it: graph, shapes of params and model state, logical axes.

    The last models are remembered: one that is read, cut, and saved is traced once.
    """
    graph, params, state = _traced(_Sketch(family.build, options, repr(config), config))
    axes = jax.tree.map(
        lambda leaf: leaf.get_metadata().get("axes") or (None,) * len(leaf.shape),
        params,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )
    shapes, statistics = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
    return graph, shapes, statistics or None, nnx.to_pure_dict(axes)


def initial(
    family: Family, config: FamilyConfig, options: Options, seed: int, paths: Sequence[str]
) -> dict:
    """Draw the arrays of those paths (`params/...`, `model_state/...`)."""

    def draw() -> dict[str, jax.Array]:
        module = family.build(config, options, nnx.Rngs(seed))
        _, params, state = nnx.split(module, nnx.Param, nnx.BatchStat)
        flat = flatten({"params": nnx.to_pure_dict(params), "model_state": nnx.to_pure_dict(state)})
        return {path: flat[path] for path in paths}

    if not paths:
        return {}
    # Compiled, a few arrays cost no more than themselves; all of them are drawn one by one, whose
    # compiled draws are shared by every model with arrays of the same shapes.
    return jax.jit(draw)() if len(paths) <= FEW else draw()


def assemble(
    family: Family,
    config: FamilyConfig,
    options: Options,
    leaves: Mapping[str, ArrayLike],
    **fields: Any,
) -> Model:
    """Make a Model of arrays by path (`params/...`, `model_state/...`)."""
    graph, shapes, statistics, axes = abstract(family, config, options)
    arrays = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    return Model(
        apply=_apply_of(graph, family.name, statistics is not None),
        params=unflatten(shapes, arrays, "params"),
        config=config,
        model_state=unflatten(statistics, arrays, "model_state") if statistics else None,
        family=family.name,
        options=options,
        axes=axes,
        **fields,
    )


def shapes_only(family: Family, config: FamilyConfig, options: Options, **fields: Any) -> Model:
    """Make a Model whose parameters are `jax.ShapeDtypeStruct`: to be traced and compiled for."""
    graph, shapes, statistics, axes = abstract(family, config, options)
    return Model(
        apply=_apply_of(graph, family.name, statistics is not None),
        params=shapes,
        config=config,
        model_state=statistics,
        family=family.name,
        options=options,
        axes=axes,
        **fields,
    )


def _apply_of(graph: nnx.GraphDef, name: str, stateful: bool) -> Apply:
    def apply(
        params: Tree,
        batch: Mapping[str, jax.Array],
        *,
        rng: jax.Array | None = None,
        train: bool = False,
        taps: Sequence[str] = (),
        model_state: Tree = None,
    ) -> Outputs:
        if stateful and model_state is None:
            raise ModelError(
                f"model_state: got None, expected the batch statistics of {name}; "
                "pass model_state=model.model_state"
            )
        states = (params, model_state) if stateful else (params,)
        module = nnx.merge(graph, *states)
        return module(batch, rng=rng if train else None, train=train, taps=tuple(taps))

    return apply
