"""YAML and command-line values to a checked `Config`, and the recipes that travel along."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from jaxdistill.config.effects import effective
from jaxdistill.config.inputs import InputsConfig, inputs_fields, read_inputs
from jaxdistill.config.objective import TermConfig, option_fault, read_term, term_fields
from jaxdistill.config.paths import expand
from jaxdistill.config.plugins import load_plugins
from jaxdistill.config.schema import Config
from jaxdistill.config.values import annotation_at, read_override, read_yaml, write_yaml
from jaxdistill.errors import ConfigError, did_you_mean
from jaxdistill.files.hashing import SHORT, hash_json
from jaxdistill.types import Annotation, Json

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


def recipes() -> dict[str, Path]:
    """Return the shipped recipes by name."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "recipes", here.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def describe_recipes() -> dict[str, str]:
    """Return the description of each shipped recipe by name."""
    found = {}
    for name, path in recipes().items():
        values = _parse(path) or {}
        found[name] = " ".join(str(values.get("description", "")).split())
    return found


def load_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file or a recipe's name, apply `key=value` overrides and check everything.

    Environment variables in texts (`${NAME}`) are expanded, `~` and `$NAME` in places on disk.

    Raises:
      ConfigError: with one line per fault.
    """
    path = Path(source)
    if not path.is_file():
        known = recipes()
        if source in known:
            path = known[source]
        elif Path(source).stem in known and not path.parent.is_dir():
            path = known[Path(source).stem]
        else:
            raise ConfigError(
                f"config: got {source!r}, expected a YAML file or one of the recipes "
                f"{sorted(known)}.{did_you_mean(source, known)}"
            )
    values = _parse(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got {type(values).__name__}, expected a mapping of sections")
    values.setdefault("name", name_of(path))
    for override in overrides:
        apply_override(values, override)
    return check(expand(values))


def name_of(path: Path) -> str:
    """Return a run's name after its file: what is no letter, digit, `_` or `.` becomes `-`."""
    return re.sub(r"[^\w.]+", "-", path.stem).strip("-.") or "run"


def apply_override(values: Json, override: str) -> None:
    """Set one dotted `key=value`, in place; the value is read as what its field holds."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override: got {override!r}, expected key=value, e.g. train.epochs=2")
    node = values
    *parents, last = path = key.strip().split(".")
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    node[last] = read_override(text, annotation_at(Config, path), where=key.strip())


def check(values: Mapping[str, object]) -> Config:
    """Validate a nested mapping into a `Config`.

    Raises:
      ConfigError: naming every unknown key (with the nearest known one) and every bad value.
    """
    load_plugins()
    faults = _key_faults(Config, values, "")
    if faults:
        raise ConfigError("; ".join(faults))
    # A section with nothing under it means its defaults, unless null says something else there.
    for name, field in Config.model_fields.items():
        is_section = any(not is_map for _, is_map in _sections(field.annotation))
        means_none = type(None) in typing.get_args(field.annotation)
        empty = name in values and values[name] is None and not means_none
        if is_section and (empty or (field.is_required() and name not in values)):
            values = {**values, name: {}}
    config = None
    terms, faults = _read_terms(values.get("objective"))
    data, more = _read_data(values.get("data"))
    faults += more
    try:
        config = Config.model_validate({**values, **terms, **data})
    except ValidationError as error:
        faults += _describe(error.errors())
    if faults or config is None:
        raise ConfigError("; ".join(faults))
    return config


def _read_terms(objective: object) -> tuple[Json, list[str]]:
    """Return the objective with its terms read, where all can be, and their faults."""
    if not isinstance(objective, Mapping):
        return {}, []
    terms, faults = {}, []
    for name, values in objective.items():
        try:
            terms[name] = read_term(values)
        except ValidationError as error:
            found = [
                {**fault, "loc": ("objective", name, *fault["loc"])} for fault in error.errors()
            ]
            faults += _describe(found)
        except ValueError as error:
            faults.append(f"objective.{name}.{error}")
    # What has faults is already reported; the rest of the config is checked without it.
    return {"objective": {} if faults else terms}, faults


def _read_data(data: object) -> tuple[Json, list[str]]:
    """Return the section `data` with its kind of input read, where it can be, and its faults."""
    if not isinstance(data, Mapping):
        return {}, []
    faults = []
    try:
        return {"data": read_inputs(data)}, faults
    except ValidationError as error:
        faults = _describe(
            [{**fault, "loc": ("data", "inputs", *fault["loc"])} for fault in error.errors()]
        )
    except ValueError as error:
        faults = [f"data.{error}"]
    # What has faults is already reported; the rest of the config is checked without it.
    return {"data": {key: data[key] for key in data if key not in ("modality", "inputs")}}, faults


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML."""
    return write_yaml(effective(config))


def fingerprint(*parts: object) -> str:
    """Return a stable short hash of JSON-like values and pydantic models."""
    plain = [
        part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts
    ]
    return hash_json(plain, default=str)[:SHORT]


def differences(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """List `key: old -> new` for every value that differs between two nested mappings."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: got a binary file, expected YAML text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    # JSON is YAML but for tabs between values; within its texts there are none.
    text = text.replace("\t", " ") if path.suffix == ".json" else text
    return read_yaml(text, Config, where=str(path))


def _key_faults(model: type[BaseModel], values: Mapping[str, object], prefix: str) -> list[str]:
    faults = []
    fields = model.model_fields
    if model is TermConfig:
        fields = term_fields(values.get("loss"))
    for key, value in values.items():
        field = fields.get(key)
        if field is None:
            fault = option_fault(values.get("loss"), key) if model is TermConfig else None
            fault = fault or f"unknown key.{_nearest(fields, str(key))}"
            faults.append(f"{prefix}{key}: {fault}")
            continue
        if isinstance(value, bool) and not {bool, Any} & set(_members(field.annotation)):
            # pydantic would take `true` for the number 1.
            faults.append(f"{prefix}{key}: got {value}, expected something else than true or false")
        for section, is_map in _sections(field.annotation):
            if is_map and isinstance(value, dict):
                for name, item in value.items():
                    if isinstance(item, dict):
                        faults += _key_faults(section, item, f"{prefix}{key}.{name}.")
            elif isinstance(value, dict) and section is InputsConfig:
                # Of a kind that is not known, or has no options, all is reported with the values.
                known = inputs_fields(values.get("modality"))
                faults += [
                    f"{prefix}{key}.{one}: unknown key.{_nearest(known, str(one))}"
                    for one in value
                    if known and one not in known
                ]
            elif isinstance(value, dict):
                faults += _key_faults(section, value, f"{prefix}{key}.")
    return faults


def _nearest(fields: Mapping[str, FieldInfo], key: str) -> str:
    """Say which key was meant: one spelled alike, one of other tools, or one of a section."""
    known, meant = list(fields), ELSEWHERE.get(key, key)
    if meant in known:
        return f" Did you mean {meant!r}?"
    inside = [
        f"{name}.{meant}"
        for name, field in fields.items()
        for section, is_map in _sections(field.annotation)
        if not is_map and meant in section.model_fields
    ]
    if inside:
        return f" Did you mean {' or '.join(inside)}?"
    return did_you_mean(key, known) or f" Known: {known}"


def _sections(annotation: Annotation) -> list[tuple[type[BaseModel], bool]]:
    """Find the models inside an annotation, and whether they are the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, False)]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return [(section, True) for section, _ in _sections(arguments[1])]
    return [found for argument in arguments for found in _sections(argument)]


def _members(annotation: Annotation) -> list[Annotation]:
    """List an annotation and everything that it is made of."""
    inner = [found for part in typing.get_args(annotation) for found in _members(part)]
    return [annotation, *inner]


def _describe(faults: Sequence[Any]) -> list[str]:
    """Say each fault once as `section.key: got …, expected …`."""
    located = [(_location(fault["loc"]), fault) for fault in faults]
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
            inner = _sections(field.annotation)
            model, free = inner[0] if inner else (None, False)
        else:
            free = False  # The name of an entry was the user's choice; below it are fields again.
    return ".".join(names)


_UNION_MEMBER = r"Config$|\[|^constrained-|^function-|^(str|int|float|bool|dict)$"
