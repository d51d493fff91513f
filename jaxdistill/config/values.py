"""YAML text to values and back, each read as what its field is.

Plain words mean many things to YAML: `no` is false, `2024-05-01` a date, `12:30` a number of
seconds, `1e-4` text. Here a field that holds text is given the text, and one that holds numbers
the number, so that a class named `no` or a column named `#1 String` stays what it is.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from jaxdistill.config.inputs import InputsConfig, inputs_annotation
from jaxdistill.config.objective import TermConfig, option_annotation
from jaxdistill.errors import ConfigError
from jaxdistill.types import Annotation

_MOST_VALUES = 100_000
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_SCALARS = ("str", "int", "float", "bool", "null")
_STANDARD = "tag:yaml.org,2002:"


def read_yaml(text: str, annotation: Annotation, *, where: str) -> Any:
    """Read a YAML document as values of a type.

    Args:
      text: content of a file.
      annotation: a pydantic model, or any type that a field of one has.
      where: what to call the text in errors.

    Raises:
      ConfigError: no YAML, a key given twice, a tag, or a text that a comment cuts short.
    """
    node = _compose(text, where)
    return None if node is None else _Builder(where, text).build(node, annotation, "")


def read_override(text: str, annotation: Annotation, *, where: str) -> Any:
    """Read a value of the command line: text, unless it is what its field holds instead."""
    text = text.strip()
    quoted = text[:1] in ("'", '"')
    if quoted or (text[:1] in ("[", "{") and _holds_values(annotation)):
        try:
            node = _compose(text, where)
        except ConfigError:
            # What no YAML can be is a text, such as a file's name, where the field holds one.
            if not quoted and str not in members(annotation):
                raise
            node = None
        if node is not None:
            return _Builder(where, text).build(node, annotation, "")
    found = read_scalar(text, annotation)
    if found == "None" and type(None) in members(annotation) and str not in members(annotation):
        raise ConfigError(f"{where}: got None, expected null where nothing is meant")
    return found


def read_scalar(text: str, annotation: Annotation) -> Any:
    """Read an unquoted word as what a field of this type holds."""
    kinds = members(annotation)
    if Any in kinds:
        return _free(text)
    if text in _NULLS and (type(None) in kinds or str not in kinds):
        return None
    if bool in kinds and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if {int, float} & set(kinds) and (number := _number(text)) is not None:
        return number
    holds_text = str in kinds or any(typing.get_origin(kind) is typing.Literal for kind in kinds)
    if not holds_text and type(found := _free(text)) in (int, float):
        return found
    return text


def write_yaml(values: Mapping[str, object]) -> str:
    """Return YAML that `read_yaml` reads back equal, whatever its texts look like."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def annotation_at(model: Annotation, path: list[str]) -> Annotation:
    """Return the type of the field at a path of keys; Any where the user chooses the keys."""
    annotation: Annotation = model
    for key in path:
        annotation = _below(annotation, key)
    return annotation


def members(annotation: Annotation) -> list[Annotation]:
    """List the types that an annotation allows, without what merely annotates them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) for kind in members(part)]
    return [annotation]


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would be read as something else where its field says nothing."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if _free(value) == value and value != "<<" else "'"
    # Only between double quotes is every kind of line break kept as it is.
    style = '"' if len(value.splitlines()) > 1 or value.splitlines() != [value] else style
    return dumper.represent_scalar(f"{_STANDARD}str", value, style=style)


_Dumper.add_representer(str, _text)
# An anchor says nothing to the reader of a saved config.
_Dumper.ignore_aliases = lambda self, data: True  # pyright: ignore[reportAttributeAccessIssue]


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{where}: not valid YAML{place}: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: lists or mappings without an end") from None
    except (ValueError, ArithmeticError, LookupError, TypeError) as error:
        # The parser lets through what Python says of a character or a number that is none.
        raise ConfigError(f"{where}: not valid YAML: {error}; correct or quote it") from None


class _Builder:
    """Turns the nodes of one document into values."""

    def __init__(self, where: str, text: str) -> None:
        self._where, self._lines, self._count = where, text.splitlines(), 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, annotation: Annotation, key: str) -> Any:
        self._counted(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, annotation, key)
        if node.tag not in (f"{_STANDARD}map", f"{_STANDARD}seq"):
            self._refuse(node, f"the tag {node.tag.replace(_STANDARD, '!!')}, expected none")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                inner = _elements(annotation)
                return [self.build(item, inner, key) for item in node.value]
            assert isinstance(node, yaml.MappingNode)  # the only other kind
            return self._mapping(node, annotation, key)
        finally:
            self._open.discard(id(node))

    def _counted(self, node: yaml.Node) -> None:
        self._count += 1
        if self._count > _MOST_VALUES or id(node) in self._open:
            self._refuse(node, f"more than {_MOST_VALUES:,} values, or an alias that holds itself")

    def _mapping(
        self, node: yaml.MappingNode, annotation: Annotation, key: str
    ) -> dict[object, object]:
        found: dict[object, object] = {}
        for name, value in self._pairs(node):
            word = name.value if name.style else read_scalar(name.value, _keys(annotation))
            below = f"{key}.{name.value}" if key else name.value
            found[word] = self.build(value, _below(annotation, name.value), below)
        return found

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Yield keys and values, those taken over by `<<` first; written ones replace them."""
        own: set[str] = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._refuse(name, "a list or mapping as a key, expected a word")
            if name.value in own:
                self._refuse(node, f"the key {name.value!r} is given twice")
            own.add(name.value)
        for name, value in node.value:
            if name.value != "<<" or name.style:
                continue
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            # Of several, the first wins: what comes later replaces what came before.
            for part in reversed(merged):
                if not isinstance(part, yaml.MappingNode) or id(part) in self._open:
                    self._refuse(value, "something else than a mapping to take over by '<<'")
                self._counted(part)  # it may bring nothing, and yet grow without end
                yield from self._pairs(part)
        yield from ((name, value) for name, value in node.value if name.value != "<<" or name.style)

    def _scalar(self, node: yaml.ScalarNode, annotation: Annotation, key: str) -> Any:
        kind = node.tag.removeprefix(_STANDARD)
        if node.tag == kind or kind not in _SCALARS:
            self._refuse(node, f"the tag {node.tag.replace(_STANDARD, '!!')}, expected none")
        if node.style or (kind == "str" and self._is_tagged(node)):
            return node.value
        if str in members(annotation):
            self._check_comment(node, key)
        return read_scalar(node.value, annotation)

    def _is_tagged(self, node: yaml.ScalarNode) -> bool:
        """Return whether `!!str` says that this is text, of which the node keeps no trace."""
        written = self._line(node.start_mark)[node.start_mark.column :]
        return re.match(r"(&\S+\s+)?!", written) is not None

    def _check_comment(self, node: yaml.ScalarNode, key: str) -> None:
        """Refuse a text that a comment cuts short: `#1 String` is none to who wrote it."""
        rest = self._line(node.end_mark)[node.end_mark.column :]
        if comment := re.match(r"\s*(#[^\s#].*)$", rest):
            self._refuse(
                node,
                f"{node.value!r} for {key} and the comment {comment[1].rstrip()!r}; where that "
                "belongs to the text, put quotes around both, else a blank after the '#'",
            )

    def _line(self, mark: yaml.Mark) -> str:
        return self._lines[mark.line] if mark.line < len(self._lines) else ""

    def _refuse(self, node: yaml.Node, problem: str) -> typing.NoReturn:
        mark = node.start_mark
        raise ConfigError(
            f"{self._where}: not valid YAML at line {mark.line + 1}, column {mark.column + 1}: "
            f"got {problem}"
        )


def _holds_values(annotation: Annotation) -> bool:
    """Return whether lists, mappings or anything may stand here."""
    kinds = members(annotation)
    plain = (str, int, float, bool, type(None))
    return any(
        kind not in plain and typing.get_origin(kind) is not typing.Literal for kind in kinds
    )


def _elements(annotation: Annotation) -> Annotation:
    for kind in members(annotation):
        if typing.get_origin(kind) in (tuple, list):
            return typing.get_args(kind)[0]
    return Any


def _keys(annotation: Annotation) -> Annotation:
    for kind in members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return str
        if typing.get_origin(kind) is dict:
            inner = typing.get_args(kind)
            return Any if inner[1] is Any else inner[0]
    return Any


def _below(annotation: Annotation, key: str) -> Annotation:
    """Return the type of what an annotated value holds under a key."""
    for kind in members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(key)
            if field is None and issubclass(kind, TermConfig):
                return option_annotation(key)
            if field is None and issubclass(kind, InputsConfig):
                return inputs_annotation(key)
            return Any if field is None else field.annotation
        if typing.get_origin(kind) is dict:
            return typing.get_args(kind)[1]
    return Any


def _number(text: str) -> int | float | None:
    word = _SPECIAL.get(text.lower(), text)
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None


def _free(text: str) -> str | int | float | bool | None:
    """Read a word of which no field says what it is."""
    if text in _NULLS:
        return None
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    digits = re.fullmatch(r"[-+]?[\d.][\d_]*\.?[\d_]*([eE][-+]?\d+)?", text, re.ASCII)
    if not digits and text.lower() not in _SPECIAL:
        return text
    number = _number(text)
    return text if number is None else number
