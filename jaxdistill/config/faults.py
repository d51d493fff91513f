"""What is wrong with the values of a config, in the words of a YAML file."""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxdistill.config.inputs import InputsConfig, inputs_fields
from jaxdistill.config.objective import TermConfig, option_fault, term_fields
from jaxdistill.config.schema import Config
from jaxdistill.errors import did_you_mean
from jaxdistill.types import Annotation

ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "seed": "seeds",
    "alpha": "weight",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "max_grad_norm": "clip_norm",
    "grad_clip": "clip_norm",
    "lr_scheduler_type": "schedule",
    "optim": "optimizer",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "max_seq_length": "max_length",
    "model_name_or_path": "model",
    "eval_steps": "evaluate_every",
}
"""What other tools call a key, and what it is called here."""
MOST_FAULTS = 20
_MOST_PARTS = 20 * MOST_FAULTS  # a union has a part for each of its members
_UNION_MEMBER = r"Config$|\[|^constrained-|^function-|^(str|int|float|bool|dict)$"


def key_faults(model: type[BaseModel], values: Mapping[str, object], prefix: str) -> Iterator[str]:
    """Yield the keys of a section that are not known, and true or false in place of a number."""
    fields = model.model_fields
    if model is TermConfig:
        fields = term_fields(values.get("loss"))
    for key, value in values.items():
        field = fields.get(key)
        if field is None:
            fault = option_fault(values.get("loss"), key) if model is TermConfig else None
            fault = fault or f"unknown key.{_nearest(fields, str(key))}"
            yield f"{prefix}{key}: {fault}"
            continue
        if isinstance(value, bool) and not {bool, Any} & set(_members(field.annotation)):
            # pydantic would take `true` for the number 1.
            yield f"{prefix}{key}: got {value}, expected something else than true or false"
        for section, is_map in sections_in(field.annotation):
            if is_map and isinstance(value, dict):
                for name, item in value.items():
                    if isinstance(item, dict):
                        yield from key_faults(section, item, f"{prefix}{key}.{name}.")
            elif isinstance(value, dict) and section is InputsConfig:
                # Of a kind that is not known, or has no options, all is reported with the values.
                known = inputs_fields(values.get("modality"))
                yield from (
                    f"{prefix}{key}.{one}: unknown key.{_nearest(known, str(one))}"
                    for one in value
                    if known and one not in known
                )
            elif isinstance(value, dict):
                yield from key_faults(section, value, f"{prefix}{key}.")


def told(faults: Iterable[str]) -> str:
    """Join faults, as many as anybody reads; what comes after them is not even looked for."""
    shown = list(itertools.islice(faults, MOST_FAULTS + 1))
    if len(shown) > MOST_FAULTS:
        shown[-1] = "and others; correct these first"
    return "; ".join(shown)


def sections_in(annotation: Annotation) -> list[tuple[type[BaseModel], bool]]:
    """Find the models inside an annotation, and whether they are the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, False)]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return [(section, True) for section, _ in sections_in(arguments[1])]
    return [found for argument in arguments for found in sections_in(argument)]


def described(faults: Sequence[Any]) -> list[str]:
    """Say each fault once as `section.key: got …, expected …`; of very many, the first ones."""
    located = [(_location(fault["loc"]), fault) for fault in faults[:_MOST_PARTS]]
    wanted: dict[tuple[str, str], list[str]] = {}
    for where, fault in located:
        # Each member of a union complains; the one that got deepest is the one that was meant.
        if any(other.startswith(f"{where}.") for other, _ in located):
            continue
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "value_error":
            # Our validators name the key below their section: `accumulate: got …`.
            separator = "." if re.match(r"[\w.]+: ", message) else ": "
            wanted[f"{where}{separator if where else ''}{message}", ""] = []
        elif fault["type"] == "missing":
            wanted[f"{where}: got nothing, expected a value", ""] = []
        else:
            options = wanted.setdefault((where, repr(fault["input"])), [])
            options.append(_expectation(fault))
    lines = []
    for (where, given), options in wanted.items():
        expected = " or ".join(dict.fromkeys(options))
        lines.append(f"{where}: got {given}, expected {expected}" if options else where)
    return lines


def _nearest(fields: Mapping[str, FieldInfo], key: str) -> str:
    """Say which key was meant: one spelled alike, one of other tools, or one of a section."""
    known, meant = list(fields), ELSEWHERE.get(key, key)
    if meant in known:
        return f" Did you mean {meant!r}?"
    inside = [
        f"{name}.{meant}"
        for name, field in fields.items()
        for section, is_map in sections_in(field.annotation)
        if not is_map and meant in section.model_fields
    ]
    if inside:
        return f" Did you mean {' or '.join(inside)}?"
    return did_you_mean(key, known) or f" Known: {known}"


def _members(annotation: Annotation) -> list[Annotation]:
    """List an annotation and everything that it is made of."""
    inner = [found for part in typing.get_args(annotation) for found in _members(part)]
    return [annotation, *inner]


def _expectation(fault: Any) -> str:
    """Say what one value should have been, in the words of a YAML file."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        return f"{context['expected']}.{did_you_mean(str(fault['input']), known)}".rstrip(".")
    if kind == "string_pattern_mismatch":
        return "letters, digits, '_', '-' and '.', since it names a folder"
    if kind == "too_short":
        return f"at least {context['min_length']} of them"
    plain = {
        "model_type": "a section with keys",
        "tuple_type": "a list such as [a, b]",
        "dict_type": "a section with keys",
        "string_type": "text",
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
    }
    message = re.sub(r"^Input should be (greater|less)", r"a number \1", fault["msg"])
    return plain.get(kind) or message.removeprefix("Input should be ")


def _location(parts: Sequence[str | int]) -> str:
    """Join a location's keys; unions add the type of each member, which no user wrote."""
    model: Any = Config
    names, free = [], False
    for part in parts:
        name = str(part)
        field = model.model_fields.get(name) if model is not None and not free else None
        if field is None and not free and re.search(_UNION_MEMBER, name):
            continue
        names.append(name)
        if field is not None:
            inner = sections_in(field.annotation)
            model, free = inner[0] if inner else (None, False)
        else:
            free = False  # The name of an entry was the user's choice; below it are fields again.
    return ".".join(names)
