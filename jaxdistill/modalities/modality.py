"""What a kind of input says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxdistill.config.base import NoOptions, Section
from jaxdistill.config.plugins import Target
from jaxdistill.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Field:
    """An array of a batch, `[B, *axes]`.

    Attributes:
      dtype: name of the type of its values, such as `float32`.
      axes: names of the axes behind the rows, as `Modality.sizes` knows them.
      fill: value of an example that stands for any, where the data need not exist.
    """

    dtype: str
    axes: tuple[str, ...] = ()
    fill: int = 0


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of input.

    Functions are given as themselves or as `package.module:name`, which is imported on first use,
    so that a config that names the kind can be checked without importing jax. `sizes` are the sizes
    of an example by name, such as `{"height": 8, "width": 8, "channels": 1}`.

    Attributes:
      name: name in `data.modality` and in model families.
      plural: what its examples are called in messages.
      fields: what a batch holds of it, by name.
      read: `(tables, source) -> Found`, the inputs of the tables of all splits; see
        `jaxdistill.data.inputs.reading`.
      options: a section with its options, which stand in `data.inputs`; one with options is read
        only where `data.modality` names it.
      named: `(table, data) -> columns or None`, the columns that `data` names for it.
      usual: `(table, data) -> columns or None`, the columns that hold it by their names.
      column_keys: keys of `data` that name a column for it.
      data_keys: further keys of `data` that it reads.
      refused_keys: members of `data_keys` that are an error for data of another kind.
      altering_keys: keys of `data`, or of `options`, that alter training examples at random,
        so that what a teacher says of them has no use in another epoch.
      read_as: kinds whose models read this one, too.
      tokenized: whether it is tokens of a tokenizer, which then belongs to caches and exports, and
        which speed and padding are counted in.
      sizes_of_config: `(config) -> sizes`, as far as the configuration alone says them.
      sizes_of_model: `(config, model, sizes) -> sizes`, completed by the model that reads it, for
        plans; raises DataError where only the data say them.
      model_sizes: `(config, facts, origin) -> fields`, what a model's mapping leaves to the data.
      checks: `(examined) -> findings`, what the doctor looks at, in this order.

    Raises:
      ConfigError: parts that do not go together.
    """

    name: str
    plural: str
    fields: Mapping[str, Field]
    read: Target
    options: type[Section] = NoOptions
    named: Target | None = None
    usual: Target | None = None
    column_keys: tuple[str, ...] = ()
    data_keys: tuple[str, ...] = ()
    refused_keys: tuple[str, ...] = ()
    altering_keys: tuple[str, ...] = ()
    read_as: tuple[str, ...] = ()
    tokenized: bool = False
    sizes_of_config: Target | None = None
    sizes_of_model: Target | None = None
    model_sizes: Target | None = None
    checks: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault is not None:
            raise ConfigError(f"modality {self.name!r}: {fault}")

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of `data` that it reads."""
        return (*self.column_keys, *self.data_keys)

    @property
    def has_options(self) -> bool:
        """Whether `data.inputs` says more about it."""
        return bool(self.options.model_fields)

    def is_read_by(self, reader: str) -> bool:
        """Whether models that read the kind `reader` read this one."""
        return reader == self.name or reader in self.read_as


def _fault(modality: Modality) -> str | None:
    """Say what is wrong with a declaration: what nothing would read, or what is missing."""
    if not modality.fields:
        return "fields: got none, expected what a batch holds"
    for key in ("labels", "weight"):
        if key in modality.fields:
            return f"fields: got {key!r}, which every batch has; choose another name"
    idle = [key for key in modality.refused_keys if key not in modality.data_keys]
    own = (*modality.keys, *modality.options.model_fields)
    idle += [key for key in modality.altering_keys if key not in own]
    if idle:
        return f"got the key {idle[0]!r}, expected one of those that it reads, {sorted(own)}"
    return None
