"""Checks of what an encoder's folder says beside its weights: pooling, limits, prompts, modules."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jaxdistill.doctor.findings import Check, Examined, Finding
from jaxdistill.files.sentence_folder import SentenceFolder, encoder_folder, sentence_folder
from jaxdistill.modalities.registry import modality_named
from jaxdistill.models.family import pools
from jaxdistill.models.registry import Model, family_named


def pooling(examined: Examined) -> Check:
    """Check that the student can be exported as what it is."""
    # One that is to become a part of its fine-tuned teacher is not there yet.
    student = examined.student or examined.teacher
    if student is None or student.family is None or student.options is None:
        return
    family, options = family_named(student.family), student.options
    if examined.student is None and examined.config.student.pooling != "default":
        options = dataclasses.replace(options, pooling=examined.config.student.pooling)
    if not pools(options) or len(family.poolings) == 1:
        return
    if family.standard(student.config, options) is not None:
        yield Finding(
            "ok", "pooling", f"transformers has a {family.name} that pools as the student"
        )
    elif modality_named(family.modality).tokenized:
        yield Finding(
            "warning",
            "pooling",
            f"transformers has no {family.name} classifier with pooling {options.pooling!r}: the "
            "export is a folder for sentence-transformers, whose encode() gives the logits; set "
            "student.pooling=default for one that transformers opens",
        )
    else:
        yield Finding(
            "fatal",
            "pooling",
            f"nothing opens an export of {family.name} with pooling {options.pooling!r}; set "
            "student.pooling=default",
        )


def folder_settings(examined: Examined) -> Check:
    """Check what the models' folders say of texts against how they are read here."""
    healthy = True
    for name, model in examined.models.items():
        folder = examined.folder(name)
        if folder is None:
            continue
        for problem in _problems(examined, name, model, folder):
            healthy = False
            yield Finding("warning", "folder settings", problem)
    if healthy:
        yield Finding("ok", "folder settings", "texts are read as the models' folders say")


def _problems(examined: Examined, name: str, model: Model, folder: Path) -> list[str]:
    found, length = sentence_folder(folder), examined.config.data.max_length
    problems = []
    limit, where = _limit(folder, found)
    if limit is not None and length > limit:
        problems.append(
            f"data.max_length is {length}, the {name}'s {where} says at most {limit} tokens: it "
            f"may never have seen longer rows; set data.max_length={limit}, unless it learns them"
        )
    if found is None:
        return problems
    if found.prompt:
        problems.append(
            f"the {name}'s folder puts {found.prompt!r} before every text, which is not done here "
            "nor by the export; write it into the texts if the model shall see it"
        )
    classifies = model.options is not None and model.options.head == "classification"
    left = list(found.others)
    if found.dense and "head/output/kernel" in model.initialized:
        left = [*["Dense"] * len(found.dense), *left]
    if left and classifies:
        problems.append(
            f"the {name}'s folder goes on with {', '.join(left)} behind its pooling, which has no "
            "part in a classifier: its head reads the pooled vector itself"
        )
    return problems


def _limit(folder: Path, found: SentenceFolder | None) -> tuple[int | None, str]:
    """Return the longest row that a folder asks for, and the file that says so."""
    if found is not None and found.max_length is not None:
        return found.max_length, "sentence_bert_config.json"
    path = encoder_folder(folder) / "tokenizer_config.json"
    try:
        limit = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
        return (int(limit) if isinstance(limit, int | float) else None), path.name
    except (OSError, ValueError, OverflowError, AttributeError, RecursionError):
        return None, path.name  # Loading the tokenizer says what is wrong with it.
