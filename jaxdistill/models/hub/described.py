"""What a model folder holds, by its config and the headers of its files; no weight is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxdistill.config.schema import Config
from jaxdistill.data.label_names import is_generic
from jaxdistill.files.model_folder import open_tensors, read_json, refuse_adapter
from jaxdistill.files.sentence_folder import encoder_folder, sentence_folder
from jaxdistill.models.family import Family, Options
from jaxdistill.models.hub.found import unwrapped
from jaxdistill.models.hub.load import config_of, groups_held
from jaxdistill.models.hub.sentence import stored_head
from jaxdistill.models.labels import table_of_names
from jaxdistill.types import Json

# Classes of transformers whose head has the names of one for whole texts, and another meaning.
_OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice")


@dataclasses.dataclass(frozen=True)
class Described:
    """A model folder.

    Attributes:
      folder: where it is.
      family: family of the model.
      outputs: number of outputs of the classification head; None where no file with one is there.
      names: names of the outputs, in their order; None where they only count (`LABEL_0`, …).
      problem_type: what its config says that the head was trained for; None where it does not say.
      other_head: the class in transformers of a head that stands in the same place and answers
        something else, as one label per token, or None.
    """

    folder: Path
    family: Family
    outputs: int | None = None
    names: tuple[str, ...] | None = None
    problem_type: str | None = None
    other_head: str | None = None


def family_of(folder: str | Path) -> Family:
    """Return the family of a model folder, of which only the config is read.

    Raises:
      ModelError: no such folder, an adapter instead of a model, or an unknown architecture.
    """
    refuse_adapter(Path(folder))
    path = encoder_folder(Path(folder)) / "config.json"
    return config_of(read_json(path), path)[0]


def describe(folder: str | Path) -> Described:
    """Look into a model folder.

    Its weights may be somewhere else, where a cache stands for them: then its config is believed.

    Raises:
      ModelError: no such folder, an adapter instead of a model, an unknown architecture, or a
        damaged file.
    """
    folder = Path(folder)
    sentence, home = sentence_folder(folder), encoder_folder(folder)
    raw = read_json(home / "config.json")
    family, config = config_of(raw, home / "config.json")
    if "classification" not in family.architectures:
        return Described(folder, family)
    outputs = None
    if any(home.glob("*.safetensors*")):
        stored = open_tensors(home)
        options = Options(pooling=raw.get("jaxdistill_pooling", "default"))
        stored = unwrapped(family, list(family.rules(config, options)), stored, home)
        if sentence is not None and "jaxdistill_pooling" in raw:
            stored |= stored_head(family, config, options, sentence)
        held = groups_held(family, family.settle(config, stored), options, stored)
        outputs = held.get("head") or None
        if outputs is None:  # what the config says is about a head that is not there
            return Described(folder, family)
    other = _other_head(raw)
    names = None if other is not None else table_of_names(folder, raw, outputs)
    if names is not None and is_generic(names):
        names = None
    return Described(folder, family, outputs, names, raw.get("problem_type"), other)


def described(config: Config, side: str) -> Described | None:
    """Look into the folder that a config names; None where it names none or drops its head."""
    section = getattr(config, side)
    if not isinstance(section.model, str) or section.fresh_head:
        return None
    return None if is_cached(config, side) else describe(section.model)


def is_cached(config: Config, side: str) -> bool:
    """Return whether a cache stands for a model, whose folder may be somewhere else."""
    if side != "teacher" or (config.teacher.cache is None and config.cache is None):
        return False
    return not (Path(str(config.teacher.model)) / "config.json").is_file()


def _other_head(raw: Json) -> str | None:
    named = raw.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    return next((name for name in names if name.endswith(_OTHER_HEADS)), None)
