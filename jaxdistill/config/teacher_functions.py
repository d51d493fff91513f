"""Teachers that are a plain function of the examples, registered by others under a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jaxdistill.config.base import NoOptions, Section
from jaxdistill.config.plugins import Target, load_plugins, refuse_taken
from jaxdistill.errors import ConfigError, did_you_mean

_REGISTERED: dict[str, TeacherFunction] = {}


@dataclasses.dataclass(frozen=True)
class TeacherFunction:
    """A function that gives logits for every example once, before a student is trained.

    Attributes:
      name: name of the function in a config.
      function: `(examples, **options) -> logits [N, C]` in NumPy, or `package.module:name` of one;
        the first line of its docstring is listed.
      options: a section with its options.
    """

    name: str
    function: Target
    options: type[Section] = NoOptions


def register_teacher(
    name: str, function: Target, options: type[Section] = NoOptions
) -> TeacherFunction:
    """Make a function known to configs, as `teacher: {function: name}`.

    Args:
      name: name of the function in a config.
      function: `(examples, **options) -> logits`, or `package.module:name`, imported on first use.
        `examples` holds what models read of some examples, as NumPy arrays `[N, ...]`: `images`,
        `features`, or `input_ids` with `attention_mask`; never their labels. Logits are float
        `[N, C]`, in the order of the examples; they may not depend on which others are asked with
        them.
      options: a section with its options; `name` may be none of them.

    Raises:
      ConfigError: another function has that name, or an option is called `name`.
    """
    made = TeacherFunction(name, function, options)
    if "name" in options.model_fields:
        raise ConfigError(
            f"register_teacher: got an option 'name' of {name!r}, which a config gives the "
            "function's name; choose another name"
        )
    refuse_taken("register_teacher", "function", name, made, (), _REGISTERED)
    _REGISTERED[name] = made
    return made


def teacher_functions() -> dict[str, TeacherFunction]:
    """Return every registered function by name."""
    load_plugins()
    return dict(_REGISTERED)


def read_function(value: Any) -> Any:
    """Return `{"name": …, **options}` of a name or a mapping, with all defaults filled in.

    Raises:
      ValueError: no such function, or options that it refuses.
    """
    if value is None:
        return None
    given: Any = {"name": value} if isinstance(value, str) else value
    known = teacher_functions()
    if not isinstance(given, Mapping) or given.get("name") not in known:
        name = given.get("name") if isinstance(given, Mapping) else given
        raise ValueError(
            f"got {name!r}, expected the name of a registered function, or a mapping with it as "
            f"'name' beside its options; known: {list(known)}.{did_you_mean(str(name), known)}"
        )
    section = known[given["name"]].options
    options = {key: item for key, item in given.items() if key != "name"}
    for key in options:
        if key not in section.model_fields:
            raise ValueError(f"{key}: unknown key.{_nearest(key, section)}")
    try:
        checked = section.model_validate(options)
    except ValidationError as error:
        fault = error.errors()[0]
        where, message = (
            ".".join(map(str, fault["loc"])),
            fault["msg"].removeprefix("Value error, "),
        )
        message = message.replace("Input should be ", "expected ")
        raise ValueError(f"{where}: got {fault['input']!r}, {message}") from None
    return {"name": given["name"], **checked.model_dump(mode="json")}


def _nearest(key: str, section: type[Section]) -> str:
    known = list(section.model_fields)
    return did_you_mean(key, known) or f" Known: {known}"
