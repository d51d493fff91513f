"""What the stages of one run share: its folder, its data and models, and the rule of doing once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxdistill.config.load import differences, dump, fingerprint
from jaxdistill.config.paths import absolute, moved, real
from jaxdistill.config.schema import Config
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.split import Split
from jaxdistill.distill import cache_stage
from jaxdistill.distill import models as build
from jaxdistill.distill.evaluator import make_evaluator
from jaxdistill.doctor import doctor
from jaxdistill.engine.telemetry import say
from jaxdistill.errors import CheckpointError, ConfigError
from jaxdistill.files.atomic import write_text
from jaxdistill.files.json_files import read_object, write_json
from jaxdistill.models.registry import Model
from jaxdistill.parallel.mesh import mesh_of
from jaxdistill.runtime import group
from jaxdistill.teachers.cache.manifest import MANIFEST
from jaxdistill.teachers.cache.reader import Cache
from jaxdistill.teachers.function import speak
from jaxdistill.types import Json

EVALUATED = (
    "student",
    "train",
    "seeds",
    "teacher",
    "finetune",
    "objective",
    "cache",
    "on_policy",
)
"""The parts of a configuration that decide what an evaluation finds."""


class Workspace:
    """The folder, data and models of one run, loaded on first use."""

    def __init__(self, config: Config, workdir: Path, force: bool) -> None:
        self.config, self.workdir, self.force = config, workdir, force
        self._dataset: Dataset | None = None
        self._teacher: Model | None = None
        self._cache: Cache | None = None
        self._examined: bool | None = None
        self._told: set[doctor.Finding] = set()

    @property
    def dataset(self) -> Dataset:
        if self._dataset is None:
            folder = self.workdir / "data"
            self._dataset = group.in_turn("data", lambda: build.load_data(self.config, folder))
        return self._dataset

    @property
    def finetuned(self) -> Path | None:
        """The folder of the fine-tuned teacher, or None where the teacher is taken as it is."""
        return None if self.config.finetune is None else self.workdir / "finetune" / "model"

    @property
    def teacher(self) -> Model:
        """The teacher as it teaches."""
        if self._teacher is None:
            if self.finetuned is None:
                self._teacher = build.load_teacher(
                    self.config, self.dataset, training=False, seed=self.config.seeds[0]
                )
            else:
                self._teacher = build.load_finetuned(self.finetuned, self.config, self.dataset)
        return self._teacher

    @property
    def speaker(self) -> Model | Cache | Callable[[Split], np.ndarray]:
        """Who teaches the students: a cache, a function, or the teacher itself."""
        if self.cache is not None:
            return self.cache
        return self.teacher if self.config.teacher.function is None else self.speak

    def speak(self, split: Split) -> np.ndarray:
        """Return the logits of the function that teaches for a split, float32 `[N, C]`."""
        return speak(self.config, split, self.dataset.num_labels)

    @property
    def cache_path(self) -> Path | None:
        """The folder of the cache that training reads, or None where the teacher is live."""
        if self.config.teacher.cache is not None:
            return Path(self.config.teacher.cache)
        return None if self.config.cache is None else self.workdir / "cache"

    def identity(self) -> Json:
        """What a cache of this run's teacher and data is of."""
        return cache_stage.identity(self.config, self.dataset, self.finetuned)

    @property
    def cache(self) -> Cache | None:
        """The cache that training reads, checked against this run, or None."""
        if self._cache is None and self.cache_path is not None:
            self._cache = cache_stage.read(
                self.config, self.dataset, self.cache_path, self.identity()
            )
        return self._cache

    def student(self, seed: int) -> Model:
        return build.make_student(self.config, self.dataset, self.finetuned, seed)

    @property
    def teacher_is_ready(self) -> bool:
        """Whether the teacher is as it will teach: fine-tuned, or taken as it is."""
        if self.finetuned is None:
            return True
        return group.decide("teacher", (self.workdir / "finetune" / "result.json").is_file)

    def examine(self) -> list[doctor.Finding]:
        """Let the doctor look at data and models as they are now."""
        config, dataset, seed = self.config, self.dataset, self.config.seeds[0]
        logits, student, teacher = None, None, None
        path = self.cache_path
        if path is not None and group.decide("cache", (path / MANIFEST).is_file):
            # Training from a cache needs no teacher, whose weights may be somewhere else.
            student = self.student(seed)
        elif config.teacher.function is not None:
            logits, student = self.speak(dataset.validation), self.student(seed)
        elif self.teacher_is_ready:
            teacher = self.teacher
            mesh = mesh_of(config.parallel.sizes)
            evaluate = make_evaluator(config, teacher, mesh, positive=dataset.positive)
            logits, _ = evaluate(teacher.params, teacher.model_state, dataset.validation)
            student = self.student(seed)
        else:
            teacher = build.load_teacher(config, dataset, training=True, seed=seed)
            if not config.student.from_teacher or isinstance(config.teacher.model, str):
                student = build.make_student(config, dataset, None, seed)
        return doctor.examine(
            config,
            dataset,
            teacher,
            student,
            teacher_logits=logits,
            teacher_labels=None if logits is None else dataset.validation.truth,
        )

    def check_before(self, stage: str) -> None:
        """Stop an unfinished stage at fatal findings; print warnings once.

        Looks before the first stage, and again when the teacher has been fine-tuned.
        """
        done = group.decide("stage", (self.workdir / stage / "result.json").is_file)
        if done or self._examined == (ready := self.teacher_is_ready):
            return
        self._examined = ready
        findings = self.examine()
        rows = [dataclasses.asdict(finding) for finding in findings]
        group.once("doctor", lambda: write_json(self.workdir / "doctor.json", rows))
        for finding in findings:
            if finding.level == "warning" and finding not in self._told:
                self._told.add(finding)
                say(f"doctor  warning: {finding.name}: {finding.message}")
        doctor.stop_if_fatal(findings)

    def is_evaluated(self) -> bool:
        """Return whether the evaluation has been made with these settings; needs no data."""
        folder = self.workdir / "evaluate"
        files = folder / "result.json", self.workdir / "result.json", folder / "settings.json"
        if not all(path.is_file() for path in files):
            return False
        try:
            made = read_settings(folder)
            read_result(folder)
        except CheckpointError:
            return False  # The stage says what is wrong with it, or makes it again.
        # Whether the data are the same cannot be known without them.
        made.pop("data", None)
        made["settings"].pop("test", None)
        return not self.changes(made, {"settings": self.settings(*EVALUATED)})

    def changes(self, made: Json, wanted: Json) -> list[str]:
        """List what differs between the settings of a stage and those wanted of it.

        Places are the same if they are at the same address, or seen from the work directory: it
        may have been moved alone, or with all that it reads.
        """
        folder, wanted = os.path.realpath(self.workdir), json.loads(json.dumps(wanted))
        before = made.pop("workdir", folder)
        there = {**made, "settings": moved(made["settings"], before, folder)}
        return min((differences(one, wanted) for one in (made, there)), key=len)

    def settings(self, *names: str) -> Json:
        """Return the parts of the configuration that decide a stage's result.

        The layout over devices is none of them: a run may go on with another one.
        """
        whole = real(self.config.model_dump(mode="json"))
        for name in ("cache", "prefetch", "test"):
            whole["data"].pop(name)
        # Work directories of before know no kinds of input, and go on.
        for name in ("modality", "inputs"):
            if whole["data"][name] is None:
                whole["data"].pop(name)
        if "cache" not in names:
            whole["teacher"].pop("cache")
        return {name: whole[name] for name in ("task", "metric", "data", *names)}


def run_stage(
    workspace: Workspace,
    name: str,
    settings: Json,
    work: Callable[[Path], Json],
) -> Json:
    """Do a stage's work unless its result is there; refuse to mix two configurations.

    Of several processes all work, and process 0 looks after the folder.
    """
    folder = workspace.workdir / name
    wanted = {"settings": settings, "data": workspace.dataset.fingerprint}
    kept = group.first(f"{name} begins", lambda: _kept(workspace, name, wanted))
    if kept is not None:
        return kept
    start = time.monotonic()
    made = work(folder)

    def keep() -> Json:
        result = {"fingerprint": fingerprint(wanted), **made}
        result["stage_seconds"] = round(time.monotonic() - start, 2)
        write_json(folder / "result.json", result)
        return result

    return group.first(f"{name} ends", keep)


def read_settings(folder: Path) -> Json:
    """Return what a stage was made with.

    Raises:
      CheckpointError: it is damaged.
    """
    return read_object(
        folder / "settings.json",
        "settings",
        "data",
        fix=f"redo the stage with --force, or delete {folder}",
    )


def read_result(folder: Path, *needs: str) -> Json:
    """Return what a stage or a seed of it has found, with the keys that are needed.

    Raises:
      CheckpointError: it is damaged.
    """
    fix = "delete this file, and run the same command again to make it anew"
    return read_object(folder / "result.json", *needs, fix=fix)


def _is_damaged(folder: Path) -> bool:
    for name, read in (("settings.json", read_settings), ("result.json", read_result)):
        try:
            if (folder / name).is_file():
                read(folder)
        except CheckpointError:
            return True
    return False


def _kept(workspace: Workspace, name: str, wanted: Json) -> Json | None:
    """Return what a stage left in its folder, or prepare the folder for it."""
    folder = workspace.workdir / name
    marker, result_file = folder / "settings.json", folder / "result.json"
    done = result_file.is_file()
    if workspace.force and _is_damaged(folder):
        say(f"{name}  redone, what {folder} says of it is damaged")
        shutil.rmtree(folder)
        done = False
    if marker.is_file():
        before = read_settings(folder)
        changed = workspace.changes(before, wanted)
        # A stage that failed before its first checkpoint left nothing worth asking about.
        if changed and not any(path.is_dir() for path in folder.iterdir()) and not done:
            shutil.rmtree(folder)
        elif changed:
            shown = ", ".join(item.removeprefix("settings.") for item in changed[:5])
            if not workspace.force:
                raise ConfigError(
                    f"{name}: {folder} was made with other settings ({shown}); use another "
                    "--workdir, or --force to redo this stage"
                )
            say(f"{name}  redone, changed: {shown}")
            shutil.rmtree(folder)
    if result_file.is_file():
        say(f"{name}  done before, kept")
        return read_result(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(workspace.workdir / "config.yaml", dump(absolute(workspace.config)))
    write_json(marker, {**wanted, "workdir": os.path.realpath(workspace.workdir)})
    return None
