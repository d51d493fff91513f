"""A narrower student from its teacher: the heads, channels and hidden width that carry most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill.errors import ModelError
from jaxdistill.models.assembly import abstract, assemble
from jaxdistill.models.family import Model
from jaxdistill.models.hub.rules import flatten
from jaxdistill.models.layers.decoder_layer import Shape
from jaxdistill.models.registry import family_named
from jaxdistill.models.shrink.importance import Importance, decoder_shape

# What our sizes are called in the configs.
_FIELDS = {
    "hidden_size": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key_heads": ("num_key_value_heads",),
    "mlp_size": ("intermediate_size", "n_inner"),
}


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a slice keeps, as indices in the teacher's order.

    Attributes:
      hidden: `[D']`.
      groups: `[L, K']` heads of keys, each with its query heads.
      mlp: `[L, I']`.
    """

    hidden: np.ndarray
    groups: np.ndarray
    mlp: np.ndarray


def most_important(importance: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` largest along the last axis, ascending; ties: the first."""
    order = np.argsort(-importance, axis=-1, kind="stable")
    return np.sort(order[..., :count], axis=-1)


def narrow_student(
    teacher: Model,
    importance: Importance,
    *,
    hidden_size: int | None = None,
    heads: int | None = None,
    mlp_size: int | None = None,
) -> Model:
    """Keep the most important parts of a decoder (Muralidharan et al. 2024, section 2.2).

    Heads and feed-forward channels are chosen layer by layer, the hidden width once: embeddings,
    every block and the head lose the same channels. Of grouped heads, whole groups go. A norm that
    divides by the root mean square sees fewer channels than before: its scale takes up the ratio
    measured on the calibration texts, so that channels without energy can go without a trace.

    Args:
      teacher: a decoder.
      importance: measured on it.
      hidden_size, heads, mlp_size: what the student has; None: as many as the teacher.

    Returns:
      A model that shares no buffer with the teacher.

    Raises:
      ModelError: no decoder, importance of another one, or a size the teacher cannot give.
    """
    shape, options = decoder_shape(teacher)
    assert teacher.family is not None
    family = family_named(teacher.family)
    kept = _kept(shape, importance, hidden_size, heads, mlp_size)
    config = _config(teacher.config, shape, kept)
    axes = flatten(abstract(family, teacher.config, options)[3])
    leaves = {
        path: _sliced(np.asarray(leaf), axes[path], _indices(shape, kept, path))
        for path, leaf in flatten(teacher.params).items()
    }
    leaves |= _rescaled(shape, config.shape, importance, kept, leaves)
    return assemble(
        family,
        config,
        options,
        {f"params/{path}": np.array(leaf, copy=True) for path, leaf in leaves.items()},
        labels=teacher.labels,
        source=teacher.source,
        initialized=teacher.initialized,
    )


def narrowed_config(teacher: Model, **sizes: int) -> Any:
    """Return the config of a student with those sizes, see `narrow_student`; needs no weights.

    Raises:
      ModelError: no decoder, or a size the teacher cannot give.
    """
    shape, _ = decoder_shape(teacher)
    equal = Importance(
        heads=np.zeros((shape.depth, shape.key_heads)),
        mlp=np.zeros((shape.depth, shape.inner)),
        hidden=np.zeros(shape.width),
        energy={},
        tokens=0,
    )
    wanted = {"hidden_size": None, "heads": None, "mlp_size": None} | sizes
    return _config(teacher.config, shape, _kept(shape, equal, **wanted))


def _kept(
    shape: Shape,
    importance: Importance,
    hidden_size: int | None,
    heads: int | None,
    mlp_size: int | None,
) -> Kept:
    expected = ((shape.width,), (shape.depth, shape.key_heads), (shape.depth, shape.inner))
    got = (importance.hidden.shape, importance.heads.shape, importance.mlp.shape)
    if got != expected:
        raise ModelError(
            f"importance: got shapes {got}, expected {expected}; measure it on this teacher"
        )
    group = shape.heads // shape.key_heads
    for name, value, most, multiple in (
        ("hidden_size", hidden_size, shape.width, 1),
        ("heads", heads, shape.heads, group),
        ("mlp_size", mlp_size, shape.inner, 1),
    ):
        if value is not None and (not 1 <= value <= most or value % multiple):
            whole = f", a multiple of {multiple} (its groups stay whole)" if multiple > 1 else ""
            raise ModelError(
                f"student.{name}: got {value}, expected 1 to {most}, what the teacher has{whole}"
            )
    return Kept(
        most_important(importance.hidden, hidden_size or shape.width),
        most_important(importance.heads, (heads or shape.heads) // group),
        most_important(importance.mlp, mlp_size or shape.inner),
    )


def _config(config: Any, shape: Shape, kept: Kept) -> Any:
    """Return the student's config.

    Raises:
      ModelError: the family ties the width of a head to the other sizes, and these do not fit.
    """
    known = {field.name for field in dataclasses.fields(config)}
    groups = kept.groups.shape[1]
    sizes = {
        "hidden_size": kept.hidden.size,
        "heads": groups * shape.heads // shape.key_heads,
        "key_heads": groups,
        "mlp_size": kept.mlp.shape[1],
    }
    if "head_dim" not in known and sizes["hidden_size"] != sizes["heads"] * shape.head_width:
        raise ModelError(
            f"student.hidden_size: got {sizes['hidden_size']} with {sizes['heads']} heads, "
            f"expected {sizes['heads'] * shape.head_width}: in this family it is the number of "
            f"heads times their width, {shape.head_width}; set student.heads and "
            "student.hidden_size together"
        )
    fields = {
        next(name for name in _FIELDS[size] if name in known): value
        for size, value in sizes.items()
        if any(name in known for name in _FIELDS[size])
    }
    extra = {name: fields.get(name, value) for name, value in config.extra.items()}
    return dataclasses.replace(config, **fields, extra=extra)


def _indices(shape: Shape, kept: Kept, path: str) -> dict[str, np.ndarray]:
    """Return what is kept along each logical axis of the parameter at that path."""
    shared = path.split("/")[-2] in ("key", "value")
    width = shape.head_width * (1 if shared else shape.heads // shape.key_heads)
    columns = kept.groups[:, :, None] * width + np.arange(width)[None, None]  # [L, K', width]
    return {
        "embed": kept.hidden,
        "heads": columns.reshape(columns.shape[0], -1),
        "mlp": kept.mlp,
    }


def _sliced(
    leaf: np.ndarray, axes: tuple[str | None, ...], indices: Mapping[str, np.ndarray]
) -> np.ndarray:
    for axis, name in enumerate(axes):
        index = indices.get(name or "")
        if index is None:
            continue
        if index.ndim == 1:
            leaf = np.take(leaf, index, axis=axis)
        else:  # each layer keeps a different choice
            rows = [np.take(leaf[i], own, axis=axis - 1) for i, own in enumerate(index)]
            leaf = np.stack(rows)
    return leaf


def _rescaled(
    shape: Shape,
    narrow: Shape,
    importance: Importance,
    kept: Kept,
    leaves: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the parameters that make up for a mean over fewer channels, and for another scale."""
    if narrow.width == shape.width:
        return {}
    offset = 1.0 if shape.norm == "rms_offset" else 0.0
    # An embedding scale that goes with the width is undone in the table, and after the last norm
    # where the head is that table.
    ratio = shape.embedding_scale / narrow.embedding_scale
    changed = {"embeddings/word/table": leaves["embeddings/word/table"] * np.float32(ratio)}
    if shape.norm == "layer":
        return changed
    for name, energy in importance.energy.items():
        left = energy[..., kept.hidden].mean(-1)
        factor = np.sqrt(left / np.maximum(energy.mean(-1), np.finfo(np.float64).tiny))
        if name == "norm" and shape.tied:
            factor = factor / ratio
        scale = (leaves[f"{name}/scale"] + offset) * factor[..., None] - offset
        changed[f"{name}/scale"] = scale.astype(np.float32)
    return changed
