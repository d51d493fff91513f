"""What a model family declares, how a model is built on it, and the form every model takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import jax
from flax import nnx

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.files.model_folder import Stored
from jaxdistill.models.hub.rules import Rule
from jaxdistill.models.outputs import Outputs
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json, Tree

ConfigType = TypeVar("ConfigType")

_DTYPES = ("float32", "bfloat16")
_PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


class FamilyConfig(Protocol):
    """A family's config: a dataclass of what `config.json` holds, further fields as `extra`.

    What others need to know of its fields, they ask of `sizes`.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def extra(self) -> Json: ...

    @property
    def sizes(self) -> Sizes: ...


class Apply(Protocol):
    """A pure forward pass: `apply(params, batch, *, rng, train, taps, model_state) -> Outputs`."""

    def __call__(
        self,
        params: Tree,
        batch: Mapping[str, jax.Array],
        *,
        rng: jax.Array | None = None,
        train: bool = False,
        taps: Sequence[str] = (),
        model_state: Tree = None,
    ) -> Outputs: ...


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is built on its architecture.

    Attributes:
      head: `classification` (also regression), `masked_lm`, `lm` (the next token), or None for the
        bare model.
      num_labels: outputs of a classification head.
      pooling: what the classification head reads, and the tap `pooled` of a bare encoder: `default`
        for the family's way, `first` for the first token's hidden state, `mean` for the mean
        over valid tokens.
      pooler: whether a bare encoder with its family's pooling carries the family's pooler.
      problem_type: problem type as in Hugging Face configs; None: regression for one label, else
        single label.
      dtype: compute dtype, `float32` or `bfloat16`; parameters stay float32.
      remat: recompute each layer's intermediates in the backward pass.
      attention: how a decoder attends: `auto` in blocks where the platform has kernels for them
        (see `flash`), `dense` for all scores of a row at once.
      unroll: layers per iteration of the scan over layers.
      logits: whether an `lm` head computes `Outputs.logits`; without them, losses work from
        `Outputs.hidden` and `Outputs.head()`.
    """

    head: str | None = "classification"
    num_labels: int = 2
    pooling: str = "default"
    pooler: bool = True
    problem_type: str | None = None
    dtype: str = "float32"
    remat: bool = False
    attention: str = "auto"
    unroll: int = 1
    logits: bool = True


def pools(options: Options) -> bool:
    """Return whether a pooled vector is part of what a model gives."""
    return options.head in ("classification", None)


def own_pooling(config: ConfigType, options: Options) -> ConfigType | None:
    """Return the config for the family's pooling, None for another."""
    return config if options.pooling == "default" or not pools(options) else None


def own_or_first(config: ConfigType, options: Options) -> ConfigType | None:
    """Return the config also for a classifier that reads the first token, as the family does."""
    first = options.pooling == "first" and options.head == "classification"
    return config if first else own_pooling(config, options)


@dataclasses.dataclass(frozen=True)
class Family:
    """What the registry and the hub need to know of one architecture.

    Attributes:
      name: the name in a spec, `{"family": name, ...}`.
      modality: name of the kind of input that its batches hold.
      paper: author, year and title.
      config: frozen dataclass with the field names of the Hugging Face config and `extra`, the raw
        config of the checkpoint; its `__post_init__` raises ModelError for what cannot be built,
        its property `sizes` says in `Sizes` what those fields mean.
      build: `(config, options, rngs) -> nnx.Module`; called as
        `module(batch, rng=..., train=..., taps=...) -> Outputs`.
      rules: `(config, options) -> rules` of every parameter (and batch statistic).
      architectures: head -> class name in transformers; the heads that exist, the default first.
      model_types: `model_type` values of config.json that mean this family.
      prefix: the base model's prefix, which a bare encoder's tensor names lack.
      aliases: names of tied copies -> the tensor they must equal.
      ignored: regular expressions (full match) of tensors that may be left out.
      head_tensors: head -> regular expression of its tensors, left out under another head.
      renames: old endings of tensor names -> new.
      field_aliases: other accepted names of config fields -> the field.
      output: path of the last projection, `{output}/kernel` and `{output}/bias`.
      settle: `(config, stored tensors) -> config`, for what a config leaves to the tensors.
      poolings: values of `Options.pooling` that the family has.
      standard: `(config, options) -> config` under which transformers pools as the model does, or
        None where it cannot.
      head_activation: what lies between the dense layers of a classification head of several.
    """

    name: str
    modality: str
    paper: str
    config: type[Any]
    build: Callable[[Any, Options, nnx.Rngs], nnx.Module]
    rules: Callable[[Any, Options], Sequence[Rule]]
    architectures: Mapping[str | None, str]
    model_types: tuple[str, ...] = ()
    prefix: str = ""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    head_tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    field_aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output: str = "head/output"
    settle: Callable[[Any, Mapping[str, Stored]], Any] = lambda config, stored: config
    poolings: tuple[str, ...] = ("default",)
    standard: Callable[[Any, Options], Any] = own_pooling
    head_activation: str | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.config, "sizes"):
            raise ModelError(
                f"{self.name}: got the config {self.config.__name__} without sizes, expected a "
                "property that gives a Sizes of jaxdistill.models.sizes"
            )

    def head_named(self, head: str | None) -> str | None:
        """Return that head; `default` means the family's first."""
        return next(iter(self.architectures)) if head == "default" else head


@dataclasses.dataclass(frozen=True)
class Model:
    """A model ready to run: a pure function, its parameters and where they came from.

    Attributes:
      apply: the forward pass.
      params: nested dict of float32 arrays, layers stacked on a leading axis.
      config: the family's config (None for a model made by hand).
      model_state: nested dict of non-trained arrays (batch statistics), or None.
      labels: names of the classes in the order of the logits, or None.
      source: the folder it was loaded from, or None.
      initialized: paths of parameters that were not in the checkpoint.
      family: name of the family, or None.
      options: how it was built, or None.
      axes: nested dict like `params`; per array, one logical axis name or None per dimension.
    """

    apply: Apply
    params: Tree
    config: Any = None
    model_state: Tree = None
    labels: tuple[str, ...] | None = None
    source: Path | None = None
    initialized: tuple[str, ...] = ()
    family: str | None = None
    options: Options | None = None
    axes: Tree = None

    @property
    def sizes(self) -> Sizes:
        """How large its config says that it is; nothing of a model made by hand."""
        return Sizes() if self.config is None else self.config.sizes


def check_options(family: Family, options: Options) -> None:
    """Raise ModelError where an option is unknown or the family cannot honour it."""
    problem = (None, *_PROBLEMS)
    choices: list[tuple[str, object, Sequence[object]]] = [
        ("head", options.head, list(family.architectures)),
        ("pooling", options.pooling, family.poolings),
        ("dtype", options.dtype, _DTYPES),
        ("attention", options.attention, ("auto", "dense")),
        ("problem_type", options.problem_type, problem),
    ]
    for name, got, known in choices:
        if got not in known:
            raise ModelError(
                f"{name}: got {got!r} for {family.name}, expected one of {list(known)}."
                f"{did_you_mean(str(got), [str(k) for k in known])}"
            )
    for name in ("num_labels", "unroll"):
        got = getattr(options, name)
        if not isinstance(got, int) or isinstance(got, bool) or got < 1:
            raise ModelError(f"{name}: got {got!r}, expected a whole number of at least 1")
    single = options.problem_type == "single_label_classification"
    if options.head == "classification" and single and options.num_labels == 1:
        raise ModelError(
            "num_labels: got 1 for single_label_classification, expected at least 2 classes; one "
            "output is for problem_type='regression'"
        )


def config_from(family: Family, values: Mapping[str, object], extra: Mapping[str, object]) -> Any:
    """Build a family's config from named values.

    Raises:
      ModelError: an unknown field, a value of the wrong type, or one the family refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(family.config) if f.name != "extra"}
    chosen = {}
    for name, value in values.items():
        field = family.field_aliases.get(name, name)
        if field not in fields:
            known = sorted([*fields, *family.field_aliases])
            raise ModelError(
                f"{family.name}: unknown field {name!r}, expected one of {known}."
                f"{did_you_mean(name, known)}"
            )
        chosen[field] = _checked(f"{family.name}.{name}", value, fields[field])
    return family.config(**chosen, extra=dict(extra))


def _checked(name: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    default = field.default
    if not _is_finite(value):
        raise ModelError(
            f"{name}: got {value!r:.60}, expected finite numbers; correct it, or copy the "
            "file again"
        )
    if value is None or default is None or default is dataclasses.MISSING:
        return value
    expected = type(default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if expected is float and number:
        return float(value)
    if expected is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if expected not in (int, float) and isinstance(value, expected):
        return value
    if expected is tuple and isinstance(value, list):
        return tuple(value)
    raise ModelError(f"{name}: got {value!r}, expected {expected.__name__} such as {default!r}")


def _is_finite(value: object) -> bool:
    """Return whether a value, or everything inside of it, fits a float where it is a number."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False
