"""The record that declares a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from jaxdistill.config.base import NoOptions, Section
from jaxdistill.config.plugins import Target
from jaxdistill.errors import ConfigError

Reads = Literal["labels", "logits", "hidden", "attention", "outputs"]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to distil.

    Functions are given as themselves or as `package.module:name`, which is imported on first use,
    so that a config that names the method can be checked without importing jax.

    Attributes:
      name: name in configs.
      reads: what it compares: the task's `labels`, `logits` of both models, pairs of layers
        (`hidden` states or `attention` maps), or whole `outputs`.
      formula: the function; the first line of its docstring and its paper are listed.
        Of labels `(logits, labels, **options)`, of logits and of each pair of layers
        `(student, teacher, **options)`, unreduced. Of outputs
        `(student, teacher, batch, *, maps, step, **options) -> Mean`; with `state`, it also takes
        `state` and returns `(Mean, new_state)`.
      options: a section with its options. Of logits, `temperature` may be a schedule, and of
        outputs every option; layers are given by an option `layers`, the map of pairs.
      compares_classes: whether it compares distributions over several classes, and so is
        constant where there is one output.
      fused: whether `losses.fused_loss` computes it without logits, under the same name.
      cached: functions of what a codec keeps of the teacher, by the name of the codec.
      taps: `(**options) -> (student_taps, teacher_taps)`, for outputs.
      maps: `(student, teacher, key, **options) -> pytree`, parameters that are trained beside the
        student and left out of the export, for outputs; the models' parameters may be shapes.
      state: `(student, teacher, **options) -> pytree`, the first value of arrays that the formula
        carries from step to step, such as a queue or a running mean, for outputs. They are saved
        with every checkpoint and left out of the export; the models' parameters may be shapes.

    Raises:
      ConfigError: parts that do not go together.
    """

    name: str
    reads: Reads
    formula: Target
    options: type[Section] = NoOptions
    compares_classes: bool = False
    fused: bool = False
    cached: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    taps: Target | None = None
    maps: Target | None = None
    state: Target | None = None

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault is not None:
            raise ConfigError(f"method {self.name!r}: {fault}")

    def __hash__(self) -> int:
        return hash((self.name, self.options))

    @property
    def reads_layers(self) -> bool:
        """Whether it compares pairs of layers."""
        return self.reads in ("hidden", "attention")

    @property
    def reads_teacher_inside(self) -> bool:
        """Whether it needs more of a live teacher than its last outputs."""
        return self.reads_layers or self.reads == "outputs"


def _fault(method: Method) -> str | None:
    """Say what is wrong with a declaration: what nothing would read, or what is missing."""
    options = method.options.model_fields
    if method.reads not in get_args(Reads):
        return f"reads: got {method.reads!r}, expected one of {list(get_args(Reads))}"
    for name in ("loss", "weight"):
        if name in options:
            return f"options: got {name!r}, which every term has; choose another name"
    if method.reads_layers and "layers" not in options:
        return "options: got no 'layers', expected the map of pairs of layers"
    for name in ("taps", "maps", "state"):
        if getattr(method, name) is not None and method.reads != "outputs":
            return f"{name}: has no effect where reads is {method.reads!r}, expected 'outputs'"
    for name in ("fused", "cached"):
        if getattr(method, name) and method.reads not in ("labels", "logits"):
            return f"{name}: has no effect where reads is {method.reads!r}, expected 'logits'"
    return None
