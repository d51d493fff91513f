"""Checks of which models go together: with the task, with the data, and with each other."""

from __future__ import annotations

from collections.abc import Mapping

from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset, NamedHead
from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.errors import ConfigError
from jaxdistill.modalities.registry import modalities, reads
from jaxdistill.models.family import Family
from jaxdistill.models.hub.described import Described, described, family_of, is_cached
from jaxdistill.models.registry import families, family_named

SIDES = ("teacher", "student")


def refuse_unfit(config: Config) -> None:
    """Refuse models that cannot do the task or that read different things, before data is read.

    Raises:
      ConfigError: names the model, what was expected of it, and what else would do.
      ModelError: a folder that holds no whole model.
    """
    found = _families(config)
    task = config.task_record
    for side, family in found.items():
        if task.writes and not _is_decoder(family):
            kind = "an encoder-decoder" if "lm" in family.architectures else "no decoder"
            raise ConfigError(
                f"{side}.model: got {_shown(config, side)} of the family {family.name!r}, {kind}, "
                f"for task {config.task!r}, expected one of {_those(_is_decoder)}"
            )
        if not task.writes and task.head not in family.architectures:
            raise ConfigError(
                f"{side}.model: got {_shown(config, side)} of the family {family.name!r}, which "
                f"has no {task.head} head here, for task {config.task!r}, expected one of "
                f"{_those(lambda f: task.head in f.architectures)}; or set "
                "task=language_model"
            )
    held = config.data.modality
    kinds = list(modalities()) if held is None else [held]
    if not any(all(reads(one.modality, kind) for one in found.values()) for kind in kinds):
        shown = " and ".join(
            f"{side}.model {_shown(config, side)}, which reads {family.modality}"
            for side, family in found.items()
        )
        if held is not None:
            raise ConfigError(f"models: got {shown}; expected such as read {held} (data.modality)")
        raise ConfigError(f"models: got {shown}; expected two that read the same")


def readers(config: Config) -> Mapping[str, str]:
    """Return the kind of input that each model is made for, by a name for messages."""
    return {
        f"{side}.model {_shown(config, side)}": family.modality
        for side, family in _families(config).items()
    }


def named_head(config: Config) -> NamedHead | None:
    """Return the first head with names, of the teacher or the student, which labels then have."""
    for side in SIDES:
        names = head_labels(config, side)
        if names is not None:
            return NamedHead(names, f"{side}.model", _new_head(config, side))
    return None


def head_labels(config: Config, side: str) -> tuple[str, ...] | None:
    """Return the names of the outputs of a folder's head, where it has names and will be used."""
    found = described(config, side)
    return None if found is None else found.names


def refuse_unfit_heads(config: Config, dataset: Dataset) -> None:
    """Refuse heads in folders that do not answer what the data asks.

    Raises:
      ConfigError: names the folder, its head, the data's labels, and the key that draws a new one.
    """
    for side in SIDES:
        found = described(config, side)
        fault = None if found is None else _head_fault(found, config, dataset)
        if found is not None and fault is not None:
            remedy = _new_head(config, side)
            raise ConfigError(f"{side}.model: {found.folder} has {fault}; {remedy}")


def _head_fault(found: Described, config: Config, dataset: Dataset) -> str | None:
    if found.outputs is None:
        return None
    if found.other_head is not None:
        return f"the head of a {found.other_head}, expected one for a whole text or image"
    held = f"a head of {found.outputs} outputs{_listed(found.names)}"
    one = config.task_record.outputs == "values"
    wanted = f"the data's {dataset.num_labels} labels{_listed(dataset.labels)}"
    if found.outputs != dataset.num_labels:
        return f"{held}, expected one for {'a number' if one else wanted}"
    known = None not in (found.names, dataset.labels) and not one
    if known and set(found.names or ()) != set(dataset.labels or ()):
        return f"{held}, expected one for {wanted}: rename either"
    return None


def problem_type(examined: Examined) -> Check:
    """Check what folders say that their heads were trained for."""
    config, healthy = examined.config, True
    wanted = config.task_record.problem_type
    if wanted is None:
        return
    for side in SIDES:
        found = described(config, side)
        if found is None or found.problem_type in (None, wanted):
            continue
        healthy = False
        message = (
            f"{found.folder / 'config.json'} says problem_type={found.problem_type!r}, the task "
            f"{config.task!r} is {wanted!r}"
        )
        frozen = side == "teacher" and config.finetune is None
        if frozen:
            yield Finding(
                "fatal",
                "problem type",
                f"{message}: the teacher was trained for something else; set task; "
                f"{_new_head(config, side)}; or correct that file if it is wrong",
            )
        else:
            yield Finding(
                "warning",
                "problem type",
                f"{message}: training goes on from a head for something else; "
                f"{side}.fresh_head=true draws a new one",
            )
    if healthy:
        yield Finding("ok", "problem type", f"{wanted}; no folder says otherwise")


def _families(config: Config) -> dict[str, Family]:
    found = {}
    for side in SIDES:
        origin = getattr(config, side).model
        if isinstance(origin, str) and not is_cached(config, side):
            found[side] = family_of(origin)
        elif isinstance(origin, dict) and "family" in origin:
            found[side] = family_named(origin["family"])
    return found


def _is_decoder(family: Family) -> bool:
    named = family.architectures.get("lm")
    return named is not None and not named.endswith("ForConditionalGeneration")


def _those(wanted: object) -> str:
    assert callable(wanted)
    return ", ".join(sorted(name for name, family in families().items() if wanted(family)))


def _shown(config: Config, side: str) -> str:
    origin = getattr(config, side).model
    return f"{origin!r}" if isinstance(origin, str) else "a mapping"


def _listed(names: tuple[str, ...] | None) -> str:
    if names is None:
        return ""
    more = len(names) - 8
    return f" ({', '.join(names[:8])}{f' and {more} more' if more > 0 else ''})"


def _new_head(config: Config, side: str) -> str:
    if side == "teacher" and config.finetune is None:
        return (
            "give a teacher of this task, or fine-tune this one with a new head: drop "
            "`finetune: null` and set teacher.fresh_head=true"
        )
    return f"set {side}.fresh_head=true to draw a new one"
