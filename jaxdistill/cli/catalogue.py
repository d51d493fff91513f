"""What jaxdistill can do, read from the code that does it: one line and a paper each."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple, get_args

_PAPER = re.compile(r"arxiv(?:\.org/(?:abs|pdf)/|[\s:]+)(\d{4}\.\d{4,5})", re.IGNORECASE)


class Method(NamedTuple):
    """One thing a configuration can name.

    Attributes:
      kind: what it is.
      name: how a configuration names it.
      summary: one line.
      paper: arXiv number, or author, year and title; empty where the code names none.
    """

    kind: str
    name: str
    summary: str
    paper: str


def methods() -> list[Method]:
    """Return everything that a config can name, a kind after another."""
    kinds = (
        _tasks(),
        _modalities(),
        _families(),
        _losses(),
        _teachers(),
        _schedules(),
        _optimizers(),
    )
    return [method for found in (*kinds, _sources()) for method in found]


def describe_methods() -> str:
    """Lay the methods out as text, one line each, under a heading per kind."""
    found = methods()
    width = max(len(method.name) for method in found)
    lines: list[str] = []
    for method in found:
        heading = f"{method.kind}:"
        if heading not in lines:
            lines += [*([""] if lines else []), heading]
        paper = f"  [{method.paper}]" if method.paper else ""
        lines.append(f"  {method.name:<{width}}  {method.summary}{paper}")
    return "\n".join(lines)


def first_sentence(documented: object) -> str:
    """Return the first sentence of a docstring on one line."""
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:;]) (?=[A-Z`(])", text)[0].rstrip(".:").replace("``", "`")


def papers(documented: object) -> str:
    """Return the arXiv numbers that a docstring names, the first two."""
    found = dict.fromkeys(_PAPER.findall(inspect.getdoc(documented) or ""))
    return ", ".join(f"arXiv {number}" for number in list(found)[:2])


def _tasks() -> list[Method]:
    from jaxdistill.tasks.registry import tasks

    return [
        Method("task", name, f"{task.summary}; {', '.join(m.name for m in task.metrics)}", "")
        for name, task in tasks().items()
    ]


def _families() -> list[Method]:
    from jaxdistill.modalities.registry import modality_named
    from jaxdistill.models.registry import families

    found = []
    for name, family in families().items():
        own = (name, f"jaxdistill-{name}")
        names = [name, *(other for other in family.model_types if other not in own)]
        heads = ", ".join(str(head) for head in family.architectures if head is not None)
        held = modality_named(family.modality).plural
        summary = f"{held}; {heads}" if heads else held
        found.append(Method("model family", ", ".join(names), summary, family.paper))
    return found


def _modalities() -> list[Method]:
    from jaxdistill.config.plugins import function_of
    from jaxdistill.modalities.registry import modalities

    found = []
    for name, kind in modalities().items():
        read = first_sentence(function_of(kind.read))
        summary = f"{read} ({', '.join(kind.fields)})"
        found.append(Method("kind of input", name, summary, papers(function_of(kind.read))))
    return found


def _losses() -> list[Method]:
    from jaxdistill.config.plugins import function_of
    from jaxdistill.methods.registry import methods as known

    functions = {name: function_of(method.formula) for name, method in known().items()}
    return [Method("loss", name, first_sentence(f), papers(f)) for name, f in functions.items()]


def _teachers() -> list[Method]:
    from jaxdistill.config.plugins import function_of
    from jaxdistill.config.teacher_functions import teacher_functions

    functions = {
        name: function_of(teacher.function) for name, teacher in teacher_functions().items()
    }
    return [
        Method("teacher function", name, first_sentence(f), papers(f))
        for name, f in functions.items()
    ]


def _schedules() -> list[Method]:
    import optax

    from jaxdistill.config.base import ScheduleConfig
    from jaxdistill.config.schema import TrainConfig

    functions = {
        "constant": optax.constant_schedule,
        "linear": optax.linear_schedule,
        "cosine": optax.cosine_decay_schedule,
    }
    uses = {
        "weight, temperature": ScheduleConfig.model_fields["shape"].annotation,
        "learning rate": TrainConfig.model_fields["schedule"].annotation,
    }
    found = []
    for name, function in functions.items():
        where = [use for use, names in uses.items() if name in get_args(names)]
        summary = f"{first_sentence(function)} (for {' and '.join(where)})"
        found.append(Method("schedule", name, summary, papers(function)))
    return found


def _optimizers() -> list[Method]:
    from jaxdistill.engine.optimizer import OPTIMIZERS

    return [
        Method("optimizer", name, first_sentence(function), papers(function))
        for name, function in sorted(OPTIMIZERS.items())
    ]


def _sources() -> list[Method]:
    from jaxdistill.config.plugins import function_of
    from jaxdistill.config.sources import sources as known
    from jaxdistill.data.reading import formats, image_folder, sources

    readers = {name: function_of(source.read) for name, source in known().items()}
    found = [
        *(Method("data source", name, first_sentence(f), papers(f)) for name, f in readers.items()),
        Method("data source", "NAME", first_sentence(sources._hub), ""),
        Method("data source", "files: images", first_sentence(image_folder.read_image_folder), ""),
        Method("data source", "files: saved", first_sentence(sources.read_saved), ""),
    ]
    endings: dict[str, list[str]] = {}
    for ending, kind in formats.SUFFIXES.items():
        endings.setdefault(kind, []).append(ending)
    found += [
        Method("data source", f"files: {kind}", f"A file ending in {', '.join(names)}", "")
        for kind, names in endings.items()
    ]
    return found
